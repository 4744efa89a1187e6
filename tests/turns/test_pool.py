"""The agent processes of a server, without a server."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from agentsrv.agents.claude.adapter import ClaudeAdapter
from agentsrv.agents.contract import Effect
from agentsrv.config import Config
from agentsrv.errors import NotFound
from agentsrv.eventlog import EventLog
from agentsrv.model import Chunk, RunnerId, Session, SessionId, Source, Turn, TurnId, TurnOptions, TurnStatus
from agentsrv.runner.records import AgentExit
from agentsrv.runner.spec import RunnerError
from agentsrv.runner.watch import FileWatcher, Watch
from agentsrv.runner.zygote import Zygote
from agentsrv.services import make_agents
from agentsrv.store import events, runners, sessions, turns
from agentsrv.store.database import Database
from agentsrv.store.runners import RunnerRecord
from agentsrv.tasks import Tasks
from agentsrv.threads import Threads
from agentsrv.turns import recovery as recovery_module
from agentsrv.turns.means import Means
from agentsrv.turns.open_turns import OpenTurns
from agentsrv.turns.pool import AgentPool, Starting
from agentsrv.turns.process import AnyRunner
from agentsrv.turns.queue import PromptQueue
from agentsrv.turns.recovery import LOST_OUTPUT, DeadRunner, Recovery
from agentsrv.turns.requests import new_turn
from agentsrv.turns.signals import Signals
from agentsrv.turns.stages import Plan
from tests.kit import KEY, THREADS, TIMEOUT_S
from tests.turns.test_process import Listener

ANN = Session(SessionId("ann"), None, "claude-code", "/", None, None, 1, 1)
TURN = Turn(TurnId("t"), ANN.id, 1, TurnStatus.RUNNING, 1, started_at=1, first_seq=1)
RECORD = RunnerRecord(RunnerId("0" * 32), ANN.id, "key", 1)


class Refusing(FileWatcher):
    """As where the kernel gives no more watches; after `left` refusals it does again."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self.left = left

    def watch(self, path: Path, callback: Callable[[], None]) -> Watch:
        self.left -= 1
        if self.left >= 0:
            raise OSError(errno.EMFILE, "no more watches")
        return super().watch(path, callback)


class Unread(DeadRunner):
    is_killed = False

    async def started(self) -> AnyRunner | RunnerError:
        return self

    async def kill(self, grace_s: float | None = None) -> AgentExit:
        self.is_killed = True
        return await super().kill(grace_s)


@pytest.fixture
async def db(db: Database) -> Database:
    await db.write(lambda c: sessions.insert(c, ANN))
    await db.write(lambda c: sessions.acquire_lease(c, ANN, TURN))
    await db.write(lambda c: runners.insert(c, RECORD))
    return db


@pytest.fixture
def event_log(db: Database) -> EventLog:
    return EventLog(db)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config.from_env({"HOME": str(tmp_path), "API_KEY": KEY, "STATE_DIR": str(tmp_path)})


@pytest.fixture
def watcher(request: pytest.FixtureRequest) -> Iterator[FileWatcher]:
    """`@refusing(n)`: one that fails so often."""
    watcher = Refusing(getattr(request, "param", 0))
    yield watcher
    watcher.close()


