"""The log of a session: append events, follow them from any age, without a seam between replay and live.

The log is the buffer. A follower is a cursor and a wake-up: it reads what lies after its cursor (recent
events from a bounded tail in memory that all followers share, older ones from the database), hands it out,
and waits. There is no queue per follower, so a slow one costs no memory and slows nobody. One that waits and can
take agent output at once is handed it on the spot: a pass of the loop and a wake-up cost more than all the rest.

Agent output is visible as soon as it is appended: it lies in the runner's spool already, and its seqs follow
from its place there, so after a crash the same lines get the same seqs. What the server itself adds has no
such second copy: it is published only after its commit, and agent output waits meanwhile (`hold`).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar
from weakref import WeakValueDictionary

from msgspec import Struct

from agentsrv.marks import Marks
from agentsrv.model import Chunk, Lease, Millis, RunnerId, Seq, SessionId, Source, Turn, TurnId
from agentsrv.store import events
from agentsrv.store.database import Database
from agentsrv.threads import Pool

T = TypeVar("T")

PAGE_BYTES = 256 * 1024
"""About how much a follower takes at once, from memory or from disk."""

LARGE_BYTES = 64 * 1024
"""Of a chunk. A projection with a state may take long for so much."""

TAIL_BYTES = 1024 * 1024
TAIL_BYTES_WHEN_CROWDED = 64 * 1024
ALL_TAILS_BYTES = 16 * 1024 * 1024

CONGESTED_BYTES = 8 * 1024 * 1024
"""So much appended and not yet committed: the agent's output is left in its spool until the disk keeps up."""

GROWTH = 2000
"""Events."""

HURRY_BYTES = 512 * 1024
"""With so much the commit does not wait for more."""

End = Callable[[], Seq | None]

Take = Callable[[Chunk], bool]
"""Has a chunk at once, on the stack of the one who appends it. False: not now, the follower is to read it."""


def now_ms() -> Millis:
    return time.time_ns() // 1_000_000


def server_chunk(turn: Turn, source: Source, seq: Seq, lines: list[bytes]) -> Chunk:
    """Events of the server's own, one a line, from `seq` on."""
    data = b"\n".join([*lines, b""])
    return Chunk(turn.session_id, turn.id, source, now_ms(), seq, seq + len(lines) - 1, data)


class _Waiter(Struct, eq=False):
    """A follower that has all that there is up to `cursor`."""

    cursor: Seq
    take: Take | None
    woken: asyncio.Future[None]

    def offer(self, chunk: Chunk) -> None:
        if self.woken.done():
            return
        try:
            if self.take is not None and self.take(chunk):
                self.cursor = chunk.last_seq
            else:
                self.woken.set_result(None)
        except Exception as exc:  # It is the follower's own, and nobody else is to suffer for it.
            self.woken.set_exception(exc)

    def wake(self) -> None:
        if not self.woken.done():
            self.woken.set_result(None)


