"""Keys over HTTP: of devices, made at once or with a code that is typed or scanned; and tickets for one request."""

from __future__ import annotations

import time

from aiohttp import web

from agentsrv.access import Caller
from agentsrv.api.bodies import read_body
from agentsrv.api.credentials import CALLER, require_rate
from agentsrv.api.encode import json_response, timestamp
from agentsrv.api.keys import KEYRING, REDEEMING
from agentsrv.api.operations import Operation
from agentsrv.api.schemas.access import (
    CodeMade,
    CreateToken,
    RedeemCode,
    TicketMade,
    TokenList,
    TokenMade,
    TokenRevoked,
    TokenView,
)
from agentsrv.model import AccessKey
from agentsrv.once import ONCE_S


async def create_token(request: web.Request) -> web.Response:
    """Make a key for a device. It may do what yours may, ends 30 days after its last use, and with your key."""
    body = await read_body(request, CreateToken)
    return _made(*await request.app[KEYRING].add_device(body.name, caller_of(request)))


async def list_tokens(request: web.Request) -> web.Response:
    """The keys that were made with yours; all named keys for one that may do everything."""
    found = await request.app[KEYRING].list_keys(caller_of(request))
    views = [_view(key) for key in found]
    return json_response(TokenList(tokens=views, count=len(views), timestamp=timestamp()))


async def revoke_token(request: web.Request) -> web.Response:
    """End a key. What agents do goes on; its next request is refused, and its streams and sockets are closed."""
    [key] = await request.app[KEYRING].revoke(request.match_info["key_id"], caller_of(request), by_name=False)
    return json_response(TokenRevoked(id=key.id, timestamp=timestamp()))


async def create_code(request: web.Request) -> web.Response:
    """Make a code with which a device gets a key of its own: good once, for a minute."""
    code = request.app[KEYRING].new_code(caller_of(request))
    return json_response(CodeMade(code=code, expires_at=_in_a_minute()), status=201)


async def create_ticket(request: web.Request) -> web.Response:
    """Make a ticket for one GET, as `?ticket=`, instead of the key: for downloads and EventSource."""
    ticket = request.app[KEYRING].new_ticket(caller_of(request))
    return json_response(TicketMade(ticket=ticket, expires_at=_in_a_minute()), status=201)


async def redeem_code(request: web.Request) -> web.Response:
    """The key for a code. Ten tries a minute, of all who try."""
    require_rate(request.app[REDEEMING].take("all"))
    body = await read_body(request, RedeemCode)
    return _made(*await request.app[KEYRING].redeem(body.code, body.name))


def caller_of(request: web.Request) -> Caller:
    """Whoever asks on a route that needs a key."""
    caller = request[CALLER]
    assert isinstance(caller, Caller)
    return caller


def _made(key: AccessKey, token: str) -> web.Response:
    view = TokenMade(id=key.id, name=key.name, token=token, expires_at=_moment(key.ends_at))
    return json_response(view, status=201)


def _view(key: AccessKey) -> TokenView:
    return TokenView(
        id=key.id,
        name=key.name,
        scopes=sorted(key.scopes),
        created_at=timestamp(key.created_at),
        used_at=timestamp(key.used_at),
        expires_at=_moment(key.ends_at),
    )


def _in_a_minute() -> str:
    return timestamp(int((time.time() + ONCE_S) * 1000))


def _moment(at: int | None) -> str | None:
    return None if at is None else timestamp(at)


# fmt: off
ROUTES = (
    Operation("GET", "/auth/tokens", list_tokens, {200: TokenList}),
    Operation("POST", "/auth/tokens", create_token, {201: TokenMade}, (507,), body=CreateToken),
    Operation("DELETE", "/auth/tokens/{key_id}", revoke_token, {200: TokenRevoked}, (404, 507)),
    Operation("POST", "/auth/codes", create_code, {201: CodeMade}, (429,)),
    Operation("POST", "/auth/tickets", create_ticket, {201: TicketMade}, (429,)),
    Operation("POST", "/auth/codes/redeem", redeem_code, {201: TokenMade}, (403, 429, 507), body=RedeemCode,
              is_public=True),
)
# fmt: on
