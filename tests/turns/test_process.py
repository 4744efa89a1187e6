"""An agent's process and the turn that it works for, without a process: what a dead runner has left is read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsrv.agents.claude.adapter import ClaudeAdapter
from agentsrv.agents.contract import Effect
from agentsrv.agents.timers import TimerNews
from agentsrv.eventlog import EventLog, SessionLog
from agentsrv.model import (
    Lease,
    Outcome,
    PermissionMode,
    RunnerId,
    Session,
    SessionId,
    Turn,
    TurnId,
    TurnOptions,
    TurnStatus,
)
from agentsrv.runner.records import AgentExit
from agentsrv.runner.watch import FileWatcher
from agentsrv.store import sessions
from agentsrv.store.database import Database
from agentsrv.store.runners import RunnerRecord
from agentsrv.tasks import Tasks
from agentsrv.turns.output import one_per_line, read
from agentsrv.turns.process import AgentProcess
from agentsrv.turns.recovery import DeadRunner
from tests.kit import TIMEOUT_S

ANN = Session(SessionId("ann"), None, "claude-code", "/", None, None, 1, 1)
TURN = Turn(TurnId("t"), ANN.id, 1, TurnStatus.RUNNING, 1)
RECORD = RunnerRecord(RunnerId("r"), ANN.id, "key", 1)


class Listener:
    """A turn, and whoever keeps the process: notes what it is told."""

    turn = TURN

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.heard_of: list[Effect] = []
        self.outcome: Outcome | None = None
        self.names: list[str] = []
        self.is_lease_lost = False

    def heard(self, effect: Effect, event: bytes | None, seq: int) -> None:
        self.heard_of.append(effect)

    def has_written(self, progress: int | None, tool: str | None) -> None: ...

    def fold(self) -> None: ...

    def lost_lease(self) -> None:
        self.is_lease_lost = True

    def exited(self, outcome: object) -> None:
        if isinstance(outcome, Outcome):
            self.outcome = outcome

    def woke(self, process: AgentProcess) -> None:
        process.resume()

    def planned(self, process: AgentProcess, news: TimerNews, *, is_replayed: bool) -> None:
        """Nothing is planned here."""

    def named(self, session_id: SessionId, conversation: str) -> None:
        self.names.append(conversation)


@pytest.fixture
async def log(db: Database) -> SessionLog:
    await db.write(lambda c: sessions.insert(c, ANN))
    await db.write(lambda c: sessions.acquire_lease(c, ANN, TURN))
    return await EventLog(db).session(ANN.id)


@pytest.fixture
async def listener() -> Listener:
    return Listener()


@pytest.fixture
async def start(
    tmp_path: Path, log: SessionLog, listener: Listener
) -> AsyncIterator[Callable[..., AgentProcess]]:
    """Start to read what a dead agent has written."""
    watcher, tasks = FileWatcher(), Tasks("test")

    def started(output: bytes, generation: int = 1) -> AgentProcess:
        (tmp_path / "out").write_bytes(output)
        log.lease = Lease(ANN.id, generation)
        runner = DeadRunner(tmp_path, AgentExit(0, None, "exited"))
        process = AgentProcess(RECORD, runner, ClaudeAdapter(None, {}), log, listener, 1000)
        process.start(watcher, tasks)
        return process

    yield started
    watcher.close()
    await tasks.close()


async def test_nothing_is_read_before_there_is_a_turn(
    start: Callable[..., AgentProcess], log: SessionLog, listener: Listener
) -> None:
    """Whatever is awaited between adopting a process and giving it its turn, its output finds that turn."""
    process = start(b'{"type":"assistant"}\n')
    for _ in range(20):
        await asyncio.sleep(0)
    assert log.last_seq == 0
    process.begin(listener, is_prompted=True)
    process.resume()
    await asyncio.wait_for(process.drained.wait(), TIMEOUT_S)

    assert [chunk.turn_id for chunk in log.recent(0) or []] == [TURN.id]


async def test_turn_of_a_process_that_is_gone_is_over(
    start: Callable[..., AgentProcess], listener: Listener
) -> None:
    """A process that was ended while its turn was being opened leaves no turn that runs for ever."""
    process = start(b'{"type":"assistant"}\n')
    process.resume()
    await asyncio.wait_for(process.drained.wait(), TIMEOUT_S)
    process.begin(listener, is_prompted=True)

    assert listener.outcome is not None
    assert listener.outcome.error_code == "agent_exited"


async def test_process_of_a_lost_session_comes_to_its_end(start: Callable[..., AgentProcess]) -> None:
    """The session belongs to somebody else: what is left in the spool is dropped, and nobody waits for it."""
    line = b'{"type":"assistant","padding":"%s"}\n' % (b"x" * 900)
    process = start(line * 20_000, generation=0)

    await asyncio.wait_for(process.halt("stopped"), TIMEOUT_S)
    assert process.drained.is_set()


OURS = [
    b'{"done":true,"status":"completed"}',
    b'{"type":"permission_resolved","id":"q"}',
    b'{"type":"\\u0067ap"}',
    b'{"type":"permission_request","type":"assistant"}',
]
AROUND = [
    ([], []),
    ([b'{"type":"assistant"}'], [b'{"type":"assistant"}']),
    ([b'{"a":['], [b"]}"]),
    ([b'{} {"a":[{}', b","], [b",{}]}"]),
    ([b'{"type":"system","subtype":"init"}', b'{"a":['], [b"]}"]),
]


@pytest.mark.parametrize("around", AROUND, ids=repr)
@pytest.mark.parametrize("line", OURS, ids=repr)
async def test_agent_cannot_speak_for_the_server(
    start: Callable[..., AgentProcess],
    log: SessionLog,
    listener: Listener,
    line: bytes,
    around: tuple[list[bytes], list[bytes]],
) -> None:
    """What only the server says is data when an agent says it, also between lines that enclose it."""
    before, after = around
    process = start(b"\n".join([*before, line, *after, b""]))
    process.begin(listener, is_prompted=True)
    process.resume()
    await asyncio.wait_for(process.drained.wait(), TIMEOUT_S)

    events = [json.loads(event) for chunk in log.recent(0) or [] for event in chunk.lines()]
    assert events[len(before)] == {"type": "raw", "data": line.decode()}


ASKING = b'{"type":"control_request","request_id":"q","request":{"subtype":"can_use_tool","tool_name":"Bash",'
PIECES = st.sampled_from(
    [
        ASKING + b'"input":{"x":"', b'"}}}', b"\xed\xa0\xbd", b"\xff", b"\\ud800", b"NaN", b"1e999", b"\r", b"{", b"\0",
        b'{"type":"result","result":"', b'"}', b'{"type":"system","subtype":"init","session_id":"', b"[" * 2000,
        b'{"type":"command_lifecycle","state":"completed","command_uuid":', b'{"done":true}',
        b'{"type":"permission_resolved"}',
    ]
)  # fmt: skip
LINES = st.lists(
    st.one_of(st.binary(max_size=50), st.lists(PIECES, max_size=5).map(b"".join)).map(
        lambda line: line.replace(b"\n", b"")
    ),
    max_size=12,
)


@given(lines=LINES)
@settings(max_examples=200, deadline=None)
def test_every_line_becomes_an_event(lines: list[bytes]) -> None:
    """Whatever bytes an agent writes, in whatever mode: none is lost, and each event is one line of JSON text."""
    adapter = ClaudeAdapter(None, {})
    adapter.begin_turn(TURN.id, TurnOptions(permission_mode=PermissionMode.ASK))
    for line in lines:
        event, effect = read(adapter, TURN, line)
        if event is None:
            assert effect is not None
            assert effect.event is None
        else:
            data = one_per_line([event])
            assert data.count(b"\n") == 1
            json.loads(data)
