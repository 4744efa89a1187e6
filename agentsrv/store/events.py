"""The event log's rows: a row is a chunk of consecutive events."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace

import aiosqlite

from agentsrv.errors import Conflict
from agentsrv.model import Chunk, Lease, RunnerId, Seq, SessionId, Source, TurnId
from agentsrv.store.database import Database

PAGE_ROWS = 1000
MAX_ROW_BYTES = 256 * 1024

# The WHERE is the fence: a lease that is no longer the newest inserts nothing.
INSERT = """
    INSERT INTO events (session_id, first_seq, last_seq, turn_id, source, created_at, data)
    SELECT :session_id, :first_seq, :last_seq, :turn_id, :source, :created_at, :data
     WHERE EXISTS (SELECT 1 FROM sessions WHERE id = :session_id AND generation = :generation)
"""

ADVANCE = "UPDATE runners SET spool_offset = :offset WHERE id = :runner_id"


class StaleLease(Conflict):
    """The session was taken over by somebody else, or deleted: this writer has no business there any more."""

    default_code = "stale_lease"


@dataclass(slots=True)
class Append:
    """A chunk of agent output, and how far the runner's spool was read for it."""

    chunk: Chunk
    lease: Lease
    runner_id: RunnerId
    spool_offset: int
    is_stale: bool = False


async def append_all(db: aiosqlite.Connection, appends: Sequence[Append]) -> None:
    """Insert chunks and move their spool offsets. A stale one is left out and marked `is_stale`.

    Chunks that continue each other become one row.
    """
    runs = _runs(appends)
    await db.execute("SAVEPOINT appends")
    cursor = await db.executemany(INSERT, [_row(_joined(run), run[0].lease) for run in runs])
    if cursor.rowcount != len(runs):
        await db.execute("ROLLBACK TO appends")
        for run in runs:
            cursor = await db.execute(INSERT, _row(_joined(run), run[0].lease))
            for append in run:
                append.is_stale = cursor.rowcount == 0
    offsets = {a.runner_id: a.spool_offset for a in appends if not a.is_stale}
    await db.executemany(ADVANCE, [{"runner_id": key, "offset": value} for key, value in offsets.items()])
    await db.execute("RELEASE appends")


async def insert(db: aiosqlite.Connection, chunk: Chunk, lease: Lease) -> None:
    """Store a chunk that the server made. Raises StaleLease."""
    cursor = await db.execute(INSERT, _row(chunk, lease))
    if cursor.rowcount == 0:
        raise StaleLease(f"session {chunk.session_id} has a newer owner than generation {lease.generation}")


async def last_seq(db: Database, session_id: SessionId) -> Seq:
    """The newest stored seq; 0 for an empty or unknown session."""
    rows = await db.read(
        "SELECT max(last_seq) FROM events WHERE session_id = :session_id", {"session_id": session_id}
    )
    return rows[0][0] or 0


async def page(db: Database, session_id: SessionId, after: Seq, max_bytes: int) -> list[Chunk]:
    """Stored chunks with events after `after`, oldest first: about `max_bytes`, and one at least."""
    sizes = await db.read(
        """
        SELECT last_seq, length(data)
          FROM events
         WHERE session_id = :session_id AND last_seq > :after
         ORDER BY last_seq
         LIMIT :rows
        """,
        {"session_id": session_id, "after": after, "rows": PAGE_ROWS},
    )
    if not sizes:
        return []
    rows = await db.read(
        """
        SELECT session_id, turn_id, source, created_at, first_seq, last_seq, data
          FROM events
         WHERE session_id = :session_id AND last_seq > :after AND last_seq <= :upto
         ORDER BY last_seq
        """,
        {"session_id": session_id, "after": after, "upto": _end_of_page(sizes, max_bytes)},
    )
    return [_chunk(*row) for row in rows]


async def of_server(db: Database, session_id: SessionId, first: Seq, last: Seq) -> list[Chunk]:
    """What the server added to the log in this range."""
    rows = await db.read(
        """
        SELECT session_id, turn_id, source, created_at, first_seq, last_seq, data
          FROM events
         WHERE session_id = :session_id AND last_seq BETWEEN :first AND :last AND source = 'server'
         ORDER BY last_seq
        """,
        {"session_id": session_id, "first": first, "last": last},
    )
    return [_chunk(*row) for row in rows]


def _runs(appends: Sequence[Append]) -> list[list[Append]]:
    """Group appends that continue each other: same turn, next seq, and not too much for one row."""
    runs: list[list[Append]] = []
    newest: dict[SessionId, tuple[list[Append], int]] = {}
    for append in appends:
        chunk, size = append.chunk, len(append.chunk.data)
        run, total = newest.get(chunk.session_id, ([], 0))
        if run and total + size <= MAX_ROW_BYTES and _continues(run[-1], append):
            run.append(append)
        else:
            run, total = [append], 0
            runs.append(run)
        newest[chunk.session_id] = (run, total + size)
    return runs


def _continues(before: Append, after: Append) -> bool:
    return (
        after.chunk.first_seq == before.chunk.last_seq + 1
        and after.chunk.turn_id == before.chunk.turn_id
        and after.lease == before.lease
    )


def _joined(run: list[Append]) -> Chunk:
    first, last = run[0].chunk, run[-1].chunk
    if first is last:
        return first
    data = b"".join([append.chunk.data for append in run])
    return replace(first, last_seq=last.last_seq, data=data, rendered=None)


def _end_of_page(sizes: Sequence[sqlite3.Row], max_bytes: int) -> Seq:
    end: Seq
    total: int
    end, total = sizes[0]
    for seq, size in sizes[1:]:
        total += size
        if total > max_bytes:
            break
        end = seq
    return end


def _row(chunk: Chunk, lease: Lease) -> dict[str, object]:
    return {
        "session_id": chunk.session_id,
        "first_seq": chunk.first_seq,
        "last_seq": chunk.last_seq,
        "turn_id": chunk.turn_id,
        "source": chunk.source,
        "created_at": chunk.created_at,
        "data": chunk.data,
        "generation": lease.generation,
    }


def _chunk(
    session_id: str, turn_id: str | None, source: str, created_at: int, first: int, last: int, data: bytes
) -> Chunk:
    return Chunk(
        SessionId(session_id),
        None if turn_id is None else TurnId(turn_id),
        Source(source),
        created_at,
        first,
        last,
        data,
    )
