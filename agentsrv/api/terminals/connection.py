"""One WebSocket on a terminal."""

from __future__ import annotations

import asyncio
import codecs
import socket
from collections import deque
from contextlib import aclosing, suppress
from typing import Any, Literal

import msgspec
from aiohttp import WSMsgType, web

from agentsrv.api.frames import BINARY, TEXT, framed, write
from agentsrv.api.keys import CONFIG
from agentsrv.api.terminals.handshake import CLOSE_TIMEOUT_S, Socket
from agentsrv.api.terminals.heartbeat import Heartbeat
from agentsrv.api.terminals.messages import (
    CloseMessage,
    DataMessage,
    Message,
    ResizeMessage,
    decode_message,
    encode_message,
    info_message,
    signal_name,
)
from agentsrv.tasks import Tasks
from agentsrv.terminals.terminal import Viewer

SEND_BUFFER_BYTES = 64 * 1024
"""What the kernel may hold for one socket (it doubles this). What is in there, a Ctrl-C cannot call back."""
MAX_BAD_MESSAGES = 20
BAD_MESSAGES_WITHIN_S = 10.0


class Connection:
    """One WebSocket on a terminal: sends what the terminal shows, does what the client's messages say."""

    def __init__(
        self,
        request: web.Request,
        ws: Socket,
        viewer: Viewer,
        *,
        encoding: Literal["json", "binary", "raw"],
    ) -> None:
        self._request = request
        self._ws = ws
        self._viewer = viewer
        self._encoding = encoding
        # A character may be torn apart by the end of a read.
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._bad_at: deque[float] = deque(maxlen=MAX_BAD_MESSAGES)
        self._tasks = Tasks("terminal-socket")
        self._heartbeat = Heartbeat(request)

    async def run(self) -> None:
        """Return when the socket is closed, by whichever side."""
        bound_buffers(self._request)
        receiver = self._tasks.start(self._receive(), name=self._viewer.terminal.info.id)
        try:
            with self._heartbeat:
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
            if self._encoding != "json":
                async for chunk in output:
                    await self._write(BINARY, chunk)
            else:
                async for chunk in output:
                    if text := self._decode(chunk):
                        await self._tell({"type": "data", "data": text})

    async def _tell(self, message: dict[str, Any]) -> None:
        if self._encoding != "raw":
            await self._write(TEXT, encode_message(message))

    async def _write(self, opcode: int, payload: bytes) -> None:
        await write(self._request, self._ws, framed(opcode, payload))

    async def _say_goodbye(self) -> None:
        """The terminal has ended, or the server is about to."""
        if (ended := self._viewer.terminal.ended) is None:
            await self._ws.close(code=1001, message=b"the server is shutting down")
            return
        name = None if ended.signal is None else signal_name(ended.signal)
        said = f"ended by {name}" if name else f"ended with {ended.code}"
        await self._tell(
            {"type": "close", "data": said, "exitCode": ended.code, "signal": name, "reason": ended.reason}
        )
        await self._ws.close(code=1000)

    # ---- from the client

    async def _receive(self) -> None:
        """Obey messages until the socket is closed; then nobody looks any more."""
        try:
            async for message in self._ws:
                self._heartbeat.heard()
                if message.type in (WSMsgType.TEXT, WSMsgType.BINARY) and self._encoding == "raw":
                    await self._type(message.data)
                elif message.type is WSMsgType.TEXT:
                    await self._obey(message.data)
                elif message.type is WSMsgType.BINARY and self._encoding == "binary":
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


def bound_buffers(request: web.Request) -> None:
    """Bound what the kernel holds for this client, and how long when the socket is closed and it takes nothing."""
    connection = request.get_extra_info("socket")
    patience_ms = int(request.app[CONFIG].stall_timeout_s * 1000)
    if connection is None:
        return
    with suppress(OSError):  # A Unix socket has only the first.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience_ms)
