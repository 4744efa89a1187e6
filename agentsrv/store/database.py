"""One SQLite file: a single writer with group commit, and readers that never wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import aiosqlite

from agentsrv.errors import AgentsrvError, StorageFull, Unavailable
from agentsrv.tasks import Tasks, Vitals

log = logging.getLogger(__name__)

T = TypeVar("T")
Operation = Callable[[aiosqlite.Connection], Awaitable[T]]
BulkOperation = Callable[[aiosqlite.Connection, Sequence[Any]], Awaitable[None]]
Done = Callable[[BaseException | None], None]

READERS = 2
BUSY_TIMEOUT_S = 10
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


@dataclass(slots=True)
class _Write:
    """A queued piece of the next transaction, or one that `is_alone` and outside of any.

    `must_happen`: kept and tried again while the disk is full.
    """

    run: Operation[Any] | None
    bulk: BulkOperation | None
    item: Any
    done: Callable[[Any, BaseException | None], None]
    must_happen: bool
    is_alone: bool = False


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
        synchronous: Literal["full", "normal"] = "full",
        vitals: Vitals | None = None,
    ) -> None:
        self.path = path
        self.is_full = False
        self._synchronous = synchronous
        self._vitals = vitals or Vitals()
        self._connections: list[aiosqlite.Connection] = []
        self._next_reader = 0
        self._queue: list[_Write] = []
        self._wakeup = asyncio.Event()
        self._urgent = asyncio.Event()
        self._is_closing = False
        self._tasks = Tasks("database")

    async def open(self) -> None:
        """Open the file, which is migrated. Raises sqlite3.Error; close in any case."""
        for _ in range(1 + READERS):
            self._connections.append(await _connect(self.path, self._synchronous))
        for reader in self._connections[1:]:
            await reader.execute("PRAGMA query_only = 1")
        self._tasks.spawn_vital(self._write_loop(), self._vitals, name="writer")

    @property
    def _writer(self) -> aiosqlite.Connection:
        return self._connections[0]

    async def read(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[sqlite3.Row]:
        """Run one SELECT and return all its rows. Raises Unavailable when SQLite does not answer."""
        if not self._connections:
            raise _closed()
        self._next_reader = self._next_reader % READERS + 1
        reader = self._connections[self._next_reader]
        try:
            rows = await reader.execute_fetchall(sql, parameters or {})
        except (sqlite3.Error, ValueError) as exc:
            raise _as_domain_error(exc) from exc
        return list(rows)

    async def write(self, operation: Operation[T], *, must_happen: bool = False, is_alone: bool = False) -> T:
        """Run `operation` inside the next transaction; return its result once that is committed.

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

        self._submit(_Write(operation, None, None, done, must_happen, is_alone))
        self._urgent.set()
        return await future

    def queue(self, operation: BulkOperation, item: Any, done: Done) -> None:
        """Have `operation` called with `item` and all its queued neighbours; `done` after their commit.

        For the many small appends of the log: neighbours share their statements. They always must happen.
        """
        self._submit(_Write(None, operation, item, lambda _, error: done(error), True))

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
        while self._connections:
            await self._connections.pop().close()

    def _submit(self, write: _Write) -> None:
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
            connections, self._connections = self._connections, []
            stopped = [future for connection in connections if (future := connection.stop()) is not None]
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
        try:
            results = await self._transaction(batch)
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

    async def _transaction(self, batch: list[_Write]) -> list[tuple[Any, BaseException | None]]:
        """Apply `batch` and commit. Raises sqlite3.Error when nothing of it was stored."""
        groups = _groups(batch)
        if len(groups) == 1:
            return await self._alone(groups[0])
        results: list[tuple[Any, BaseException | None]] = []
        await self._writer.execute("BEGIN IMMEDIATE")
        try:
            for group in groups:
                results += await self._apply(group)
            await self._writer.execute("COMMIT")
        except BaseException:
            if self._writer.in_transaction:
                await self._writer.execute("ROLLBACK")
            raise
        return results

    async def _alone(self, group: list[_Write]) -> list[tuple[Any, BaseException | None]]:
        """A transaction of one group, which needs no savepoint, and begins with its first statement.

        Each statement is a round trip to the connection's thread: a prompt waits for five fewer of them.
        """
        try:
            result = await self._run(group)
            await self._writer.commit()
        except BaseException as exc:
            await self._writer.rollback()
            if not _is_own_fault(exc):
                raise
            if len(group) == 1:
                return [(None, exc)]
        else:
            return [(result, None)] * len(group)
        # One of them is at fault: the others must not suffer for it.
        return [each for write in group for each in await self._alone([write])]

    async def _run(self, group: list[_Write]) -> Any:
        first = group[0]
        if first.bulk is not None:
            return await first.bulk(self._writer, [write.item for write in group])
        assert first.run is not None
        return await first.run(self._writer)

    async def _apply(self, group: list[_Write]) -> list[tuple[Any, BaseException | None]]:
        await self._writer.execute("SAVEPOINT operation")
        try:
            result = await self._run(group)
        except Exception as exc:
            if not _is_own_fault(exc):
                raise
            await self._writer.execute("ROLLBACK TO operation")
            if len(group) == 1:
                return [(None, exc)]
        else:
            return [(result, None)] * len(group)
        finally:
            if self._writer.in_transaction:
                await self._writer.execute("RELEASE operation")
        # One of them is at fault: the others must not suffer for it.
        return [each for write in group for each in await self._apply([write])]

    def _refuse(self, batch: list[_Write], error: sqlite3.Error) -> list[_Write]:
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


def _tell(results: Iterable[tuple[_Write, Any, BaseException | None]]) -> None:
    """Call each write's `done`, whatever the others do."""
    for write, result, error in results:
        try:
            write.done(result, error)
        except Exception:
            log.exception("a write's `done` failed")


def _is_own_fault(error: BaseException) -> bool:
    """Will the operation that raised this never succeed, whatever becomes of the disk and of the others?"""
    if isinstance(error, sqlite3.Error):
        return isinstance(error, sqlite3.ProgrammingError | sqlite3.IntegrityError | sqlite3.DataError)
    return isinstance(error, Exception)


def _groups(batch: list[_Write]) -> list[list[_Write]]:
    """Split into runs of neighbours that share a bulk operation; every other write is alone."""
    groups: list[list[_Write]] = []
    for write in batch:
        if groups and write.bulk is not None and groups[-1][0].bulk is write.bulk:
            groups[-1].append(write)
        else:
            groups.append([write])
    return groups


async def _connect(path: Path, synchronous: str) -> aiosqlite.Connection:
    connection = await aiosqlite.connect(path, isolation_level="IMMEDIATE", timeout=BUSY_TIMEOUT_S)
    await connection.execute_fetchall("PRAGMA journal_mode = WAL")
    await connection.execute(f"PRAGMA synchronous = {'FULL' if synchronous == 'full' else 'NORMAL'}")
    await connection.execute("PRAGMA foreign_keys = 1")
    # The default of 2 MB a connection buys nothing here: pages are in the kernel's cache.
    await connection.execute("PRAGMA cache_size = -512")
    await connection.execute("PRAGMA journal_size_limit = 16777216")
    return connection


def _as_domain_error(error: Exception) -> AgentsrvError:
    if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) in FULL_CODES:
        return StorageFull("the server's disk is full; free some space and try again")
    return Unavailable(
        "the database does not answer; see the server's log", code="database_unavailable", retry_after_s=5
    )


def _closed() -> Unavailable:
    return Unavailable("the server is shutting down; try again", code="draining", retry_after_s=5)
