"""Who calls: the key or ticket that a request comes with, what it may do, and how often."""

from __future__ import annotations

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from agentsrv.access import Caller
from agentsrv.api.access_log import IS_KNOWN
from agentsrv.api.connections import Connection
from agentsrv.api.hop import caller_of, is_hop
from agentsrv.api.keys import HOLDERS, KEYRING, PUBLIC, REQUESTS, SCOPES
from agentsrv.api.proxies import client_address
from agentsrv.config import Config
from agentsrv.errors import AuthenticationFailed, Forbidden, LimitReached
from agentsrv.limits import Rates, household

CALLER = web.RequestKey("caller", Caller)
API_KEY_HEADER = "X-Api-Key"
TICKET = "ticket"


def authenticate(config: Config) -> Middleware:
    """Ask for a key before a body is read. A route that does not exist has nothing to hide and needs none.

    Limits of a rate: of an address, of a key, and of failures of an address, which do not hold up a right key.
    """
    of_keys, of_addresses, failures = map(
        Rates, (config.rate_limit, config.address_rate_limit, config.auth_failure_limit)
    )

    @web.middleware
    async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
        if is_hop(request):
            return await handler(known_elsewhere(request))
        client = household(client_address(request))
        require_rate(of_addresses.take(client))
        caller = await _identify(request)
        if caller is not None:
            request[IS_KNOWN] = True
            request[CALLER] = caller
            require_rate(of_keys.take((caller.counted_as or caller.hash).hex()))
        else:
            await request.app[REQUESTS].wait(is_rare=_asks_rarely(request))
        if needs_key(request):
            if caller is None:
                require_rate(failures.take(client), code="too_many_failures")
                raise AuthenticationFailed(_why(request))
            require_scope(request, caller)
        with request.app[HOLDERS].held(caller.hash if caller else b"", request):
            return await handler(request)

    return authenticate


def _asks_rarely(request: web.Request) -> bool:
    """Of a host that has embedded the server the connections are not ours: they are all alike."""
    return isinstance(request.protocol, Connection) and request.protocol.asks_rarely()


async def _identify(request: web.Request) -> Caller | None:
    """Whoever the key or ticket belongs to that the request comes with."""
    if token := api_token(request):
        return await request.app[KEYRING].caller(token)
    tickets = request.query.getall(TICKET, [])
    # Not for HEAD: who looks before asking would be left with a ticket that is used.
    if len(tickets) == 1 and request.method == hdrs.METH_GET and needs_key(request):
        return await request.app[KEYRING].ticket_holder(tickets[0])
    return None


def known_elsewhere(request: web.Request) -> web.Request:
    """The request with the caller that the entry knows. Its rates were counted there, and its key looked at."""
    caller = caller_of(request)
    if caller is not None:
        request[IS_KNOWN] = True
        request[CALLER] = caller
    if needs_key(request):
        if caller is None:
            raise AuthenticationFailed("the server that passes this on says nothing of a key")
        require_scope(request, caller)
    return request


def needs_key(request: web.Request) -> bool:
    if request.match_info.http_exception is not None:
        return False
    return request.match_info.handler not in request.app[PUBLIC]


def _why(request: web.Request) -> str:
    if TICKET in request.query:
        return "this ticket has been used, is too old, or is not for this; make one for each GET"
    return "send Authorization: Bearer <API_KEY> with a valid key"


def require_scope(request: web.Request, caller: Caller) -> None:
    scope = request.app[SCOPES].get(request.match_info.handler)
    if not caller.may(scope):
        raise Forbidden(f"the key {caller.name} has not the scope {scope}", code="scope_missing")


def require_rate(wait_s: int, code: str = "too_many_requests") -> None:
    if wait_s:
        raise LimitReached(
            f"too many requests; wait {wait_s} s before the next one", code=code, retry_after_s=wait_s
        )


def api_token(request: web.Request) -> bytes:
    """The key: as a Bearer token or in `X-Api-Key`. Two that differ are none."""
    others = request.headers.getall(API_KEY_HEADER, [])
    tokens = {one.strip(" ").encode("utf-8", "surrogateescape") for one in others}
    if token := bearer_token(request):
        tokens.add(token)
    return tokens.pop() if len(tokens) == 1 else b""


def bearer_token(request: web.Request) -> bytes:
    """The token of the only Authorization header; empty when there is none or it is of another kind."""
    given = request.headers.getall(hdrs.AUTHORIZATION, [])
    scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    return token.strip(" ").encode("utf-8", "surrogateescape") if scheme.lower() == "bearer" else b""
