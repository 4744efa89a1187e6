"""Timers' rows: what agents have planned for later."""

from __future__ import annotations

import sqlite3
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import asdict

from agentsrv.model import Millis, RunnerId, SessionId
from agentsrv.store.database import Database

MAX_PENDING = 100
"""Of one session."""

KEPT_MS = 7 * 24 * 3600 * 1000

COLUMNS = "session_id, id, at, schedule, ends_at, prompt, runner_id, state, created_at"


class TimerState(StrEnum):
    PENDING = "pending"
    FIRED = "fired"
    CANCELLED = "cancelled"
    DROPPED = "dropped"


class TimerRecord(Struct, frozen=True):
    """`runner_id`: of the process that has planned it; empty when every process of the session knows it."""

    session_id: SessionId
    id: str
    at: Millis
    schedule: str | None
    ends_at: Millis | None
    prompt: str
    runner_id: RunnerId
    state: TimerState
    created_at: Millis


async def of_session(db: Database, session_id: SessionId) -> list[TimerRecord]:
    """Those that wait, and those that did lately; the next one first."""
    rows = await db.read(
        f"SELECT {COLUMNS} FROM timers WHERE session_id = :session_id", {"session_id": session_id}
    )
    return sorted(map(_timer, rows), key=lambda timer: (timer.at, timer.id))


async def due(db: Database, now: Millis) -> list[TimerRecord]:
    """Those that wait and should not any more, the oldest first."""
    rows = await db.read(
        f"SELECT {COLUMNS} FROM timers WHERE state = 'pending' AND at <= :now ORDER BY at", {"now": now}
    )
    return [_timer(row) for row in rows]


async def next_due(db: Database) -> Millis | None:
    rows = await db.read("SELECT min(at) FROM timers WHERE state = 'pending'")
    at: Millis | None = rows[0][0]
    return at


def _timer(row: sqlite3.Row) -> TimerRecord:
    session_id, id_, at, schedule, ends_at, prompt, runner, state, made = row
    return TimerRecord(
        SessionId(session_id), id_, at, schedule, ends_at, prompt, RunnerId(runner), TimerState(state), made
    )


def add(db: sqlite3.Connection, timer: TimerRecord) -> bool:
    """Note what an agent has planned, once; what is known already stays as it is. False: it has too many."""
    cursor = db.execute(
        f"""
        INSERT INTO timers ({COLUMNS})
        SELECT :session_id, :id, :at, :schedule, :ends_at, :prompt, :runner_id, :state, :created_at
         WHERE EXISTS (SELECT 1 FROM sessions WHERE id = :session_id)
           AND (SELECT count(*) FROM timers WHERE session_id = :session_id AND state = 'pending') < {MAX_PENDING}
            ON CONFLICT DO NOTHING
        """,
        asdict(timer),
    )
    if cursor.rowcount:
        return True
    return bool(
        db.execute(
            "SELECT 1 FROM timers WHERE session_id = :session_id AND id = :id",
            {"session_id": timer.session_id, "id": timer.id},
        ).fetchall()
    )


def cancel(db: sqlite3.Connection, session_id: SessionId, prefix: str, *, but: str = "") -> None:
    """Those whose id begins so wait no more."""
    db.execute(
        """
        UPDATE timers SET state = 'cancelled'
         WHERE session_id = :session_id AND substr(id, 1, length(:prefix)) = :prefix AND id <> :but
           AND state = 'pending'
        """,
        {"session_id": session_id, "prefix": prefix, "but": but},
    )


def disown(db: sqlite3.Connection, source: SessionId, fork: SessionId) -> None:
    """What the source has planned, a fork has not; but its processes may know of it, and are to be stopped then."""
    db.execute(
        f"""
        INSERT INTO timers ({COLUMNS})
        SELECT :fork, id, at, schedule, ends_at, prompt, runner_id, 'cancelled', created_at
          FROM timers WHERE session_id = :source AND state IN ('pending', 'cancelled')
        """,
        {"fork": fork, "source": source},
    )


def move(db: sqlite3.Connection, timer: TimerRecord, *, state: TimerState, at: Millis | None = None) -> bool:
    """Give it another state or time; False when somebody else was faster."""
    cursor = db.execute(
        """
        UPDATE timers SET state = :state, at = ifnull(:at, at)
         WHERE session_id = :session_id AND id = :id AND state = :before AND at = :was_at
        """,
        {
            "session_id": timer.session_id,
            "id": timer.id,
            "state": state,
            "at": at,
            "before": timer.state,
            "was_at": timer.at,
        },
    )
    return cursor.rowcount > 0


def forget_old(db: sqlite3.Connection, now: Millis) -> None:
    db.execute(
        "DELETE FROM timers WHERE state <> 'pending' AND created_at < :before",
        {"before": now - KEPT_MS},
    )
