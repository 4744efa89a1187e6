"""What Claude Code plans for later, as its lines tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentsrv.agents.claude.adapter import ClaudeAdapter
from agentsrv.agents.timers import Timer, TimerCancelled, TimerFired, TimerNews
from agentsrv.model import TurnId, TurnOptions

TRANSCRIPT = Path(__file__).parent / "transcripts" / "claude" / "timers.jsonl"


def told(lines: list[bytes]) -> list[TimerNews]:
    adapter = ClaudeAdapter(None, {})
    adapter.begin_turn(TurnId("t"), TurnOptions())
    effects = [adapter.receive(line) for line in lines]
    return [effect.timer for effect in effects if effect is not None and effect.timer is not None]


def test_what_is_planned_is_read_from_the_results_of_its_tools() -> None:
    """A wake-up, two schedules, one that goes off, and a loop that ends."""
    news = told(TRANSCRIPT.read_bytes().splitlines())

    assert news == [
        Timer("wakeup-1795971420000", 1795971420000, "woken prompt", replaces="wakeup-"),
        Timer(
            "cron-c3c9d2d9",
            1795971382943,
            "cron prompt",
            "* * * * *",
            1795971382943 + 2592000000,
            is_kept=True,
        ),
        TimerFired(None),
        TimerCancelled("wakeup-"),
    ]


def call(name: str, given: Any, result: Any) -> list[bytes]:
    use = {"type": "tool_use", "id": "toolu_1", "name": name, "input": given}
    answer = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "x"}
    lines: list[Any] = [
        {"type": "assistant", "message": {"content": [use]}},
        {"type": "user", "message": {"content": [answer]}, "tool_use_result": result},
    ]
    return [json.dumps(line).encode() for line in lines]


@pytest.mark.parametrize(
    ("name", "given", "result"),
    [
        ("ScheduleWakeup", {"prompt": "x"}, "Error: no"),
        ("ScheduleWakeup", {"prompt": "x"}, {"scheduledFor": "soon"}),
        ("ScheduleWakeup", {"prompt": "x"}, {"scheduledFor": 1e300}),
        ("ScheduleWakeup", {"prompt": " "}, {"scheduledFor": 1}),
        ("ScheduleWakeup", {"prompt": ["x"]}, {"scheduledFor": 1}),
        ("ScheduleWakeup", {"prompt": "x" * 70_000}, {"scheduledFor": 1}),
        ("ScheduleWakeup", None, {"scheduledFor": 1}),
        ("CronCreate", {"prompt": "x"}, {"nextFireAt": 1, "id": 5}),
        ("CronDelete", {}, {"id": "x"}),
        ("Bash", {"prompt": "x"}, {"scheduledFor": 1}),
    ],
)
def test_odd_plan_is_none(name: str, given: Any, result: Any) -> None:
    """A call that failed, and what is in nobody's words."""
    assert told(call(name, given, result)) == []


def test_schedule_is_deleted_by_name() -> None:
    assert told(call("CronDelete", {"id": "ab12"}, {"id": "ab12"})) == [TimerCancelled("cron-ab12")]


def test_mark_of_a_loop_becomes_words() -> None:
    """Only the CLI's own timer knows what its marks mean."""
    (timer,) = told(call("ScheduleWakeup", {"prompt": "<<autonomous-loop-dynamic>>"}, {"scheduledFor": 5}))

    assert isinstance(timer, Timer)
    assert "<<" not in timer.prompt
