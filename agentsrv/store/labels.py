"""What sessions are found by besides what they are: their tags and metadata."""

from __future__ import annotations

import sqlite3

from agentsrv.model import Session


def renew(db: sqlite3.Connection, session: Session) -> None:
    """Have a session found by what it has now."""
    db.execute("DELETE FROM session_labels WHERE session_id = :id", {"id": session.id})
    add(db, session)


def add(db: sqlite3.Connection, session: Session) -> None:
    labels = {f"#{tag}" for tag in session.tags} | {
        f"{key}={value}" for key, value in session.metadata.items()
    }
    db.executemany(
        "INSERT INTO session_labels (label, created_at, session_id) VALUES (:label, :created_at, :session_id)",
        [
            {"label": label, "created_at": session.created_at, "session_id": session.id}
            for label in sorted(labels)
        ],
    )
