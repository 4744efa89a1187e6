"""Turns' rows, and queued prompts where both are jobs."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from typing import Any

import aiosqlite

from agentsrv.errors import Conflict, NotFound
from agentsrv.model import (
    Millis,
    Outcome,
    PermissionMode,
    Seq,
    SessionId,
    Turn,
    TurnId,
    TurnOptions,
    TurnStatus,
)
from agentsrv.store.database import Database

COLUMNS = """id, session_id, generation, status, message_id, options, created_at, started_at, finished_at,
    first_seq, last_seq, error, error_code, stop_reason, usage, cost_usd, structured_output"""


class MessageIdUsed(Conflict):
    """The message has started a turn before: the same request came twice at once."""

    default_code = "message_id_used"


async def get(db: Database, turn_id: TurnId) -> Turn:
    """Raises NotFound (`job_not_found`)."""
    rows = await db.read(f"SELECT {COLUMNS} FROM jobs WHERE id = :id", {"id": turn_id})
    if not rows:
        raise NotFound(f"there is no job {turn_id}", code="job_not_found")
    return _turn(rows[0])


async def find_by_message(db: Database, session_id: SessionId, message_id: str) -> Turn | None:
    """The job that a message has begun, or was added to while it ran."""
    rows = await db.read(
        f"""
        SELECT {COLUMNS}
          FROM jobs
         WHERE session_id = :session_id AND message_id = :message_id
         UNION ALL
        SELECT {COLUMNS}
          FROM turns
         WHERE id = (SELECT turn_id FROM steered_messages
                      WHERE session_id = :session_id AND message_id = :message_id)
        """,
        {"session_id": session_id, "message_id": message_id},
    )
    return _turn(rows[0]) if rows else None


async def page(
    db: Database,
    *,
    session_id: SessionId | None,
    status: TurnStatus | None,
    before: tuple[Millis, str] | None,
    limit: int,
) -> list[Turn]:
    """Newest first, by creation and id; `before` is the last row of the page before."""
    created_at, turn_id = before or (None, None)
    rows = await db.read(
        f"""
        SELECT {COLUMNS}
          FROM jobs
         WHERE (:session_id IS NULL OR session_id = :session_id)
           AND (:status IS NULL OR status = :status)
           AND (:created_at IS NULL OR (created_at, id) < (:created_at, :id))
         ORDER BY created_at DESC, id DESC
         LIMIT :limit
        """,
        {"session_id": session_id, "status": status, "created_at": created_at, "id": turn_id, "limit": limit},
    )
    return [_turn(row) for row in rows]


async def start_of_turn(db: Database, session_id: SessionId, seq: Seq) -> Seq:
    """The first event of the newest turn that had begun by `seq`; 1 when none had."""
    rows = await db.read(
        "SELECT max(first_seq) FROM turns WHERE session_id = :session_id AND first_seq <= :seq",
        {"session_id": session_id, "seq": seq},
    )
    return rows[0][0] or 1


async def last_ended(db: Database, session_id: SessionId, before: Seq | None) -> Turn | None:
    """The last turn of a session's log that has ended; with `before`, of what lies before that event."""
    rows = await db.read(
        f"""
        SELECT {COLUMNS}
          FROM turns
         WHERE session_id = :session_id AND last_seq > 0 AND (:before IS NULL OR last_seq < :before)
         ORDER BY last_seq DESC
         LIMIT 1
        """,
        {"session_id": session_id, "before": before},
    )
    return _turn(rows[0]) if rows else None


async def list_open(db: Database) -> list[Turn]:
    """Turns that no server has finished; their agents may be alive or dead."""
    rows = await db.read(f"SELECT {COLUMNS} FROM turns WHERE finished_at IS NULL ORDER BY created_at")
    return [_turn(row) for row in rows]


