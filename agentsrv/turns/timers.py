"""What agents have planned for later: kept here, and brought to pass when no process of theirs is there to do it.

A live process fires its own timers. It loses them when it ends; so the server keeps each moment, and gives the
prompt to the session itself when there is no process then, or one that does not know the timer.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from agentsrv.agents.timers import TimerFired
from agentsrv.errors import AgentsrvError, LimitReached, NotFound, StorageFull, Unavailable
from agentsrv.eventlog import now_ms
from agentsrv.model import Millis, SessionId
from agentsrv.store import sessions, timers
from agentsrv.store.timers import TimerRecord, TimerState
from agentsrv.tasks import Tasks
from agentsrv.turns.cron import next_time
from agentsrv.turns.means import Means
from agentsrv.turns.requests import IfBusy, StartTurn
from agentsrv.turns.rules import last_rules
from agentsrv.turns.service import TurnService
from agentsrv.turns.signals import AgentPlanned
from agentsrv.turns.timer_notes import TimerNotes, tell_of

log = logging.getLogger(__name__)

GRACE_MS = 90_000
"""So much later than it should an idle process may fire: the CLI spreads what is planned for full minutes."""

AGAIN_S = 15.0
LONGEST_S = 3600.0
"""The system's clock may be set meanwhile."""


