"""A client of terminals: reads what a test waits for, keeps all that came."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType

TIMEOUT_S = 60.0
LOOK_BACK = 10_000
"""What a test waits for is shorter."""


class TerminalClient:
    """One WebSocket. `output` is what the terminal has shown here, `messages` all else."""

    def __init__(self, ws: ClientWebSocketResponse, *, is_binary: bool) -> None:
        self.ws = ws
        self.output = bytearray()
        self.messages: list[dict[str, Any]] = []
        self._is_binary = is_binary

    async def type(self, text: str) -> None:
        if self._is_binary:
            await self.ws.send_bytes(text.encode())
        else:
            await self.say(type="data", data=text)

    async def say(self, **message: Any) -> None:
        await self.ws.send_str(json.dumps(message))

    async def shows(self, text: str) -> str:
        """Wait until `text` has come; all output so far."""
        await self.matches(re.escape(text.encode()))
        return self.output.decode(errors="replace")

    async def matches(self, pattern: bytes) -> list[bytes]:
        """Wait until something that fits has come; its groups."""
        async with asyncio.timeout(TIMEOUT_S):
            looked_at = 0
            while (found := re.compile(pattern).search(self.output, looked_at)) is None:
                looked_at = max(0, len(self.output) - LOOK_BACK)
                assert await self.take(), f"closed with {self.ws.close_code}: {self.output[-500:]!r}"
        return [bytes(group) for group in found.groups()]

    async def message(self, type: str) -> dict[str, Any]:
        """The next message of this type that was not asked for yet."""
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                for found in self.messages:
                    if found["type"] == type:
                        self.messages.remove(found)
                        return found
                assert await self.take(), f"closed with {self.ws.close_code}: {self.messages}"

    def pause(self) -> None:
        """Take nothing more from the network."""
        self._transport.pause_reading()

    def resume(self) -> None:
        self._transport.resume_reading()

    def abort(self) -> None:
        """Go away without a word."""
        self._transport.abort()

    @property
    def _transport(self) -> asyncio.Transport:
        connection = self.ws._response.connection
        assert connection is not None
        assert isinstance(connection.transport, asyncio.Transport)
        return connection.transport

    async def closed(self) -> int | None:
        """Read to the end; the code with which the server has closed."""
        async with asyncio.timeout(TIMEOUT_S):
            while await self.take():
                pass
        return self.ws.close_code

    async def take(self) -> bool:
        """Read one message; False when the socket is closed."""
        message = await self.ws.receive()
        if message.type is WSMsgType.BINARY:
            self.output += message.data
        elif message.type is WSMsgType.TEXT:
            content = json.loads(message.data)
            if content["type"] == "data":
                self.output += content["data"].encode()
            else:
                self.messages.append(content)
        else:
            return False
        return True


async def get_token(client: ClientSession, port: int, key: str, **fields: Any) -> str:
    body = {"deploymentId": "local-dev", **fields}
    headers = {"Authorization": f"Bearer {key}"}
    async with client.post(f"http://127.0.0.1:{port}/terminal/token", json=body, headers=headers) as answer:
        content = await answer.json()
        assert answer.status == 200, content
        return str(content["token"])


@asynccontextmanager
async def terminal(
    client: ClientSession,
    port: int,
    key: str,
    terminal_id: str = "t",
    *,
    encoding: str = "json",
    **fields: Any,
) -> AsyncIterator[TerminalClient]:
    """A socket on the terminal, its `info` still to be read."""
    token = await get_token(client, port, key, terminalId=terminal_id, **fields)
    url = f"http://127.0.0.1:{port}/ws/terminal?token={token}&encoding={encoding}"
    async with client.ws_connect(url, max_msg_size=0) as ws:
        yield TerminalClient(ws, is_binary=encoding == "binary")