async def insert(db: aiosqlite.Connection, turn: Turn) -> None:
    await db.execute(
        """
        INSERT INTO turns (id, session_id, generation, status, message_id, options,
                           created_at, started_at, first_seq)
        VALUES (:id, :session_id, :generation, :status, :message_id, :options,
                :created_at, :started_at, :first_seq)
        """,
        {
            "id": turn.id,
            "session_id": turn.session_id,
            "generation": turn.generation,
            "status": turn.status,
            "message_id": turn.message_id,
            "options": encode_options(turn.options),
            "created_at": turn.created_at,
            "started_at": turn.started_at,
            "first_seq": turn.first_seq,
        },
    )


async def note_steered(db: aiosqlite.Connection, turn: Turn, message_id: str) -> None:
    """Remember that a message was added to a turn. Raises MessageIdUsed."""
    await require_new_message(db, turn.session_id, message_id)
    await db.execute(
        "INSERT INTO steered_messages VALUES (:session_id, :message_id, :turn_id)",
        {"session_id": turn.session_id, "message_id": message_id, "turn_id": turn.id},
    )


async def require_new_message(
    db: aiosqlite.Connection, session_id: SessionId, message_id: str | None
) -> None:
    """Raises MessageIdUsed when the message has a job, whether it has begun one, waits, or was added to one."""
    if message_id is None:
        return
    rows = await db.execute_fetchall(
        """
        SELECT 1 FROM jobs WHERE session_id = :session_id AND message_id = :message_id
         UNION ALL
        SELECT 1 FROM steered_messages WHERE session_id = :session_id AND message_id = :message_id
        """,
        {"session_id": session_id, "message_id": message_id},
    )
    if rows:
        raise MessageIdUsed(f"message {message_id} has a job in session {session_id}")


async def set_status(db: aiosqlite.Connection, turn_id: TurnId, status: TurnStatus) -> None:
    """Note what a turn that has not finished is doing."""
    await db.execute(
        "UPDATE turns SET status = :status WHERE id = :id AND finished_at IS NULL",
        {"id": turn_id, "status": status},
    )


async def finish(db: aiosqlite.Connection, turn: Turn) -> None:
    """Store the outcome, `finished_at` and `last_seq` of `turn`."""
    outcome = turn.outcome or Outcome(turn.status)
    await db.execute(
        """
        UPDATE turns
           SET status = :status, finished_at = :finished_at, last_seq = :last_seq,
               error = :error, error_code = :error_code, stop_reason = :stop_reason,
               usage = :usage, cost_usd = :cost_usd, structured_output = :structured_output
         WHERE id = :id
        """,
        {
            "id": turn.id,
            "status": turn.status,
            "finished_at": turn.finished_at,
            "last_seq": turn.last_seq,
            "error": outcome.error,
            "error_code": outcome.error_code,
            "stop_reason": outcome.stop_reason,
            "usage": _encode(outcome.usage),
            "cost_usd": outcome.cost_usd,
            "structured_output": _encode(outcome.structured_output),
        },
    )


def _turn(row: sqlite3.Row) -> Turn:
    (
        id_, session_id, generation, status, message_id, options, created_at, started_at, finished_at,
        first_seq, last_seq, error, error_code, stop_reason, usage, cost_usd, structured_output,
    ) = row  # fmt: skip
    outcome = None
    if finished_at is not None:
        outcome = Outcome(
            TurnStatus(status),
            error,
            error_code,
            stop_reason,
            _decode(usage),
            cost_usd,
            _decode(structured_output),
        )
    return Turn(
        id=TurnId(id_),
        session_id=SessionId(session_id),
        generation=generation,
        status=TurnStatus(status),
        created_at=created_at,
        started_at=started_at,
        finished_at=finished_at,
        first_seq=first_seq,
        last_seq=last_seq,
        message_id=message_id,
        options=decode_options(options),
        outcome=outcome,
    )


def _encode(value: Any) -> str | None:
    return None if value is None else json.dumps(value)


def _decode(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def encode_options(options: TurnOptions) -> str:
    return json.dumps(dataclasses.asdict(options))


def decode_options(text: str) -> TurnOptions:
    known = {field.name for field in dataclasses.fields(TurnOptions)}
    values = {key: value for key, value in json.loads(text).items() if key in known}
    if "permission_mode" in values:
        values["permission_mode"] = PermissionMode(values["permission_mode"])
    return TurnOptions(**values)
