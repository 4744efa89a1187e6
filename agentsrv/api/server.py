"""Serves our application on sockets. What is not HTTP never reaches a middleware and is answered here."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterable
from typing import Any

from aiohttp import HttpVersion10, web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.typedefs import RawHeaders

from agentsrv.api.access_log import Strangers
from agentsrv.api.access_log import logger as access_logger
from agentsrv.api.connections import (
    MAX_HEAD_BYTES,
    Acceptor,
    Connection,
    Connections,
    HeadTooLarge,
    Limits,
    Site,
)
from agentsrv.api.hop import OURS
from agentsrv.api.proxies import FORWARDED_FOR, FORWARDED_PREFIX
from agentsrv.api.refusals import bare_response, http_error_response
from agentsrv.errors import AgentsrvError, InvalidInput, Unavailable

logger = logging.getLogger(__name__)

ACCEPT_STEPS = 10
"""Turns of the loop until a connection that was just accepted waits for its first request.

Before that, aiohttp would wait for it at the end as for a request that is being answered.
"""

MAX_HEADERS = 128
ADDED = frozenset(name.lower().encode() for name in (*OURS, "X-Request-Id", FORWARDED_FOR, FORWARDED_PREFIX))
"""By another server of the fleet."""

OPTIONS: dict[str, Any] = {
    # Our own middleware writes the access log.
    "access_log": None,
    # How long a connection may wait for its next request.
    "keepalive_timeout": 75.0,
    # How long to take in and drop a body that was refused, so that its sender comes to read the answer.
    "lingering_time": 2.0,
    "max_headers": MAX_HEADERS + len(ADDED),
}

ALWAYS_ANSWERED = "/health"
"""Also when all connections are in use."""


class HttpRunner(web.ServerRunner):
    """In place of aiohttp's AppRunner: the same life cycle, and every refusal in our error shape.

    Order at the end, in `cleanup`: stop listening, the application's `on_shutdown`, wait for handlers up to
    `shutdown_timeout`, the application's `cleanup_ctx` in reverse.
    """

    def __init__(
        self, app: web.Application, *, shutdown_timeout: float, limits: Limits | None = None
    ) -> None:
        self._app = app
        self._starter = web.AppRunner(app)
        self.connections = Connections(limits or Limits())
        self._addresses: list[Any] = []
        self._strangers = Strangers()
        super().__init__(
            web.Server(self._answer, request_factory=self._make_request), shutdown_timeout=shutdown_timeout
        )

    async def setup(self) -> None:
        """Start the application. Raises what its start-up raises; call `cleanup` in any case."""
        await self._starter.setup()
        await super().setup()

    async def listen(self, sockets: Iterable[socket.socket]) -> None:
        """Serve on `sockets`, which are bound and listen; they are closed at the end."""
        acceptor = Acceptor(sockets, self.connections, self._connection)
        self._addresses = [listener.getsockname() for listener in acceptor.sockets]
        await Site(self, acceptor).start()

    @property
    def addresses(self) -> list[Any]:
        """Where it listens, as the sockets tell."""
        return self._addresses

    async def shutdown(self) -> None:
        await self._app.shutdown()

    async def cleanup(self) -> None:
        for site in list(self.sites):
            await site.stop()
        for _ in range(ACCEPT_STEPS):
            await asyncio.sleep(0)
        self.connections.hurry()
        await super().cleanup()
        self.connections.close()
        await self._app.cleanup()

    @property
    def _application_server(self) -> web.Server:
        assert self._starter.server is not None
        return self._starter.server

    def _connection(self, address: str) -> Connection:
        assert self.server is not None
        return _Answering(self._strangers, self.server, self.connections, address)

    def _make_request(self, *message: Any) -> web.BaseRequest:
        return self._application_server.request_factory(*message)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.version < HttpVersion10:
            return answer_noise(request, self._strangers)
        if is_large(request.raw_path, request.raw_headers) and is_large(
            request.raw_path, own_headers(request)
        ):
            return answer_noise(request, self._strangers, HeadTooLarge())
        if self.connections.is_full() and request.path != ALWAYS_ANSWERED:
            return answer_full(request, self._strangers)
        try:
            return await self._application_server.request_handler(request)
        except web.HTTPException as exc:
            # Raised before any middleware runs, for example for an `Expect` that nobody knows.
            return http_error_response(exc)


class _Answering(Connection):
    __slots__ = ("_strangers",)

    def __init__(
        self, strangers: Strangers, server: web.Server, connections: Connections, address: str
    ) -> None:
        super().__init__(server, connections, address, loop=asyncio.get_running_loop(), **OPTIONS)
        self._strangers = strangers

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what could not be read as a request, or failed before its handler ran."""
        if request.writer.output_size > 0:
            raise ConnectionError("the response has begun; all that is left is to close")
        if status < 500:
            return answer_noise(request, self._strangers, exc)
        logger.error("a request failed outside its handler", exc_info=exc)
        return bare_response(AgentsrvError("something went wrong here", code="internal_error"), 500)


def is_large(path: str, headers: RawHeaders) -> bool:
    """Is there more in a head than may be?"""
    size = len(path) + sum(len(name) + len(value) + 4 for name, value in headers)
    return size > MAX_HEAD_BYTES or len(headers) > MAX_HEADERS


def own_headers(request: web.BaseRequest) -> RawHeaders:
    """Without those that another server adds to a request: where it is passed on, it may be as large as anywhere."""
    return tuple((name, value) for name, value in request.raw_headers if name.lower() not in ADDED)


def answer_noise(
    request: web.BaseRequest, strangers: Strangers, exc: BaseException | None = None
) -> web.Response:
    """For what is not a request, such as a TLS hello on this port: one log line, no traceback."""
    status, message = what_is_wrong(exc)
    if strangers.is_told(status):
        access_logger.info("not an HTTP request", extra={"status": status, "peer": request.remote})
    return bare_response(InvalidInput(message, code="bad_request"), status)


def what_is_wrong(exc: BaseException | None) -> tuple[int, str]:
    """A status and words for it. aiohttp's own may quote the bytes that it could not read: perhaps a key."""
    if isinstance(exc, HeadTooLarge):
        return 431, f"the head of the request has more than {MAX_HEAD_BYTES} bytes, or {MAX_HEADERS} headers"
    if isinstance(exc, LineTooLong):
        excerpt, limit = exc.args[:2]
        if excerpt[:1] in (b"/", "/"):
            return 414, f"the URL has more than {limit} bytes; send what is long in a body"
        return 431, f"a header has more than {limit} bytes"
    return 400, "this is not valid HTTP/1.1"


def answer_full(request: web.BaseRequest, strangers: Strangers) -> web.Response:
    if strangers.is_told(503):
        access_logger.info("too many connections", extra={"status": 503, "peer": request.remote})
    return bare_response(
        Unavailable("all connections of the server are in use; try again later", code="too_many_connections"),
        503,
    )
