"""One SQLite file: a single writer with group commit, and readers that never wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from agentsrv.errors import AgentsrvError, StorageFull, Unavailable
from agentsrv.store.writer import (
    BUSY_TIMEOUT_S,
    PRAGMAS,
    BulkOperation,
    Operation,
    Synchronous,
    Write,
    Writer,
)
from agentsrv.tasks import Tasks, Vitals

log = logging.getLogger(__name__)

T = TypeVar("T")
Done = Callable[[BaseException | None], None]

READERS = 2
RETRY_AFTER_S = 0.5
GATHER_S = 0.25
CLOSE_TIMEOUT_S = 5.0

# How SQLite reports that the disk is full: its own code, or a failed write underneath (WAL, shared memory).
FULL_CODES = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_SHMSIZE,
}


class Database:
    """Queued writes become one transaction per commit of the one before: no timer, and one fsync for all.

    Only writes that nobody waits for (`queue`) are gathered a moment longer: many small transactions would
    cost the event loop more than they are worth. A write is durable when its `done` is called or its await
    returns; once the writer has ended, whatever has ended it, all that still waits fails. Writes are applied
    in the order in which they were queued. A caller that is cancelled does not undo its write.
    """

    def __init__(
        self,
        path: Path,
        *,
        synchronous: Synchronous = "full",
        vitals: Vitals | None = None,
    ) -> None:
        self.path = path
        self.is_full = False
        self._vitals = vitals or Vitals()
        self._writer = Writer(path, synchronous)
        self._readers: list[aiosqlite.Connection] = []
        self._next_reader = 0
        self._queue: list[Write] = []
        self._wakeup = asyncio.Event()
        self._urgent = asyncio.Event()
        self._is_closing = False
        self._tasks = Tasks("database")

    async def open(self) -> None:
        """Open the file, which is migrated. Raises sqlite3.Error; close in any case."""
        await self._writer.open()
        for _ in range(READERS):
            self._readers.append(await _connect(self.path))
        self._tasks.spawn_vital(self._write_loop(), self._vitals, name="writer")

    async def read(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[sqlite3.Row]:
        """Run one SELECT and return all its rows. Raises Unavailable when SQLite does not answer."""
        if not self._readers:
            raise _closed()
        self._next_reader = (self._next_reader + 1) % len(self._readers)
        reader = self._readers[self._next_reader]
        try:
            rows = await reader.execute_fetchall(sql, parameters or {})
        except (sqlite3.Error, ValueError) as exc:
            raise _as_domain_error(exc) from exc
        return list(rows)

    async def write(self, operation: Operation[T], *, must_happen: bool = False, is_alone: bool = False) -> T:
        """Run `operation` inside the next transaction, in the writer's thread; its result once that is committed.

        An exception of `operation` undoes what it did and nothing else. Raises StorageFull when the disk
        is full, unless it `must_happen`: then it waits for space. `is_alone`: no transaction has begun.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def done(result: T, error: BaseException | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self._submit(Write(operation, None, None, done, must_happen, is_alone))
        self._urgent.set()
        return await future

    def queue(
        self, operation: BulkOperation, item: Any, done: Done, on_begin: Callable[[], None] | None = None
    ) -> None:
        """Have `operation` called with `item` and all its queued neighbours; `done` after their commit.

        For the many small appends of the log: neighbours share their statements. They always must happen. `item`
        may change until `on_begin` is called.
        """
        self._submit(
            Write(None, operation, item, lambda _, error: done(error), must_happen=True, on_begin=on_begin)
        )

    def hurry(self) -> None:
        """Wait for no more to be queued."""
        self._urgent.set()

    async def close(self) -> None:
        """Commit what is queued (for some seconds at most) and close. Closing twice is fine."""
        self._is_closing = True
        self._wakeup.set()
        self._urgent.set()
        await self._tasks.join(CLOSE_TIMEOUT_S)
        await self._tasks.close()
        await self._writer.close()
        while self._readers:
            await self._readers.pop().close()

    def _submit(self, write: Write) -> None:
        if self._is_closing:
            _tell([(write, None, _closed())])
            return
        self._queue.append(write)
        self._wakeup.set()

    async def _write_loop(self) -> None:
        try:
            while self._queue or not self._is_closing:
                if self._queue:
                    await self._gather()
                    await self._write_queue()
                else:
                    await self._wakeup.wait()
                    self._wakeup.clear()
        except BaseException:
            # Perhaps nobody closes any more, and their threads would keep the process from ending.
            readers, self._readers = self._readers, []
            stopped = [future for reader in readers if (future := reader.stop()) is not None]
            await asyncio.wait(stopped, timeout=CLOSE_TIMEOUT_S)
            raise
        finally:
            self._is_closing = True
            queue, self._queue = self._queue, []
            _tell([(write, None, _closed()) for write in queue])

    async def _gather(self) -> None:
        """Wait a moment for more, unless somebody waits for what is queued."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GATHER_S):
                await self._urgent.wait()
        if not self._is_closing:
            self._urgent.clear()

    async def _write_queue(self) -> None:
        """One transaction of all that is queued. A method of its own, so that idling keeps nothing alive."""
        count = next((n for n, write in enumerate(self._queue) if write.is_alone), len(self._queue))
        batch, self._queue = self._queue[: count or 1], self._queue[count or 1 :]
        if self._queue:
            self._urgent.set()
        for write in batch:
            if write.on_begin is not None:
                write.on_begin()
        try:
            results = await self._writer.apply(batch)
        except sqlite3.Error as exc:
            self._queue = self._refuse(batch, exc) + self._queue
            await asyncio.sleep(RETRY_AFTER_S)
        except BaseException:
            self._queue = batch + self._queue  # For the one who tells them that there is no writer any more.
            raise
        else:
            self.is_full = False
            # Not from here: what is told may do anything, and the writer must go on.
            told = [(write, *result) for write, result in zip(batch, results, strict=True)]
            asyncio.get_running_loop().call_soon(_tell, told)

    def _refuse(self, batch: list[Write], error: sqlite3.Error) -> list[Write]:
        """Tell the writes that can fail that they did; return the others, in order."""
        domain_error = _as_domain_error(error)
        if isinstance(domain_error, StorageFull) and not self.is_full:
            log.error("the disk that holds %s is full; events wait for space", self.path)
        elif not isinstance(domain_error, StorageFull):
            log.error("the database refused a transaction: %s", error)
        self.is_full = isinstance(domain_error, StorageFull)
        kept = []
        for write in batch:
            if write.must_happen:
                kept.append(write)
            else:
                write.done(None, domain_error)
        return kept


def _tell(results: Iterable[tuple[Write, Any, BaseException | None]]) -> None:
    """Call each write's `done`, whatever the others do."""
    for write, result, error in results:
        try:
            write.done(result, error)
        except Exception:
            log.exception("a write's `done` failed")


async def _connect(path: Path) -> aiosqlite.Connection:
    connection = await aiosqlite.connect(path, timeout=BUSY_TIMEOUT_S)
    for pragma in (*PRAGMAS, "PRAGMA query_only = 1"):
        await connection.execute_fetchall(pragma)
    return connection


def _as_domain_error(error: Exception) -> AgentsrvError:
    if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) in FULL_CODES:
        return StorageFull("the server's disk is full; free some space and try again")
    return Unavailable(
        "the database does not answer; see the server's log", code="database_unavailable", retry_after_s=5
    )


def _closed() -> Unavailable:
    return Unavailable("the server is shutting down; try again", code="draining", retry_after_s=5)
