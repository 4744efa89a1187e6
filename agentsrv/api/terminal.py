"""Terminals: tokens and lists over REST, and the WebSocket that shows one.

A token and the Origin are checked before the upgrade, so that a refusal has a real status and starts no
shell. On the socket, `json`: every message is `{"type": "data" | "resize" | "close" | "error" | "info", ...}`;
`binary`: the terminal's bytes are binary frames, both ways, and the rest is as before.
"""

from __future__ import annotations

import asyncio
import codecs
import re
import signal
import socket
import struct
import time
from collections import deque
from contextlib import aclosing, suppress
from secrets import token_hex
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import WSCloseCode, WSMsgType, hdrs, web

from agentsrv.api.decode import given, read_body, read_query
from agentsrv.api.encode import json_response, timestamp
from agentsrv.api.keys import CONFIG, TERMINAL_TOKENS, TERMINALS
from agentsrv.api.middleware import bearer_token
from agentsrv.api.schemas import (
    CreateTerminalToken,
    OpenTerminal,
    TerminalEnded,
    TerminalList,
    TerminalTokenView,
    TerminalView,
)
from agentsrv.errors import AuthenticationFailed, InvalidInput, NotFound, StorageFull
from agentsrv.model import SESSION_ID, TerminalId
from agentsrv.tasks import Tasks
from agentsrv.terminals.terminal import Terminal, Viewer
from agentsrv.terminals.tokens import Grant

MAX_MESSAGE_BYTES = 1024 * 1024
SEND_BUFFER_BYTES = 64 * 1024
"""What the kernel may hold for one socket (it doubles this). What is in there, a Ctrl-C cannot call back."""
MAX_BAD_MESSAGES = 20
BAD_MESSAGES_WITHIN_S = 10.0
CLOSE_TIMEOUT_S = 2.0
LOOK_AGAIN_S = 0.05

TEXT, BINARY = 0x81, 0x82
PING = b"\x89\x00"

JWT = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)


async def create_terminal_token(request: web.Request) -> web.Response:
    """A token that opens one WebSocket to a terminal, which begins then if it does not run yet."""
    body = await read_body(request, CreateTerminalToken)
    cwd = given(body.cwd)
    if cwd is not None:
        cwd = str(request.app[TERMINALS].find_directory(cwd))
    grant = Grant(
        terminal_id=TerminalId(given(body.terminal_id) or token_hex(16)),
        deployment_id=body.deployment_id,
        cwd=cwd,
        is_read_only=body.read_only,
    )
    token, expires_at = await request.app[TERMINAL_TOKENS].issue(grant)
    return json_response(
        TerminalTokenView(
            token=token,
            expires_at=timestamp(expires_at * 1000),
            deployment_id=grant.deployment_id,
            terminal_id=grant.terminal_id,
        )
    )


async def list_terminals(request: web.Request) -> web.Response:
    """The terminals that run, oldest first, with and without sockets."""
    views = [terminal_view(terminal) for terminal in request.app[TERMINALS].list_terminals()]
    return json_response(TerminalList(terminals=views, count=len(views), timestamp=timestamp()))


def terminal_view(terminal: Terminal) -> TerminalView:
    cols, rows = terminal.size
    return TerminalView(
        terminal_id=terminal.info.id,
        deployment_id=terminal.info.deployment_id,
        shell=terminal.info.shell,
        cwd=terminal.info.cwd,
        pid=terminal.handle.pid,
        cols=cols,
        rows=rows,
        clients=len(terminal.viewers),
        created_at=timestamp(terminal.info.created_at),
    )


async def delete_terminal(request: web.Request) -> web.Response:
    """End a terminal; the answer comes when its shell and all that it started are gone."""
    text = request.match_info["terminal_id"]
    if not SESSION_ID.match(text):
        raise NotFound("no such terminal: the id in the path is not one", code="terminal_not_found")
    await request.app[TERMINALS].end(TerminalId(text))
    return json_response(TerminalEnded(terminal_id=text, timestamp=timestamp()))


