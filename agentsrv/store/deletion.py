"""The deletion of a session: decided in small steps, and carried out piece by piece.

Pending, it takes no prompts any more, and may still be given up. Decided, it is gone for everybody. What it leaves
may be gigabytes: that is removed in slices between which others write, also by the next server. Only then
its id may be used again.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3

from agentsrv.errors import Unavailable
from agentsrv.model import SessionId
from agentsrv.store import events, sessions
from agentsrv.store.database import Database
from agentsrv.store.writer import Operation
from agentsrv.tasks import Tasks

SLICE_BYTES = 4 * 1024 * 1024
SLICE_ROWS = 500
"""What is removed at once: 10 to 30 ms, in which nobody else writes. A single event of 16 MiB takes 60."""

SLICE_MARKS = 20

SPARE_PAGES = 4096
"""So much free space stays in the file, for what comes next: 16 MiB."""

SLICE_PAGES = 1024

INCREMENTAL = 2
"""How SQLite calls the mode of a file that can be shortened in slices."""

WAIT_S = 5.0
"""So long who deletes a session waits until all of it is gone, and a server that starts for its write, which a full
disk refuses for ever.
"""


def begin(db: sqlite3.Connection, session_id: SessionId, *, force: bool) -> None:
    """Take no more prompts in the session. Raises NotFound, Conflict (`session_deleting`, `session_busy`).

    With `force` a turn may run in it, or wait.
    """
    sessions.require_kept(db, session_id)
    rows = db.execute(
        """
        SELECT ifnull(active_turn_id, (SELECT turn_id FROM queued_prompts WHERE session_id = :id LIMIT 1))
          FROM sessions
         WHERE id = :id
        """,
        {"id": session_id},
    ).fetchall()
    if not rows:
        raise sessions.not_found(session_id)
    for (turn_id,) in rows:
        if turn_id is not None and not force:
            raise sessions.busy(session_id, turn_id)
    db.execute("UPDATE sessions SET deletion = 'pending' WHERE id = :id", {"id": session_id})


def give_up(db: sqlite3.Connection, session_id: SessionId) -> None:
    """It is a session like all others again."""
    db.execute(
        "UPDATE sessions SET deletion = NULL WHERE id = :id AND deletion = 'pending'", {"id": session_id}
    )


def give_up_all(db: sqlite3.Connection) -> None:
    """What another server did not come to decide is not done."""
    db.execute("UPDATE sessions SET deletion = NULL WHERE deletion = 'pending'")


def decide(db: sqlite3.Connection, session_id: SessionId) -> None:
    """From now on there is no such session. No lease on it holds any more."""
    db.execute(
        """
        UPDATE sessions
           SET deletion = 'final', generation = generation + 1, active_turn_id = NULL
         WHERE id = :id AND deletion = 'pending'
        """,
        {"id": session_id},
    )


def remove_slice(db: sqlite3.Connection, session_id: SessionId) -> bool:
    """Remove some of what a deleted session has left; True when that was the last of it."""
    if not events.delete_first(db, session_id, max_bytes=SLICE_BYTES, max_rows=SLICE_ROWS):
        return False
    queued = db.execute(PROMPTS, {"id": session_id})
    steered = db.execute(STEERED, {"id": session_id, "rows": SLICE_ROWS})
    turns = db.execute(TURNS, {"id": session_id, "rows": SLICE_ROWS})
    marks = db.execute(MARKS, {"id": session_id, "rows": SLICE_MARKS})
    if queued.rowcount or SLICE_ROWS in (steered.rowcount, turns.rowcount) or marks.rowcount == SLICE_MARKS:
        return False
    db.execute("DELETE FROM sessions WHERE id = :id AND deletion = 'final'", {"id": session_id})
    return True


# A single one may be megabytes.
PROMPTS = """
    DELETE FROM queued_prompts
     WHERE turn_id = (SELECT turn_id FROM queued_prompts WHERE session_id = :id LIMIT 1)
"""

STEERED = """
    DELETE FROM steered_messages
     WHERE session_id = :id
       AND message_id IN (SELECT message_id FROM steered_messages WHERE session_id = :id LIMIT :rows)
"""

MARKS = "DELETE FROM marks WHERE rowid IN (SELECT rowid FROM marks WHERE session_id = :id LIMIT :rows)"

TURNS = "DELETE FROM turns WHERE id IN (SELECT id FROM turns WHERE session_id = :id LIMIT :rows)"


class Remover:
    """Removes what deleted sessions have left, in the background, and gives the space back to the disk."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._tasks = Tasks("remover")
        self._lock = asyncio.Lock()

    async def start(self) -> None:
        """Go on with what an earlier server has left."""
        giving_up = self._tasks.start(self._db.write(give_up_all, must_happen=True), name="give-up")
        await asyncio.wait([giving_up], timeout=WAIT_S)
        rows = await self._db.read("SELECT id FROM sessions WHERE deletion = 'final'")
        for (session_id,) in rows:
            self._tasks.spawn(self._remove(SessionId(session_id)), name=f"remove:{session_id}")

    async def remove(self, session_id: SessionId) -> None:
        """Remove what a deleted session has left. Returns when that is done, or goes on behind."""
        removing = self._tasks.start(self._remove(session_id), name=f"remove:{session_id}")
        await asyncio.wait([removing], timeout=WAIT_S)

    async def close(self) -> None:
        """The next server goes on. Closing twice is fine."""
        await self._tasks.close()

    async def _remove(self, session_id: SessionId) -> None:
        # One at a time: more would only make others wait longer. Unavailable: the server stops.
        async with self._lock:
            with contextlib.suppress(Unavailable):
                await self._repeat(lambda db: remove_slice(db, session_id), is_alone=False)
                await self._give_back()

    async def _give_back(self) -> None:
        """Shorten the file by what is free in it; one from before there was that goes on with its free space."""
        (mode,) = (await self._db.read("PRAGMA auto_vacuum"))[0]
        if mode == INCREMENTAL:
            await self._repeat(shorten, is_alone=True)

    async def _repeat(self, operation: Operation[bool], *, is_alone: bool) -> None:
        """Until it returns True, and for half of the time at most."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not await self._db.write(operation, must_happen=True, is_alone=is_alone):
            await asyncio.sleep(loop.time() - began)
            began = loop.time()


def shorten(db: sqlite3.Connection) -> bool:
    """Give a slice of the file's free space back to the disk; True when there is no more than should stay.

    Outside of a transaction.
    """
    for (free,) in db.execute("PRAGMA freelist_count").fetchall():
        if free > SPARE_PAGES:
            # `execute` would stop after the first page.
            db.executescript(f"PRAGMA incremental_vacuum({SLICE_PAGES})")
            return False
    return True
