"""The rows of keys: what they are called and may do, and of the keys themselves only their SHA-256."""

from __future__ import annotations

import sqlite3

from agentsrv.model import AccessKey, Millis, Scope
from agentsrv.store.database import Database

COLUMNS = "id, name, hash, scopes, parent, created_at, expires_at, idle_ms, used_at, revoked_at"


async def find(db: Database, hash: bytes) -> AccessKey | None:
    rows = await db.read(f"SELECT {COLUMNS} FROM access_keys WHERE hash = :hash", {"hash": hash})
    return _key(rows[0]) if rows else None


async def list_keys(db: Database) -> list[AccessKey]:
    """Those that are not revoked, oldest first."""
    rows = await db.read(f"SELECT {COLUMNS} FROM access_keys WHERE revoked_at IS NULL ORDER BY created_at")
    return list(map(_key, rows))


async def list_made_with(db: Database, parent: bytes) -> list[AccessKey]:
    """Those that were made with one other, and are not revoked."""
    rows = await db.read(
        f"SELECT {COLUMNS} FROM access_keys WHERE parent = :parent AND revoked_at IS NULL",
        {"parent": parent},
    )
    return list(map(_key, rows))


def insert(db: sqlite3.Connection, key: AccessKey) -> None:
    db.execute(
        f"""
        INSERT INTO access_keys ({COLUMNS})
        VALUES (:id, :name, :hash, :scopes, :parent, :created_at, :expires_at, :idle_ms, :used_at, :revoked_at)
        """,
        {
            "id": key.id,
            "name": key.name,
            "hash": key.hash,
            "scopes": ",".join(sorted(key.scopes)),
            "parent": key.parent,
            "created_at": key.created_at,
            "expires_at": key.expires_at,
            "idle_ms": key.idle_ms,
            "used_at": key.used_at,
            "revoked_at": key.revoked_at,
        },
    )


def revoke(db: sqlite3.Connection, key_id: str, at: Millis) -> None:
    """It stays in the list, and what it was called in the audit log has a meaning."""
    db.execute(
        "UPDATE access_keys SET revoked_at = :at WHERE id = :id AND revoked_at IS NULL",
        {"id": key_id, "at": at},
    )


def note_use(db: sqlite3.Connection, key_id: str, at: Millis) -> None:
    db.execute("UPDATE access_keys SET used_at = :at WHERE id = :id", {"id": key_id, "at": at})


def _key(row: sqlite3.Row) -> AccessKey:
    key_id, name, hash, scopes, *rest = row
    return AccessKey(key_id, name, hash, frozenset(map(Scope, scopes.split(","))), *rest)
