"""The time limits of a turn: of the whole, of the agent's silence, of each question."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from agentsrv.config import Config
from agentsrv.eventlog import now_ms
from agentsrv.model import Outcome, TurnStatus
from agentsrv.turns.facts import Expired, Fact, GaveUp, TimedOut
from agentsrv.turns.lifecycle import Running, State, Waiting
from agentsrv.turns.outcomes import SILENT, STALLED, TOOK_TOO_LONG

END_PAUSE_S = 10.0
"""So long the agent is silent when a turn that looks over is."""


class Clock:
    """Calls `tell` with what comes true by time alone.

    The time of a turn counts from its start, whichever server has run it. Silence is the agent's own while
    `runs_tool` says that it waits for no tool. `progress` says how far it has come; None: that is not watched.
    """

    def __init__(
        self,
        config: Config,
        tell: Callable[[Fact], None],
        runs_tool: Callable[[], bool],
        progress: Callable[[], int | None],
    ) -> None:
        self._config = config
        self._tell = tell
        self._runs_tool = runs_tool
        self._progress = progress
        self._come_to: int | None = None
        self._looks_over = False
        self._is_stopped = False
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._worked_at = self._loop.time()
        self._state: State | None = None
        self._alarm: asyncio.TimerHandle | None = None

    def heard(self, progress: int | None) -> None:
        """The agent has just said something, and has come so far."""
        self._heard_at = self._loop.time()
        if progress != self._come_to or progress is None:
            self._come_to, self._worked_at = progress, self._heard_at

    def sees_end(self, looks_over: bool) -> None:
        """Are the signs there that the turn is over, though the agent has not said so?"""
        if looks_over != self._looks_over:
            self._looks_over = looks_over
            self._set_alarm()

    def set(self, state: State) -> None:
        """From now on the limits of this state count."""
        if isinstance(self._state, Waiting) and isinstance(state, Running):
            # It was not the agent that kept still.
            self._heard_at = self._worked_at = self._loop.time()
        self._state = state
        self._set_alarm()

    def stop(self) -> None:
        """Time brings nothing from now on, until `start`."""
        self._is_stopped = True
        self._set_alarm()

    def start(self) -> None:
        self._is_stopped = False
        self._set_alarm()

    def _set_alarm(self) -> None:
        """One that rings too early is left: it is set anew then. Most limits only move on."""
        left_s = min((left_s for _, left_s in self._limits()), default=None)
        at = None if left_s is None else self._loop.time() + max(left_s, 0)
        if self._alarm is not None and at is not None and self._alarm.when() <= at:
            return
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if at is not None:
            self._alarm = self._loop.call_at(at, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        over = [fact for fact, left_s in self._limits() if left_s <= 0]
        for fact in over:
            self._tell(fact)
        self._set_alarm()

    def _limits(self) -> Iterator[tuple[Fact, float]]:
        """What comes true, and in how many seconds. Of several that end the turn, the first alone is told."""
        if self._is_stopped:
            return
        state, config = self._state, self._config
        now = now_ms()
        if isinstance(state, Waiting):
            for pending in state.questions.values():
                if pending.expires_at is not None and not pending.is_settling:
                    yield Expired(pending.id), (pending.expires_at - now) / 1000
        if not isinstance(state, Running | Waiting):
            return
        ends: list[tuple[Fact, float]] = []
        if config.turn_timeout_s:
            begun = state.turn.started_at or state.turn.created_at
            ends.append((TimedOut(TOOK_TOO_LONG), config.turn_timeout_s - (now - begun) / 1000))
        if isinstance(state, Running):
            ends += self._silences(state)
        if ends:
            yield min(ends, key=lambda end: end[1])

    def _silences(self, state: Running) -> Iterator[tuple[Fact, float]]:
        """What follows from the agent's silence. A tool may be silent for as long as it likes."""
        config, runs_tool = self._config, self._runs_tool()
        silent_s, idle_s = self._loop.time() - self._heard_at, config.turn_idle_timeout_s
        if self._looks_over:  # It has nothing more to say: its silence is no fault.
            pause_s = min(END_PAUSE_S, idle_s or END_PAUSE_S)
            yield GaveUp(state.outcome or Outcome(TurnStatus.COMPLETED)), pause_s - silent_s
            return
        if (patience_s := config.agent_patience_s) and self._progress() is not None:
            waited_s = self._loop.time() - self._worked_at
            yield GaveUp(STALLED), patience_s if runs_tool else patience_s - waited_s
        if idle_s:
            yield TimedOut(SILENT), idle_s if runs_tool else idle_s - silent_s
