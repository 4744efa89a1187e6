"""Which web pages may call: DNS rebinding is kept out by the Host header, cross-site requests by Origin."""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from agentsrv import errors
from agentsrv.api.hop import is_hop
from agentsrv.config import Config

ALLOWED_HEADERS = (
    "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, If-Range, Last-Event-ID, Range, "
    "X-Api-Key, X-Request-Id, X-Session-Id"
)
DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def check_source(config: Config) -> Middleware:
    """Refuse requests of web pages that nobody has listed.

    An `Origin` must be listed exactly, on every route, or be our own: the console's. A preflight from a listed
    one is answered here: it needs no key and runs no handler.
    """
    hosts = frozenset(host.removesuffix(".") for host in config.allowed_hosts)
    listed = config.allowed_origins | ({origin_of(config.public_url)} if config.public_url else set())

    @web.middleware
    async def check_source(request: web.Request, handler: Handler) -> web.StreamResponse:
        if is_hop(request):
            return await handler(request)  # The entry has looked.
        host = request.headers.get(hdrs.HOST, "")
        if hosts and not is_allowed_host(host, hosts):
            raise errors.Forbidden("this Host is not in ALLOWED_HOSTS", code="host_not_allowed")
        origins = request.headers.getall(hdrs.ORIGIN, [])
        if len(origins) > 1 or not all(one in listed or is_own_origin(one, host, hosts) for one in origins):
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


def origin_of(url: str) -> str:
    """What a browser sends in `Origin` from a page at this URL."""
    parts = urlsplit(url.lower())
    return f"{parts.scheme}://{parts.netloc.removesuffix(DEFAULT_PORTS.get(parts.scheme, ''))}"


def is_own_origin(origin: str, host: str, allowed: Collection[str]) -> bool:
    """Is this the page that the request's own address leads to, under a name that nobody else can take?

    That `Origin` equals `Host` alone says nothing: a page whose name was rebound to our address sends both. An
    address or `localhost` cannot be rebound, and what is in ALLOWED_HOSTS is ours.
    """
    scheme, _, place = origin.lower().partition("://")
    name = host_name(host)
    if name is None or place != host.lower().removesuffix(DEFAULT_PORTS.get(scheme, "-")):
        return False
    return scheme in DEFAULT_PORTS and (
        name == "localhost" or is_address(name) or is_allowed_host(host, allowed)
    )


def is_allowed_host(header: str, allowed: Collection[str]) -> bool:
    """Is this `Host` one of ours, with any port, or a loopback address? Rebinding needs a name."""
    if (host := host_name(header)) is None:
        return False
    if host in allowed or host.strip("[]") in allowed or header.lower() in allowed:
        return True
    return is_address(host) and ip_address(host.strip("[]")).is_loopback


def host_name(header: str) -> str | None:
    """The host of a `Host` header without its port, in lower case; None when it is not one."""
    found = re.fullmatch(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(:[0-9]{1,5})?", header.lower())
    return None if found is None else found[1].removesuffix(".")


def is_address(host: str) -> bool:
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
