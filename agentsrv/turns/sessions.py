"""What clients do with sessions themselves."""

from __future__ import annotations

import uuid

from agentsrv.agents import AgentRegistry
from agentsrv.errors import NotFound
from agentsrv.eventlog import EventLog, now_ms
from agentsrv.model import Seq, Session, SessionId
from agentsrv.store import sessions
from agentsrv.store.database import Database
from agentsrv.turns.cursor import decode_cursor, encode_cursor
from agentsrv.turns.pool import AgentPool
from agentsrv.turns.service import TurnService


class SessionService:
    def __init__(
        self, db: Database, event_log: EventLog, agents: AgentRegistry, pool: AgentPool, turns: TurnService
    ) -> None:
        self._db = db
        self._log = event_log
        self._agents = agents
        self._pool = pool
        self._turns = turns

    async def create(
        self, *, session_id: str | None, agent: str, cwd: str | None, model: str | None, name: str | None
    ) -> Session:
        """Raises InvalidInput, Forbidden, Conflict (`session_exists`)."""
        session = self._turns.new_session(
            SessionId(session_id or str(uuid.uuid4())), agent=agent, cwd=cwd, model=model, name=name
        )
        await self._db.write(lambda db: sessions.insert(db, session))
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

    async def delete(self, session_id: SessionId, *, force: bool) -> None:
        """Delete the session with all its turns and events. A running turn is stopped first when `force`.

        Raises NotFound, Conflict (`session_busy`).
        """
        session = await self.get(session_id)
        if self._turns.is_active(session_id):
            if not force:
                raise sessions.busy(session_id, session.active_turn_id or "unknown")
            await self._stop(session_id)
        if (warm := self._pool.of(session_id)) is not None:
            await self._pool.retire(warm)
        await self._db.write(lambda db: sessions.delete(db, session_id))
        self._log.forget(session_id)

    async def messages(
        self, session_id: SessionId, *, limit: int | None, after: Seq
    ) -> list[tuple[Seq, bytes]]:
        """(seq, JSON) of the whole messages after `after`, oldest first: no token deltas, no notices.

        Raises NotFound.
        """
        agent = self._agents.get((await self.get(session_id)).agent)
        last = (await self._log.session(session_id)).last_seq
        found: list[tuple[Seq, bytes]] = []
        async for chunk in self._log.follow(session_id, after, lambda: last):
            for seq, line in enumerate(chunk.lines(), chunk.first_seq):
                if agent.is_message(line):
                    found.append((seq, line))
                    if len(found) == limit:
                        return found
        return found

    async def last_seq(self, session_id: SessionId) -> Seq:
        """The newest seq of the session; 0 when its log is empty."""
        return (await self._log.session(session_id)).last_seq

    async def _stop(self, session_id: SessionId) -> None:
        try:
            await self._turns.stop(session_id)
        except NotFound:
            # It ended by itself in this very moment.
            return
