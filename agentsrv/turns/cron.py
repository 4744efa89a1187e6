"""When a schedule of five fields (minute, hour, day of the month, month, day of the week) is next due. Local time."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta

from agentsrv.model import Millis

RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
PART = re.compile(r"(?:\*|(?P<first>\d{1,2})(?:-(?P<last>\d{1,2}))?)(?:/(?P<step>\d{1,2}))?", re.ASCII)
MAX_DAYS = 366 * 8 + 2
"""The longest wait, for February 29."""

MAX_CHARACTERS = 200


def next_time(schedule: str, after: Millis) -> Millis | None:
    """The first time after that moment; None when there is none, or the schedule is in nobody's words."""
    fields = schedule.split()
    if len(schedule) > MAX_CHARACTERS or len(fields) != len(RANGES):
        return None
    found = [_values(field, *bounds) for field, bounds in zip(fields, RANGES, strict=True)]
    if not all(found):
        return None
    minutes, hours, days, months, weekdays = found
    start = datetime.fromtimestamp(after / 1000).replace(second=0, microsecond=0) + timedelta(minutes=1)
    either = not (fields[2].startswith("*") or fields[4].startswith("*"))
    for offset in range(MAX_DAYS):
        day = start.date() + timedelta(days=offset)
        if day.month in months and _is_day(day, days, weekdays, either=either):
            for hour in sorted(hours):
                for minute in sorted(minutes):
                    moment = datetime(day.year, day.month, day.day, hour, minute)
                    if moment >= start:
                        return int(moment.timestamp() * 1000)
    return None


def _is_day(day: date, days: set[int], weekdays: set[int], *, either: bool) -> bool:
    """Where both the day of the month and that of the week are restricted, one of them is enough."""
    of_month, of_week = day.day in days, day.isoweekday() % 7 in {weekday % 7 for weekday in weekdays}
    return of_month or of_week if either else of_month and of_week


def _values(field: str, low: int, high: int) -> set[int]:
    """The numbers that a field allows; none when it is wrong."""
    found: set[int] = set()
    for part in field.split(","):
        match = PART.fullmatch(part)
        step = int((match and match["step"]) or 1)
        if match is None or step == 0:
            return set()
        first, last = low, high
        if match["first"] is not None:
            first = int(match["first"])
            last = int(match["last"]) if match["last"] else (high if match["step"] else first)
        if not low <= first <= last <= high:
            return set()
        found.update(range(first, last + 1, step))
    return found
