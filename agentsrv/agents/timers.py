"""What an agent plans for later, in the words that are the same for every agent."""

from __future__ import annotations

from msgspec import Struct

from agentsrv.model import Millis


class Timer(Struct, frozen=True):
    """The agent wants to be given `prompt` at a time. `id` is unique within its session.

    schedule: it comes again then (five fields, as cron has them); None: once.
    ends_at: it comes no more after that.
    replaces: of those with an id that begins so, it is the only one from now on.
    is_kept: the agent's next process will know it again, as long as it is not due.
    """

    id: str
    at: Millis
    prompt: str
    schedule: str | None = None
    ends_at: Millis | None = None
    replaces: str | None = None
    is_kept: bool = False


class TimerCancelled(Struct, frozen=True):
    """The agent has changed its mind about those whose id begins so."""

    prefix: str


class TimerFired(Struct, frozen=True):
    """The agent works by itself on what it had planned; `at`: for when, if it says so."""

    at: Millis | None = None


TimerNews = Timer | TimerCancelled | TimerFired
