"""What every request passes, outermost first: id and access log, errors, host and origin, key, body limit.

All of it also works where a host application has mounted ours with `add_subapp`: nothing relies on settings
of the server or of the outermost application.
"""

from __future__ import annotations

import hmac
import logging
import re
import time
from collections.abc import Awaitable, Callable, Collection
from ipaddress import ip_address
from secrets import token_hex

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.typedefs import Handler, Middleware

from agentsrv import errors
from agentsrv.api.decode import require_size
from agentsrv.api.encode import error_body, json_response
from agentsrv.api.keys import PUBLIC, STREAMED
from agentsrv.config import Config
from agentsrv.errors import AgentsrvError

logger = logging.getLogger(__name__)
access_logger = logging.getLogger("agentsrv.access")

STATUS: dict[type[AgentsrvError], int] = {
    errors.InvalidInput: 400,
    errors.AuthenticationFailed: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
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

CLIENT_GONE = 499
"""Nobody receives this status; it is what the access log says."""

HTTP_ERRORS = {
    400: ("bad_request", "the request is not valid HTTP"),
    404: ("not_found", "no such route; /openapi.json lists all"),
    405: ("method_not_allowed", "the route does not take this method; the Allow header lists those it takes"),
}

DEFAULT_RETRY_S = 5

REQUEST_ID = re.compile(r"[A-Za-z0-9._:+/=@-]{1,128}")
_request_id = web.RequestKey("request_id", str)

SERVER = "agentsrv"
"""What answers call us; the versions of what we are made of are nobody's business."""

ALLOWED_HEADERS = (
    "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, If-Range, Last-Event-ID, Range, "
    "X-Request-Id"
)
EXPOSED_HEADERS = (
    "Accept-Ranges, Content-Disposition, Content-Range, ETag, Location, Retry-After, X-Request-Id, X-Session-Id, "
    "X-Task-Id"
)


def middlewares(config: Config) -> list[Middleware]:
    """Outermost first."""
    return [log_access, map_errors, check_source(config), authenticate(config), limit_body]


@web.middleware
async def log_access(request: web.Request, handler: Handler) -> web.StreamResponse:
    """One line for each request. It holds no header, no query and no body: those carry keys and prompts."""
    started = time.monotonic()
    status, sent = CLIENT_GONE, 0
    try:
        response = await handler(request)
        status = response.status
        is_whole = isinstance(response, web.Response)
        sent = (response.content_length or 0) if is_whole else request.writer.output_size
        return response
    finally:
        access_logger.info(
            "%s %s %d",
            request.method,
            request.rel_url.raw_path,
            status,
            extra={
                "method": request.method,
                "path": request.rel_url.raw_path,
                "status": status,
                "bytes": sent,
                "ms": round((time.monotonic() - started) * 1000, 1),
                "request_id": request_id(request),
                "peer": request.remote,
            },
        )


def request_id(request: web.Request) -> str:
    """What the log and the answer call it: the client's own name for it, when that is a sane one."""
    if _request_id not in request:
        given = request.headers.get("X-Request-Id", "")
        request[_request_id] = given if REQUEST_ID.fullmatch(given) else token_hex(8)
    return request[_request_id]


@web.middleware
async def map_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every failure becomes the one error shape, here and nowhere else."""
    try:
        return await handler(request)
    except AgentsrvError as exc:
        return error_response(exc)
    except web.HTTPException as exc:
        return http_error_response(exc)
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


def http_error_response(exc: web.HTTPException) -> web.Response:
    """aiohttp's own refusals (no such route or method, body too large) in our shape."""
    code, message = HTTP_ERRORS.get(exc.status, ("http_error", exc.reason))
    response = error_response(AgentsrvError(message, code=code))
    response.set_status(exc.status)
    if allowed := exc.headers.get(hdrs.ALLOW):
        response.headers[hdrs.ALLOW] = allowed
    return response


def check_source(config: Config) -> Middleware:
    """Keep other web pages out: DNS rebinding by the Host header, cross-site requests by Origin.

    An `Origin` must be listed exactly, on every route; that it equals `Host` says nothing. A preflight from a
    listed one is answered here: it needs no key and runs no handler.
    """
    hosts = frozenset(host.removesuffix(".") for host in config.allowed_hosts)

    @web.middleware
    async def check_source(request: web.Request, handler: Handler) -> web.StreamResponse:
        if hosts and not is_allowed_host(request.headers.get(hdrs.HOST, ""), hosts):
            raise errors.Forbidden("this Host is not in ALLOWED_HOSTS", code="host_not_allowed")
        origins = request.headers.getall(hdrs.ORIGIN, [])
        if not config.allowed_origins.issuperset(origins) or len(origins) > 1:
            raise errors.Forbidden("this Origin is not in ALLOWED_ORIGINS", code="origin_not_allowed")
        if (
            origins
            and request.method == hdrs.METH_OPTIONS
            and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
        ):
            return preflight_response()
        return await handler(request)

    return check_source


def preflight_response() -> web.Response:
    return web.Response(
        status=204,
        headers={
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: "GET, HEAD, POST, PUT, DELETE",
            hdrs.ACCESS_CONTROL_ALLOW_HEADERS: ALLOWED_HEADERS,
            hdrs.ACCESS_CONTROL_MAX_AGE: "600",
        },
    )


def is_allowed_host(header: str, allowed: Collection[str]) -> bool:
    """Is this `Host` one of ours, with any port, or a loopback address? Rebinding needs a name."""
    found = re.fullmatch(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(:[0-9]{1,5})?", header.lower())
    if found is None:
        return False
    host = found[1].removesuffix(".")
    if host in allowed or host.strip("[]") in allowed or found[0] in allowed:
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def authenticate(config: Config) -> Middleware:
    """Ask for a key before a body is read. A route that does not exist has nothing to hide and needs none."""
    keys = [key.encode() for key in config.api_keys]

    @web.middleware
    async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
        if needs_key(request) and not is_key(bearer_token(request), keys):
            raise errors.AuthenticationFailed("send Authorization: Bearer <API_KEY> with a valid key")
        return await handler(request)

    return authenticate


def needs_key(request: web.Request) -> bool:
    if request.match_info.http_exception is not None:
        return False
    return request.match_info.handler not in request.app[PUBLIC]


def bearer_token(request: web.Request) -> bytes:
    """The token of the only Authorization header; empty when there is none or it is of another kind."""
    given = request.headers.getall(hdrs.AUTHORIZATION, [])
    scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    return token.strip(" ").encode("utf-8", "surrogateescape") if scheme.lower() == "bearer" else b""


def is_key(token: bytes, keys: Collection[bytes]) -> bool:
    """Compare with every key, in time that does not tell how much of one was right, nor which."""
    return sum(hmac.compare_digest(token, key) for key in keys) > 0


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
        headers = response.headers
        headers["X-Request-Id"] = request_id(request)
        headers["X-Content-Type-Options"] = "nosniff"
        headers[hdrs.SERVER] = SERVER
        headers.add(hdrs.VARY, hdrs.ORIGIN)
        if request.version < HttpVersion11 and response.content_length is None:
            # Its end is that of the connection, which aiohttp keeps for a client that asks for that.
            response.force_close()
        origin = request.headers.get(hdrs.ORIGIN)
        if origin in config.allowed_origins:
            headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
            headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = EXPOSED_HEADERS

    return add_headers
