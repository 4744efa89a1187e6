"""Work that blocks: in threads, never in the event loop, each kind in a pool of its own.

`Threads` is the set of pools of one server. The composition root makes it, hands each object the one pool that it
needs, and closes it last. What hangs in one pool (a mount that does not answer, a program that says nothing)
starves no other, and a thread that never comes back does not keep the process from ending.

    found = await pool.run(function, argument)     # in a thread; a time limit of the pool's kind
    async for step in pool.iterate(generator):     # each step in a thread, and none while nobody asks

Which pool: `programs` to ask a program something; `processes` to end and reap them; `paths` to find out what a
path is; `files` for the content of the workspace; `state` for the server's own directories; `folding` for what
takes the processor long (JSON of megabytes, a projection); `watches` for going through what has changed; `setups` for
the commands that make worktrees ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from enum import Enum, auto
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, ParamSpec, TypeVar, cast

from agentsrv.errors import LimitReached, Unavailable
from agentsrv.users import User, acting_as

T = TypeVar("T")
P = ParamSpec("P")

MAX_WAITING = 4096
"""Calls of one pool that run or wait; more are refused."""

MAX_LOST = 64
"""Threads of one pool that are stuck in what was given up. With more of them nothing new is begun."""

LEAVE_S = 2.0
"""So long a caller that was cancelled waits for its function, which may use what the caller closes."""

CLOSE_S = 2.0


class Pool:
    """At most `size` threads, started when they are needed. `timeout_s`: what takes longer is given up.

    A call that is given up keeps its thread, and another thread takes that one's place: a few calls that hang
    do not stop the others. The threads are daemons: they do not hold up the end of the process. They use files
    with the rights of `user`.
    """

    def __init__(
        self, name: str, size: int, timeout_s: float | None = None, user: User | None = None
    ) -> None:
        self._name = name
        self.user = user
        self._size = size
        self._timeout_s = timeout_s
        self._queue: SimpleQueue[_Call[Any] | None] = SimpleQueue()
        self._calls: dict[_Call[Any], None] = {}
        """The oldest first, which is the first to take too long."""
        self._alarm: asyncio.TimerHandle | None = None
        self._threads: set[threading.Thread] = set()
        """Those that take new calls."""
        self._lost: set[threading.Thread] = set()
        self._is_closed = False

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `function` returns or raises.

        Raises LimitReached when too much waits already, and Unavailable (`no_answer`) when it takes too long:
        then it goes on in its thread, and what it returns is dropped (and closed, if it can be). Who is
        cancelled leaves when the function has ended, or after LEAVE_S.
        """
        return await self._carry_out(partial(function, *args, **kwargs))

    async def run_anyway(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The same for clearing up, which is never refused because too much waits."""
        return await self._carry_out(partial(function, *args, **kwargs), anyway=True)

    async def _carry_out(self, function: Callable[[], T], *, anyway: bool = False) -> T:
        call = self._begin(function, anyway=anyway)
        try:
            await call.tells()
        except asyncio.CancelledError:
            await asyncio.wait([call.tells()], timeout=LEAVE_S)
            call.drop()
            raise
        finally:
            self._finish(call)
        if call.is_given_up:
            raise Unavailable("this took too long and was given up; try again later", code="no_answer")
        return call.outcome()

    async def iterate(self, items: Generator[T, None, None]) -> AsyncGenerator[T, None]:
        """What `items` yields; each step runs in a thread, and none while nobody asks for the next item."""
        try:
            while (item := await self.run(next, items, None)) is not None:
                yield item
        finally:
            # When its last step was given up it ends with that thread.
            if inspect.getgeneratorstate(items) != inspect.GEN_RUNNING:
                await self.run_anyway(items.close)

    async def close(self) -> None:
        """Wait a moment for what runs, then leave it to itself. Closing twice is fine."""
        self._is_closed = True
        if self._alarm is not None:
            self._alarm.cancel()
        if self._calls:
            await asyncio.wait([call.tells() for call in self._calls], timeout=CLOSE_S)
        for _ in self._threads:
            self._queue.put(None)
        if not self._calls:
            for thread in self._threads:
                thread.join(CLOSE_S)
        self._threads.clear()

    def _begin(self, function: Callable[[], T], *, anyway: bool) -> _Call[T]:
        self._lost = {thread for thread in self._lost if thread.is_alive()}
        if self._is_closed:
            raise Unavailable("the server is shutting down", code="draining")
        if len(self._lost) >= MAX_LOST:
            raise Unavailable(f"nothing answers ({self._name}); see what hangs", code="no_answer")
        if len(self._calls) >= MAX_WAITING and not anyway:
            raise LimitReached("too much is being read and written; wait a moment", retry_after_s=1)
        if len(self._threads) < min(self._size, len(self._calls) + 1):
            self._start_thread()
        call = _Call(function, asyncio.get_running_loop())
        self._calls[call] = None
        self._queue.put(call)
        if self._alarm is None:
            self._watch()
        return call

    def _watch(self) -> None:
        """Tell those whose time is over, and be called again for the oldest of the others: one timer for all."""
        self._alarm = None
        if self._timeout_s is None:
            return
        loop = asyncio.get_running_loop()
        for call in self._calls:
            left_s = call.began_at + self._timeout_s - loop.time()
            if left_s > 0:
                self._alarm = loop.call_later(left_s, self._watch)
                return
            call.tell()

    def _finish(self, call: _Call[Any]) -> None:
        """Forget a call. The thread of one that is given up is replaced."""
        del self._calls[call]
        if call.give_up() and call.thread in self._threads:
            self._threads.discard(call.thread)
            self._lost.add(call.thread)
            if not self._queue.empty():
                self._start_thread()

    def _start_thread(self) -> None:
        thread = threading.Thread(target=_work, args=[self._queue, self.user], name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError as exc:
            if not self._threads:
                raise Unavailable("the system gives no more threads; try again later") from exc
        else:
            self._threads.add(thread)


class Threads:
    """The pools of one server, by what they wait for. No thread is started before it is needed.

    What is done with the workspace is done with the rights of `user` (AGENT_USER).
    """

    def __init__(self, user: User | None = None) -> None:
        self.programs = Pool("programs", 16, 30.0, user)
        self.processes = Pool("processes", 4, 30.0)
        self.paths = Pool("paths", 32, 5.0, user)
        self.files = Pool("files", 4, 30.0, user)
        self.state = Pool("state", 4)
        self.folding = Pool("folding", 2)
        self.setups = Pool("setups", 4, None, user)
        self.watches = Pool("watches", 4, 30.0, user)

    async def close(self) -> None:
        """All of them at the same time. Closing twice is fine."""
        pools = (
            self.watches,
            self.setups,
            self.files,
            self.paths,
            self.folding,
            self.programs,
            self.processes,
            self.state,
        )
        await asyncio.gather(*(pool.close() for pool in pools))


class _State(Enum):
    WAITING = auto()
    RUNNING = auto()
    ENDED = auto()
    GIVEN_UP = auto()


class _Call(Generic[T]):
    """A function on its way through a thread. Thread and loop find out under a lock who was first."""

    def __init__(self, function: Callable[[], T], loop: asyncio.AbstractEventLoop) -> None:
        self.began_at = loop.time()
        self.thread: threading.Thread | None = None
        self._told: asyncio.Future[None] = loop.create_future()
        self._function = function
        self._returned: T | None = None
        self._raised: BaseException | None = None
        self._loop = loop
        self._state = _State.WAITING
        self._lock = threading.Lock()

    # For the loop

    def tells(self) -> asyncio.Future[None]:
        """Done when it has ended, or its time is over. Who waits for it and is cancelled takes it along."""
        if self._told.cancelled():
            self._told = self._loop.create_future()
        return self._told

    def tell(self) -> None:
        if not self._told.done():
            self._told.set_result(None)

    @property
    def is_given_up(self) -> bool:
        return self._state is _State.GIVEN_UP

    def give_up(self) -> bool:
        """False when it has ended."""
        with self._lock:
            if self._state is not _State.ENDED:
                self._state = _State.GIVEN_UP
        return self.is_given_up

    def outcome(self) -> T:
        if self._raised is not None:
            raise self._raised
        return cast(T, self._returned)

    def drop(self) -> None:
        """Nobody wants what it has returned."""
        if (close := getattr(self._returned, "close", None)) is not None:
            close()

    # For a thread

    def run(self) -> bool:
        """False when it was given up meanwhile and the thread has to go: it is replaced already."""
        with self._lock:
            if self._state is _State.GIVEN_UP:
                return True
            self._state, self.thread = _State.RUNNING, threading.current_thread()
        try:
            self._returned = self._function()
        except BaseException as exc:
            self._raised = exc
        with self._lock:
            if self._state is _State.RUNNING:
                self._state = _State.ENDED
        if self.is_given_up:
            self.drop()
            return False
        with contextlib.suppress(RuntimeError):  # The loop is closed.
            self._loop.call_soon_threadsafe(self.tell)
        return True


def _work(queue: SimpleQueue[_Call[Any] | None], user: User | None) -> None:
    with acting_as(user):
        while (call := queue.get()) is not None:
            if not call.run():
                return
            del call  # What it holds must not stay while the thread waits for the next one.
