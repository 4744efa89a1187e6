"""Sessions' rows."""

from __future__ import annotations

import dataclasses
import json
import sqlite3

import aiosqlite

from agentsrv.errors import Conflict, NotFound
from agentsrv.model import Fork, Millis, Session, SessionId, Turn
from agentsrv.store.database import Database

COLUMNS = """id, name, agent, cwd, model, internal_session_id, created_at, updated_at, generation,
    active_turn_id, worktree, origin_cwd, fork, allowances"""


async def find(db: Database, session_id: SessionId) -> Session | None:
    rows = await db.read(f"SELECT {COLUMNS} FROM sessions WHERE id = :id", {"id": session_id})
    return _session(rows[0]) if rows else None


async def page(
    db: Database, *, agent: str | None, before: tuple[Millis, str] | None, limit: int
) -> list[Session]:
    """Newest first, by creation and id; `before` is the last row of the page before."""
    created_at, session_id = before or (None, None)
    rows = await db.read(
        f"""
        SELECT {COLUMNS}
          FROM sessions
         WHERE (:agent IS NULL OR agent = :agent)
           AND (:created_at IS NULL OR (created_at, id) < (:created_at, :id))
         ORDER BY created_at DESC, id DESC
         LIMIT :limit
        """,
        {"agent": agent, "created_at": created_at, "id": session_id, "limit": limit},
    )
    return [_session(row) for row in rows]


async def worktrees(db: Database) -> dict[str, SessionId]:
    """The worktrees of sessions, by path; of several that share one the oldest."""
    rows = await db.read(
        "SELECT worktree, id FROM sessions WHERE worktree IS NOT NULL ORDER BY created_at DESC, id DESC"
    )
    return dict(map(tuple, rows))


async def working_in(db: Database, directory: str) -> list[SessionId]:
    """The sessions that work in an absolute directory, or below it."""
    rows = await db.read(
        """
        SELECT id
          FROM sessions
         WHERE worktree = :directory OR cwd = :directory OR substr(cwd, 1, length(:directory) + 1) = :directory || '/'
        """,
        {"directory": directory},
    )
    return [SessionId(session_id) for (session_id,) in rows]


async def insert(db: aiosqlite.Connection, session: Session) -> None:
    """Raises Conflict (`session_exists`)."""
    try:
        await db.execute(
            """
            INSERT INTO sessions (id, name, agent, cwd, model, internal_session_id, created_at, updated_at,
                                  worktree, origin_cwd, fork, allowances)
            VALUES (:id, :name, :agent, :cwd, :model, :internal_session_id, :created_at, :updated_at,
                    :worktree, :origin_cwd, :fork, :allowances)
            """,
            {
                "id": session.id,
                "name": session.name,
                "agent": session.agent,
                "cwd": session.cwd,
                "model": session.model,
                "internal_session_id": session.internal_session_id,
                "created_at": session.created_at,
                "updated_at": session.updated_at,
                "worktree": session.worktree,
                "origin_cwd": session.origin_cwd,
                "fork": None if session.fork is None else json.dumps(dataclasses.asdict(session.fork)),
                "allowances": json.dumps(session.allowances),
            },
        )
    except sqlite3.IntegrityError as exc:
        raise exists(session.id) from exc


async def update(
    db: aiosqlite.Connection, session_id: SessionId, changes: dict[str, str | None], now: Millis
) -> None:
    """Set `name` and `model`, those that `changes` holds. Raises NotFound."""
    cursor = await db.execute(
        """
        UPDATE sessions
           SET name = CASE WHEN :set_name THEN :name ELSE name END,
               model = CASE WHEN :set_model THEN :model ELSE model END,
               updated_at = :now
         WHERE id = :id
        """,
        {
            "id": session_id,
            "set_name": "name" in changes,
            "name": changes.get("name"),
            "set_model": "model" in changes,
            "model": changes.get("model"),
            "now": now,
        },
    )
    if cursor.rowcount == 0:
        raise not_found(session_id)


