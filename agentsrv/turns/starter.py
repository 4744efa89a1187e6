"""Begins the turns of prompts that wait, when their sessions are free."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from agentsrv.errors import Unavailable
from agentsrv.model import Session, SessionId
from agentsrv.store import sessions
from agentsrv.store.prompts import QueuedPrompt
from agentsrv.tasks import Tasks
from agentsrv.turns.admission import Admission
from agentsrv.turns.means import Means
from agentsrv.turns.open_turns import OpenTurns
from agentsrv.turns.recovery import Recovery
from agentsrv.turns.requests import new_turn
from agentsrv.turns.stages import Plan

AGAIN_S = 5.0


class Starter:
    """The end of any turn is the moment to look again, and a while after one that could not be opened."""

    def __init__(self, means: Means, admission: Admission, open_turns: OpenTurns, recovery: Recovery) -> None:
        self._config = means.config
        self._db = means.db
        self._queue = means.queue
        self._admission = admission
        self._open = open_turns
        self._recovery = recovery
        self._is_draining = False
        self._tasks = Tasks("starter")
        means.signals.turn_ended.subscribe(lambda _: self.look())
        means.signals.turn_refused.subscribe(lambda _: self._look_later())

    def look(self) -> None:
        """Begin what waits where nothing runs any more, within the limit."""
        free = 0 if self._is_draining else self._config.max_concurrent_turns - len(self._open)
        waiting = [session_id for session_id in self._queue.sessions() if session_id not in self._open]
        for session_id in waiting[: max(free, 0)]:
            self._tasks.spawn(self._begin_next(session_id), name=f"queued:{session_id}")

    def drain(self) -> None:
        """Begin nothing any more."""
        self._is_draining = True

    async def close(self) -> None:
        await self._tasks.close()

    def _look_later(self) -> None:
        asyncio.get_running_loop().call_later(AGAIN_S, self.look)

    async def _begin_next(self, session_id: SessionId) -> None:
        await self._recovery.settled(session_id)
        try:
            if (session := await sessions.find(self._db, session_id)) is not None:
                session = await self._admission.usable(session)
            prompt = await self._queue.first(session_id)
        except Unavailable:
            self._look_later()
            return
        if session is None:
            self._queue.forget(session_id)
            self.look()
        elif prompt is None:
            self._look_later()
        elif self._may_begin(session_id):
            self._begin(session, prompt)
        else:
            self.look()  # Another session's may take its place.

    def _may_begin(self, session_id: SessionId) -> bool:
        is_possible = session_id not in self._open and len(self._open) < self._config.max_concurrent_turns
        return is_possible and not self._is_draining

    def _begin(self, session: Session, prompt: QueuedPrompt) -> None:
        options = self._admission.options_in(session, prompt.options)
        turn = replace(
            new_turn(session.id, options, prompt.message_id), id=prompt.turn_id, created_at=prompt.created_at
        )
        self._open.start(Plan(session, turn, prompt.user_event, was_queued=True))
        self._queue.take(session.id, turn.id)
