"""From a request for an upgrade to our kind of WebSocket, and the token that comes with it."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Literal

from aiohttp import WSCloseCode, WSMsgType, hdrs, web

from agentsrv.api.credentials import bearer_token
from agentsrv.api.keys import TERMINAL_TOKENS
from agentsrv.errors import AuthenticationFailed, InvalidInput, StorageFull
from agentsrv.terminals.tokens import Grant

MAX_MESSAGE_BYTES = 1024 * 1024
CLOSE_TIMEOUT_S = 2.0
LOOK_AGAIN_S = 0.05

JWT = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)


class Socket(web.WebSocketResponse[Literal[False]]):
    """Our kind of WebSocket: whole messages as bytes, never compressed, pings for us to answer."""

    def __init__(self, request: web.Request) -> None:
        super().__init__(
            compress=False,
            autoping=False,
            decode_text=False,
            timeout=CLOSE_TIMEOUT_S,
            max_msg_size=MAX_MESSAGE_BYTES,
            protocols=answered_protocols(request),
        )
        self._request = request

    def is_asked_for(self) -> bool:
        try:
            return self._request.method == hdrs.METH_GET and bool(self.can_prepare(self._request))
        except ValueError:  # A Sec-WebSocket-Key that is not even ASCII.
            return False

    async def close(self, *, code: int = 1000, message: bytes = b"", drain: bool = True) -> bool:
        if code == WSCloseCode.MESSAGE_TOO_BIG and not self.closed:
            await self._let_finish()
        return await super().close(code=code, message=message, drain=drain)

    async def _let_finish(self) -> None:
        """Tell a client that sends too much, and drop the rest of it until the client has read that.

        Closing the connection on unread data is a reset, which takes the close frame away with it.
        """
        await self.send_frame(WSCloseCode.MESSAGE_TOO_BIG.to_bytes(2, "big"), WSMsgType.CLOSE)
        gives_up_at = time.monotonic() + CLOSE_TIMEOUT_S
        while time.monotonic() < gives_up_at:
            if self._request.transport is None or self._request.transport.is_closing():
                return
            await asyncio.sleep(LOOK_AGAIN_S)  # aiohttp does not tell when the client leaves.


def offered_protocols(request: web.Request) -> list[str]:
    headers = request.headers.getall(hdrs.SEC_WEBSOCKET_PROTOCOL, [])
    return [name.strip() for header in headers for name in header.split(",")]


def answered_protocols(request: web.Request) -> list[str]:
    """The client's own, but its token last: browsers fail when none of what they offered is answered."""
    return sorted(offered_protocols(request), key=lambda name: JWT.fullmatch(name) is not None)[:1]


def token_of(request: web.Request) -> str:
    """Raises AuthenticationFailed when there is none, InvalidInput when there are several."""
    in_query = request.query.getall("token", [])
    in_header = bearer_token(request).decode("utf-8", "replace")
    in_protocols = [name for name in offered_protocols(request) if JWT.fullmatch(name)]
    tokens = {*in_query, *in_protocols, *([in_header] if in_header else [])}
    if not tokens or len(in_query) > 1:
        raise AuthenticationFailed(
            "a terminal needs one token, of POST /terminal/token, as ?token=", code="invalid_token"
        )
    if len(tokens) > 1:
        raise InvalidInput("the query and the headers have different tokens; send one")
    return tokens.pop()


async def redeem(request: web.Request, token: str) -> Grant:
    try:
        return await request.app[TERMINAL_TOKENS].redeem(token)
    except OSError as exc:
        raise StorageFull(f"the use of a token cannot be noted in STATE_DIR: {exc.strerror}") from exc
