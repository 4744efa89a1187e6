"""Serves our application on a socket. What is not HTTP never reaches a middleware and is answered here."""

from __future__ import annotations

import asyncio
import logging
from secrets import token_hex
from typing import Any

from aiohttp import HttpVersion10, hdrs, web

from agentsrv.api.middleware import SERVER, access_logger, error_response, http_error_response
from agentsrv.errors import AgentsrvError, InvalidInput

logger = logging.getLogger(__name__)

ACCEPT_STEPS = 10
"""Turns of the loop until a connection that was just accepted waits for its first request.

Before that, aiohttp would wait for it at the end as for a request that is being answered.
"""

CONNECTION: dict[str, Any] = {
    # A compressed body is refused (`middleware.limit_body`): do not unpack it to throw it away.
    "auto_decompress": False,
    # Our own middleware writes the access log.
    "access_log": None,
    # How long a connection may wait for its next request, and take to send the head of it.
    "keepalive_timeout": 75.0,
    # How long to take in and drop a body that was refused, so that its sender comes to read the answer.
    "lingering_time": 2.0,
}


class Runner(web.ServerRunner):
    """In place of aiohttp's AppRunner: the same life cycle, and every refusal in our error shape.

    Order at the end, in `cleanup`: stop listening, the application's `on_shutdown`, wait for handlers up to
    `shutdown_timeout`, the application's `cleanup_ctx` in reverse.
    """

    def __init__(self, app: web.Application, *, shutdown_timeout: float) -> None:
        self._app = app
        self._starter = web.AppRunner(app)
        server = _Server(self._answer, request_factory=self._make_request)
        super().__init__(server, shutdown_timeout=shutdown_timeout)

    async def setup(self) -> None:
        """Start the application. Raises what its start-up raises; call `cleanup` in any case."""
        await self._starter.setup()
        await super().setup()

    async def shutdown(self) -> None:
        await self._app.shutdown()

    async def cleanup(self) -> None:
        for site in list(self.sites):
            await site.stop()
        for _ in range(ACCEPT_STEPS):
            await asyncio.sleep(0)
        await super().cleanup()
        await self._app.cleanup()

    @property
    def _application_server(self) -> web.Server:
        assert self._starter.server is not None
        return self._starter.server

    def _make_request(self, *message: Any) -> web.BaseRequest:
        return self._application_server.request_factory(*message)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.version < HttpVersion10:
            return answer_noise(request)
        try:
            return await self._application_server.request_handler(request)
        except web.HTTPException as exc:
            # Raised before any middleware runs, for example for an `Expect` that nobody knows.
            return http_error_response(exc)


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=asyncio.get_running_loop(), **CONNECTION)


class _Connection(web.RequestHandler):
    __slots__ = ()

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
        if status == 400:
            return answer_noise(request)
        logger.error("a request failed outside its handler", exc_info=exc)
        return _bare(AgentsrvError("something went wrong here", code="internal_error"))


def answer_noise(request: web.BaseRequest) -> web.Response:
    """For what is not a request, such as a TLS hello on this port: one log line, no traceback."""
    access_logger.info("not an HTTP request", extra={"status": 400, "peer": request.remote})
    # aiohttp's message may quote the bytes that it could not read: perhaps a key.
    return _bare(InvalidInput("this is not valid HTTP/1.1, or its head is too large", code="bad_request"))


def _bare(error: AgentsrvError) -> web.Response:
    """An answer that passes neither middlewares nor signals, and brings its headers itself."""
    response = error_response(error)
    response.headers["X-Request-Id"] = token_hex(8)
    response.headers[hdrs.SERVER] = SERVER
    response.force_close()
    return response
