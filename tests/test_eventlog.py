"""Append and follow: no gap, no seam, no cost for the slow."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Callable
from contextlib import aclosing

import pytest

from agentsrv.eventlog import ALL_TAILS_BYTES, CONGESTED_BYTES, TAIL_BYTES, EventLog, SessionLog
from agentsrv.model import Chunk, Lease, RunnerId, Seq, Session, SessionId, Source, Turn, TurnId, TurnStatus
from agentsrv.store import events, sessions
from agentsrv.store.database import Database
from tests.kit import TIMEOUT_S

ANN = SessionId("ann")
LEASE = Lease(ANN, 1)


@pytest.fixture
async def log(db: Database) -> EventLog:
    session = Session(ANN, None, "claude-code", "/", None, None, 1, 1)
    await db.write(lambda c: sessions.insert(c, session))
    turn = Turn(TurnId("t"), ANN, 0, TurnStatus.RUNNING, 1)
    await db.write(lambda c: sessions.acquire_lease(c, session, turn))
    return EventLog(db)


def append(log: SessionLog, *lines: bytes, on_saved: Callable[[bool], None] = lambda _: None) -> None:
    """Append lines of an agent."""
    data = b"".join(line + b"\n" for line in lines)
    log.lease = LEASE
    log.append(TurnId("t"), data, len(lines), RunnerId("r"), 0, lambda _, is_stale: on_saved(is_stale))


async def append_and_save(log: SessionLog, *lines: bytes) -> bool:
    """Append lines of an agent and wait for their commit; was the lease stale?"""
    saved: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    append(log, *lines, on_saved=saved.set_result)
    return await saved


async def collect(log: EventLog, after: Seq, last: Seq) -> list[tuple[Seq, bytes]]:
    found: list[tuple[Seq, bytes]] = []
    async with asyncio.timeout(TIMEOUT_S):
        async for chunk in log.follow(ANN, after, lambda: last):
            found += enumerate(chunk.lines(), chunk.first_seq)
    return found


async def test_follower_sees_agent_output_before_its_commit(log: EventLog) -> None:
    """What the agent wrote is shown at once; the disk comes behind."""
    session_log = await log.session(ANN)
    saved: list[bool] = []
    append(session_log, b"1", on_saved=saved.append)
    seen = session_log.recent(0)

    assert seen is not None
    assert ([chunk.data for chunk in seen], saved) == ([b"1\n"], [])


async def test_follower_gets_every_event_once_whatever_its_age(log: EventLog) -> None:
    """From any point on: what is only on disk, what is in memory and what comes later, without a seam."""
    session_log = await log.session(ANN)
    lines = [b"%d" % number + b"x" * 1000 for number in range(4000)]
    for first in range(0, 3000, 10):
        append(session_log, *lines[first : first + 10])
    following = asyncio.gather(*(collect(log, after, 4000) for after in (0, 7, 1500, 2999, 3000)))
    for first in range(3000, 4000, 500):
        await append_and_save(session_log, *lines[first : first + 500])

    for after, found in zip((0, 7, 1500, 2999, 3000), await following, strict=True):
        assert found == list(enumerate(lines, 1))[after:]


async def test_old_events_leave_the_memory_and_not_the_disk(log: EventLog) -> None:
    """A long session costs a bounded tail of memory."""
    session_log = await log.session(ANN)
    await asyncio.gather(*(append_and_save(session_log, b"x" * 60_000) for _ in range(60)))

    assert log.tail_bytes <= TAIL_BYTES < ALL_TAILS_BYTES
    assert session_log.recent(0) is None
    assert len(await collect(log, 0, 60)) == 60


async def test_slow_follower_holds_up_nobody(log: EventLog) -> None:
    """While one follower stands still, another one reads to the end."""
    session_log = await log.session(ANN)
    append(session_log, b"1")
    async with aclosing(log.follow(ANN, 0, lambda: None)) as slow:
        await anext(slow)
        for number in range(2, 50):
            append(session_log, b"%d" % number)

        assert len(await collect(log, 0, 49)) == 49
        assert (await anext(slow)).first_seq == 2


async def test_agent_output_waits_while_the_server_adds_an_event(log: EventLog) -> None:
    """During a hold the log is not ready; after it whoever appends is told to go on."""
    session_log = await log.session(ANN)
    resumed: list[bool] = []
    session_log.listeners.add(lambda: resumed.append(session_log.is_ready))
    async with session_log.hold() as seq:
        assert (seq, session_log.is_ready) == (1, False)
        session_log.publish(Chunk(ANN, None, Source.SERVER, 0, seq, seq, b"{}\n"))
    await asyncio.sleep(0)

    assert resumed == [True]
    assert session_log.last_seq == 1


async def test_closing_ends_followers_when_they_have_everything(log: EventLog) -> None:
    """At shutdown a stream still delivers what is there, and then ends."""
    session_log = await log.session(ANN)
    append(session_log, b"1", b"2")
    log.close()
    found = [chunk.last_seq async for chunk in log.follow(ANN, 0, lambda: None)]

    assert found == [2]


async def test_log_that_nobody_uses_costs_nothing(log: EventLog) -> None:
    """After the last follower of a session is gone its memory is free."""
    session_log = await log.session(ANN)
    await append_and_save(session_log, b"x" * 1000)
    del session_log
    gc.collect()

    assert log.open_session(ANN) is None
    assert log.tail_bytes == 0
    assert (await log.session(ANN)).last_seq == 1


async def test_stored_seqs_are_the_ones_that_were_shown(log: EventLog) -> None:
    """What a follower saw as number n is number n on disk, where chunks that were committed together are one."""
    session_log = await log.session(ANN)
    append(session_log, b"a", b"b")
    await append_and_save(session_log, b"c")
    await append_and_save(session_log, b"d")
    stored = await events.page(log.db, ANN, 0, 1000)

    assert [(chunk.first_seq, chunk.lines()) for chunk in stored] == [(1, [b"a", b"b", b"c"]), (4, [b"d"])]


async def test_listener_runs_on_nobodys_stack(log: EventLog) -> None:
    """Who goes on when the log is ready again, and fails at it, stops neither the writer nor who held the log."""
    session_log = await log.session(ANN)
    running: list[str] = []

    def fail() -> None:
        task = asyncio.current_task()
        running.append(task.get_name() if task else "nobody")
        raise ValueError("broken")

    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    session_log.listeners.add(fail)
    async with session_log.hold():
        pass
    append(session_log, b"x" * (CONGESTED_BYTES + 1))
    assert not session_log.is_ready
    await append_and_save(session_log, b"2")
    await asyncio.sleep(0)

    assert running == ["nobody", "nobody"]
    assert not await append_and_save(session_log, b"3")


@pytest.mark.parametrize("seed", range(20))
async def test_what_is_taken_at_once_and_what_is_read_are_all_events_once_and_in_order(
    log: EventLog, seed: int
) -> None:
    """Whoever appends, whenever the follower can take something by itself, and whenever it gets to run."""
    chance = random.Random(seed)
    session_log = await log.session(ANN)
    seen: list[Seq] = []
    end: list[Seq] = []

    def take(chunk: Chunk) -> bool:
        assert chunk.source is Source.AGENT
        if is_taken := chance.random() < 0.7:
            seen.append(chunk.first_seq)
        return is_taken

    async def follow() -> None:
        async with aclosing(log.follow(ANN, 0, lambda: end[0] if end else None, take)) as chunks:
            async for chunk in chunks:
                seen.append(chunk.first_seq)  # noqa: PERF401 - one at a time, between those that are taken

    following = asyncio.gather(follow())
    for _ in range(50):
        if chance.random() < 0.8:
            append(session_log, b"{}")
        else:
            seq = session_log.last_seq + 1
            session_log.publish(Chunk(ANN, None, Source.SERVER, 0, seq, seq, b"{}\n"))
        if chance.random() < 0.5:
            await asyncio.sleep(0)
    end.append(session_log.last_seq)
    session_log.wake()
    append(session_log, b"{}")
    async with asyncio.timeout(TIMEOUT_S):
        await following

    assert seen == list(range(1, 51))


async def test_who_fails_at_taking_an_event_ends_and_nobody_else(log: EventLog) -> None:
    """The one who appends goes on, and so do the other followers."""
    session_log = await log.session(ANN)

    def fail(_: Chunk) -> bool:
        raise ValueError("broken")

    async def follow_and_fail() -> None:
        async for _ in log.follow(ANN, 0, lambda: None, fail):
            pass

    both = asyncio.gather(follow_and_fail(), collect(log, 0, 2), return_exceptions=True)
    await asyncio.sleep(0)
    append(session_log, b"1")
    append(session_log, b"2")

    failed, read = await both
    assert isinstance(failed, ValueError)
    assert read == [(1, b"1"), (2, b"2")]
