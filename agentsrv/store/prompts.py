"""Prompts that wait for their session's turn, in an order that their user may change."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from msgspec import Struct

from agentsrv.errors import LimitReached, NotFound
from agentsrv.model import Millis, SessionId, TurnId, TurnOptions
from agentsrv.store.database import Database
from agentsrv.store.sessions import not_found, require_kept
from agentsrv.store.turns import decode_options, encode_options, require_new_message

MAX_PROMPTS = 100
MAX_BYTES = 64 * 1024 * 1024
"""What one session may have waiting."""

SHOWN_CHARS = 1000
"""So much of a prompt is told to those who look at the queue."""

COLUMNS = "turn_id, session_id, text, user_event, options, message_id, created_at"


class QueuedPrompt(Struct, frozen=True):
    """`text` is what the prompt says, of which the beginning is kept, and `user_event` all of it in the agent's
    own shape, which will be the first event of the turn `turn_id`."""

    turn_id: TurnId
    session_id: SessionId
    text: str
    user_event: bytes
    options: TurnOptions
    message_id: str | None
    created_at: Millis


class WaitingPrompt(Struct, frozen=True):
    """What is shown of a queued prompt: `text` is how it begins."""

    turn_id: TurnId
    text: str
    created_at: Millis


async def all_waiting(db: Database) -> list[tuple[SessionId, TurnId]]:
    """Which prompts wait, those of each session in order."""
    rows = await db.read("SELECT session_id, turn_id FROM queued_prompts ORDER BY session_id, position")
    return [(SessionId(session_id), TurnId(turn_id)) for session_id, turn_id in rows]


async def of_session(db: Database, session_id: SessionId) -> list[WaitingPrompt]:
    """The prompts that wait in a session, the next one first."""
    rows = await db.read(
        """
        SELECT turn_id, text, created_at
          FROM queued_prompts
         WHERE session_id = :session_id
         ORDER BY position
        """,
        {"session_id": session_id},
    )
    return [WaitingPrompt(TurnId(turn_id), text, created_at) for turn_id, text, created_at in rows]


async def first(db: Database, session_id: SessionId) -> QueuedPrompt | None:
    """The prompt that is next in a session."""
    rows = await db.read(
        f"SELECT {COLUMNS} FROM queued_prompts WHERE session_id = :session_id ORDER BY position LIMIT 1",
        {"session_id": session_id},
    )
    return _prompt(rows[0]) if rows else None


def append(db: sqlite3.Connection, prompt: QueuedPrompt) -> None:
    """Put a prompt at the end.

    Raises MessageIdUsed, Conflict (`session_deleting`), NotFound when its session is gone, LimitReached (`queue_full`).
    """
    require_kept(db, prompt.session_id)
    require_new_message(db, prompt.session_id, prompt.message_id)
    rows = db.execute(
        "SELECT count(*), total(length(user_event)) FROM queued_prompts WHERE session_id = :session_id",
        {"session_id": prompt.session_id},
    ).fetchall()
    for count, size in rows:
        if count >= MAX_PROMPTS or size + len(prompt.user_event) > MAX_BYTES:
            raise LimitReached(
                f"{count} prompts wait in session {prompt.session_id}, which is all that it may keep; try again later",
                code="queue_full",
                retry_after_s=5,
            )
    insert(db, prompt)


def insert(db: sqlite3.Connection, prompt: QueuedPrompt, *, is_first: bool = False) -> None:
    """Put a prompt at the end, or before all others, whatever waits already."""
    try:
        db.execute(
            f"""
            INSERT INTO queued_prompts ({COLUMNS}, position)
            SELECT :turn_id, :session_id, :text, :user_event, :options, :message_id, :created_at,
                   iif(:is_first, ifnull(min(position), 1) - 1, ifnull(max(position), 0) + 1)
              FROM queued_prompts
             WHERE session_id = :session_id
            """,
            {
                "turn_id": prompt.turn_id,
                "session_id": prompt.session_id,
                "text": prompt.text[:SHOWN_CHARS],
                "user_event": prompt.user_event,
                "options": encode_options(prompt.options),
                "message_id": prompt.message_id,
                "created_at": prompt.created_at,
                "is_first": is_first,
            },
        )
    except sqlite3.IntegrityError as exc:
        raise not_found(prompt.session_id) from exc


def arrange(db: sqlite3.Connection, turn_ids: Sequence[TurnId]) -> None:
    """Put a session's prompts into this order."""
    db.executemany(
        "UPDATE queued_prompts SET position = :position WHERE turn_id = :turn_id",
        [{"position": position, "turn_id": turn_id} for position, turn_id in enumerate(turn_ids, 1)],
    )


def delete(db: sqlite3.Connection, turn_id: TurnId) -> bool:
    """Take a prompt out; False when it was not there."""
    cursor = db.execute("DELETE FROM queued_prompts WHERE turn_id = :turn_id", {"turn_id": turn_id})
    return cursor.rowcount > 0


def not_queued(session_id: SessionId, turn_id: TurnId) -> NotFound:
    return NotFound(f"job {turn_id} does not wait in session {session_id}", code="not_queued")


def _prompt(row: sqlite3.Row) -> QueuedPrompt:
    turn_id, session_id, text, user_event, options, message_id, created_at = row
    return QueuedPrompt(
        TurnId(turn_id),
        SessionId(session_id),
        text,
        user_event,
        decode_options(options),
        message_id,
        created_at,
    )
