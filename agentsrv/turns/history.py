"""What a session's log says, as messages or in the words of a projection, from any event on.

A projection with a state needs its turn from the first event on. Where a turn is long, the state at some of its
events is kept, in memory and in the database, so that who comes back late, also after a restart, has a few thousand
events to fold at most. Once somebody has used such a projection, long turns are folded behind, as they grow: their
followers, and those who read its messages, will come back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from typing import NamedTuple
from weakref import WeakValueDictionary
from zlib import crc32

from agentsrv import __version__
from agentsrv.agents import AgentRegistry
from agentsrv.errors import AgentsrvError
from agentsrv.eventlog import EventLog, fold
from agentsrv.model import Chunk, Millis, Seq, Session, SessionId
from agentsrv.projections.acp import Acp, Told
from agentsrv.projections.encoding import encoded
from agentsrv.store import marks, sessions, turns
from agentsrv.store.database import Database
from agentsrv.store.marks import Mark
from agentsrv.tasks import Tasks
from agentsrv.threads import Pool

MARK_EVERY = 2000
"""Events, rounded up to whole chunks."""

SPANS = (250, 2000)
"""So many events are read at once to find the last messages: few first, for most logs have a page in them, then twice
as many each time, up to the most.
"""

PAGE_BYTES = 8 * 1024 * 1024
"""Of messages that are read backwards, which are held until all are found."""

BEHIND_S = 5.0
"""So long after a turn has grown it is folded: floods come first."""


class Messages(NamedTuple):
    """What an event says, in JSON, and when the server had it."""

    seq: Seq
    values: list[bytes]
    at: Millis


class History:
    """What clients read of a session's log in other words than the agent's own."""

    def __init__(self, db: Database, event_log: EventLog, agents: AgentRegistry, threads: Pool) -> None:
        self._db = db
        self._log = event_log
        self._agents = agents
        self._threads = threads
        self._tasks = Tasks("history")
        self._locks: WeakValueDictionary[SessionId, asyncio.Lock] = WeakValueDictionary()
        self._grown: set[SessionId] = set()
        self._used: set[bool] = set()  # Of the folds that somebody has asked for: `messages_only`.
        self._made_by: dict[str, str] = {}
        event_log.growth_listeners.add(self._has_grown)

    async def acp(
        self,
        session: Session,
        after: Seq,
        *,
        first: Seq | None = None,
        messages_only: bool = False,
        has_questions: bool = False,
    ) -> tuple[Acp, Seq]:
        """A fold that tells of what comes after `after`, and the event after which it is to be read from.

        `first` is where the turn that has `after` begins, when that is known.
        """
        self._used.add(messages_only)
        first = first or await turns.start_of_turn(self._db, session.id, after)
        kind = f"{session.agent} {messages_only}"
        reader = partial(self._agents.get(session.agent).updates, deltas=not messages_only)
        if kind not in self._made_by:
            self._made_by[kind] = code_of(Acp(SessionId(""), reader))
        lock = self._locks.setdefault(session.id, asyncio.Lock())
        async with lock:  # What one has folded others need not.
            seq, state = await self._mark(session.id, kind, first, after) or (first - 1, None)
            acp = Acp(
                session.id,
                reader,
                after=after,
                messages_only=messages_only,
                has_questions=has_questions,
                state=state,
            )
            if after - seq > MARK_EVERY:
                seq = await self._advance(acp, session.id, kind, seq, after)
        return acp, seq

    async def updates(
        self,
        session: Session,
        follow: Callable[[Seq], AsyncGenerator[Chunk, None]],
        after: Seq,
        *,
        first: Seq | None = None,
    ) -> AsyncGenerator[tuple[Seq, list[Told]], None]:
        """What comes after `after` in ACP's words, by the chunk: its last event, and what its events tell.

        `follow` gives the chunks after an event; of a turn that begins at `first`, where that is known.
        """
        acp, start = await self.acp(session, after, first=first)
        async with aclosing(follow(start)) as chunks:
            async for chunk in chunks:
                yield chunk.last_seq, await fold(chunk, acp.read, self._threads)

    async def messages(
        self, session: Session, after: Seq, last: Seq | None = None
    ) -> AsyncGenerator[list[Messages], None]:
        """The whole messages after `after`, oldest first, by the chunk: no token deltas, no notices.

        Of an agent that writes its messages in pieces they are put together, as ACP notifications.

        Up to the chunk with `last`, or to what is there now.
        """
        agent = self._agents.get(session.agent)
        if not agent.has_whole_messages:
            async for told in self.acp_messages(session, after, last):
                yield told
            return
        is_message = agent.is_message
        async with aclosing(await self._written(session.id, after, last)) as chunks:
            async for chunk in chunks:
                lines = enumerate(chunk.lines(), chunk.first_seq)
                yield [Messages(seq, [line], chunk.created_at) for seq, line in lines if is_message(line)]

    async def acp_messages(
        self, session: Session, after: Seq, last: Seq | None = None, *, has_questions: bool = False
    ) -> AsyncGenerator[list[Messages], None]:
        """The same as ACP notifications, of which an event may give several; and questions and answers as they are."""
        acp, start = await self.acp(session, after, messages_only=True, has_questions=has_questions)

        def read(chunk: Chunk) -> list[Messages]:
            return [Messages(seq, values, chunk.created_at) for seq, values in encoded(acp.read(chunk))]

        async with aclosing(await self._written(session.id, start, last)) as chunks:
            async for chunk in chunks:
                yield await fold(chunk, read, self._threads)

    async def messages_before(
        self, session: Session, before: Seq, limit: int, *, as_acp: bool, has_questions: bool = False
    ) -> tuple[list[Messages], Seq]:
        """The last `limit` messages of what lies before an event, oldest first; fewer when they are large.

        And up to which event there are no others. What one event gives stays together. The log is read backwards, so
        a page costs the same at its end.
        """
        read = partial(self.acp_messages, has_questions=has_questions) if as_acp else self.messages
        last = end = min(before - 1, (await self._log.session(session.id)).last_seq)
        found: list[Messages] = []
        left, bytes_left = limit, PAGE_BYTES
        span, most = SPANS
        while last > 0 and left > 0 and bytes_left > 0:
            first = max(last - span, 0)
            part = await _last_of(read(session, first, last), last, left, bytes_left)
            left -= sum(len(one.values) for one in part)
            bytes_left -= sum(map(_size, part))
            found = part + found
            last, span = first, min(2 * span, most)
        return found, end

    async def _written(
        self, session_id: SessionId, after: Seq, last: Seq | None
    ) -> AsyncGenerator[Chunk, None]:
        """What the log has after `after`: now, or up to the chunk with `last`."""
        end = (await self._log.session(session_id)).last_seq if last is None else last
        return self._log.follow(session_id, after, lambda: end)

    async def close(self) -> None:
        """Closing twice is fine."""
        self._log.growth_listeners.discard(self._has_grown)
        await self._tasks.close()

    async def _advance(self, acp: Acp, session_id: SessionId, kind: str, seq: Seq, last: Seq) -> Seq:
        """Fold what lies between `seq` and `last`, in whole chunks; returns up to which event."""
        kept = seq
        async with aclosing(self._log.follow(session_id, seq, lambda: last)) as chunks:
            async for chunk in chunks:
                if chunk.last_seq > last:
                    break
                await fold(chunk, acp.read, self._threads)
                seq = chunk.last_seq
                if seq - kept >= MARK_EVERY:
                    self._keep(session_id, kind, seq, acp.state())
                    kept = seq
        return seq

    async def _mark(
        self, session_id: SessionId, kind: str, first: Seq, last: Seq
    ) -> tuple[Seq, bytes] | None:
        """The latest state that is kept, of an event in this range."""
        known = self._log.marks.find(session_id, kind, first, last)
        if known is not None and last - known[0] <= MARK_EVERY:
            return known
        stored = await marks.find(self._db, session_id, kind, self._made_by[kind], first, last)
        return max(filter(None, (known, stored)), default=None)

    def _keep(self, session_id: SessionId, kind: str, seq: Seq, state: bytes) -> None:
        self._log.marks.keep(session_id, kind, seq, state)
        mark = Mark(session_id, kind, seq, self._made_by[kind], state)
        # It comes behind its events, which are queued before: there is none of an event that was lost.
        self._db.queue(marks.keep_all, mark, lambda _: None)

    def _has_grown(self, session_id: SessionId) -> None:
        if session_id not in self._grown:
            self._grown.add(session_id)
            self._tasks.spawn(self._fold_behind(session_id), name=f"fold:{session_id}")

    async def _fold_behind(self, session_id: SessionId) -> None:
        await asyncio.sleep(BEHIND_S)
        self._grown.discard(session_id)
        try:
            if not self._used and await marks.has_any(self._db):
                self._used.add(False)
            if self._used and (session := await sessions.find(self._db, session_id)) is not None:
                last = (await self._log.session(session_id)).last_seq
                for messages_only in tuple(self._used):
                    await self.acp(session, last, messages_only=messages_only)
        except AgentsrvError:
            return  # It will be folded by who needs it.


def code_of(fold: Acp) -> str:
    """Names the code that makes and reads the states of a fold: this version, and of what they consist."""
    return f"{__version__} {crc32(fold.state()):08x}"


async def _last_of(
    groups: AsyncGenerator[list[Messages], None], last: Seq, limit: int, max_bytes: int
) -> list[Messages]:
    """The end of what is read up to `last`: so many messages and bytes, and those of one event at least."""
    kept: deque[Messages] = deque()
    count = size = 0
    async with aclosing(groups):
        async for group in groups:
            for message in group:
                if message.seq > last:
                    continue
                kept.append(message)
                count, size = count + len(message.values), size + _size(message)
                while len(kept) > 1 and (count - len(kept[0].values) >= limit or size > max_bytes):
                    oldest = kept.popleft()
                    count, size = count - len(oldest.values), size - _size(oldest)
    return list(kept)


def _size(message: Messages) -> int:
    return sum(map(len, message.values))
