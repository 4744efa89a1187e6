"""An agent's process and its turn, without the process: what a dead runner has left is read in its place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from agentsrv.agents.claude_code import ClaudeAdapter
from agentsrv.eventlog import EventLog, SessionLog
from agentsrv.model import Lease, Session, SessionId, Turn, TurnId, TurnStatus
from agentsrv.runner.handle import AgentExit
from agentsrv.runner.watch import FileWatcher
from agentsrv.store import sessions
from agentsrv.store.database import Database
from agentsrv.tasks import Tasks
from agentsrv.turns.active import ActiveTurn, Verdict
from agentsrv.turns.live import LiveAgent
from agentsrv.turns.recovery import DeadRunner
from tests.kit import TIMEOUT_S

ANN = Session(SessionId("ann"), None, "claude-code", "/", None, None, 1, 1)
TURN = Turn(TurnId("t"), ANN.id, 1, TurnStatus.RUNNING, 1)


@pytest.fixture
async def log(db: Database) -> SessionLog:
    await db.write(lambda c: sessions.insert(c, ANN))
    await db.write(lambda c: sessions.acquire_lease(c, ANN, TURN))
    return await EventLog(db).session(ANN.id)


@pytest.fixture
async def start(tmp_path: Path, log: SessionLog) -> AsyncIterator[Callable[..., LiveAgent]]:
    """Start to read what a dead agent has written."""
    watcher, tasks = FileWatcher(), Tasks("test")

    def started(output: bytes, generation: int = 1) -> LiveAgent:
        (tmp_path / "out").write_bytes(output)
        agent = LiveAgent(
            key="key",
            runner=DeadRunner(tmp_path, AgentExit(0, None, "exited")),
            adapter=ClaudeAdapter(None, {}),
            session_log=log,
            lease=Lease(ANN.id, generation),
            spool_offset=0,
            max_line_bytes=1000,
            on_wake=LiveAgent.resume,
            on_exit=lambda _: None,
            on_internal_id=lambda _, __: None,
        )
        agent.start(watcher, tasks)
        return agent

    yield started
    watcher.close()
    await tasks.close()


async def test_turn_of_a_process_that_is_gone_is_over(start: Callable[..., LiveAgent]) -> None:
    """A process that was ended while its turn was being opened leaves no turn that runs for ever."""
    agent = start(b'{"type":"assistant"}\n')
    await asyncio.wait_for(agent.drained.wait(), TIMEOUT_S)
    turn = ActiveTurn(ANN, TURN, None)
    agent.begin(turn)

    assert await asyncio.wait_for(turn.verdict, TIMEOUT_S) is Verdict.EXITED


async def test_process_of_a_lost_session_comes_to_its_end(start: Callable[..., LiveAgent]) -> None:
    """The session belongs to somebody else: what is left in the spool is dropped, and nobody waits for it."""
    line = b'{"type":"assistant","padding":"%s"}\n' % (b"x" * 900)
    agent = start(line * 20_000, generation=0)

    await asyncio.wait_for(agent.halt(), TIMEOUT_S)
    assert agent.drained.is_set()
