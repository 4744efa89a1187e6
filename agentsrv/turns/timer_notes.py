"""Notes what agents plan for later, before the turn in which they do so has ended."""

from __future__ import annotations

import asyncio
from functools import partial

from agentsrv.agents.timers import Timer, TimerCancelled
from agentsrv.eventlog import EventLog, now_ms
from agentsrv.model import RunnerId, Session, SessionId, Turn
from agentsrv.store import timers
from agentsrv.store.database import Database
from agentsrv.store.timers import TimerRecord, TimerState
from agentsrv.tasks import Tasks
from agentsrv.turns.notes import tell
from agentsrv.turns.signals import AgentPlanned, Signals, TimersChanged
from agentsrv.turns.stages import Stage

PREVIEW_CHARACTERS = 200


class TimerNotes(Stage):
    """Whoever sees its end knows that what was planned in it is kept."""

    def __init__(self, db: Database, log: EventLog, signals: Signals) -> None:
        self._db = db
        self._log = log
        self._signals = signals
        self._tasks = Tasks("timer-notes")
        self._newest: dict[SessionId, asyncio.Task[None]] = {}
        signals.agent_planned.subscribe(self._heard)

    async def finish(self, session: Session, turn: Turn) -> None:
        await self.written(session.id)

    async def written(self, session_id: SessionId) -> None:
        """Wait until all that was heard so far is in the database."""
        if (newest := self._newest.get(session_id)) is not None:
            await asyncio.wait({newest})

    async def close(self) -> None:
        """What is not written is heard again, with its turn. Closing twice is fine."""
        await self._tasks.close()

    def _heard(self, planned: AgentPlanned) -> None:
        if isinstance(planned.news, Timer | TimerCancelled):
            before = self._newest.get(planned.session_id)
            note = self._tasks.start(self._note(planned, before), name=f"note:{planned.session_id}")
            self._newest[planned.session_id] = note

    async def _note(self, planned: AgentPlanned, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait({before})
        session_id, news = planned.session_id, planned.news
        if isinstance(news, Timer):
            await self._add(session_id, planned.runner_id, news)
        elif isinstance(news, TimerCancelled):
            cancel = partial(timers.cancel, session_id=session_id, prefix=news.prefix)
            await self._db.write(cancel, must_happen=True)
        if self._newest.get(session_id) is asyncio.current_task():
            del self._newest[session_id]
        self._signals.timers_changed.send(TimersChanged(session_id))

    async def _add(self, session_id: SessionId, runner_id: RunnerId, planned: Timer) -> None:
        timer = TimerRecord(
            session_id,
            planned.id,
            planned.at,
            planned.schedule,
            planned.ends_at,
            planned.prompt,
            RunnerId("") if planned.is_kept else runner_id,
            TimerState.PENDING,
            now_ms(),
        )
        if planned.replaces is not None:
            cancel = partial(timers.cancel, session_id=session_id, prefix=planned.replaces, but=planned.id)
            await self._db.write(cancel, must_happen=True)
        if not await self._db.write(lambda db: timers.add(db, timer), must_happen=True):
            await tell_of(self._db, self._log, timer, "dropped", reason="too_many_timers")


async def tell_of(db: Database, log: EventLog, timer: TimerRecord, state: str, **more: str) -> None:
    """Say in the session's log what has become of a timer."""
    said = {"timerId": timer.id, "at": timer.at, "prompt": timer.prompt[:PREVIEW_CHARACTERS]}
    await tell(db, log, timer.session_id, {"type": "timer", "state": state, **said, **more})
