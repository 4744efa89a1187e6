"""The console: a page of the server itself, built from `console/` into files that ship with the package."""

from __future__ import annotations

from functools import lru_cache
from mimetypes import guess_type
from pathlib import Path

from aiohttp import hdrs, web

from agentsrv.api.documents import Document, give
from agentsrv.api.operations import ANY, NO_BODY, Operation
from agentsrv.errors import NotFound

FILES = Path(__file__).parents[1] / "console"

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "font-src 'self'",
        "connect-src 'self'",
        "worker-src 'self'",
        "manifest-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
        # For the address of the service worker alone.
        "trusted-types agentsrv-worker",
    )
)
"""What the page may load and do: nothing from elsewhere, and nothing that an agent's text could make of it."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}

ALWAYS_NEW = frozenset(
    {"index.html", "sw.js", "manifest.webmanifest", "icon.svg", "icon-maskable.svg", "licenses.txt"}
)
"""The names of all others change with what is in them."""


async def console(request: web.Request) -> web.StreamResponse:
    """The console, and the files that it is made of."""
    name = request.match_info["name"] or "index.html"
    if name.startswith(".") or not (FILES / name).is_file():
        raise NotFound(f"the console has no file {name}")
    cache = "no-cache" if name in ALWAYS_NEW else "public, max-age=31536000, immutable"
    return await give(request, _document(FILES / name), {**HEADERS, hdrs.CACHE_CONTROL: cache})


@lru_cache(maxsize=64)
def _document(path: Path) -> Document:
    packed = path.with_name(f"{path.name}.gz")
    content_type = guess_type(path)[0] or "application/octet-stream"
    return Document.of(path.read_bytes(), content_type, packed.read_bytes() if packed.exists() else b"")


async def enter_console(_request: web.Request) -> web.StreamResponse:
    """The console lies in a directory of its own, so that its files are beside it under any prefix."""
    return web.Response(status=308, headers={hdrs.LOCATION: "console/"})


ROUTES = (
    Operation("GET", "/console", enter_console, {308: NO_BODY}, is_public=True),
    # A flat directory: no name leads out of it.
    Operation("GET", "/console/{name:[A-Za-z0-9._-]*}", console, {200: ANY}, (404,), is_public=True),
)
