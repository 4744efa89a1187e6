"""What comes true by time alone: whose silence it is decides."""

from __future__ import annotations

import asyncio
import selectors
from dataclasses import replace
from pathlib import Path

import pytest

from agentsrv.config import Config
from agentsrv.eventlog import now_ms
from agentsrv.model import Outcome, Session, SessionId, Turn, TurnId, TurnStatus
from agentsrv.turns import clock
from agentsrv.turns.clock import Clock
from agentsrv.turns.facts import Fact, GaveUp, TimedOut
from agentsrv.turns.lifecycle import Running
from agentsrv.turns.outcomes import SILENT, STALLED

SESSION = Session(SessionId("s"), None, "claude-code", "/w", None, None, 0, 0)
DONE = Outcome(TurnStatus.COMPLETED, stop_reason="end_turn")


class Skipping(selectors.DefaultSelector):
    """Waits for nothing: the time until the next alarm has passed at once."""

    skipped_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            self.skipped_s += timeout or 0
        return ready


class Hours(asyncio.SelectorEventLoop):
    """A loop in which hours take no time."""

    def __init__(self) -> None:
        self._skipping = Skipping()
        super().__init__(self._skipping)

    def time(self) -> float:
        return super().time() + self._skipping.skipped_s


def running() -> Running:
    turn = Turn(TurnId("t"), SESSION.id, 1, TurnStatus.RUNNING, now_ms())
    return Running(session=SESSION, turn=turn, prompt=None, outcome=DONE)


def settings(tmp_path: Path) -> dict[str, str]:
    return {"API_KEY": "a-key-of-some-length", "HOME": str(tmp_path)}


def config(tmp_path: Path, idle_s: float) -> Config:
    return replace(Config.from_env(settings(tmp_path)), turn_idle_timeout_s=idle_s)


async def told_of(
    tmp_path: Path, *, idle_s: float, runs_tool: bool, looks_over: bool, wait_s: float
) -> list[Fact]:
    told: list[Fact] = []
    times = Clock(config(tmp_path, idle_s), told.append, lambda: runs_tool, lambda: None)
    times.set(running())
    times.sees_end(looks_over)
    await asyncio.sleep(wait_s)
    times.stop()
    return told


async def test_silent_agent_is_given_up_and_the_reason_says_so(tmp_path: Path) -> None:
    """It is told apart from a turn that took too long as a whole."""
    told = await told_of(tmp_path, idle_s=0.05, runs_tool=False, looks_over=False, wait_s=0.2)

    assert told[0] == TimedOut(SILENT)


async def test_tool_may_be_silent(tmp_path: Path) -> None:
    """A long build says nothing, and is not the agent's silence."""
    assert await told_of(tmp_path, idle_s=0.05, runs_tool=True, looks_over=False, wait_s=0.2) == []


@pytest.mark.parametrize(("looks_over", "told"), [(True, [GaveUp(DONE)]), (False, [])])
async def test_turn_that_looks_over_ends_after_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks_over: bool, told: list[Fact]
) -> None:
    """The line that says so was lost: the other signs of the end do, with the outcome that was told."""
    monkeypatch.setattr(clock, "END_PAUSE_S", 0.05)

    found = await told_of(tmp_path, idle_s=0, runs_tool=False, looks_over=looks_over, wait_s=0.2)
    assert found[:1] == told


async def test_turn_that_looks_over_has_not_fallen_silent(tmp_path: Path) -> None:
    """Where silence is not waited for as long as the pause, it ends such a turn as it was told, too."""
    told = await told_of(tmp_path, idle_s=0.05, runs_tool=False, looks_over=True, wait_s=0.2)

    assert told[0] == GaveUp(DONE)


@pytest.mark.parametrize(("last_progress_s", "given_up_s"), [(0, 60), (50, 110)])
def test_agent_that_comes_no_further_is_given_up_after_a_minute(
    tmp_path: Path, last_progress_s: float, given_up_s: float
) -> None:
    """That is what the server does where nobody has said otherwise: 90 s have room for it. Its lines alone, which may
    say that it tries again, are no progress."""
    given_up: list[tuple[Fact, float]] = []

    async def turn() -> None:
        loop = asyncio.get_running_loop()
        begun, over = loop.time(), asyncio.Event()

        def tell(fact: Fact) -> None:
            given_up.append((fact, loop.time() - begun))
            over.set()

        times = Clock(Config.from_env(settings(tmp_path)), tell, lambda: False, lambda: 1)
        times.set(running())
        for second in range(0, 200, 10):
            loop.call_at(begun + second, times.heard, int(second >= last_progress_s))
        await over.wait()
        times.stop()

    with asyncio.Runner(loop_factory=Hours) as runner:
        runner.run(turn())

    [(fact, after_s)] = given_up
    assert (fact, round(after_s)) == (GaveUp(STALLED), given_up_s)
