"""Prompts that wait until their session is free. They and their order are rows; in memory there are only their ids."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from msgspec.structs import replace

from agentsrv.errors import Conflict, NotFound
from agentsrv.eventlog import now_ms
from agentsrv.model import SessionId, Turn, TurnId, TurnStatus
from agentsrv.store import prompts, sessions, transactions, turns
from agentsrv.store.database import Database
from agentsrv.store.prompts import QueuedPrompt, WaitingPrompt
from agentsrv.turns.signals import SessionChanged, Signals


class PromptQueue:
    """The queues of all sessions."""

    def __init__(self, db: Database, signals: Signals) -> None:
        self._db = db
        self._signals = signals
        self._waiting: dict[SessionId, set[TurnId]] = {}
        self._left: dict[TurnId, asyncio.Event] = {}

    async def load(self) -> None:
        """Find what an earlier server left waiting."""
        for session_id, turn_id in await prompts.all_waiting(self._db):
            self._add(session_id, turn_id)

    def sessions(self) -> list[SessionId]:
        """Those in which something waits."""
        return list(self._waiting)

    def any_of(self, session_id: SessionId) -> TurnId | None:
        """One of the prompts that wait in a session."""
        return next(iter(self._waiting.get(session_id, ())), None)

    def count(self, session_id: SessionId) -> int:
        """How many prompts of a session wait."""
        return len(self._waiting.get(session_id, []))

    async def first(self, session_id: SessionId) -> QueuedPrompt | None:
        """The prompt that is next in a session; None when it is on its way in, or out."""
        prompt = await prompts.first(self._db, session_id)
        return prompt if prompt is not None and self._has(session_id, prompt.turn_id) else None

    async def list_prompts(self, session_id: SessionId) -> list[WaitingPrompt]:
        """The waiting prompts of a session, the next one first. Raises NotFound (`session_not_found`)."""
        await self._require(session_id)
        return await prompts.of_session(self._db, session_id)

    async def append(self, prompt: QueuedPrompt) -> None:
        """Raises MessageIdUsed, NotFound (`session_not_found`), LimitReached (`queue_full`), StorageFull."""
        await self._db.write(lambda db: prompts.append(db, prompt))
        self.put_back(prompt.session_id, prompt.turn_id)

    async def arrange(self, session_id: SessionId, turn_ids: Sequence[TurnId]) -> list[WaitingPrompt]:
        """Run a session's prompts in this order; returns them.

        Raises NotFound (`session_not_found`), Conflict (`queue_changed`) if these are not all that wait.
        """
        await self._require(session_id)
        if sorted(turn_ids) != sorted(self._waiting.get(session_id, ())):
            raise Conflict(
                f"these are not exactly the jobs that wait in session {session_id}; read its queue again",
                code="queue_changed",
            )
        await self._db.write(lambda db: prompts.arrange(db, turn_ids))
        return await self.list_prompts(session_id)

    async def cancel(self, session_id: SessionId, turn_id: TurnId) -> Turn:
        """Take a prompt out: its job is cancelled. Raises NotFound (`not_queued`), StorageFull."""
        if not self._has(session_id, turn_id):
            raise prompts.not_queued(session_id, turn_id)
        queued = await turns.get(self._db, turn_id)
        cancelled = replace(queued, status=TurnStatus.CANCELLED, finished_at=now_ms(), last_seq=0)
        if not await transactions.cancel_queued(self._db, cancelled):
            raise prompts.not_queued(session_id, turn_id)
        self.take(session_id, turn_id)
        return cancelled

    async def clear(self, session_id: SessionId) -> list[TurnId]:
        """Cancel all that waits in a session. Raises NotFound (`session_not_found`), StorageFull."""
        cancelled = []
        for prompt in await self.list_prompts(session_id):
            with suppress(NotFound):
                cancelled.append((await self.cancel(session_id, prompt.turn_id)).id)
        return cancelled

    def take(self, session_id: SessionId, turn_id: TurnId) -> None:
        """The prompt waits no more: its turn begins, or it is cancelled."""
        if self._has(session_id, turn_id):
            self._waiting[session_id].remove(turn_id)
            if not self._waiting[session_id]:
                del self._waiting[session_id]
            self._tell_changed(session_id)
        if (left := self._left.pop(turn_id, None)) is not None:
            left.set()

    def put_back(self, session_id: SessionId, turn_id: TurnId) -> None:
        """Its turn could not begin, or it was meant for the one that has just ended."""
        self._add(session_id, turn_id)
        self._tell_changed(session_id)

    def forget(self, session_id: SessionId) -> None:
        """The session is gone, and its prompts with it."""
        for turn_id in list(self._waiting.get(session_id, ())):
            self.take(session_id, turn_id)

    async def leaves(self, session_id: SessionId, turn_id: TurnId) -> None:
        """Wait until the prompt does not wait any more, or the server stops."""
        if self._has(session_id, turn_id):
            await self._left.setdefault(turn_id, asyncio.Event()).wait()

    def close(self) -> None:
        """Let go of those who wait for a prompt to begin; the prompts themselves stay."""
        for left in self._left.values():
            left.set()
        self._left.clear()

    async def _require(self, session_id: SessionId) -> None:
        if await sessions.find(self._db, session_id) is None:
            raise sessions.not_found(session_id)

    def _add(self, session_id: SessionId, turn_id: TurnId) -> None:
        # Some may be known before all are loaded: turns end during the recovery.
        self._waiting.setdefault(session_id, set()).add(turn_id)

    def _tell_changed(self, session_id: SessionId) -> None:
        self._signals.session_changed.send(SessionChanged(session_id))

    def _has(self, session_id: SessionId, turn_id: TurnId) -> bool:
        return turn_id in self._waiting.get(session_id, ())