class SessionLog:
    """The live end of one session's log. Exists while somebody appends or follows."""

    def __init__(self, owner: EventLog, session_id: SessionId, last_seq: Seq) -> None:
        self.session_id = session_id
        self.last_seq = last_seq
        self.listeners: set[Callable[[], None]] = set()
        """Called by the loop when `is_ready` turns true again: those who append agent output go on."""
        self.lease: Lease | None = None
        """Under which agent output is appended: that of the newest turn."""
        self.ends_at: Seq | None = None
        """Set once it is closed: what there was then. Followers go no further."""
        self._owner = owner
        self._lock = asyncio.Lock()
        self._is_in_doubt = False
        self._waiting: set[_Waiter] = set()
        self._tail: deque[Chunk] = deque()
        self._tail_bytes = 0
        self._next_growth = last_seq + GROWTH
        self._pending: events.Append | None = None
        self._unsaved_chunks = 0
        self._unsaved_bytes = 0

    @property
    def is_ready(self) -> bool:
        """May agent output be appended now?"""
        is_free = not self._lock.locked() and not self._is_in_doubt
        return is_free and self._unsaved_bytes < CONGESTED_BYTES

    def append(
        self,
        turn_id: TurnId | None,
        data: bytes,
        count: int,
        runner_id: RunnerId,
        spool_offset: int,
        on_saved: Callable[[int, bool], None],
        fold: str | None = None,
    ) -> None:
        """Append `count` lines of agent output; followers see them at once, the commit comes behind.

        `fold` is stored with them. `on_saved` is called after the commit with the newest offset that is stored;
        with True when the database refused, the lease being too old. Output with the same `on_saved` that comes
        before its transaction begins is committed, and told, together.
        """
        assert self.lease is not None
        chunk = Chunk(
            self.session_id, turn_id, Source.AGENT, now_ms(), self.last_seq + 1, self.last_seq + count, data
        )
        pending = self._pending
        if (
            pending is None
            or pending.is_taken
            or pending.lease is not self.lease
            or pending.on_saved != on_saved
        ):
            self._pending = pending = events.Append(self.lease, runner_id, on_saved)
            self._owner.db.queue(events.append_all, pending, partial(self._saved, pending), pending.take)
        pending.add(chunk, spool_offset, fold)
        self._unsaved_chunks += 1
        self._unsaved_bytes += len(data)
        if self._unsaved_bytes > HURRY_BYTES:
            self._owner.db.hurry()
        self._add(chunk)
        for waiter in tuple(self._waiting):
            waiter.offer(chunk)

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[Seq]:
        """Keep agent output out while the server adds events; gives the next seq.

        Inside: commit a chunk that starts with that seq, then `publish` it. Who is cancelled between the two
        (the server stops) leaves the log closed for others: nobody knows then whether that seq is taken.
        """
        try:
            async with self._lock:
                try:
                    yield self.last_seq + 1
                except asyncio.CancelledError:
                    self._is_in_doubt = True
                    raise
        finally:
            self._notify_ready()

    def publish(self, chunk: Chunk) -> None:
        """Make `chunk` the newest one and wake all followers."""
        self._add(chunk)
        self.wake()

    def _add(self, chunk: Chunk) -> None:
        assert chunk.first_seq == self.last_seq + 1
        self.last_seq = chunk.last_seq
        weight = _weight(chunk)
        self._tail.append(chunk)
        self._tail_bytes += weight
        self._owner.tail_bytes += weight
        self._trim()
        if chunk.last_seq >= self._next_growth:
            self._next_growth = chunk.last_seq + GROWTH
            for listener in self._owner.growth_listeners:
                asyncio.get_running_loop().call_soon(listener, self.session_id)

    def wake(self) -> None:
        """Have every follower look again."""
        for waiter in self._waiting:
            waiter.wake()

    def close(self) -> None:
        """End all followers: the session is gone or the server stops."""
        self.ends_at = self.last_seq
        self.wake()

    def shrink(self) -> None:
        """Forget what is committed: nothing happens here now, and who comes finds it on disk."""
        self._trim(bound=0)

    async def wait(self, cursor: Seq, take: Take | None) -> Seq:
        """Wait until a follower that has all up to `cursor` should look again; up to where it has all by then."""
        waiter = _Waiter(cursor, take, asyncio.get_running_loop().create_future())
        self._waiting.add(waiter)
        try:
            await waiter.woken
        finally:
            self._waiting.discard(waiter)
        return waiter.cursor

    def recent(self, after: Seq) -> list[Chunk] | None:
        """About a page of what follows `after` in memory; None when the next event no longer is there."""
        if after >= self.last_seq:
            return []
        if not self._tail or self._tail[0].first_seq > after + 1:
            return None
        newer: list[Chunk] = []
        for chunk in reversed(self._tail):
            if chunk.last_seq <= after:
                break
            newer.append(chunk)
        newer.reverse()
        return _first_page(newer)

    def __del__(self) -> None:
        self._owner.tail_bytes -= self._tail_bytes

    def _saved(self, append: events.Append, error: BaseException | None) -> None:
        if self._pending is append:
            self._pending = None
        was_ready = self.is_ready
        self._unsaved_chunks -= len(append.chunks)
        self._unsaved_bytes -= append.size
        self._trim()
        if not was_ready:
            self._notify_ready()
        if append.is_stale and self._owner.open_session(self.session_id) is self:
            # What was shown is not stored: who comes from now on sees what is.
            self._owner.forget(self.session_id)
        if error is None:
            append.on_saved(append.spool_offset, append.is_stale)

    def _notify_ready(self) -> None:
        # On a stack of their own: who commits or holds the log must not suffer from what they do.
        if self.listeners and self.is_ready:
            loop = asyncio.get_running_loop()
            for listener in self.listeners:
                loop.call_soon(listener)

    def _trim(self, bound: int | None = None) -> None:
        """Forget the oldest chunks that are committed, beyond the bound."""
        if bound is None:
            crowded = self._owner.tail_bytes > ALL_TAILS_BYTES
            bound = TAIL_BYTES_WHEN_CROWDED if crowded else TAIL_BYTES
        while self._tail_bytes > bound and len(self._tail) > self._unsaved_chunks:
            weight = _weight(self._tail.popleft())
            self._tail_bytes -= weight
            self._owner.tail_bytes -= weight