async def open_terminal(request: web.Request) -> web.StreamResponse:
    """A WebSocket that shows a terminal.

    It needs a token of `POST /terminal/token`: as `?token=`, as `Authorization: Bearer`, or among the
    subprotocols that it offers.
    """
    ws = Socket(request)
    if not ws.is_asked_for():
        raise InvalidInput("ask for an upgrade to a WebSocket, version 13", code="not_a_websocket")
    token = token_of(request)
    is_binary = read_query(request, OpenTerminal).encoding == "binary"
    viewer = await request.app[TERMINALS].attach(await redeem(request, token))
    try:
        await ws.prepare(request)
        await Connection(request, ws, viewer, is_binary=is_binary).run()
    finally:
        viewer.close()
    return ws


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


# ---- messages


def frame_header(opcode: int, length: int) -> bytes:
    """RFC 6455, 5.2: the last frame of a message, without a mask."""
    if length < 126:
        return bytes((opcode, length))
    if length < 1 << 16:
        return struct.pack("!BBH", opcode, 126, length)
    return struct.pack("!BBQ", opcode, 127, length)


class DataMessage(msgspec.Struct, tag="data"):
    data: str


class ResizeMessage(msgspec.Struct, tag="resize"):
    cols: Annotated[int, msgspec.Meta(ge=1, le=1000)]
    rows: Annotated[int, msgspec.Meta(ge=1, le=1000)]


class CloseMessage(msgspec.Struct, tag="close"):
    pass


Message = DataMessage | ResizeMessage | CloseMessage

decode_message = msgspec.json.Decoder(Message).decode
encode_message = msgspec.json.Encoder().encode


class Connection:
    """One WebSocket on a terminal: sends what the terminal shows, does what the client's messages say."""

    def __init__(
        self,
        request: web.Request,
        ws: Socket,
        viewer: Viewer,
        *,
        is_binary: bool,
    ) -> None:
        self._request = request
        self._ws = ws
        self._viewer = viewer
        self._is_binary = is_binary
        # A character may be torn apart by the end of a read.
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._bad_at: deque[float] = deque(maxlen=MAX_BAD_MESSAGES)
        self._tasks = Tasks("terminal-socket")
        self._pulse = _Pulse(request)

    async def run(self) -> None:
        """Return when the socket is closed, by whichever side."""
        bound_buffers(self._request)
        receiver = self._tasks.start(self._receive(), name=self._viewer.terminal.info.id)
        try:
            with self._pulse:
                await self._tell(info_message(self._viewer))
                await self._send_output()
                if not receiver.done():
                    await self._say_goodbye()
        except ConnectionError:
            # The client has gone (the terminal has not), or the receiver is about to close the socket.
            await self._tasks.join(CLOSE_TIMEOUT_S)
        finally:
            await self._tasks.close()
            if not self._ws.closed:
                await self._ws.close(code=1011)

    # ---- to the client

    async def _send_output(self) -> None:
        async with aclosing(self._viewer.output()) as output:
            if self._is_binary:
                async for chunk in output:
                    await self._write(BINARY, chunk)
            else:
                async for chunk in output:
                    if text := self._decode(chunk):
                        await self._tell({"type": "data", "data": text})

    async def _tell(self, message: dict[str, Any]) -> None:
        await self._write(TEXT, encode_message(message))

    async def _write(self, opcode: int, payload: bytes) -> None:
        """Send one frame; return when there is room for the next one. Raises ConnectionError.

        aiohttp's writer would send the header of a large frame as a packet of its own.
        """
        transport = self._request.transport
        if transport is None or self._ws.closed:
            raise ConnectionResetError("the client has gone")
        transport.write(b"".join((frame_header(opcode, len(payload)), payload)))
        if transport.get_write_buffer_size():
            await self._request.writer.drain()

    async def _say_goodbye(self) -> None:
        """The terminal has ended, or the server is about to."""
        if (ended := self._viewer.terminal.ended) is None:
            await self._ws.close(code=1001, message=b"the server is shutting down")
            return
        name = None if ended.signal is None else signal_name(ended.signal)
        await self._tell({"type": "close", "exitCode": ended.code, "signal": name, "reason": ended.reason})
        await self._ws.close(code=1000)

    # ---- from the client

    async def _receive(self) -> None:
        """Obey messages until the socket is closed; then nobody looks any more."""
        try:
            async for message in self._ws:
                self._pulse.heard()
                if message.type is WSMsgType.TEXT:
                    await self._obey(message.data)
                elif message.type is WSMsgType.BINARY and self._is_binary:
                    await self._type(message.data)
                elif message.type is WSMsgType.BINARY:
                    await self._complain("binary messages need ?encoding=binary")
                elif message.type is WSMsgType.PING:
                    await self._ws.pong(message.data)
        except ConnectionError:
            pass
        finally:
            self._viewer.dismiss()

    async def _obey(self, text: bytes) -> None:
        try:
            message: Message = decode_message(text)
        except (msgspec.MsgspecError, RecursionError) as exc:
            await self._complain(f"this message is not understood: {exc}")
            return
        match message:
            case DataMessage(data=data):
                await self._type(data.encode())
            case ResizeMessage(cols=cols, rows=rows):
                self._viewer.resize(cols, rows)
            case CloseMessage():
                await self._viewer.end()

    async def _type(self, data: bytes) -> None:
        """Pass input on. While the program does not read, nothing more is read from the client either."""
        self._viewer.write(data)
        await self._viewer.wait_for_room()

    async def _complain(self, what: str) -> None:
        """Answer a message that is none. The shell does not notice; who sends nothing else is cut off."""
        now = asyncio.get_running_loop().time()
        self._bad_at.append(now)
        if len(self._bad_at) == MAX_BAD_MESSAGES and now - self._bad_at[0] < BAD_MESSAGES_WITHIN_S:
            await self._ws.close(code=1008, message=b"too many messages that are none")
        else:
            await self._tell({"type": "error", "data": what, "code": "invalid_message"})


