"""What is kept of timers."""

from __future__ import annotations

from functools import partial

from msgspec.structs import replace

from agentsrv.model import Fork, RunnerId, Session, SessionId
from agentsrv.store import sessions, timers
from agentsrv.store.database import Database
from agentsrv.store.timers import TimerRecord, TimerState

ANN, BEN = SessionId("ann"), SessionId("ben")
SESSION = Session(ANN, None, "claude-code", "/", None, None, 1, 1)


async def test_a_fork_has_no_timers(db: Database) -> None:
    """What its source has planned is the source's alone; that the fork's agent may begin with it is known."""
    planned = TimerRecord(ANN, "cron-1", 10, "0 0 1 1 *", None, "go", RunnerId(""), TimerState.PENDING, 1)
    fork = replace(SESSION, id=BEN, fork=Fork(ANN, 1, "conversation"))
    await db.write(partial(sessions.insert, session=SESSION))
    await db.write(partial(timers.add, timer=planned))

    await db.write(partial(sessions.insert, session=fork))

    assert await timers.of_session(db, ANN) == [planned]
    assert await timers.of_session(db, BEN) == [replace(planned, session_id=BEN, state=TimerState.CANCELLED)]
