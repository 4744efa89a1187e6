"""What folds over sessions' logs had come to at some of their events, for those who come back after a restart."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Sequence

from msgspec import Struct

from agentsrv.model import Seq, SessionId
from agentsrv.store.database import Database

MAX_STATE_BYTES = 1024 * 1024
"""A larger one is not stored; hardly any has a tenth of that."""


class Mark(Struct, frozen=True):
    """`made_by`: the code that has made `state`, and alone can read it."""

    session_id: SessionId
    kind: str
    seq: Seq
    made_by: str
    state: bytes


def keep_all(db: sqlite3.Connection, marks: Sequence[Mark]) -> None:
    """Store them, but where the log has lost their event. Those that other code has made are of no use any more."""
    rows = [
        {
            "session_id": mark.session_id,
            "kind": mark.kind,
            "seq": mark.seq,
            "made_by": mark.made_by,
            "state": zlib.compress(mark.state, 1),
        }
        for mark in marks
        if len(mark.state) <= MAX_STATE_BYTES
    ]
    db.executemany(
        "DELETE FROM marks WHERE session_id = :session_id AND kind = :kind AND made_by <> :made_by", rows
    )
    db.executemany(
        """
        INSERT OR REPLACE INTO marks (session_id, kind, seq, made_by, state)
        SELECT :session_id, :kind, :seq, :made_by, :state
         WHERE EXISTS (SELECT 1 FROM events WHERE session_id = :session_id AND last_seq >= :seq)
        """,
        rows,
    )


async def find(
    db: Database, session_id: SessionId, kind: str, made_by: str, first: Seq, last: Seq
) -> tuple[Seq, bytes] | None:
    """The latest one at an event in this range."""
    rows = await db.read(
        """
        SELECT seq, state
          FROM marks
         WHERE session_id = :session_id AND kind = :kind AND made_by = :made_by AND seq BETWEEN :first AND :last
         ORDER BY seq DESC
         LIMIT 1
        """,
        {"session_id": session_id, "kind": kind, "made_by": made_by, "first": first, "last": last},
    )
    return (rows[0][0], zlib.decompress(rows[0][1])) if rows else None


async def has_any(db: Database) -> bool:
    rows = await db.read("SELECT max(session_id) FROM marks")
    return rows[0][0] is not None
