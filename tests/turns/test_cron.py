"""When a schedule of five fields is next due."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsrv.turns.cron import next_time


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


@pytest.mark.parametrize(
    ("schedule", "after", "expected"),
    [
        ("* * * * *", "2026-11-29 16:57:30", "2026-11-29 16:58"),
        ("*/5 * * * *", "2026-11-29 16:55:00", "2026-11-29 17:00"),
        ("0 9 * * 1-5", "2026-11-27 09:00", "2026-11-30 09:00"),
        ("30 8 1,15 * *", "2026-11-29 00:00", "2026-12-01 08:30"),
        ("0 0 29 2 *", "2026-11-29 00:00", "2028-02-29 00:00"),
        ("0 0 13 * 5", "2026-11-29 00:00", "2026-12-04 00:00"),
        ("0 0 * * 7", "2026-11-29 00:00", "2026-12-06 00:00"),
        ("5/20 * * * *", "2026-11-29 00:06", "2026-11-29 00:25"),
    ],
)
def test_next_time(schedule: str, after: str, expected: str) -> None:
    """Lists, ranges and steps; of two restricted days one is enough; Sunday is 0 and 7."""
    assert next_time(schedule, ms(after)) == ms(expected)


@pytest.mark.parametrize(
    "schedule",
    [
        "",
        "* * * *",
        "60 * * * *",
        "* * 0 * *",
        "*/0 * * * *",
        "a * * * *",
        "0 0 31 2 *",
        "1-0 * * * *",
        "٣ * * * *",
    ],
)
def test_schedule_that_never_comes(schedule: str) -> None:
    """What is wrong, and February 31, have no next time."""
    assert next_time(schedule, ms("2026-11-29 00:00")) is None


FIELD = st.sampled_from(["*", "*/7", "3", "1-4", "2,5", "0-6/2"])


@settings(deadline=None, max_examples=60)
@given(FIELD, FIELD, st.sampled_from(["*", "3", "1-4"]), st.integers(0, 10**9))
def test_every_minute_before_is_not_due(minute: str, hour: str, day: str, seconds: int) -> None:
    """From any moment the next time is one that the schedule has, and none lies between."""
    after = ms("2026-01-01 00:00") + seconds
    found = next_time(f"{minute} {hour} {day} * *", after)
    assert found is not None
    assert found > after
    between = datetime.fromtimestamp(found / 1000) - timedelta(minutes=1)
    assert next_time(f"{minute} {hour} {day} * *", int(between.timestamp() * 1000)) == found
