"""An event loop in a thread of its own, for callers that have none, or are in the middle of theirs."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from agentsrv.client.errors import AgentsrvError

R = TypeVar("R")

JOIN_TIMEOUT_S = 5.0


class Portal:
    """`call` runs something on the loop and waits for it, `start` only begins. Threads may share one, processes not."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._loop.run_forever, name="agentsrv-client", daemon=True)
        self._thread.start()
        self._end = weakref.finalize(self, _end, self._loop, self._thread, self._pid)

    @property
    def is_open(self) -> bool:
        return self._end.alive

    def call(self, function: Callable[[], Awaitable[R]]) -> R:
        """What `function` gives, awaited on the loop. Ctrl-C while it waits cancels it."""
        future = self.start(function)
        try:
            return result_of(future)
        except BaseException:
            future.cancel()
            raise

    def start(self, function: Callable[[], Awaitable[R]]) -> Future[R]:
        """What `function` will have given; see `result_of`."""
        self._check()
        return asyncio.run_coroutine_threadsafe(_awaited(function), self._loop)

    def tell(self, function: Callable[[], Any]) -> None:
        """Run `function` on the loop soon, if there is one still, and do not wait."""
        if self._end.alive and os.getpid() == self._pid:
            self._loop.call_soon_threadsafe(function)

    def close(self) -> None:
        """End the thread, and all that it still waits for."""
        self._end()

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise AgentsrvError("this client was made before a fork; make a new one in the new process")
        if not self._end.alive:
            raise AgentsrvError("this client is closed")
        if threading.current_thread() is self._thread:
            raise AgentsrvError(
                "the client's own thread cannot wait for itself; do this outside of the callback"
            )


def result_of(future: Future[R]) -> R:
    """Waits for it."""
    try:
        return future.result()
    except CancelledError:
        raise AgentsrvError("this client is closed") from None


async def _awaited(function: Callable[[], Awaitable[R]]) -> R:
    return await function()


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread, pid: int) -> None:
    if os.getpid() != pid:  # a fork has the loop, but not its thread
        return
    asyncio.run_coroutine_threadsafe(_wind_up(), loop).add_done_callback(
        lambda _: loop.call_soon_threadsafe(loop.stop)
    )
    thread.join(JOIN_TIMEOUT_S)
    if not thread.is_alive():
        loop.close()


async def _wind_up() -> None:
    """End what the loop still does: who waits for it in another thread is told."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
