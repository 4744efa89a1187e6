"""JSON goes out compressed to who asks for that. Streams never do: their parts must not wait for each other.

No answer mixes a secret with what a stranger may choose: there are no cookies, so no other page can ask with the
user's key, and sizes tell nobody anything.
"""

from __future__ import annotations

import gzip
from functools import partial

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from agentsrv.api.keys import THREADS

MIN_BYTES = 1024
"""Less is one packet either way."""

IN_A_THREAD = 64 * 1024
"""More takes longer than a millisecond."""

LEVEL = 5


@web.middleware
async def compress(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Compress a whole answer of JSON of over 1 KiB for a client that takes gzip."""
    response = await handler(request)
    if isinstance(response, web.Response) and (body := _large_json(response)) is not None:
        response.headers.add(hdrs.VARY, hdrs.ACCEPT_ENCODING)
        if takes_gzip(request.headers.getall(hdrs.ACCEPT_ENCODING, ())):
            pack = partial(gzip.compress, body, LEVEL, mtime=0)
            is_large = len(body) > IN_A_THREAD
            response.body = await request.app[THREADS].folding.run(pack) if is_large else pack()
            response.headers[hdrs.CONTENT_ENCODING] = "gzip"
    return response


def _large_json(response: web.Response) -> bytes | None:
    """The body, when compressing is worth it and nobody has begun to send it."""
    if response.prepared or response.content_type != "application/json":
        return None
    return response.body if isinstance(response.body, bytes) and len(response.body) > MIN_BYTES else None


def takes_gzip(accepted: tuple[str, ...] | list[str]) -> bool:
    """Whether `Accept-Encoding` names gzip, or everything, and does not refuse it (`q=0`)."""
    weights: dict[str, float] = {}
    for part in ",".join(accepted).lower().split(","):
        name, _, parameters = part.partition(";")
        weights[name.strip()] = _weight(parameters)
    return weights.get("gzip", weights.get("*", 0.0)) > 0


def _weight(parameters: str) -> float:
    name, _, value = parameters.partition("=")
    try:
        return float(value) if name.strip() == "q" else 1.0
    except ValueError:
        return 0.0