class EventLog:
    """All sessions' logs."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.tail_bytes = 0
        self.marks = Marks()
        self.growth_listeners: set[Callable[[SessionId], None]] = set()
        """Called when a log has grown by GROWTH events."""
        self._sessions: WeakValueDictionary[SessionId, SessionLog] = WeakValueDictionary()
        self._is_closed = False

    async def session(self, session_id: SessionId, *, is_new: bool = False) -> SessionLog:
        """The live end of a session's log. Keep the reference for as long as you append or follow.

        `is_new`: nothing can be stored yet, so the database is not asked.
        """
        if (found := self._sessions.get(session_id)) is not None:
            return found
        last_seq = 0 if is_new else await events.last_seq(self.db, session_id)
        # Somebody else may have loaded it meanwhile; there must be only one.
        if (found := self._sessions.get(session_id)) is None:
            found = self._sessions[session_id] = SessionLog(self, session_id, last_seq)
            if self._is_closed:
                found.close()
        return found

    def open_session(self, session_id: SessionId) -> SessionLog | None:
        """The live end, when somebody has it."""
        return self._sessions.get(session_id)

    async def follow(
        self, session_id: SessionId, after: Seq, end: End, take: Take | None = None
    ) -> AsyncGenerator[Chunk, None]:
        """Yield every event with seq > `after`, oldest first, then live ones as they come.

        Each event comes exactly once and without gaps. While this waits for agent output, `take` is offered it
        first: what it takes is not yielded. Ends after the event that `end()` names, as soon
        as it names one, and when the log closes (shutdown, session deleted): the last seq yielded is the
        client's `Last-Event-ID`.
        """
        log = await self.session(session_id)
        cursor = after

        def is_over() -> bool:
            last, at = end(), log.ends_at
            return (last is not None and cursor >= last) or (at is not None and cursor >= at)

        def take_on(chunk: Chunk) -> bool:
            return log.ends_at is None and end() is None and take is not None and take(chunk)

        while not is_over():
            chunks = log.recent(cursor)
            if chunks is None:
                chunks = await events.page(self.db, session_id, cursor, PAGE_BYTES)
            for chunk in chunks:
                yield chunk if chunk.first_seq > cursor else chunk.after(cursor)
                cursor = chunk.last_seq
                if is_over():
                    return
            if chunks:
                continue
            if log.ends_at is not None:
                return  # The session was deleted with what was still to be read.
            cursor = await log.wait(cursor, take and take_on)

    def forget(self, session_id: SessionId) -> None:
        """The session is gone: end its followers. One that gets its id later begins at seq 1."""
        self.marks.forget(session_id)
        if (log := self._sessions.pop(session_id, None)) is not None:
            log.close()

    def close(self) -> None:
        """End all followers, once they have what is there."""
        self._is_closed = True
        for log in list(self._sessions.values()):
            log.close()


async def fold(chunk: Chunk, step: Callable[[Chunk], T], threads: Pool) -> T:
    """What `step` makes of a chunk: in a thread when it may take long.

    A hostile line of megabytes takes a second. Ordinary ones take less than the way to a thread and back.
    """
    return await threads.run(step, chunk) if len(chunk.data) > LARGE_BYTES else step(chunk)


def _weight(chunk: Chunk) -> int:
    """What a chunk costs in memory: its data, once more as rendered for followers, and the objects."""
    return 2 * len(chunk.data) + 512


def _first_page(chunks: list[Chunk]) -> list[Chunk]:
    total = 0
    for count, chunk in enumerate(chunks, 1):
        total += len(chunk.data)
        if total >= PAGE_BYTES:
            return chunks[:count]
    return chunks
