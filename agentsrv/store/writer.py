"""The connection that writes, in a thread of its own: a batch of writes is one transaction and one trip there."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from msgspec import Struct

from agentsrv.threads import Pool

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]
BulkOperation = Callable[[sqlite3.Connection, Sequence[Any]], None]
"""Both run in the writer's thread: they get what they need handed over, and give back what they find."""

Synchronous = Literal["full", "normal"]
Result = tuple[Any, BaseException | None]

BUSY_TIMEOUT_S = 10

PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA foreign_keys = 1",
    # The default of 2 MB a connection buys nothing here: pages are in the kernel's cache.
    "PRAGMA cache_size = -512",
    "PRAGMA journal_size_limit = 16777216",
)


class Write(Struct):
    """A queued piece of the next transaction, or one that `is_alone` and outside of any.

    `must_happen`: kept and tried again while the disk is full. `on_begin` is called when its transaction is about
    to begin, at the first try; `item` is not changed from then on.
    """

    run: Operation[Any] | None
    bulk: BulkOperation | None
    item: Any
    done: Callable[[Any, BaseException | None], None]
    must_happen: bool
    is_alone: bool = False
    on_begin: Callable[[], None] | None = None


class Writer:
    """`open` first; `close` in any case."""

    def __init__(self, path: Path, synchronous: Synchronous) -> None:
        self._path = path
        self._synchronous = synchronous
        self._thread = Pool("database", 1)
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Raises sqlite3.Error."""
        self._connection = await self._thread.run(self._connect)

    async def apply(self, batch: list[Write]) -> list[Result]:
        """Apply `batch` and commit. Raises sqlite3.Error when nothing of it was stored."""
        assert self._connection is not None
        return await self._thread.run(_apply, self._connection, batch)

    async def close(self) -> None:
        """Twice is fine."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._thread.run_anyway(connection.close)
        await self._thread.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        for pragma in (*PRAGMAS, f"PRAGMA synchronous = {self._synchronous}"):
            connection.execute(pragma).fetchall()
        return connection


def _apply(connection: sqlite3.Connection, batch: list[Write]) -> list[Result]:
    if batch[0].is_alone:
        return [_outside(connection, batch[0])]
    results: list[Result] = []
    connection.execute("BEGIN IMMEDIATE")
    try:
        for group in _groups(batch):
            results += _apply_group(connection, group)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return results


def _outside(connection: sqlite3.Connection, write: Write) -> Result:
    try:
        return _run(connection, [write]), None
    except Exception as exc:
        if not _is_own_fault(exc):
            raise
        return None, exc


def _apply_group(connection: sqlite3.Connection, group: list[Write]) -> list[Result]:
    connection.execute("SAVEPOINT operation")
    try:
        result = _run(connection, group)
    except Exception as exc:
        if not _is_own_fault(exc):
            raise
        connection.execute("ROLLBACK TO operation")
        if len(group) == 1:
            return [(None, exc)]
    else:
        return [(result, None)] * len(group)
    finally:
        if connection.in_transaction:
            connection.execute("RELEASE operation")
    # One of them is at fault: the others must not suffer for it.
    return [each for write in group for each in _apply_group(connection, [write])]


def _run(connection: sqlite3.Connection, group: list[Write]) -> Any:
    first = group[0]
    if first.bulk is not None:
        return first.bulk(connection, [write.item for write in group])
    assert first.run is not None
    return first.run(connection)


def _is_own_fault(error: BaseException) -> bool:
    """Will the operation that raised this never succeed, whatever becomes of the disk and of the others?"""
    if isinstance(error, sqlite3.Error):
        return isinstance(error, sqlite3.ProgrammingError | sqlite3.IntegrityError | sqlite3.DataError)
    return isinstance(error, Exception)


def _groups(batch: list[Write]) -> list[list[Write]]:
    """Split into runs of neighbours that share a bulk operation; every other write is alone."""
    groups: list[list[Write]] = []
    for write in batch:
        if groups and write.bulk is not None and groups[-1][0].bulk is write.bulk:
            groups[-1].append(write)
        else:
            groups.append([write])
    return groups
