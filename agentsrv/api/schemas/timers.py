"""What an agent has planned for later, as it looks."""

from __future__ import annotations

from msgspec import Struct


class TimerView(Struct, kw_only=True, rename="camel"):
    """`schedule`: it comes again then, as cron says it; null: once."""

    timer_id: str
    at: str
    schedule: str | None
    prompt: str


class TimerList(Struct, kw_only=True, rename="camel"):
    session_id: str
    timers: list[TimerView]
    count: int
    timestamp: str
