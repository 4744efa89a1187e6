"""Turns' rows, and queued prompts where both are jobs."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from typing import Any

from msgspec.structs import asdict, fields

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
from agentsrv.store.sessions import NEWEST

COLUMNS = """id, session_id, generation, status, message_id, options, created_at, started_at, finished_at,
    first_seq, last_seq, error, error_code, stop_reason, usage, cost_usd, structured_output, result"""

SHOWN_CHARS = 1000
"""So much of an error, and of usage all or nothing, is told in lists."""

LISTED = f"""id, session_id, generation, status, message_id, '{{}}', created_at, started_at, finished_at,
    first_seq, last_seq,
    iif(length(error) > {SHOWN_CHARS}, substr(error, 1, {SHOWN_CHARS}) || ' [...]', error), error_code, stop_reason,
    iif(length(usage) > {SHOWN_CHARS}, NULL, usage), cost_usd, NULL, NULL"""

QUEUED = """turn_id AS id, session_id, 0, 'queued', message_id, '{}', created_at, NULL, NULL,
    0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL"""
"""A prompt that waits, as a job."""

# What is left of a deleted session is nobody's business.
KEPT = "session_id NOT IN (SELECT id FROM sessions WHERE deletion = 'final')"


NEWEST_FIRST = "ORDER BY created_at DESC, id DESC LIMIT :limit"


def _turns(conditions: str = "") -> str:
    return f"SELECT {LISTED} FROM turns WHERE {conditions} (created_at, id) < (:created_at, :id) AND {KEPT}"


def _prompts(conditions: str = "") -> str:
    before = "(created_at, turn_id) < (:created_at, :id)"
    return f"SELECT {QUEUED} FROM queued_prompts WHERE {conditions} {before} AND {KEPT}"


OF_SESSION = "session_id = :session_id AND"
OF_STATUS = "status = :status AND"

# A statement for each question: a condition that may be missing would keep SQLite from its index.
PAGES = {
    "all": f"{_turns()} UNION ALL {_prompts()} {NEWEST_FIRST}",
    "of_session": f"{_turns(OF_SESSION)} UNION ALL {_prompts(OF_SESSION)} {NEWEST_FIRST}",
    "of_status": f"{_turns(OF_STATUS)} {NEWEST_FIRST}",
    "of_session_and_status": f"{_turns(f'{OF_SESSION} {OF_STATUS}')} {NEWEST_FIRST}",
    "queued": f"{_prompts()} {NEWEST_FIRST}",
    "queued_of_session": f"{_prompts(OF_SESSION)} {NEWEST_FIRST}",
}


class MessageIdUsed(Conflict):
    """The message has started a turn before: the same request came twice at once."""

    default_code = "message_id_used"


async def get(db: Database, turn_id: TurnId) -> Turn:
    """Raises NotFound (`job_not_found`)."""
    rows = await db.read(
        f"""
        SELECT {COLUMNS} FROM turns WHERE id = :id AND {KEPT}
         UNION ALL
        SELECT {QUEUED} FROM queued_prompts WHERE turn_id = :id AND {KEPT}
        """,
        {"id": turn_id},
    )
    if not rows:
        raise NotFound(f"there is no job {turn_id}", code="job_not_found")
    return _turn(rows[0])


async def last_of_code(db: Database, session_id: SessionId, code: str, before: Seq) -> Turn | None:
    """The newest turn that was interrupted with this error code, and ended before an event."""
    rows = await db.read(
        f"""
        SELECT {COLUMNS}
          FROM turns
         WHERE session_id = :session_id AND status = 'interrupted' AND error_code = :code AND last_seq < :before
         ORDER BY created_at DESC, id DESC
         LIMIT 1
        """,
        {"session_id": session_id, "code": code, "before": before},
    )
    return _turn(rows[0]) if rows else None


async def find_by_message(db: Database, session_id: SessionId, message_id: str) -> Turn | None:
    """The job that a message has begun, or was added to while it ran."""
    rows = await db.read(
        f"""
        SELECT {COLUMNS}
          FROM turns
         WHERE session_id = :session_id AND message_id = :message_id AND {KEPT}
         UNION ALL
        SELECT {QUEUED}
          FROM queued_prompts
         WHERE session_id = :session_id AND message_id = :message_id AND {KEPT}
         UNION ALL
        SELECT {COLUMNS}
          FROM turns
         WHERE id = (SELECT turn_id FROM steered_messages
                      WHERE session_id = :session_id AND message_id = :message_id)
           AND {KEPT}
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
    """Newest first, by creation and id; `before` is the last row of the page before.

    Without what may be large: options, structured output, usage beyond some hundred characters.
    """
    created_at, turn_id = before or NEWEST
    rows = await db.read(
        PAGES[_question(session_id, status)],
        {"session_id": session_id, "status": status, "created_at": created_at, "id": turn_id, "limit": limit},
    )
    return [_turn(row) for row in rows]


