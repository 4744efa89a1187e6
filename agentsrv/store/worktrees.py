"""The worktrees that were made for sessions, also those whose session is gone: of which repository, on which branch."""

from __future__ import annotations

import sqlite3

from msgspec import Struct

from agentsrv.store.database import Database


class MadeRow(Struct, frozen=True):
    """`branch` was made for the worktree at `path`, in the git directory `repository`; None: it was there before."""

    path: str
    repository: str
    branch: str | None


async def find(db: Database, path: str) -> MadeRow | None:
    rows = await db.read("SELECT path, repository, branch FROM worktrees WHERE path = :path", {"path": path})
    return MadeRow(*rows[0]) if rows else None


def note(db: sqlite3.Connection, row: MadeRow) -> None:
    """A new one takes the place of one that is gone."""
    db.execute(
        "INSERT OR REPLACE INTO worktrees (path, repository, branch) VALUES (:path, :repository, :branch)",
        {"path": row.path, "repository": row.repository, "branch": row.branch},
    )


def forget(db: sqlite3.Connection, path: str) -> None:
    db.execute("DELETE FROM worktrees WHERE path = :path", {"path": path})
