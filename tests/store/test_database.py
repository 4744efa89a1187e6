"""Group commit, fencing, and a disk that is full."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

import pytest

from agentsrv.errors import Conflict, StorageFull, Unavailable
from agentsrv.model import Chunk, Lease, RunnerId, Session, SessionId, Source, Turn, TurnId, TurnStatus
from agentsrv.store import events, sessions
from agentsrv.store.database import Database
from agentsrv.store.events import Append
from agentsrv.store.health import HealthCheck
from agentsrv.store.migrate import migrate
from agentsrv.tasks import Vitals
from tests.store.kit import TIMEOUT_S

ANN = SessionId("ann")


async def add_session(db: Database, session_id: SessionId = ANN) -> Lease:
    session = Session(session_id, None, "claude-code", "/", None, None, 1, 1)
    await db.write(lambda connection: sessions.insert(connection, session))
    turn = Turn(TurnId("t"), session_id, 0, TurnStatus.RUNNING, 1)
    generation = await db.write(lambda connection: sessions.acquire_lease(connection, session, turn))
    return Lease(session_id, generation)


def append_of(lease: Lease, first: int, count: int = 1) -> Append:
    data = b'{"n":1}\n' * count
    chunk = Chunk(lease.session_id, TurnId("t"), Source.AGENT, 1, first, first + count - 1, data)
    append = Append(lease, RunnerId("r"), lambda *_: None)
    append.add(chunk, 0, None)
    return append


async def queued(db: Database, append: Append) -> BaseException | None:
    """Queue an append and wait for its commit."""
    done: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
    db.queue(events.append_all, append, done.set_result)
    return await done


async def test_writes_that_wait_for_each_other_share_a_transaction(db: Database) -> None:
    """A hundred writers at once cost a few commits, not a hundred."""
    lease = await add_session(db)
    batches: list[int] = []

    def count(connection: sqlite3.Connection, items: Sequence[Any]) -> None:
        batches.append(len(items))
        events.append_all(connection, items)

    done = asyncio.Event()
    for number in range(100):
        last = number == 99
        db.queue(count, append_of(lease, number + 1), lambda _, last=last: done.set() if last else None)  # type: ignore[misc]
    await asyncio.wait_for(done.wait(), TIMEOUT_S)

    assert sum(batches) == 100
    assert len(batches) <= 3
    assert await events.last_seq(db, ANN) == 100


async def test_failed_operation_takes_no_neighbour_with_it(db: Database) -> None:
    """One write of a shared transaction is refused; the ones around it are stored."""
    await add_session(db)
    session = Session(ANN, None, "claude-code", "/", None, None, 1, 1)
    other = Turn(TurnId("other"), ANN, 0, TurnStatus.RUNNING, 2)
    results = await asyncio.gather(
        db.write(lambda c: sessions.update(c, ANN, {"name": "first"}, 2)),
        db.write(lambda c: sessions.acquire_lease(c, session, other)),
        db.write(lambda c: sessions.update(c, ANN, {"model": "second"}, 2)),
        return_exceptions=True,
    )
    found = await sessions.find(db, ANN)

    assert isinstance(results[1], Conflict)
    assert found is not None
    assert (found.name, found.model) == ("first", "second")


async def test_write_that_can_never_succeed_fails_alone(db: Database) -> None:
    """What SQLite cannot store is refused, though it must happen; neighbours and later writes are stored."""
    lease = await add_session(db)

    async def rename(name: Any) -> None:
        await db.write(lambda c: sessions.update(c, ANN, {"name": name}, 2), must_happen=True)

    writes: list[Awaitable[BaseException | None]] = [
        rename(odd) for odd in ("\ud800", {"a": 1}, 10**30, "kept")
    ]
    writes += [queued(db, append_of(lease, first)) for first in (1, 1, 3)]
    async with asyncio.timeout(TIMEOUT_S):
        results = await asyncio.gather(*writes, return_exceptions=True)
    with pytest.raises(UnicodeEncodeError):
        await rename("\ud800")
    session = await sessions.find(db, ANN)

    assert [type(result) for result in results[:3]] == [
        UnicodeEncodeError,
        sqlite3.ProgrammingError,
        OverflowError,
    ]
    assert [type(result) for result in results[3:]] == [
        type(None),
        type(None),
        sqlite3.IntegrityError,
        type(None),
    ]
    assert session is not None
    assert (session.name, await events.last_seq(db, ANN)) == ("kept", 3)


async def test_caller_that_is_cancelled_does_not_undo_its_write(db: Database) -> None:
    """A client that goes away in the middle of a write leaves a whole write behind."""
    await add_session(db)
    writing = asyncio.get_running_loop().create_task(
        db.write(lambda c: sessions.update(c, ANN, {"name": "kept"}, 2))
    )
    await asyncio.sleep(0)
    writing.cancel()
    await db.write(lambda c: sessions.update(c, ANN, {"model": "next"}, 3))
    session = await sessions.find(db, ANN)

    assert session is not None
    assert session.name == "kept"


async def test_stale_lease_writes_nothing(db: Database) -> None:
    """An owner whose lease is not the newest is refused by the database; its neighbours are not."""
    stale = await add_session(db)
    other = await add_session(db, SessionId("bob"))
    fresh = Lease(ANN, stale.generation + 1)
    await db.write(lambda c: c.execute("UPDATE sessions SET generation = generation + 1 WHERE id = 'ann'"))
    appends = [append_of(stale, 1), append_of(other, 1), append_of(fresh, 1)]
    await asyncio.gather(*(queued(db, append) for append in appends))

    assert [append.is_stale for append in appends] == [True, False, False]
    assert [len(await events.page(db, name, 0, 1000)) for name in (ANN, SessionId("bob"))] == [1, 1]


async def test_page_is_bounded_by_bytes_and_never_empty(db: Database) -> None:
    """History is read piece by piece: about as much as asked for, but at least one chunk."""
    lease = await add_session(db)
    for first in (1, 11, 21):
        await queued(db, append_of(lease, first, 10))

    assert [chunk.first_seq for chunk in await events.page(db, ANN, 0, 1)] == [1]
    assert [chunk.first_seq for chunk in await events.page(db, ANN, 0, 160)] == [1, 11]
    assert [chunk.first_seq for chunk in await events.page(db, ANN, 15, 1000)] == [11, 21]
    assert await events.page(db, ANN, 30, 1000) == []


async def test_full_disk_refuses_requests_keeps_events_and_recovers(db: Database) -> None:
    """While there is no space requests get StorageFull and events wait; later all events are there."""
    lease = await add_session(db)
    pages = (await db.read("PRAGMA page_count"))[0][0]
    # SQLite's own limit on the file's size gives the same SQLITE_FULL that a full disk gives.
    await db.write(lambda c: c.execute(f"PRAGMA max_page_count = {pages}").fetchall(), is_alone=True)
    waiting = asyncio.get_running_loop().create_task(queued(db, append_of(lease, 1, 20_000)))
    large = Session(SessionId("large"), "x" * 100_000, "claude-code", "/", None, None, 1, 1)
    with pytest.raises(StorageFull):
        await db.write(lambda c: sessions.insert(c, large))
    was_full = db.is_full
    await free_space(db)

    assert was_full
    assert await asyncio.wait_for(waiting, TIMEOUT_S) is None
    assert await events.last_seq(db, ANN) == 20_000
    assert not db.is_full


async def free_space(db: Database) -> None:
    connection = db._writer._connection
    assert connection is not None
    connection.execute("PRAGMA max_page_count = 1000000").fetchall()


async def test_closed_database_says_that_the_server_stops(db: Database) -> None:
    """What comes too late is told so; closing twice is fine."""
    await db.close()
    await db.close()

    with pytest.raises(Unavailable):
        await db.write(lambda c: sessions.update(c, ANN, {}, 1))


async def test_readers_cannot_write(db: Database) -> None:
    """A SELECT that is none is refused, whatever its text is."""
    with pytest.raises(Unavailable) as caught:
        await db.read("DELETE FROM sessions")

    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)


async def test_listener_that_fails_harms_nobody(db: Database) -> None:
    """What is told of a commit may do anything: neighbours are told, and the writer goes on."""
    lease = await add_session(db)

    def fail(_: BaseException | None) -> None:
        raise ValueError("broken")

    db.queue(events.append_all, append_of(lease, 1), fail)
    assert await queued(db, append_of(lease, 2)) is None
    db.queue(events.append_all, append_of(lease, 3), fail)

    assert await queued(db, append_of(lease, 4)) is None
    assert await events.last_seq(db, ANN) == 4


async def test_when_the_writer_ends_all_that_waits_fails(tmp_path: Path) -> None:
    """Nobody waits for ever for a commit that will never come, and the server knows that it cannot go on."""
    migrate(tmp_path / "db")
    vitals = Vitals()
    db = Database(tmp_path / "db", vitals=vitals)
    await db.open()
    lease = await add_session(db)
    waiting = asyncio.gather(
        queued(db, append_of(lease, 1)),
        db.write(lambda c: sessions.update(c, ANN, {}, 1)),
        return_exceptions=True,
    )
    await asyncio.sleep(0)
    (writer,) = [task for task in asyncio.all_tasks() if task.get_name() == "database:writer"]
    writer.cancel()
    async with asyncio.timeout(TIMEOUT_S):
        results = await waiting

    assert [type(result) for result in results] == [Unavailable, Unavailable]
    assert vitals.failed == "database:writer"
    with pytest.raises(Unavailable):
        await db.write(lambda c: sessions.update(c, ANN, {}, 1))
    with pytest.raises(Unavailable):
        await sessions.find(db, ANN)
    await db.close()


async def test_many_who_ask_whether_it_is_well_are_one(db: Database) -> None:
    """A thousand at once cost what one costs; who asks afterwards gets what is so then."""
    asked: list[int] = []

    async def redis_answers() -> bool:
        asked.append(len(asked))
        return len(asked) == 1

    health = HealthCheck(db, Vitals(), redis_answers)
    found = await asyncio.gather(*(health.check() for _ in range(1000)))
    later = await health.check()
    await health.close()

    assert {each.redis_connected for each in found} == {True}
    assert (len(asked), later.redis_connected, later.database) == (2, False, True)
