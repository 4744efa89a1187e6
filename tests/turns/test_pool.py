"""The agent processes of a server, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from agentsrv.app import make_agents
from agentsrv.config import Config
from agentsrv.errors import NotFound
from agentsrv.eventlog import EventLog
from agentsrv.model import Lease, RunnerId, Session, SessionId, Turn, TurnId, TurnOptions, TurnStatus
from agentsrv.runner.handle import AgentExit, RunnerError
from agentsrv.runner.watch import FileWatcher
from agentsrv.runner.zygote import Zygote
from agentsrv.store import runners, sessions
from agentsrv.store.database import Database
from agentsrv.store.runners import RunnerRecord
from agentsrv.tasks import Tasks
from agentsrv.turns.active import ActiveTurn, Runner
from agentsrv.turns.pool import AgentPool, Starting
from agentsrv.turns.queue import PromptQueue
from agentsrv.turns.recovery import DeadRunner
from agentsrv.turns.requests import new_turn
from agentsrv.turns.running import RunningTurns
from agentsrv.turns.worktrees import SessionWorktrees
from agentsrv.workspace.paths import Workspace
from agentsrv.workspace.worker import GitWorkers
from tests.kit import KEY, TIMEOUT_S

ANN = Session(SessionId("ann"), None, "claude-code", "/", None, None, 1, 1)
TURN = Turn(TurnId("t"), ANN.id, 1, TurnStatus.RUNNING, 1)
RECORD = RunnerRecord(RunnerId("r"), ANN.id, "key", 1)


class Unread(DeadRunner):
    is_killed = False

    async def started(self) -> Runner | RunnerError:
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
async def pool(config: Config, db: Database, event_log: EventLog) -> AsyncIterator[AgentPool]:
    zygote, watcher = Zygote(config.environment), FileWatcher()
    pool = AgentPool(
        config=config,
        db=db,
        event_log=event_log,
        agents=make_agents(config),
        zygote=zygote,
        watcher=watcher,
    )
    yield pool
    await pool.close()
    await zygote.close()
    watcher.close()


async def test_what_an_agent_leaves_is_kept_until_its_turn_is_closed(pool: AgentPool, db: Database) -> None:
    """A server killed between the end of an agent and that of its job: the next one finds how it went."""
    directory = pool.directory / RECORD.id
    directory.mkdir(parents=True)
    (directory / "out").write_bytes(b'{"type":"assistant"}\n')
    runner = DeadRunner(directory, AgentExit(3, None, "exited"))
    agent = await pool.adopt(runner, RECORD, ANN, Lease(ANN.id, 1))
    turn = ActiveTurn(ANN, TURN, None)
    agent.begin(turn)
    async with asyncio.timeout(TIMEOUT_S):
        await turn.verdict
        await db.write(lambda c: c.execute("SELECT 1"))  # Behind all that was written before.
        assert await runners.list_all(db) != []

        turn.end()
        while await runners.list_all(db):
            pass


async def test_agent_whose_output_cannot_be_opened_is_not_left_running(
    pool: AgentPool, db: Database, event_log: EventLog
) -> None:
    """Its job fails and says why, nothing of the process is left, and the session's log goes on."""
    runner = Unread(pool.directory / RECORD.id, AgentExit(None, 9, "killed"))
    session_log = await event_log.session(ANN.id)
    with pytest.raises(RunnerError, match="cannot be read"):
        await pool.take(ANN, TURN, Starting(RECORD, Tasks("test").start(runner.started(), name="start")))
    async with session_log.hold() as seq, asyncio.timeout(TIMEOUT_S):
        while await runners.list_all(db):
            pass

    assert (runner.is_killed, pool.of(ANN.id), seq) == (True, None, 1)


async def test_prompt_that_is_cancelled_as_it_begins_waits_no_more(
    tmp_path: Path, config: Config, pool: AgentPool, db: Database, event_log: EventLog
) -> None:
    """Its session is free at once for the next one."""
    workspace = Workspace(tmp_path)
    git = GitWorkers(workspace, {})
    worktrees = SessionWorktrees(db, workspace, readers=git, writers=git)
    queue = PromptQueue(db)
    running = RunningTurns(
        config=config, db=db, event_log=event_log, worktrees=worktrees, pool=pool, queue=queue
    )
    bob = replace(ANN, id=SessionId("bob"))
    await db.write(lambda c: sessions.insert(c, bob))
    active = running.start(bob, new_turn(bob.id, TurnOptions(), None), b"{}", was_queued=True)
    with pytest.raises(NotFound):
        await active.started

    assert (bob.id in running, queue.first(bob.id)) == (False, None)
