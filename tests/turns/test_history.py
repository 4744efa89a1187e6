"""Who comes back late in a long turn costs what a short one costs."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from agentsrv.agents import AgentRegistry
from agentsrv.agents.claude.updates import ClaudeUpdates
from agentsrv.agents.updates import Update
from agentsrv.eventlog import EventLog
from agentsrv.model import Chunk, Lease, Seq, Session, SessionId, Source, Turn, TurnId, TurnStatus
from agentsrv.projections.encoding import frames
from agentsrv.projections.states import loads
from agentsrv.store import events, transactions
from agentsrv.store.database import Database
from agentsrv.threads import Pool
from agentsrv.turns import history as turns_history
from agentsrv.turns.history import MARK_EVERY, History

ANN = SessionId("ann")
SESSION = Session(ANN, None, "counted", "/", None, None, 1, 1)
EVENTS = 20_000
PER_CHUNK = 100


class CountedAgent:
    """Reads like Claude Code, and counts what it reads."""

    name = "counted"

    def __init__(self) -> None:
        self.count = 0

    def updates(self, *, deltas: bool = True) -> ClaudeUpdates:
        return ClaudeUpdates(deltas=deltas)


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> CountedAgent:
    agent, read = CountedAgent(), ClaudeUpdates.read

    def counted(reader: ClaudeUpdates, message: Mapping[str, Any]) -> list[Update]:
        agent.count += 1
        return read(reader, message)

    monkeypatch.setattr(ClaudeUpdates, "read", counted)
    return agent


@pytest.fixture
async def history(db: Database, agent: CountedAgent) -> AsyncIterator[History]:
    """A session with one turn of many calls of tools, each one started and ended."""
    turn = Turn(TurnId("t"), ANN, 0, TurnStatus.RUNNING, 1, first_seq=1)
    prompt = Chunk(ANN, turn.id, Source.USER, 1, 1, 1, b'{"type":"user"}\n')
    await transactions.open_turn(db, SESSION, turn, is_new_session=True, prompt=prompt, runner=None)

    def fill(connection: sqlite3.Connection) -> None:
        for first in range(2, EVENTS, PER_CHUNK):
            data = b"".join(line_of(seq) for seq in range(first, first + PER_CHUNK))
            chunk = Chunk(ANN, turn.id, Source.AGENT, 1, first, first + PER_CHUNK - 1, data)
            events.insert(connection, chunk, Lease(ANN, 1))

    await db.write(fill)
    async with serving(db, agent) as history:
        yield history


@asynccontextmanager
async def serving(db: Database, agent: CountedAgent) -> AsyncIterator[History]:
    """What one server has of it."""
    pool = Pool("folding", 2)
    history = History(db, EventLog(db), AgentRegistry([cast(Any, agent)]), pool)
    yield history
    await history.close()
    await pool.close()


def line_of(seq: Seq) -> bytes:
    call = f"call-{seq // 20}"
    block = {"type": "tool_use", "id": call, "name": "Bash", "input": {"command": "ls"}}
    message = {"type": "assistant", "message": {"id": f"m{seq}", "content": [block]}}
    return json.dumps(message).encode() + b"\n"


async def rest(history: History, after: Seq) -> bytes:
    """What a follower gets who has the events up to `after`, to the last one."""
    acp, start = await history.acp(SESSION, after)
    last = await events.last_seq(history._db, ANN)
    return b"".join([frames(acp.read(c)) async for c in history._log.follow(ANN, start, lambda: last)])


async def test_coming_back_late_folds_a_few_thousand_events(history: History, agent: CountedAgent) -> None:
    """The first one to come late pays for all that lies before, once; the others for what is near."""
    late = EVENTS - 1500
    first = await rest(history, late)
    assert agent.count > late
    agent.count = 0
    second = await rest(history, late)

    assert agent.count <= MARK_EVERY + PER_CHUNK + EVENTS - late
    assert second == first != b""


async def test_coming_back_after_a_restart_folds_a_few_thousand_events(
    history: History, agent: CountedAgent, db: Database
) -> None:
    """What the earlier server has folded is stored: its followers all come back at once."""
    late = EVENTS - 1500
    first = await rest(history, late)
    await db.write(lambda c: c.execute("SELECT 1"))  # Behind all that was queued before.
    agent.count = 0
    async with serving(db, agent) as next_history:
        second = await rest(next_history, late)

    assert agent.count <= MARK_EVERY + PER_CHUNK + EVENTS - late < 5000
    assert second == first != b""


async def test_states_of_other_code_are_not_read(history: History, agent: CountedAgent, db: Database) -> None:
    """After an update the turn is folded once more."""
    first = await rest(history, EVENTS - 200)
    await db.write(lambda c: c.execute("UPDATE marks SET made_by = '0.1', state = x'00'"))
    agent.count = 0
    async with serving(db, agent) as next_history:
        assert await rest(next_history, EVENTS - 200) == first
        async with asyncio.timeout(60):
            while (await db.read("SELECT count(*) FROM marks WHERE made_by = '0.1'"))[0][0]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)  # They are replaced behind what the client waits for.

    assert agent.count >= EVENTS - 200


@pytest.mark.parametrize("value", [os.system, partial(print, "x"), Path("/"), ClaudeUpdates.read])
def test_state_has_nothing_but_values(value: object) -> None:
    """Whoever could write to the database makes the server call nothing."""
    with pytest.raises(pickle.UnpicklingError, match="is no part of a fold"):
        loads(pickle.dumps(value))


async def test_many_who_come_back_at_once_share_the_work(history: History, agent: CountedAgent) -> None:
    """A network that comes back brings all its clients: what one of them has folded the others need not."""
    found = await asyncio.gather(*(rest(history, EVENTS - 200) for _ in range(6)))

    assert len(set(found)) == 1
    assert agent.count <= EVENTS + 6 * (MARK_EVERY + PER_CHUNK + 200)


async def test_resuming_gives_the_same_rest_from_every_place(history: History) -> None:
    """Kept states change nothing that a client sees."""
    from_the_start = await rest(history, 0)
    for after in range(1234, EVENTS, 3777):
        found = await rest(history, after)
        assert found
        assert from_the_start.endswith(found)


async def test_who_comes_to_a_turn_that_has_grown_finds_it_folded(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For followers as for readers of messages, once there are such."""
    monkeypatch.setattr(turns_history, "BEHIND_S", 0)
    for messages_only in (False, True):
        await history.acp(SESSION, 1, messages_only=messages_only)
    history._has_grown(ANN)
    find = partial(history._log.marks.find, ANN, first=EVENTS - 2 * MARK_EVERY, last=EVENTS)
    async with asyncio.timeout(60):
        while None in (find(kind="counted False"), find(kind="counted True")):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_deleted_session_leaves_no_state(history: History) -> None:
    """A new session of the same name has nothing of the old one."""
    await rest(history, EVENTS - 200)
    history._log.forget(ANN)

    assert history._log.marks.find(ANN, "counted False", 1, EVENTS) is None
