"""A TCP proxy that treats its connections badly."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from agentsrv.tasks import Tasks

REQUEST = re.compile(rb"^(?:GET|PUT|POST|DELETE) \S+ HTTP/1.1\r$", re.MULTILINE)


class Proxy:
    """Passes on to `port`. `budget` says after how many bytes of an answer a connection is cut."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self.cuts = 0
        self.requests = 0
        self.delay_s = 0.0
        self.budget: Callable[[], int | None] = lambda: None
        self.passes = asyncio.Event()
        """Nothing of an answer goes on while this is not set."""
        self.passes.set()
        self.is_away = False
        self._open: set[asyncio.StreamWriter] = set()
        self._target = port
        self._tasks = Tasks("proxy")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.spawn(self._serve(reader, writer), name="connection")

    def leave(self) -> None:
        """Cut all connections, and take none while it is away."""
        self.is_away = True
        for writer in self._open:
            writer.transport.abort()

    async def close(self) -> None:
        await self._tasks.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_away:
            writer.transport.abort()
            return
        self._open.add(writer)
        try:
            there = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        up = self._tasks.start(self._copy(reader, there[1], None), name="up")
        try:
            await self._copy(there[0], writer, self.budget())
        finally:
            up.cancel()
            self._open.discard(writer)
            for each in (writer, there[1]):
                each.transport.abort()

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: int | None
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536 if budget is None else max(1, min(budget, 65536))):
                self.requests += len(REQUEST.findall(data))
                await self.passes.wait()
                await asyncio.sleep(self.delay_s)
                writer.write(data)
                await writer.drain()
                if budget is not None and (budget := budget - len(data)) <= 0:
                    self.cuts += 1
                    return
            writer.close()


@asynccontextmanager
async def proxy_to(port: int) -> AsyncIterator[Proxy]:
    proxy = Proxy(port)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        async with server:
            yield proxy
    finally:
        await proxy.close()


def cutting(proxy: Proxy, count: int, most: int, seed: int = 1) -> Callable[[], int | None]:
    """A budget of up to `most` bytes, until there were `count` cuts; then connections are left alone."""
    chance = random.Random(seed)
    return lambda: chance.randint(1, most) if proxy.cuts < count else None
