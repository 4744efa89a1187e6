"""A line between servers that can be cut."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.fleet.kit import free_port
from tests.kit import TIMEOUT_S

AT_ONCE_BYTES = 64 * 1024


class Cable:
    """From `port` to that of a server. While it is cut nobody gets through, and what was under way has ended."""

    def __init__(self, to_port: int, loop: asyncio.AbstractEventLoop) -> None:
        self.port = free_port()
        self.to_port = to_port
        self._loop = loop
        self._listener: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()

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
