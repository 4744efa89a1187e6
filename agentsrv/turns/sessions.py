"""What clients do with sessions themselves."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from agentsrv.agents import AgentRegistry
from agentsrv.agents.base import Agent
from agentsrv.errors import AgentsrvError, NotFound
from agentsrv.eventlog import EventLog, fold, now_ms
from agentsrv.model import Chunk, Fork, Seq, Session, SessionId, Source, Turn
from agentsrv.projections.acp import Acp
from agentsrv.store import sessions, turns
from agentsrv.store.database import Database
from agentsrv.turns.cursor import decode_cursor, encode_cursor
from agentsrv.turns.pool import AgentPool
from agentsrv.turns.service import TurnService
from agentsrv.turns.worktrees import SessionWorktrees

PointOf = Callable[[bytes], tuple[str, str] | None]
Messages = tuple[Seq, list[bytes]]
"""What an event says, in JSON."""


class SessionService:
    def __init__(
        self,
        db: Database,
        event_log: EventLog,
        agents: AgentRegistry,
        pool: AgentPool,
        turns: TurnService,
        worktrees: SessionWorktrees,
    ) -> None:
        self._db = db
        self._log = event_log
        self._agents = agents
        self._pool = pool
        self._turns = turns
        self._worktrees = worktrees

    async def create(
        self, *, session_id: str | None, agent: str, cwd: str | None, model: str | None, name: str | None
    ) -> Session:
        """Raises InvalidInput, Forbidden, Conflict (`session_exists`)."""
        session = self._turns.new_session(
            SessionId(session_id or str(uuid.uuid4())), agent=agent, cwd=cwd, model=model, name=name
        )
        await self._db.write(lambda db: sessions.insert(db, session))
        return session

    async def fork(self, source_id: SessionId, *, session_id: str | None, **changes: str | None) -> Session:
        """A new session in the same place, whose agent knows what the source's knew after its last turn.

        A turn that runs is not part of it; what happens in the source from now on neither. It has the source's
        `model` and no `name`, unless `changes` holds others. Raises NotFound (`session_not_found`), Conflict
        (`session_exists`, `conversation_lost`), StorageFull.
        """
        source = await self.get(source_id)
        new_id = SessionId(session_id or str(uuid.uuid4()))
        if await sessions.find(self._db, new_id) is not None:
            raise sessions.exists(new_id)
        kind = self._agents.get(source.agent)
        if (fork := await self._point_of(source)) is not None:
            conversation = await asyncio.to_thread(kind.copy_conversation, fork, source.cwd)
        else:
            conversation = kind.new_internal_id(new_id)
        now = now_ms()
        session = replace(
            source,
            id=new_id,
            name=changes.get("name"),
            model=changes.get("model", source.model),
            internal_session_id=conversation,
            created_at=now,
            updated_at=now,
            generation=0,
            active_turn_id=None,
            fork=fork,
            allowances=(),
        )
        try:
            await self._db.write(lambda db: sessions.insert(db, session))
        except AgentsrvError:
            if fork is not None:
                await asyncio.to_thread(_remove_copy, kind, session)
            raise
        return session

    async def get(self, session_id: SessionId) -> Session:
        """Raises NotFound (`session_not_found`)."""
        session = await sessions.find(self._db, session_id)
        if session is None:
            raise sessions.not_found(session_id)
        return session

    async def list_sessions(
        self, *, limit: int, cursor: str | None, agent: str | None
    ) -> tuple[list[Session], str | None]:
        """A page, newest first, and the cursor of the next one. Raises InvalidInput for a bad cursor."""
        found = await sessions.page(self._db, agent=agent, before=decode_cursor(cursor), limit=limit + 1)
        page = found[:limit]
        more = len(found) > limit
        return page, encode_cursor(page[-1].created_at, page[-1].id) if more else None

    async def update(self, session_id: SessionId, **changes: str | None) -> Session:
        """Set `name` and `model`, those that are given. Raises NotFound."""
        await self._db.write(lambda db: sessions.update(db, session_id, changes, now_ms()))
        return await self.get(session_id)

    async def delete(self, session_id: SessionId, *, force: bool, with_worktree: bool = False) -> None:
        """Delete the session with all its turns and events. A running turn is stopped first when `force`.

        Its worktree stays, or goes first: with `force` whatever is lost with it. Raises NotFound, Conflict
        (`session_busy`, `worktree_has_changes`, `worktree_in_use`); then the session is there as before.
        """
        session = await self.get(session_id)
        if self._turns.is_active(session_id):
            if not force:
                raise sessions.busy(session_id, session.active_turn_id or "unknown")
            await self._turns.queue.clear(session_id)
            await self._stop(session_id)
        if (warm := self._pool.of(session_id)) is not None:
            await self._pool.retire(warm)
        if with_worktree:
            await self._worktrees.remove_of(session, force=force)
        await self._db.write(lambda db: sessions.delete(db, session_id))
        self._turns.queue.forget(session_id)
        self._log.forget(session_id)

    async def messages(self, session: Session, after: Seq) -> AsyncGenerator[list[Messages], None]:
        """The whole messages after `after`, oldest first, by the chunk: no token deltas, no notices."""
        is_message = self._agents.get(session.agent).is_message
        async with aclosing(await self._written(session.id, after)) as chunks:
            async for chunk in chunks:
                lines = enumerate(chunk.lines(), chunk.first_seq)
                yield [(seq, [line]) for seq, line in lines if is_message(line)]

    async def acp_messages(self, session: Session, after: Seq) -> AsyncGenerator[list[Messages], None]:
        """The same as ACP notifications, of which an event may give several."""
        make_reader = partial(self._agents.get(session.agent).updates, deltas=False)
        acp = Acp(session.id, make_reader, after=after, messages_only=True)
        first = await self.start_of_turn(session.id, after)
        async with aclosing(await self._written(session.id, first - 1)) as chunks:
            async for chunk in chunks:
                yield await fold(chunk, acp.read)

    async def _written(self, session_id: SessionId, after: Seq) -> AsyncGenerator[Chunk, None]:
        """What the log has after `after` now."""
        last = (await self._log.session(session_id)).last_seq
        return self._log.follow(session_id, after, lambda: last)

    async def start_of_turn(self, session_id: SessionId, seq: Seq) -> Seq:
        """The first event of the newest turn that had begun by `seq`; 1 when none had."""
        return await turns.start_of_turn(self._db, session_id, seq)

    async def last_seq(self, session_id: SessionId) -> Seq:
        """The newest seq of the session; 0 when its log is empty."""
        return (await self._log.session(session_id)).last_seq

    async def _point_of(self, source: Session) -> Fork | None:
        """What a fork of `source` goes on from; None when there is no conversation yet."""
        point_of = self._agents.get(source.agent).point_of
        newest = before = None
        while (turn := await turns.last_ended(self._db, source.id, before)) is not None:
            newest = newest or turn.last_seq
            before = turn.first_seq
            if (found := await self._last_point(turn, point_of)) is not None:
                conversation, point = found
                is_same = conversation == source.internal_session_id
                # Another one: the conversation was cleared, and nothing has been said since.
                return Fork(source.id, newest or 0, conversation, point) if is_same else None
        # A fork that has not been used is forked where it was itself.
        return source.fork and replace(source.fork, session_id=source.id, seq=newest or 0)

    async def _last_point(self, turn: Turn, point_of: PointOf) -> tuple[str, str] | None:
        found = None
        async for chunk in self._log.follow(turn.session_id, turn.first_seq - 1, lambda: turn.last_seq):
            if chunk.source is Source.AGENT:
                for line in chunk.lines():
                    found = point_of(line) or found
        return found

    async def _stop(self, session_id: SessionId) -> None:
        try:
            await self._turns.stop(session_id)
        except NotFound:
            # It ended by itself in this very moment.
            return


def _remove_copy(agent: Agent, session: Session) -> None:
    if (transcript := agent.transcript_of(session)) is not None:
        transcript.unlink(missing_ok=True)