async def set_internal_id(db: aiosqlite.Connection, session_id: SessionId, internal_id: str) -> None:
    """Remember under which name the agent keeps the conversation."""
    await db.execute(
        "UPDATE sessions SET internal_session_id = :internal_id WHERE id = :id",
        {"id": session_id, "internal_id": internal_id},
    )


async def add_allowance(db: aiosqlite.Connection, session_id: SessionId, allowance: str) -> None:
    """Remember that the agent may do this without asking again."""
    await db.execute(
        """
        UPDATE sessions
           SET allowances = json_insert(allowances, '$[#]', :allowance)
         WHERE id = :id AND NOT EXISTS (SELECT 1 FROM json_each(allowances) WHERE value = :allowance)
        """,
        {"id": session_id, "allowance": allowance},
    )


async def acquire_lease(db: aiosqlite.Connection, session: Session, turn: Turn) -> int:
    """Give the session to `turn`, which brings its model, directory and the agent's conversation along.

    Returns the new generation. Raises Conflict (`session_busy`), NotFound.
    """
    taken = await db.execute_fetchall(
        """
        UPDATE sessions
           SET generation = generation + 1,
               active_turn_id = :turn_id,
               model = :model,
               internal_session_id = :internal_session_id,
               cwd = :cwd,
               worktree = :worktree,
               origin_cwd = :origin_cwd,
               updated_at = :now
         WHERE id = :id AND active_turn_id IS NULL
        RETURNING generation
        """,
        {
            "id": session.id,
            "turn_id": turn.id,
            "model": turn.options.model,
            "internal_session_id": session.internal_session_id,
            "cwd": session.cwd,
            "worktree": session.worktree,
            "origin_cwd": session.origin_cwd,
            "now": turn.created_at,
        },
    )
    for (generation,) in taken:
        return int(generation)
    rows = await db.execute_fetchall("SELECT active_turn_id FROM sessions WHERE id = :id", {"id": session.id})
    for (active_turn_id,) in rows:
        raise busy(session.id, active_turn_id)
    raise not_found(session.id)


async def release_lease(db: aiosqlite.Connection, turn: Turn) -> None:
    """End the lease that `turn` took; somebody else's is left alone."""
    await db.execute(
        """
        UPDATE sessions
           SET active_turn_id = NULL, updated_at = :now
         WHERE id = :session_id AND active_turn_id = :id AND generation = :generation
        """,
        {
            "session_id": turn.session_id,
            "id": turn.id,
            "generation": turn.generation,
            "now": turn.finished_at,
        },
    )


async def delete(db: aiosqlite.Connection, session_id: SessionId) -> None:
    """Delete an idle session with its turns and events. Raises NotFound, Conflict (`session_busy`)."""
    rows = await db.execute_fetchall("SELECT active_turn_id FROM sessions WHERE id = :id", {"id": session_id})
    for (active_turn_id,) in rows:
        if active_turn_id is not None:
            raise busy(session_id, active_turn_id)
        await db.execute("DELETE FROM sessions WHERE id = :id", {"id": session_id})
        return
    raise not_found(session_id)


def exists(session_id: SessionId) -> Conflict:
    return Conflict(f"session {session_id} exists already", code="session_exists")


def not_found(session_id: SessionId) -> NotFound:
    return NotFound(f"there is no session {session_id}", code="session_not_found")


def busy(session_id: SessionId, turn_id: str) -> Conflict:
    return Conflict(
        f"session {session_id} is busy with job {turn_id}; follow it, stop it, or wait for its end",
        code="session_busy",
        extra={"taskId": turn_id},
    )


def _session(row: sqlite3.Row) -> Session:
    *plain, fork, allowances = row
    values = [*plain, None if fork is None else Fork(**json.loads(fork)), tuple(json.loads(allowances))]
    return Session(*values)
