"""What every request passes, outermost first: id and access log, errors (two shapes), host and origin, key, body limit,
compression.

All of it also works where a host application has mounted ours with `add_subapp`: nothing relies on settings
of the server or of the outermost application.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.typedefs import Handler, Middleware

from agentsrv import errors
from agentsrv.api import hop
from agentsrv.api.access_log import log_access, request_id
from agentsrv.api.bodies import require_size
from agentsrv.api.compression import compress
from agentsrv.api.credentials import authenticate
from agentsrv.api.keys import ABOUT_SESSION, RELAYED, STREAMED
from agentsrv.api.openai import refuse_in_shape
from agentsrv.api.refusals import SERVER, map_errors
from agentsrv.api.sources import check_source
from agentsrv.config import Config

EXPOSED_HEADERS = (
    "Accept-Ranges, Content-Disposition, Content-Range, ETag, Location, Retry-After, X-Agentsrv-Server, X-Log-Gap, "
    "X-Request-Id, X-Session-Id, X-Task-Id"
)


def middlewares(config: Config) -> list[Middleware]:
    """Outermost first."""
    return [
        log_access,
        map_errors,
        refuse_in_shape,
        check_source(config),
        authenticate(config),
        limit_body,
        compress,
    ]


@web.middleware
async def limit_body(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse a body that says it is too large. One that does not say it is stopped while it is read."""
    if hdrs.CONTENT_ENCODING in request.headers:
        raise errors.UnsupportedMediaType("send the body without Content-Encoding")
    if request.match_info.handler not in request.app[STREAMED]:
        require_size(request, request.content_length or 0)
    return await handler(request)


def add_headers(config: Config) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """For `on_response_prepare`: what every answer carries, event streams and errors included."""

    async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
        if request.get(RELAYED):
            return
        headers = response.headers
        if config.server_name and request.get(ABOUT_SESSION):
            headers[hop.SERVER] = config.server_name
        if hop.is_hop(request):
            headers[hop.FROM] = config.server_name or ""
        headers["X-Request-Id"] = request_id(request)
        headers["X-Content-Type-Options"] = "nosniff"
        headers[hdrs.SERVER] = SERVER
        headers.add(hdrs.VARY, hdrs.ORIGIN)
        if response.content_type == "application/json" and hdrs.CACHE_CONTROL not in headers:
            headers[hdrs.CACHE_CONTROL] = "no-store"
        if request.version < HttpVersion11 and response.content_length is None:
            # Its end is that of the connection, which aiohttp keeps for a client that asks for that.
            response.force_close()
        origin = request.headers.get(hdrs.ORIGIN)
        if origin in config.allowed_origins:
            headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
            headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = EXPOSED_HEADERS

    return add_headers
