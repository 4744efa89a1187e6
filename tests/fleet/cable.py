"""A line between servers that can be cut."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from tests.fleet.kit import free_port
from tests.kit import TIMEOUT_S

AT_ONCE_BYTES = 64 * 1024
SYN_SENT = "02"
"""In /proc/net/tcp."""


class Cable:
    """From `port` to that of a server. While it is cut nobody gets through, and what was under way has ended."""

    def __init__(self, to_port: int, loop: asyncio.AbstractEventLoop) -> None:
        self.port = free_port()
        self.to_port = to_port
        self._loop = loop
        self._listener: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._carried: set[asyncio.Task[None]] = set()

    def mend(self) -> None:
        asyncio.run_coroutine_threadsafe(self._mend(), self._loop).result(TIMEOUT_S)

    def cut(self) -> None:
        """Cutting it twice is fine."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(TIMEOUT_S)

    async def _mend(self) -> None:
        self._listener = await asyncio.start_server(self._carry, "127.0.0.1", self.port)

    async def _cut(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for end in self._ends:
            end.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = {writer}
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.to_port)
            ends.add(far_writer)
            self._ends |= ends
            await asyncio.gather(self._pipe(reader, far_writer), self._pipe(far_reader, writer))
        except OSError:
            writer.transport.abort()  # Nobody is there.
        finally:
            self._ends -= ends
            for end in ends:
                end.close()

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """As TCP does it: each direction ends by itself, and what breaks off breaks off on the other side, too."""
        try:
            while data := await reader.read(AT_ONCE_BYTES):
                writer.write(data)
                await writer.drain()
            writer.write_eof()
        except OSError:
            writer.transport.abort()


class Faulty(Cable):
    """A cable on which the next requests, `breaks` of them, break off before they arrive."""

    breaks = 0

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await super()._pipe(cast(asyncio.StreamReader, Requests(self, reader)), writer)


class Prefixed(Cable):
    """A cable with a proxy that takes `prefix` from paths. Paths without it lead nowhere."""

    prefix = b"/fleet/home"

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await super()._pipe(cast(asyncio.StreamReader, WithoutPrefix(self.prefix, reader)), writer)


class WithoutPrefix:
    """What comes in on it."""

    def __init__(self, prefix: bytes, reader: asyncio.StreamReader) -> None:
        self._prefix = prefix
        self._reader = reader

    async def read(self, size: int) -> bytes:
        data = await self._reader.read(size)
        line, end, rest = data.partition(b"\r\n")
        if not end or not line.endswith(b" HTTP/1.1"):
            return data
        method, path, version = line.split(b" ")
        path = path.removeprefix(self._prefix) if path.startswith(self._prefix) else b"/nowhere"
        return b" ".join((method, path, version)) + end + rest


class Requests:
    """What comes in on a faulty cable."""

    def __init__(self, cable: Faulty, reader: asyncio.StreamReader) -> None:
        self._cable = cable
        self._reader = reader

    async def read(self, size: int) -> bytes:
        data = await self._reader.read(size)
        if self._cable.breaks and data.startswith((b"GET /s", b"HEAD /s", b"POST /s", b"DELETE /s")):
            self._cable.breaks -= 1
            raise ConnectionResetError
        return data


class Gate(Cable):
    """A cable whose far end may be too busy to take connections; those that are there go on."""

    async def _mend(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", self.port), backlog=0)
        self._socket.setblocking(False)
        self._is_open = asyncio.Event()
        self._is_open.set()
        self._taking = self._loop.create_task(self._take())

    async def _cut(self) -> None:
        self._taking.cancel()
        self._socket.close()
        await super()._cut()

    async def _take(self) -> None:
        while True:
            client, _ = await self._loop.sock_accept(self._socket)
            await self._is_open.wait()
            ends = await asyncio.open_connection(sock=client)
            self._carried.add(self._loop.create_task(self._carry(*ends)))

    @contextmanager
    def shut(self) -> Iterator[None]:
        """Within, whoever connects is kept waiting."""
        self._loop.call_soon_threadsafe(self._is_open.clear)
        fillers: list[socket.socket] = []
        while not connecting_to(self.port):
            fillers.append(socket.socket())
            fillers[-1].setblocking(False)
            fillers[-1].connect_ex(("127.0.0.1", self.port))
        fillers.pop().close()  # It would try again.
        try:
            yield
        finally:
            for filler in fillers:
                filler.close()
            self._loop.call_soon_threadsafe(self._is_open.set)


def connecting_to(port: int) -> set[str]:
    """The local ends of connections to `port` that nobody has answered."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {line[1] for line in lines if line[2].endswith(f":{port:04X}") and line[3] == SYN_SENT}


@contextmanager
def loop_in_thread() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that cables run in."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=run, args=(loop,), name="cables")
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def run(loop: asyncio.AbstractEventLoop) -> None:
    """Until it is stopped; what is under way then ends in order."""
    loop.run_forever()
    loop.run_until_complete(end_all())
    loop.close()


async def end_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0.01)  # In which the sockets are closed.
