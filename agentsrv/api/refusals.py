"""Every failure becomes the one error shape, here and nowhere else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from secrets import token_hex

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from agentsrv import errors
from agentsrv.api.access_log import CLIENT_GONE, request_id
from agentsrv.api.encode import error_body, json_response
from agentsrv.errors import AgentsrvError

logger = logging.getLogger(__name__)

STATUS: dict[type[AgentsrvError], int] = {
    errors.InvalidInput: 400,
    errors.AuthenticationFailed: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.NotAcceptable: 406,
    errors.TooSlow: 408,
    errors.Conflict: 409,
    errors.Gone: 410,
    errors.PreconditionFailed: 412,
    errors.TooLarge: 413,
    errors.UnsupportedMediaType: 415,
    errors.Unprocessable: 422,
    errors.LimitReached: 429,
    errors.Unavailable: 503,
    errors.StorageFull: 507,
}

HTTP_ERRORS = {
    400: ("bad_request", "the request is not valid HTTP"),
    404: ("not_found", "no such route; /openapi.json lists all"),
    405: ("method_not_allowed", "the route does not take this method; the Allow header lists those it takes"),
}

DEFAULT_RETRY_S = 5

WATCH_STEP_S = 0.5
"""How soon it is noticed that a client has left, so that nobody works on for it."""

SERVER = "agentsrv"
"""What answers call us; the versions of what we are made of are nobody's business."""


@web.middleware
async def map_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every failure becomes the one error shape, here and nowhere else."""
    try:
        return await handler(request)
    except AgentsrvError as exc:
        return error_response(exc)
    except web.HTTPException as exc:
        # aiohttp keeps it with the request: a ring of frames, of which strangers could make many before it is found.
        return http_error_response(exc.with_traceback(None))
    except web.RequestPayloadError:
        return error_response(
            errors.InvalidInput("the body is cut off or not encoded as it says", code="invalid_body")
        )
    except Exception as exc:
        if isinstance(exc, ConnectionError) and is_gone(request):
            return web.Response(status=CLIENT_GONE)
        logger.exception("a request failed", extra={"request_id": request_id(request)})
        failed = AgentsrvError(
            f"something went wrong here; the log has it as {request_id(request)}", code="internal_error"
        )
        return error_response(failed)


def is_gone(request: web.Request) -> bool:
    """Has the client closed the connection?"""
    return request.transport is None or request.transport.is_closing()


@asynccontextmanager
async def attended(
    request: web.Request, on_lost: Callable[[], Awaitable[None]] | None = None
) -> AsyncIterator[None]:
    """What is waited for here is given up when the client leaves: aiohttp does not tell a handler that waits.

    `on_lost` is called then. Raises ConnectionResetError.
    """
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle | None = None
    scope = asyncio.timeout(None)

    def watch() -> None:
        nonlocal timer
        if is_gone(request):
            scope.reschedule(loop.time())
        else:
            timer = loop.call_later(WATCH_STEP_S, watch)

    try:
        async with scope:
            watch()
            try:
                yield
            finally:
                if timer is not None:
                    timer.cancel()
    except TimeoutError as exc:
        if not scope.expired():
            raise
        if on_lost is not None:
            await on_lost()
        raise ConnectionResetError("the client has left") from exc


def error_response(error: AgentsrvError) -> web.Response:
    status = next((status for kind, status in STATUS.items() if isinstance(error, kind)), 500)
    response = json_response(error_body(error), status=status)
    if status == 401:
        response.headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
    if status in (429, 503):
        response.headers[hdrs.RETRY_AFTER] = str(error.retry_after_s or DEFAULT_RETRY_S)
    if status in (408, 413):
        response.force_close()
    return response


def error_of_http(exc: web.HTTPException) -> AgentsrvError:
    code, message = HTTP_ERRORS.get(exc.status, ("http_error", exc.reason))
    return AgentsrvError(message, code=code)


def http_error_response(exc: web.HTTPException) -> web.Response:
    """aiohttp's own refusals (no such route or method, body too large) in our shape."""
    response = error_response(error_of_http(exc))
    response.set_status(exc.status)
    if allowed := exc.headers.get(hdrs.ALLOW):
        response.headers[hdrs.ALLOW] = allowed
    return response


def bare_response(error: AgentsrvError, status: int) -> web.Response:
    """An answer that passes neither middlewares nor signals, and brings its headers itself."""
    response = error_response(error)
    response.set_status(status)
    response.headers["X-Request-Id"] = token_hex(8)
    response.headers[hdrs.SERVER] = SERVER
    response.force_close()
    return response
