"""The rows of the audit log. They are added, read, and dropped when they are old."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from msgspec.structs import asdict

from agentsrv.model import AuditEntry, Millis
from agentsrv.store.database import Database

COLUMNS = "at, key, address, action, target, status, details"


def append(db: sqlite3.Connection, entries: Sequence[AuditEntry]) -> None:
    db.executemany(
        f"INSERT INTO audit ({COLUMNS}) VALUES (:at, :key, :address, :action, :target, :status, :details)",
        [{**asdict(entry), "details": json.dumps(entry.details)} for entry in entries],
    )


def drop_before(db: sqlite3.Connection, at: Millis, limit: int) -> None:
    """The oldest `limit` of those before `at`."""
    db.execute(
        "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at < :at ORDER BY at LIMIT :limit)",
        {"at": at, "limit": limit},
    )


async def page(db: Database, *, before: int, limit: int) -> list[tuple[int, AuditEntry]]:
    """Entries with an id below `before`, newest first, each with its id."""
    rows = await db.read(
        f"SELECT id, {COLUMNS} FROM audit WHERE id < :before ORDER BY id DESC LIMIT :limit",
        {"before": before, "limit": limit},
    )
    return [_entry(*row) for row in rows]


def _entry(
    number: int, at: Millis, key: str, address: str, action: str, target: str, status: int, details: str
) -> tuple[int, AuditEntry]:
    return number, AuditEntry(at, key, address, action, target, status, json.loads(details))