class Timers:
    """All timers of this server."""

    def __init__(self, means: Means, turns: TurnService, notes: TimerNotes) -> None:
        self._db = means.db
        self._log = means.event_log
        self._pool = means.pool
        self._turns = turns
        self._tasks = Tasks("timers")
        self._left: dict[tuple[SessionId, str], Millis] = {}
        """Overdue, and left to their agent's process until then."""
        self._notes = notes
        self._next: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None
        means.signals.agent_planned.subscribe(self._heard)
        means.signals.agent_gone.subscribe(lambda _: self._look())
        means.signals.timers_changed.subscribe(lambda _: self._tasks.spawn(self._arm(), name="arm"))

    async def start(self) -> None:
        """Go on with what earlier agents have planned."""
        # Nobody waits for that: on a full disk the server starts all the same.
        forgetting = self._db.write(lambda db: timers.forget_old(db, now_ms()), must_happen=True)
        self._tasks.spawn(forgetting, name="forget")
        await self._arm()

    async def close(self) -> None:
        """The next server goes on. Closing twice is fine."""
        if self._next is not None:
            self._next.cancel()
        await self._tasks.close()

    async def of(self, session_id: SessionId) -> list[TimerRecord]:
        """What waits in a session, the next one first. Raises NotFound (`session_not_found`)."""
        if await sessions.find(self._db, session_id) is None:
            raise sessions.not_found(session_id)
        return [timer for timer in await timers.of_session(self._db, session_id) if _waits(timer)]

    async def cancel(self, session_id: SessionId, timer_id: str) -> list[TimerRecord]:
        """Take one out; returns what is left. Raises NotFound (`session_not_found`, `timer_not_found`), StorageFull."""
        timer = next((timer for timer in await self.of(session_id) if timer.id == timer_id), None)
        if timer is None or not await self._move(timer, TimerState.CANCELLED):
            raise NotFound(f"session {session_id} has no timer {timer_id}", code="timer_not_found")
        # Its process cannot be told. Another one may know it again: then it is stopped when it goes off.
        process = self._pool.of(session_id)
        if process is not None and not process.adapter.has_background_work:
            self._pool.renew(session_id)
        await self._tell(timer, "cancelled")
        return await self.of(session_id)

    # What agents tell

    def _heard(self, planned: AgentPlanned) -> None:
        if isinstance(planned.news, TimerFired) and not planned.is_replayed:
            self._tasks.spawn(
                self._fired(planned.session_id, planned.news), name=f"fired:{planned.session_id}"
            )

    async def _fired(self, session_id: SessionId, news: TimerFired) -> None:
        """The agent has begun with one of its timers by itself. It does not always say which: the nearest one."""
        await self._notes.written(session_id)
        known = await timers.of_session(self._db, session_id)
        known = [one for one in known if one.state in (TimerState.PENDING, TimerState.CANCELLED)]
        now = news.at or now_ms()
        if not known:
            return
        timer = min(known, key=lambda one: abs(one.at - now))
        if _waits(timer):
            await self._advance(timer)
        elif abs(timer.at - now) < GRACE_MS:
            await self._advance(timer)
            self._tasks.spawn(self._stop(session_id), name=f"stop:{timer.id}")

    async def _stop(self, session_id: SessionId) -> None:
        """What its user has cancelled, the agent has begun all the same."""
        try:
            await self._turns.stop_unprompted(session_id)
        except AgentsrvError as exc:
            log.info("a cancelled timer of session %s: %s", session_id, exc)

    # What the time brings

    async def _arm(self, at_least_s: float = 0.0) -> None:
        """Look again when the next one is due."""
        at = await timers.next_due(self._db)
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if at is not None:
            wait_s = min(max((at - now_ms()) / 1000, at_least_s), LONGEST_S)
            self._next = asyncio.get_running_loop().call_later(wait_s, self._look)

    def _look(self) -> None:
        if self._looking is None or self._looking.done():
            self._looking = self._tasks.start(self._bring(), name="look")

    async def _bring(self) -> None:
        due = await timers.due(self._db, now_ms())
        keys = {(timer.session_id, timer.id) for timer in due}
        self._left = {key: until for key, until in self._left.items() if key in keys}
        try:
            for timer in due:
                await self._turns.settled(timer.session_id)
                if not self._is_left_to_its_agent(timer):
                    await self._fire(timer)
        finally:
            await self._arm(AGAIN_S if due else 0.0)

    def _is_left_to_its_agent(self, timer: TimerRecord) -> bool:
        process, key, now = self._pool.of(timer.session_id), (timer.session_id, timer.id), now_ms()
        if process is None or not process.is_usable or timer.runner_id not in ("", process.id):
            return False
        if process.work is not None or key not in self._left:
            self._left[key] = now + GRACE_MS
        return self._left[key] > now

    async def _fire(self, timer: TimerRecord) -> None:
        try:
            await self._begin(timer)
        except (Unavailable, LimitReached, StorageFull) as exc:
            log.info("timer %s of session %s has to wait: %s", timer.id, timer.session_id, exc)
        except AgentsrvError as exc:
            if await self._move(timer, TimerState.DROPPED):
                await self._tell(timer, "dropped", reason=exc.code)
        else:
            await self._advance(timer)

    async def _begin(self, timer: TimerRecord) -> None:
        """Give the prompt to its session. The same moment never begins two turns: it has a message id."""
        session = await sessions.find(self._db, timer.session_id)
        if session is None:
            raise sessions.not_found(timer.session_id)
        request = StartTurn(
            timer.session_id,
            timer.prompt,
            options=await last_rules(self._db, session),
            message_id=f"timer:{timer.id}:{timer.at}",
            if_busy=IfBusy.QUEUE,
            is_mode_given=True,
        )
        await self._turns.start(request)

    async def _advance(self, timer: TimerRecord) -> None:
        """It has gone off: it comes again at its next time, if it has one."""
        self._left.pop((timer.session_id, timer.id), None)
        after = max(timer.at, now_ms())
        at = None if timer.schedule is None else next_time(timer.schedule, after)
        if at is None or (timer.ends_at is not None and at > timer.ends_at):
            await self._move(timer, TimerState.FIRED)
            if timer.schedule is not None and _waits(timer):
                await self._tell(timer, "dropped", reason="expired")
        else:
            await self._move(timer, timer.state, at)

    async def _move(self, timer: TimerRecord, state: TimerState, at: Millis | None = None) -> bool:
        return await self._db.write(partial(timers.move, timer=timer, state=state, at=at), must_happen=True)

    async def _tell(self, timer: TimerRecord, state: str, **more: str) -> None:
        await tell_of(self._db, self._log, timer, state, **more)


def _waits(timer: TimerRecord) -> bool:
    return timer.state is TimerState.PENDING
