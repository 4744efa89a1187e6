"""What sessions are found by besides what they are: their tags and metadata."""

from __future__ import annotations

import aiosqlite

from agentsrv.model import Session


async def renew(db: aiosqlite.Connection, session: Session) -> None:
    """Have a session found by what it has now."""
    await db.execute("DELETE FROM session_labels WHERE session_id = :id", {"id": session.id})
    await add(db, session)


async def add(db: aiosqlite.Connection, session: Session) -> None:
    labels = {f"#{tag}" for tag in session.tags} | {
        f"{key}={value}" for key, value in session.metadata.items()
    }
    await db.executemany(
        "INSERT INTO session_labels (label, created_at, session_id) VALUES (:label, :created_at, :session_id)",
        [
            {"label": label, "created_at": session.created_at, "session_id": session.id}
            for label in sorted(labels)
        ],
    )
