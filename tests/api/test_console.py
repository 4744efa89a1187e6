"""The console's files, as the server gives them out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from aiohttp import web

from agentsrv import make_app
from agentsrv.api import console
from tests.api.kit import Server, make_config, serve

CONSOLE = Path(__file__).parents[2] / "agentsrv" / "console"
BUDGET_BYTES = {".js": 80_000, ".css": 12_000}
"""Of what is loaded first, compressed."""


async def test_the_page_is_public_and_may_load_nothing_from_elsewhere(server: Server) -> None:
    """Without a key; its policy allows its own files alone."""
    page = await server.ask("GET", "/console/", key=None)

    assert page.status == 200
    assert page.headers["Content-Security-Policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; font-src 'self'; "
        "connect-src 'self'; worker-src 'self'; manifest-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
        "form-action 'none'; require-trusted-types-for 'script'; trusted-types agentsrv-worker"
    )
    assert page.headers["Cache-Control"] == "no-cache"
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert page.headers["Cross-Origin-Opener-Policy"] == "same-origin"


async def test_files_come_compressed_and_the_worker_is_always_asked_for_anew(server: Server) -> None:
    """What was packed when it was built; a service worker that is kept would keep an old page."""
    (script,) = CONSOLE.glob("main-*.js")
    packed = await server.ask("GET", f"/console/{script.name}", key=None, headers={"Accept-Encoding": "gzip"})
    worker = await server.ask("GET", "/console/sw.js", key=None)

    assert packed.headers["Content-Encoding"] == "gzip"
    assert packed.text == script.read_text()
    assert (worker.status, worker.headers["Cache-Control"]) == (200, "no-cache")


async def test_behind_a_prefix_the_page_is_the_same(tmp_path: Path) -> None:
    """Embedded in another application: its addresses are relative, and its own page may call."""
    host = web.Application()
    host.add_subapp("/agents", make_app(make_config(tmp_path)))
    async with serve(host) as server:
        own = {"Origin": f"http://127.0.0.1:{server.port}"}
        page = await server.ask("GET", "/agents/console/", key=None, headers=own)
        names = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        found = [(await server.ask("GET", f"/agents/console/{name}", key=None)).status for name in names]
        called = [
            (await server.ask("GET", "/agents/sessions", headers={"Origin": origin})).status
            for origin in (own["Origin"], "http://evil.example", f"{own['Origin']}, http://evil.example")
        ]

    assert not [name for name in names if name.startswith(("/", "http"))]
    assert set(found) == {200}
    assert called == [200, 403, 403]


async def test_what_the_page_names_is_there_and_stays_the_same(server: Server) -> None:
    """Files with a hash in their names are kept by browsers for ever; all names are relative."""
    page = (await server.ask("GET", "/console/", key=None)).text
    names = re.findall(r'(?:src|href)="([^"]+)"', page)

    assert len(names) >= 3
    for name in names:
        file = await server.ask("GET", f"/console/{name}", key=None)
        assert (name, file.status) == (name, 200)
        wanted = "no-cache" if name in console.ALWAYS_NEW else "immutable"
        assert wanted in file.headers["Cache-Control"]


async def test_a_browser_is_sent_to_the_console(server: Server) -> None:
    """`GET /` asked for HTML leads there, by a relative address; others get what they always got."""
    browser = await server.ask(
        "GET", "/", key=None, headers={"Accept": "text/html,*/*;q=0.8"}, allow_redirects=False
    )

    assert (browser.status, browser.headers["Location"]) == (302, "console/")
    assert (await server.ask("GET", "/", key=None)).json["message"]


@pytest.mark.parametrize("name", ["nothing.js", "..%2findex.html", ".hidden", "main.js%00", "a/b"])
async def test_other_names_are_not_found(server: Server, name: str) -> None:
    """No name leads to anything but the page's files."""
    assert (await server.ask("GET", f"/console/{name}", key=None)).status == 404


async def test_the_own_page_may_call_and_a_rebound_name_may_not(tmp_path: Path) -> None:
    """Also where hosts are listed, and with PUBLIC_URL behind a proxy that keeps another Host."""
    config = make_config(tmp_path, public_url="https://agents.example/base")
    async with serve(make_app(config)) as server:
        answers = [
            (await server.ask("GET", "/sessions", headers={"Host": host, "Origin": origin})).status
            for host, origin in (
                ("127.0.0.1:1", "http://127.0.0.1:1"),
                ("internal:3000", "https://agents.example"),
                ("evil.example", "http://evil.example"),
            )
        ]

    assert answers == [200, 200, 403]


@pytest.mark.parametrize("suffix", list(BUDGET_BYTES))
def test_the_page_is_small(suffix: str) -> None:
    """It is read on phones, over bad networks."""
    loaded = sum(path.stat().st_size for path in CONSOLE.glob(f"main-*{suffix}.gz"))

    assert 0 < loaded <= BUDGET_BYTES[suffix]
