"""Runners' rows: which agent processes may be alive, and how far their output is in the log."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from msgspec import Struct, field

from agentsrv.model import Millis, RunnerId, SessionId
from agentsrv.store.database import Database


class RunnerRecord(Struct, frozen=True):
    """`spawn_key` names the options that the process was started with.

    agent_state: the adapter's, as of the end of its last turn.
    """

    id: RunnerId
    session_id: SessionId
    spawn_key: str
    created_at: Millis
    spool_offset: int = 0
    agent_state: dict[str, Any] = field(default_factory=dict)


async def list_all(db: Database) -> list[RunnerRecord]:
    """The oldest first."""
    rows = await db.read(
        """
        SELECT id, session_id, spawn_key, created_at, spool_offset, agent_state
          FROM runners
        """
    )
    found = [
        RunnerRecord(RunnerId(id_), SessionId(session_id), key, created_at, offset, json.loads(state))
        for id_, session_id, key, created_at, offset, state in rows
    ]
    return sorted(found, key=lambda record: record.created_at)


async def fold_of(db: Database, runner_id: RunnerId) -> dict[str, Any] | None:
    """What a turn had come to in the middle, by an event of the log; None: nobody has stored that."""
    rows = await db.read("SELECT fold FROM runners WHERE id = :id", {"id": runner_id})
    fold: dict[str, Any] | None = json.loads(rows[0][0] or "null") if rows else None
    return fold


def insert(db: sqlite3.Connection, record: RunnerRecord) -> None:
    db.execute(
        """
        INSERT INTO runners (id, session_id, spawn_key, created_at)
        VALUES (:id, :session_id, :spawn_key, :created_at)
        """,
        {
            "id": record.id,
            "session_id": record.session_id,
            "spawn_key": record.spawn_key,
            "created_at": record.created_at,
        },
    )


def set_agent_state(db: sqlite3.Connection, runner_id: RunnerId, state: dict[str, Any]) -> None:
    """Remember the adapter's state as of the end of a turn."""
    db.execute(
        "UPDATE runners SET agent_state = :state, fold = NULL WHERE id = :id",
        {"id": runner_id, "state": json.dumps(state)},
    )


def delete(db: sqlite3.Connection, runner_id: RunnerId) -> None:
    db.execute("DELETE FROM runners WHERE id = :id", {"id": runner_id})