class _Pulse:
    """Cuts off a client that takes nothing of what waits for it, or is silent and does not answer a ping.

    One timer for a socket; a time-out for each message would cost as much as the message.
    """

    def __init__(self, request: web.Request) -> None:
        config = request.app[CONFIG]
        self._request = request
        self._silence_s = config.keepalive_s
        self._patience_s = config.stall_timeout_s
        self._step_s = min(self._silence_s, self._patience_s) / 3
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._progress_at = self._loop.time()
        self._waiting_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def heard(self) -> None:
        self._heard_at = self._loop.time()

    def __enter__(self) -> None:
        self._beat()

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _beat(self) -> None:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            return
        now = self._loop.time()
        waiting = transport.get_write_buffer_size()
        if not waiting or waiting != self._waiting_bytes:
            self._waiting_bytes, self._progress_at = waiting, now
        silent_s = now - self._heard_at
        if max(now - self._progress_at, silent_s - self._silence_s) >= self._patience_s:
            transport.abort()
            return
        if silent_s >= self._silence_s and not waiting:
            # A whole frame, as aiohttp's writer writes only whole ones. A timer cannot await its `ping`.
            transport.write(PING)
        self._timer = self._loop.call_later(self._step_s, self._beat)


def bound_buffers(request: web.Request) -> None:
    """Bound what the kernel holds for this client, and how long when the socket is closed and it takes nothing."""
    connection = request.get_extra_info("socket")
    patience_ms = int(request.app[CONFIG].stall_timeout_s * 1000)
    if connection is None:
        return
    with suppress(OSError):  # A Unix socket has only the first.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience_ms)


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def info_message(viewer: Viewer) -> dict[str, Any]:
    terminal = viewer.terminal
    cols, rows = terminal.size
    return {
        "type": "info",
        "terminalId": terminal.info.id,
        "deploymentId": terminal.info.deployment_id,
        "shell": terminal.info.shell,
        "cwd": terminal.info.cwd,
        "cols": cols,
        "rows": rows,
        "readOnly": not viewer.may_write,
    }