def _question(session_id: SessionId | None, status: TurnStatus | None) -> str:
    if status is TurnStatus.QUEUED:
        return "queued" if session_id is None else "queued_of_session"
    if status is not None:
        return "of_status" if session_id is None else "of_session_and_status"
    return "all" if session_id is None else "of_session"


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
         WHERE session_id = :session_id AND first_seq BETWEEN 1 AND :before - 1 AND last_seq > 0
         ORDER BY first_seq DESC
         LIMIT 1
        """,
        {"session_id": session_id, "before": before or NEWEST[0]},
    )
    return _turn(rows[0]) if rows else None


async def latest(db: Database, session_ids: Iterable[SessionId]) -> dict[SessionId, Turn]:
    """The newest turn of each of these sessions, whether it has ended or not; those without one are left out."""
    rows = await db.read(
        f"""
        SELECT {COLUMNS}
          FROM turns
         WHERE id IN (SELECT (SELECT id FROM turns
                               WHERE session_id = json_each.value AND first_seq > 0
                               ORDER BY first_seq DESC
                               LIMIT 1)
                        FROM json_each(:session_ids))
        """,
        {"session_ids": json.dumps(list(session_ids))},
    )
    return {turn.session_id: turn for turn in map(_turn, rows)}


async def costs(db: Database, session_ids: Iterable[SessionId]) -> dict[SessionId, float]:
    """What all turns of each of these sessions have cost; those of which nothing is known are left out."""
    rows = await db.read(
        """
        SELECT session_id, sum(cost_usd)
          FROM turns INDEXED BY turns_with_cost
         WHERE cost_usd IS NOT NULL AND session_id IN (SELECT value FROM json_each(:session_ids))
         GROUP BY session_id
        """,
        {"session_ids": json.dumps(list(session_ids))},
    )
    return {SessionId(session_id): float(cost) for session_id, cost in rows}


async def list_open(db: Database) -> list[Turn]:
    """Turns that no server has finished; their agents may be alive or dead."""
    rows = await db.read(f"SELECT {COLUMNS} FROM turns WHERE finished_at IS NULL ORDER BY created_at")
    return [_turn(row) for row in rows]


async def list_stopped(db: Database) -> set[TurnId]:
    """Open turns that somebody has asked to end."""
    rows = await db.read("SELECT id FROM turns WHERE finished_at IS NULL AND stop_asked")
    return {TurnId(id_) for (id_,) in rows}


def note_stop(db: sqlite3.Connection, turn_id: TurnId) -> None:
    """Remember that somebody has asked a turn to end."""
    db.execute("UPDATE turns SET stop_asked = 1 WHERE id = :id", {"id": turn_id})


def insert(db: sqlite3.Connection, turn: Turn) -> None:
    db.execute(
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


def note_steered(db: sqlite3.Connection, turn: Turn, message_id: str) -> None:
    """Remember that a message was added to a turn. Raises MessageIdUsed."""
    require_new_message(db, turn.session_id, message_id)
    db.execute(
        "INSERT INTO steered_messages VALUES (:session_id, :message_id, :turn_id)",
        {"session_id": turn.session_id, "message_id": message_id, "turn_id": turn.id},
    )


def require_new_message(db: sqlite3.Connection, session_id: SessionId, message_id: str | None) -> None:
    """Raises MessageIdUsed when the message has a job, whether it has begun one, waits, or was added to one."""
    if message_id is None:
        return
    rows = db.execute(
        """
        SELECT 1 FROM turns WHERE session_id = :session_id AND message_id = :message_id
         UNION ALL
        SELECT 1 FROM queued_prompts WHERE session_id = :session_id AND message_id = :message_id
         UNION ALL
        SELECT 1 FROM steered_messages WHERE session_id = :session_id AND message_id = :message_id
        """,
        {"session_id": session_id, "message_id": message_id},
    ).fetchall()
    if rows:
        raise MessageIdUsed(f"message {message_id} has a job in session {session_id}")


def set_status(db: sqlite3.Connection, turn_id: TurnId, status: TurnStatus) -> None:
    """Note what a turn that has not finished is doing."""
    db.execute(
        "UPDATE turns SET status = :status WHERE id = :id AND finished_at IS NULL",
        {"id": turn_id, "status": status},
    )


def set_mode(db: sqlite3.Connection, turn_id: TurnId, mode: PermissionMode) -> None:
    """Note in which mode a turn works from now on: whoever takes it over has to know."""
    db.execute(
        """
        UPDATE turns
           SET options = json_set(options, '$.permission_mode', :mode, '$.first_mode',
                                  ifnull(options ->> '$.first_mode', options ->> '$.permission_mode'))
         WHERE id = :id AND options ->> '$.permission_mode' <> :mode
        """,
        {"id": turn_id, "mode": mode},
    )


def finish(db: sqlite3.Connection, turn: Turn) -> None:
    """Store the outcome, `finished_at` and `last_seq` of `turn`."""
    outcome = turn.outcome or Outcome(turn.status)
    db.execute(
        """
        UPDATE turns
           SET status = :status, finished_at = :finished_at, last_seq = :last_seq,
               error = :error, error_code = :error_code, stop_reason = :stop_reason,
               usage = :usage, cost_usd = :cost_usd, structured_output = :structured_output, result = :result
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
            "result": outcome.result,
        },
    )


def _turn(row: sqlite3.Row) -> Turn:
    (
        id_, session_id, generation, status, message_id, options, created_at, started_at, finished_at,
        first_seq, last_seq, error, error_code, stop_reason, usage, cost_usd, structured_output,
        result,
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
            result,
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
    return json.dumps(asdict(options))


def decode_options(text: str) -> TurnOptions:
    known = {field.name for field in fields(TurnOptions)}
    values = {key: value for key, value in json.loads(text).items() if key in known}
    for name in ("permission_mode", "first_mode"):
        if values.get(name) is not None:
            values[name] = PermissionMode(values[name])
    if (sources := values.get("setting_sources")) is not None:
        values["setting_sources"] = tuple(sources)
    return TurnOptions(**values)
