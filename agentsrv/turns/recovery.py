"""At start-up: take over what an earlier server left open.

A runner that is still there is read on from where the log has its output; the agent never noticed. Of one
that is gone the rest of the spool is read, and its turn is closed: as the agent said, when it had finished,
else as `interrupted`. No prompt is ever run again: what the runner has taken once it does not take twice.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from agentsrv.eventlog import EventLog
from agentsrv.model import Chunk, Lease, Outcome, RunnerId, SessionId, Turn, TurnStatus
from agentsrv.runner.handle import AgentExit, RunnerHandle, attach, boot_id, read_meta
from agentsrv.runner.spool import is_spool
from agentsrv.store import runners, sessions, turns
from agentsrv.store.database import Database
from agentsrv.store.runners import RunnerRecord
from agentsrv.turns.active import ActiveTurn, Runner
from agentsrv.turns.live import LiveAgent
from agentsrv.turns.pool import AgentPool
from agentsrv.turns.running import RunningTurns

log = logging.getLogger(__name__)

ATTACH_AT_ONCE = 16

# A spool that was filled for hours takes a while; a full disk would take for ever.
CATCH_UP_S = 60.0


class DeadRunner:
    """In place of a RunnerHandle where the runner is gone: all that is left is its spool and how it ended."""

    def __init__(self, directory: Path, ended: AgentExit) -> None:
        self.id = RunnerId(directory.name)
        self.directory = directory
        self._ended = ended

    def send(self, message_id: str, data: bytes) -> None:
        """Nobody is there to read it."""

    def set_linger(self, seconds: float) -> None:
        """Nothing lives that could linger."""

    async def kill(self, grace_s: float | None = None) -> AgentExit:
        return self._ended

    async def wait_exit(self) -> AgentExit:
        return self._ended

    def detach(self) -> None:
        """There is no connection."""


async def recover(db: Database, event_log: EventLog, pool: AgentPool, running: RunningTurns) -> None:
    """Take over every runner and close every turn that has none. Before any request is served.

    When this returns, what the agents had written before is in the log: nothing can get ahead of it, and a
    client finds the last event that it has seen.
    """
    records = await runners.list_all(db)
    await _remove_strays(pool.directory, {record.id for record in records})
    open_turns = {turn.session_id: turn for turn in await turns.list_open(db)}
    slots = asyncio.Semaphore(ATTACH_AT_ONCE)

    async def take_over(older: list[RunnerRecord], newest: RunnerRecord) -> LiveAgent | None:
        async with slots:
            # A process that was being replaced has nothing to do with the turn, but the log comes first.
            for record in older:
                if (agent := await _take_over(db, event_log, pool, running, record, None)) is not None:
                    await pool.retire(agent)
            turn = open_turns.get(newest.session_id)
            return await _take_over(db, event_log, pool, running, newest, turn)

    found = await asyncio.gather(*(take_over(older, newest) for *older, newest in _by_session(records)))
    agents = [agent for agent in found if agent is not None]
    try:
        async with asyncio.timeout(CATCH_UP_S):
            for agent in agents:
                await agent.catch_up()
    except TimeoutError:
        log.warning("not all output of running agents is in the log yet; is the disk full?")
    # Not those that are not active: one that goes on may have ended by now.
    for session_id in open_turns.keys() - {agent.session_id for agent in agents}:
        await _close_lost_turn(db, running, open_turns[session_id])
    if records or open_turns:
        log.info("recovered: %d agents, %d open turns", len(agents), len(open_turns))


def _by_session(records: list[RunnerRecord]) -> Iterable[list[RunnerRecord]]:
    """The runners of each session, the newest last."""
    found: dict[SessionId, list[RunnerRecord]] = {}
    for record in records:
        found.setdefault(record.session_id, []).append(record)
    return found.values()


async def _remove_strays(directory: Path, known: set[RunnerId]) -> None:
    """End runners that no row tells of: their server died before it had committed to them."""

    def find() -> list[Path]:
        return [path for path in directory.iterdir() if path.name not in known] if directory.is_dir() else []

    for path in await asyncio.to_thread(find):
        found = await attach(path)
        if isinstance(found, RunnerHandle):
            await found.kill(0.0)
        await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)


async def _take_over(
    db: Database,
    event_log: EventLog,
    pool: AgentPool,
    running: RunningTurns,
    record: RunnerRecord,
    turn: Turn | None,
) -> LiveAgent | None:
    session = await sessions.find(db, record.session_id)
    directory = pool.directory / record.id
    runner = await _find(directory)
    if session is None or not is_spool(directory / "out"):
        # The session was deleted; the runner had not even begun, or has lost its spool.
        await runner.kill(0.0)
        await pool.discard(record.id)
        return None
    session_log = await event_log.session(session.id)
    written = [] if turn is None else await _read_turn(event_log, turn)
    # After this nothing may be awaited: the first reading of the spool has to find the turn.
    agent = await pool.adopt(runner, record, session, Lease(session.id, session.generation))
    if turn is None:
        pool.rest(agent)
        return agent
    running.resume_turn(session, turn, session_log, written, agent)
    return agent


async def _find(directory: Path) -> Runner:
    """The runner of `directory`, alive or dead."""
    found = await attach(directory)
    if isinstance(found, RunnerHandle):
        return found
    meta = read_meta(directory)
    if meta is not None and meta.boot_id != boot_id():
        found = replace(found, reason="machine_restarted")
    return DeadRunner(directory, found)


async def _read_turn(event_log: EventLog, turn: Turn) -> list[Chunk]:
    last = (await event_log.session(turn.session_id)).last_seq
    return [chunk async for chunk in event_log.follow(turn.session_id, turn.first_seq - 1, lambda: last)]


async def _close_lost_turn(db: Database, running: RunningTurns, turn: Turn) -> None:
    session = await sessions.find(db, SessionId(turn.session_id))
    assert session is not None
    outcome = Outcome(
        TurnStatus.INTERRUPTED, "the server went down before the agent had started", "runner_lost"
    )
    await running.close_turn(ActiveTurn(session, turn, None), outcome)
