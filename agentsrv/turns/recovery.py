"""At start-up: take over what an earlier server left open.

A runner that is still there is read on from where the log has its output; the agent never noticed. Of one
that is gone the rest of the spool is read, and its turn is closed: as the agent said, when it had finished,
else as `interrupted`. No prompt is ever run again: what the runner has taken once it does not take twice. Where
an agent had not even begun, another one is started: nobody has had the prompt yet.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from agentsrv.eventlog import EventLog
from agentsrv.model import Lease, Outcome, RunnerId, Session, SessionId, Source, Turn, TurnStatus
from agentsrv.runner.attach import attach
from agentsrv.runner.handle import RunnerHandle
from agentsrv.runner.records import AgentExit, boot_id, booted_at, has_begun, read_meta
from agentsrv.runner.spool import is_spool
from agentsrv.store import events, runners, sessions, turns
from agentsrv.store.database import Database
from agentsrv.store.runners import RunnerRecord
from agentsrv.tasks import Tasks
from agentsrv.threads import Pool
from agentsrv.turns.open_turns import OpenTurns
from agentsrv.turns.outcomes import CANCELLED
from agentsrv.turns.pool import AgentPool
from agentsrv.turns.process import AgentProcess, AnyRunner
from agentsrv.turns.replay import Replay

T = TypeVar("T")

log = logging.getLogger(__name__)

ATTACH_AT_ONCE = 16

# A spool that was filled for hours takes a while; a full disk would take for ever.
CATCH_UP_S = 60.0

PATIENCE_S = 60.0
"""So long a server that has no descriptors left tries to read what an agent has written."""

RETRY_S = 0.5

NEVER_STARTED = Outcome(
    TurnStatus.INTERRUPTED, "the server went down before the agent had started", "runner_lost"
)

LOST_OUTPUT = Outcome(
    TurnStatus.INTERRUPTED, "what the agent has written cannot be read any more", "runner_lost"
)


class DeadRunner:
    """In place of a RunnerHandle where the runner is gone: all that is left is its spool and how it ended."""

    has_unsent = False
    pid = 0

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


class Recovery:
    """Takes over every runner and closes every turn that has none, each session by itself while others are served.

    Until a session is `settled`, what its agent had written before is not all in the log: nothing may get ahead of
    it, and a client would not find the last event that it has seen.
    """

    def __init__(self, db: Database, event_log: EventLog, pool: AgentPool, open_turns: OpenTurns) -> None:
        self._db = db
        self._log = event_log
        self._pool = pool
        self._open_turns = open_turns
        self._tasks = Tasks("recovery")
        self._unsettled: dict[SessionId, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(ATTACH_AT_ONCE)

    async def start(self) -> None:
        """Find what there is. Before any request is served."""
        records = await runners.list_all(self._db)
        room = self._pool.room
        await self._pool.threads.state.run(room.prepare)
        members = await self._pool.threads.state.run(room.members)
        known = {record.id for record in records}
        self._tasks.spawn(
            self._remove_strays([path for path in members if path.name not in known]), name="strays"
        )
        open_turns = {turn.session_id: turn for turn in await turns.list_open(self._db)}
        stopped = await turns.list_stopped(self._db)
        by_session = _by_session(records)
        for session_id in by_session.keys() | open_turns.keys():
            turn = open_turns.get(session_id)
            left = _Left(by_session.get(session_id, []), turn, turn is not None and turn.id in stopped)
            task = self._tasks.start(self._take_over(session_id, left), name=f"session:{session_id}")
            self._unsettled[session_id] = task
        if self._unsettled:
            log.info("taking over %d agents, %d open turns", len(records), len(open_turns))

    async def settled(self, session_id: SessionId) -> bool:
        """Wait until nothing more is to be taken over in a session; False when nothing was."""
        if (task := self._unsettled.get(session_id)) is None:
            return False
        await asyncio.wait({task})
        return True

    async def all_settled(self, timeout_s: float) -> None:
        """The same for all sessions, but no longer than that."""
        if self._unsettled:
            await asyncio.wait(set(self._unsettled.values()), timeout=timeout_s)

    async def close(self) -> None:
        """What is not taken over is left to the next server. Closing twice is fine."""
        await self._tasks.close()

    async def _take_over(self, session_id: SessionId, left: _Left) -> None:
        try:
            async with self._slots:
                process = await self._found(session_id, left)
            if process is not None:
                await self._caught_up(process)
            if (driver := self._open_turns.of(session_id)) is not None:
                driver.count_time()
        finally:
            del self._unsettled[session_id]

    async def _found(self, session_id: SessionId, left: _Left) -> AgentProcess | None:
        session = await sessions.find(self._db, session_id)
        # A process that was being replaced has nothing to do with the turn, but the log comes first.
        for record in left.records[:-1]:
            if (process := await self._adopt(record, session)) is not None:
                await self._pool.retire(process, "replaced")
        may_start = await self._has_not_begun(left)
        process = None if left.newest is None else await self._adopt(left.newest, session)
        if left.turn is not None and session is not None:
            await self._resume(session, left.turn, left, process, may_start=may_start)
        elif process is not None:
            if left.records[-1].agent_state:
                await self._hear_again(process)
            process.resume()
            self._pool.rest(process)
        return process

    async def _hear_again(self, process: AgentProcess) -> None:
        """What it has said since its last turn: what it has left running may have ended."""
        last_turn = await turns.last_ended(self._db, process.session_id, None)
        after = 0 if last_turn is None else last_turn.last_seq or 0
        last = (await self._log.session(process.session_id)).last_seq
        async for chunk in self._log.follow(process.session_id, after, lambda: last):
            if chunk.source is Source.AGENT:
                for seq, line in enumerate(chunk.lines(), chunk.first_seq):
                    process.replay(line, seq)

    async def _caught_up(self, process: AgentProcess) -> None:
        try:
            async with asyncio.timeout(CATCH_UP_S):
                await process.catch_up()
        except TimeoutError:
            log.warning("not all output of agent %s is in the log yet; is the disk full?", process.id)

    async def _remove_strays(self, directories: list[Path]) -> None:
        """End runners that no row tells of: their server died before it had committed to them."""
        threads = self._pool.threads
        for path in directories:
            found = await attach(path, threads.processes)
            if isinstance(found, RunnerHandle):
                await found.kill(0.0)
            await threads.state.run(self._pool.room.remove, path.name)

    async def _adopt(self, record: RunnerRecord, session: Session | None) -> AgentProcess | None:
        """Take a process in; None when there is nothing to read on. Nothing is left of it, then."""
        directory = self._pool.room.path / record.id
        runner = await _patiently(lambda: _find(directory, self._pool.threads.processes))
        if runner is not None and session is not None:
            process = await _patiently(lambda: self._take_in(runner, record, session))
            if process is not None:
                return process
        # The session was deleted; the runner had not even begun, has lost its spool, or cannot be read.
        if runner is not None:
            await runner.kill(0.0)
        await self._pool.discard(record.id)
        return None

    async def _take_in(
        self, runner: AnyRunner, record: RunnerRecord, session: Session
    ) -> AgentProcess | None:
        if not is_spool(runner.directory / "out"):
            return None
        session_log = await self._log.session(session.id)  # Kept until the process keeps it.
        session_log.lease = Lease(session.id, session.generation)
        return await self._pool.adopt(runner, record, session)

    async def _has_not_begun(self, left: _Left) -> bool:
        """Is it sure that nothing has run for the turn? After a loss of power, what an agent has left may be lost."""
        if left.turn is None or left.newest is None or left.newest.created_at < booted_at():
            return False
        if has_begun(self._pool.room.path / left.newest.id):
            return False
        return not await events.has_any(self._db, Source.AGENT, left.turn.session_id, left.turn.first_seq)

    async def _resume(
        self, session: Session, turn: Turn, left: _Left, process: AgentProcess | None, *, may_start: bool
    ) -> None:
        """Bring the turn to where it was by what the log has of it, and go on from there; or end it."""
        session_log = await self._log.session(session.id)
        first = await events.find(self._db, session.id, turn.first_seq)
        prompt = first[1] if first is not None and first[0].source is Source.USER else None
        fold = None if process is None else await self._fold(turn, process)
        driver = self._open_turns.resume(session, turn, prompt, is_sent=fold is not None)
        driver.resume(session_log, process)
        last = session_log.last_seq
        replay = Replay(driver, process)
        after = turn.first_seq - 1
        if process is not None and fold is not None:
            after = await replay.unfold(self._db, process, fold)
        async for chunk in self._log.follow(session.id, after, lambda: last):
            replay.read(chunk)
        if process is None:
            if may_start and not left.is_stopped:
                driver.start_agent()
            else:
                driver.lack_process(CANCELLED if left.is_stopped else _how_lost(left.newest))
            return
        if left.is_stopped:
            driver.stop()
        driver.go_on(process)

    async def _fold(self, turn: Turn, process: AgentProcess) -> dict[str, Any] | None:
        """What the turn had come to in the middle."""
        fold = await runners.fold_of(self._db, process.id)
        return fold if fold is not None and fold["turn"] == turn.id else None


class _Left(Struct, frozen=True):
    """What an earlier server has left of a session: its runners, the newest last, and its open turn."""

    records: list[RunnerRecord]
    turn: Turn | None
    is_stopped: bool

    @property
    def newest(self) -> RunnerRecord | None:
        return self.records[-1] if self.records else None


def _by_session(records: list[RunnerRecord]) -> dict[SessionId, list[RunnerRecord]]:
    """The runners of each session, the newest last."""
    found: dict[SessionId, list[RunnerRecord]] = {}
    for record in records:
        found.setdefault(record.session_id, []).append(record)
    return found


async def _patiently(step: Callable[[], Awaitable[T]]) -> T | None:
    """The outcome of a step that fails while the server has no descriptors left; None when it does for too long."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + PATIENCE_S
    while True:
        try:
            return await step()
        except OSError as exc:
            log.error("an agent cannot be taken over yet: %s", exc)
            if loop.time() >= give_up_at:
                return None
        await asyncio.sleep(RETRY_S)


def _how_lost(record: RunnerRecord | None) -> Outcome:
    return LOST_OUTPUT if record is not None and record.spool_offset else NEVER_STARTED


async def _find(directory: Path, processes: Pool) -> AnyRunner:
    """The runner of `directory`, alive or dead."""
    found = await attach(directory, processes)
    if isinstance(found, RunnerHandle):
        return found
    meta = read_meta(directory)
    if meta is not None and meta.boot_id != boot_id():
        found = replace(found, reason="machine_restarted")
    return DeadRunner(directory, found)
