"""The turns that are open on this server, at most one in each session."""

from __future__ import annotations

import asyncio
import contextlib

from agentsrv.model import Session, SessionId, Turn, TurnId
from agentsrv.store import sessions
from agentsrv.tasks import Tasks
from agentsrv.turns.driver import TurnDriver
from agentsrv.turns.lifecycle import Ending, Opening
from agentsrv.turns.means import Means
from agentsrv.turns.process import AgentProcess
from agentsrv.turns.requests import new_turn
from agentsrv.turns.rules import last_rules
from agentsrv.turns.signals import AgentWoke
from agentsrv.turns.stages import Plan

CLOSE_TIMEOUT_S = 3.0


class OpenTurns:
    """Begins turns, and knows them until they have ended. A turn that cannot be opened leaves everything as it was."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._tasks = Tasks("turns")
        self._by_session: dict[SessionId, TurnDriver] = {}
        means.signals.agent_woke.subscribe(self._woke)

    def __len__(self) -> int:
        return len(self._by_session)

    def __contains__(self, session_id: SessionId) -> bool:
        return session_id in self._by_session

    def all(self) -> list[TurnDriver]:
        return list(self._by_session.values())

    def of(self, session_id: SessionId) -> TurnDriver | None:
        return self._by_session.get(session_id)

    def find(self, turn_id: TurnId) -> TurnDriver | None:
        """Also one that is not in the database yet."""
        return next((driver for driver in self._by_session.values() if driver.turn.id == turn_id), None)

    def find_opened(self, turn_id: TurnId) -> TurnDriver | None:
        driver = self.find(turn_id)
        return driver if driver is not None and driver.opened.done() else None

    def start(self, plan: Plan) -> TurnDriver:
        """Begin a turn in a session in which none is open. Its `opened` tells when it is, or why it never was."""
        driver = self._drive(plan.session, plan.turn, plan.prompt)
        self._tasks.spawn(driver.run(plan), name=f"turn:{plan.turn.id}")
        return driver

    def resume(
        self, session: Session, turn: Turn, prompt: bytes | None, *, is_sent: bool = False
    ) -> TurnDriver:
        """Go on with a turn that an earlier server has opened. `is_sent`: its agent is known to have the prompt."""
        driver = self._drive(session, turn, None if is_sent else prompt)
        driver.is_prompted = prompt is not None
        return driver

    async def close(self) -> None:
        """Let turns that are ending end; the others go on under their runners, for the next server."""
        ending = [driver for driver in self.all() if isinstance(driver.state, Ending)]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                for driver in ending:
                    await driver.ended.wait()
        for driver in self.all():
            driver.let_go()
        await self._tasks.close()

    def _drive(self, session: Session, turn: Turn, prompt: bytes | None) -> TurnDriver:
        assert session.id not in self._by_session
        driver = TurnDriver(Opening(session, turn, prompt), self._means, self._tasks, self._ended)
        self._by_session[session.id] = driver
        return driver

    def _ended(self, driver: TurnDriver) -> None:
        del self._by_session[driver.session.id]

    def _woke(self, woke: AgentWoke) -> None:
        """An idle agent works again, for a background command has ended: a turn without a prompt."""
        if (process := self._means.pool.of(woke.session_id)) is not None:
            self._tasks.spawn(self._run_unprompted(process), name=f"wake:{process.id}")

    async def _run_unprompted(self, process: AgentProcess) -> None:
        session = await sessions.find(self._means.db, process.session_id)
        if session is None:
            process.resume()
        elif session.id not in self:
            rules = await last_rules(self._means.db, session)
            turn = new_turn(session.id, rules, None, self._means.homes.new_turn_id())
            driver = self._drive(session, turn, None)
            await driver.run_unprompted(Plan(session, turn, None), process)
        # Otherwise a prompt came at the same moment. What the agent does is part of that turn, which reads on.
