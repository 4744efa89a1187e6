"""The event log's rows: a row is a chunk of consecutive events."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

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

ADVANCE = "UPDATE runners SET spool_offset = :offset, fold = ifnull(:fold, fold) WHERE id = :runner_id"


class StaleLease(Conflict):
    """The session was taken over by somebody else, or deleted: this writer has no business there any more."""

    default_code = "stale_lease"


class Append(Struct):
    """Chunks of one runner's output, and how far its spool was read for them. More may be added until `is_taken`.

    fold: what its turn has come to with them; None: not worth storing yet.
    """

    lease: Lease
    runner_id: RunnerId
    on_saved: Callable[[int, bool], None]
    """Gets the spool offset, and whether all this was refused because the lease was too old."""
    chunks: list[Chunk] = field(default_factory=list)
    spool_offset: int = 0
    fold: str | None = None
    is_taken: bool = False
    """By a transaction: it is what it is now."""
    is_stale: bool = False
    size: int = 0
    """Bytes of all chunks."""

    def take(self) -> None:
        self.is_taken = True

    def add(self, chunk: Chunk, spool_offset: int, fold: str | None) -> None:
        self.chunks.append(chunk)
        self.size += len(chunk.data)
        self.spool_offset = spool_offset
        if fold is not None:
            self.fold = fold


def append_all(db: sqlite3.Connection, appends: Sequence[Append]) -> None:
    """Insert chunks and move their spool offsets. A stale one is left out and marked `is_stale`.

    Chunks that continue each other become one row.
    """
    runs = _runs(appends)
    cursor = db.executemany(INSERT, [_row(_joined(run.chunks), run.lease) for run in runs])
    if cursor.rowcount != len(runs):
        _mark_stale(db, appends)
    db.executemany(ADVANCE, _advances(appends))


def _advances(appends: Sequence[Append]) -> list[dict[str, object]]:
    """How far each runner's spool is read now, and its newest fold."""
    found: dict[RunnerId, dict[str, object]] = {}
    for append in appends:
        if not append.is_stale:
            advance = found.setdefault(append.runner_id, {"runner_id": append.runner_id, "fold": None})
            advance["offset"] = append.spool_offset
            advance["fold"] = append.fold or advance["fold"]
    return list(found.values())


def _mark_stale(db: sqlite3.Connection, appends: Sequence[Append]) -> None:
    """Find out which of them were left out."""
    for lease in {append.lease for append in appends}:
        rows = db.execute(
            "SELECT 1 FROM sessions WHERE id = :session_id AND generation = :generation",
            {"session_id": lease.session_id, "generation": lease.generation},
        ).fetchall()
        if not rows:
            for append in appends:
                append.is_stale = append.is_stale or append.lease == lease


def insert(db: sqlite3.Connection, chunk: Chunk, lease: Lease) -> None:
    """Store a chunk that the server made. Raises StaleLease."""
    cursor = db.execute(INSERT, _row(chunk, lease))
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


async def find(db: Database, session_id: SessionId, seq: Seq) -> tuple[Chunk, bytes] | None:
    """One stored event, and the chunk that it is in."""
    for chunk in await page(db, session_id, seq - 1, 0):
        return chunk, chunk.lines()[seq - chunk.first_seq]
    return None


async def written_by(
    db: Database, source: Source, session_id: SessionId, first: Seq, last: Seq
) -> list[Chunk]:
    """What one of those who write has added to the log in this range."""
    rows = await db.read(
        """
        SELECT session_id, turn_id, source, created_at, first_seq, last_seq, data
          FROM events
         WHERE session_id = :session_id AND last_seq BETWEEN :first AND :last AND source = :source
         ORDER BY last_seq
        """,
        {"session_id": session_id, "first": first, "last": last, "source": source},
    )
    return [_chunk(*row) for row in rows]


async def has_any(db: Database, source: Source, session_id: SessionId, after: Seq) -> bool:
    """Has one of those who write added anything after an event?"""
    rows = await db.read(
        """
        SELECT 1 FROM events
         WHERE session_id = :session_id AND last_seq > :after AND source = :source
         LIMIT 1
        """,
        {"session_id": session_id, "after": after, "source": source},
    )
    return bool(rows)


def delete_first(db: sqlite3.Connection, session_id: SessionId, *, max_bytes: int, max_rows: int) -> bool:
    """Delete a session's oldest chunks, about so much, and one at least; True when none is left."""
    rows = db.execute(
        """
        SELECT last_seq, length(data)
          FROM events
         WHERE session_id = :session_id
         ORDER BY last_seq
         LIMIT :rows
        """,
        {"session_id": session_id, "rows": max_rows},
    ).fetchall()
    if not (sizes := list(rows)):
        return True
    upto = _end_of_page(sizes, max_bytes)
    db.execute(
        "DELETE FROM events WHERE session_id = :session_id AND last_seq <= :upto",
        {"session_id": session_id, "upto": upto},
    )
    return len(sizes) < max_rows and upto == sizes[-1][0]


class _Run(Struct):
    """Chunks that become one row."""

    chunks: list[Chunk]
    lease: Lease
    size: int

    def takes(self, chunk: Chunk, lease: Lease) -> bool:
        """Does `chunk` continue this row, and has it room for it?"""
        last = self.chunks[-1]
        return (
            chunk.first_seq == last.last_seq + 1
            and chunk.turn_id == last.turn_id
            and self.size + len(chunk.data) <= MAX_ROW_BYTES
            and (lease is self.lease or lease == self.lease)
        )


def _runs(appends: Sequence[Append]) -> list[_Run]:
    """Group chunks that continue each other: same turn, next seq, and not too much for one row."""
    runs: list[_Run] = []
    newest: dict[SessionId, _Run] = {}
    for append in appends:
        for chunk in append.chunks:
            run = newest.get(chunk.session_id)
            if run is not None and run.takes(chunk, append.lease):
                run.chunks.append(chunk)
                run.size += len(chunk.data)
            else:
                newest[chunk.session_id] = run = _Run([chunk], append.lease, len(chunk.data))
                runs.append(run)
    return runs


def _joined(chunks: list[Chunk]) -> Chunk:
    first, last = chunks[0], chunks[-1]
    if first is last:
        return first
    data = b"".join([chunk.data for chunk in chunks])
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
