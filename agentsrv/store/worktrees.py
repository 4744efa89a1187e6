"""The worktrees that were made for sessions, also those whose session is gone: of which repository, on which branch."""

from __future__ import annotations

from dataclasses import dataclass

import aiosqlite

from agentsrv.store.database import Database


@dataclass(frozen=True, slots=True)
class MadeRow:
    """`branch` was made for the worktree at `path`, in the git directory `repository`; None: it was there before."""

    path: str
    repository: str
    branch: str | None


async def find(db: Database, path: str) -> MadeRow | None:
    rows = await db.read("SELECT path, repository, branch FROM worktrees WHERE path = :path", {"path": path})
    return MadeRow(*rows[0]) if rows else None


async def note(db: aiosqlite.Connection, row: MadeRow) -> None:
    """A new one takes the place of one that is gone."""
    await db.execute(
        "INSERT OR REPLACE INTO worktrees (path, repository, branch) VALUES (:path, :repository, :branch)",
        {"path": row.path, "repository": row.repository, "branch": row.branch},
    )


async def forget(db: aiosqlite.Connection, path: str) -> None:
    await db.execute("DELETE FROM worktrees WHERE path = :path", {"path": path})