def refusing(times: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("watcher", [times], indirect=True)


@pytest.fixture
async def pool(
    config: Config, db: Database, event_log: EventLog, watcher: FileWatcher
) -> AsyncIterator[AgentPool]:
    zygote = Zygote(config.environment, THREADS.processes)
    pool = AgentPool(
        config=config,
        db=db,
        event_log=event_log,
        agents=make_agents(config, Threads()),
        zygote=zygote,
        watcher=watcher,
        threads=THREADS,
        signals=Signals(),
    )
    yield pool
    await pool.close()
    await zygote.close()


async def test_what_an_agent_leaves_is_kept_until_its_turn_is_closed(
    pool: AgentPool, db: Database, event_log: EventLog
) -> None:
    """A server killed between the end of an agent and that of its job: the next one finds how it went."""
    directory, listener = pool.room.path / RECORD.id, Listener()
    directory.mkdir(parents=True)
    (directory / "out").write_bytes(b'{"type":"assistant"}\n')
    (await event_log.session(ANN.id)).lease = TURN.lease
    process = await pool.adopt(DeadRunner(directory, AgentExit(3, None, "exited")), RECORD, ANN)
    process.begin(listener, is_prompted=True)
    process.resume()
    async with asyncio.timeout(TIMEOUT_S):
        await process.drained.wait()
        await db.write(lambda c: c.execute("SELECT 1"))  # Behind all that was written before.
        assert await runners.list_all(db) != []

        listener.ended.set()
        while await runners.list_all(db):
            pass


@pytest.mark.parametrize("is_there", [False, True])
@refusing(1)
async def test_agent_whose_output_cannot_be_opened_is_not_left_running(
    pool: AgentPool, db: Database, event_log: EventLog, *, is_there: bool
) -> None:
    """Nor one whose output cannot be watched: its job fails and says why, and the session's log goes on."""
    directory = pool.room.path / RECORD.id
    if is_there:
        directory.mkdir(parents=True)
        (directory / "out").touch()
    runner = Unread(pool.room.path / RECORD.id, AgentExit(None, 9, "killed"))
    session_log = await event_log.session(ANN.id)
    with pytest.raises(RunnerError, match="cannot be read"):
        await pool.take(ANN, TURN, Starting(RECORD, Tasks("test").start(runner.started(), name="start")))
    async with session_log.hold() as seq, asyncio.timeout(TIMEOUT_S):
        while await runners.list_all(db) or directory.exists():
            pass

    assert (runner.is_killed, pool.of(ANN.id), seq) == (True, None, 1)
    assert not [path for path in open_files() if path.startswith(str(directory))]


def open_files() -> list[str]:
    return [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]


@pytest.fixture
async def recovery(config: Config, pool: AgentPool, db: Database, event_log: EventLog) -> Recovery:
    """Of a turn whose agent has written two lines, of which the first one is committed."""
    await db.write(lambda c: turns.insert(c, TURN))
    await db.write(lambda c: c.execute("UPDATE runners SET spool_offset = 21"))
    directory = pool.room.path / RECORD.id
    directory.mkdir(parents=True)
    (directory / "out").write_bytes(b'{"type":"assistant"}\n' * 2)
    signals = Signals()
    means = Means(config, db, event_log, pool, PromptQueue(db, signals), (), signals)
    return Recovery(db, event_log, pool, OpenTurns(means))


@pytest.mark.parametrize(("known", "most"), [({}, 600), ({"cost_usd": "much"}, 30_000)])
async def test_long_turn_is_taken_over_from_where_it_was_stored(
    recovery: Recovery, db: Database, monkeypatch: pytest.MonkeyPatch, known: dict[str, str], most: int
) -> None:
    """Not from its beginning, unless what was stored cannot be read any more: an earlier version wrote it."""
    fold: dict[str, Any] = {
        "turn": TURN.id,
        "outcome": None,
        "questions": [],
        "steered": [],
        "seq": 29_500,
        "adapter": known,
    }

    def fill(connection: sqlite3.Connection) -> None:
        for first in range(1, 30_000, 100):
            data = b'{"type":"assistant"}\n' * 100
            chunk = Chunk(ANN.id, TURN.id, Source.AGENT, 1, first, first + 99, data)
            events.insert(connection, chunk, TURN.lease)
        connection.execute("UPDATE runners SET fold = :fold", {"fold": json.dumps(fold)})

    await db.write(fill)
    read: list[bytes] = []
    receive = ClaudeAdapter.receive

    def counted(adapter: ClaudeAdapter, line: bytes) -> Effect | None:
        read.append(line)
        return receive(adapter, line)

    monkeypatch.setattr(ClaudeAdapter, "receive", counted)
    turn = await recovered(recovery, db)

    assert turn.last_seq == 30_003
    assert most - 200 < len(read) <= most + 1


async def recovered(recovery: Recovery, db: Database) -> Turn:
    """The turn, once it has ended."""
    await recovery.start()
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            turn = await turns.get(db, TURN.id)
            if turn.status is not TurnStatus.RUNNING:
                await recovery.close()
                return turn


@refusing(3)
async def test_agent_is_taken_over_once_its_output_can_be_read(
    recovery: Recovery, db: Database, event_log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that has no descriptors left for a while, or no watches, waits with it."""
    monkeypatch.setattr(recovery_module, "RETRY_S", 0.0)
    turn = await recovered(recovery, db)
    chunks = await events.page(db, ANN.id, 0, 1 << 20)

    assert turn.outcome is not None
    assert turn.outcome.error_code == "runner_lost"
    assert b"".join(chunk.data for chunk in chunks).startswith(b'{"type":"assistant"}\n{"type": "error"')


@refusing(1_000_000)
async def test_agent_whose_output_stays_unreadable_is_given_up(
    recovery: Recovery, db: Database, pool: AgentPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its job says so, and does not stay open for ever."""
    monkeypatch.setattr(recovery_module, "PATIENCE_S", 0.0)
    turn = await recovered(recovery, db)

    assert turn.outcome == LOST_OUTPUT
    assert not (pool.room.path / RECORD.id).exists()


async def test_prompt_that_is_cancelled_as_it_begins_waits_no_more(
    config: Config, pool: AgentPool, db: Database, event_log: EventLog
) -> None:
    """Its session is free at once for the next one."""
    queue, bob = PromptQueue(db, Signals()), replace(ANN, id=SessionId("bob"))
    open_turns = OpenTurns(Means(config, db, event_log, pool, queue, (), Signals()))
    await db.write(lambda c: sessions.insert(c, bob))
    driver = open_turns.start(Plan(bob, new_turn(bob.id, TurnOptions(), None), b"{}", was_queued=True))
    with pytest.raises(NotFound):
        await driver.opened

    assert (bob.id in open_turns, queue.any_of(bob.id)) == (False, None)


async def test_conversation_that_is_renamed_all_the_time(pool: AgentPool, db: Database) -> None:
    """An agent that tells another name with each line costs one write at a time; the last one counts."""
    for number in range(1000):
        pool.named(ANN.id, f"name-{number}")
    session = None
    async with asyncio.timeout(TIMEOUT_S):
        while session is None or session.internal_session_id != "name-999":
            session = await sessions.find(db, ANN.id)
