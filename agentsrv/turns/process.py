"""A live agent process: its spool becomes events, and what its lines mean is told to the turn that it works for."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any, Literal, Protocol

from agentsrv.agents.contract import Adapter, BackgroundTask, Effect
from agentsrv.agents.timers import TimerNews
from agentsrv.eventlog import SessionLog
from agentsrv.jsontext import raw_event
from agentsrv.lines import OVERSIZED_KEPT_BYTES, LineFramer, OversizedLine
from agentsrv.model import Outcome, RunnerId, Seq, SessionId, Turn
from agentsrv.runner.records import AgentExit
from agentsrv.runner.spool import SpoolTail
from agentsrv.runner.watch import FileWatcher
from agentsrv.store.runners import RunnerRecord
from agentsrv.tasks import Tasks
from agentsrv.turns.outcomes import INTERNAL_ERROR, explain
from agentsrv.turns.output import are_plain, one_per_line, read

log = logging.getLogger(__name__)

READ_BYTES = 64 * 1024
GIVE_BACK_BYTES = 4 * 1024 * 1024

FOLD_BYTES = 1024 * 1024
MAX_FOLD_BYTES = 256 * 1024
"""A larger one is not stored: whoever takes over reads on from an earlier one."""

INTERRUPT_GRACE_S = 1.0
SHRINK_AFTER_S = 1.0
TERM_GRACE_S = 3.0

Line = bytes | OversizedLine

EndReason = Literal["stopped", "replaced", "limit"]
"""Why a process is ended: its user says so, another one is to work in its place, or there are too many."""


class AnyRunner(Protocol):
    """What is behind a process: a RunnerHandle, or what a dead one has left."""

    id: RunnerId
    directory: Path
    pid: int
    """The agent's; 0: it is gone."""

    @property
    def has_unsent(self) -> bool:
        """Something that was sent has not left this server yet."""

    def send(self, message_id: str, data: bytes) -> None: ...
    def set_linger(self, seconds: float) -> None: ...
    async def kill(self, grace_s: float | None = None) -> AgentExit: ...
    async def wait_exit(self) -> AgentExit: ...
    def detach(self) -> None: ...


class Work(Protocol):
    """The turn that a process works for."""

    ended: asyncio.Event
    """Its end is in the log."""

    @property
    def turn(self) -> Turn: ...
    def heard(self, effect: Effect, event: bytes | None, seq: Seq) -> None:
        """What a line means. `event` is what the log will say of it, at `seq`."""

    def has_written(self, progress: int | None, tool: str | None) -> None:
        """Something comes into the log. What the adapter knows by now: how far it is, which tool it waits for."""

    def fold(self) -> dict[str, Any] | None:
        """What the turn has come to, without its agent; None when that cannot be told now."""

    def exited(self, outcome: Outcome) -> None:
        """The process is gone, and all that it has written is in the log. `outcome` follows from that alone."""

    def lost_lease(self) -> None:
        """Somebody else owns the session."""


class Keeper(Protocol):
    """Who has started the process."""

    def woke(self, process: AgentProcess) -> None:
        """It works by itself. It is read no further until it gets a turn, or `resume` is called."""

    def exited(self, process: AgentProcess) -> None:
        """It is gone, and all that it has written is in the log."""

    def named(self, session_id: SessionId, conversation: str) -> None:
        """The agent keeps the session's conversation under this name from now on."""

    def planned(self, process: AgentProcess, news: TimerNews, *, is_replayed: bool) -> None:
        """It has planned something for later, or something of the kind. `is_replayed`: it said so before, too."""


class AgentProcess:
    """One agent process under its runner, warm between turns.

    Its output is read here, in the event loop and without a task: the watcher calls `_pump` when the spool has
    grown, and `_pump` appends what it reads to the log. Reading begins with the first turn or rest, and stops at
    the end of a turn until the turn's `done` is committed, at a line with which the agent wakes up by itself until
    that turn is open, and while the log is not ready. What is not read waits in the spool. Raises OSError when
    that cannot be opened.
    """

    def __init__(
        self,
        record: RunnerRecord,
        runner: AnyRunner,
        adapter: Adapter,
        session_log: SessionLog,
        keeper: Keeper,
        max_line_bytes: int,
    ) -> None:
        self.key = record.spawn_key
        self.runner = runner
        self.adapter = adapter
        self.work: Work | None = None
        self.exit: AgentExit | None = None
        self.is_outdated = False
        """No further turn may begin here."""
        self.end_reason: EndReason | None = None
        """None: it has ended by itself, or lives."""
        self.lost: list[BackgroundTask] = []
        """What it had left running behind its turns, when it was ended."""
        self.drained = asyncio.Event()
        self._log = session_log
        self._keeper = keeper
        self._max_line_bytes = max_line_bytes
        self._tail = SpoolTail(runner.directory / "out", record.spool_offset)
        self._framer = LineFramer(max_line_bytes, record.spool_offset)
        self._offset = self._given_back = self._folded_at = record.spool_offset
        self._is_held = True
        self._beside: set[str] = set()
        self._is_fenced = False
        self._quiet = asyncio.Event()
        self._caught_up = asyncio.Event()

    @property
    def id(self) -> RunnerId:
        return self.runner.id

    @property
    def session_id(self) -> SessionId:
        return self._log.session_id

    @property
    def is_usable(self) -> bool:
        """May a turn begin here?"""
        return self.exit is None and not (self._is_halting or self._is_fenced or self.is_outdated)

    @property
    def _is_halting(self) -> bool:
        return self.end_reason is not None

    @property
    def _turn(self) -> Turn | None:
        return None if self.work is None else self.work.turn

    # What becomes of it

    def start(self, watcher: FileWatcher, tasks: Tasks) -> None:
        """Notice what it writes, and its end. Raises OSError; then nothing has begun."""
        try:
            self._watch = watcher.watch(self.runner.directory / "out", self._pump)
        except BaseException:
            self._tail.close()
            raise
        self._tasks = tasks
        self._log.listeners.add(self._pump)
        self._exit_task = tasks.start(self._await_exit(), name=f"exit:{self.id}")

    def begin(self, work: Work, *, is_prompted: bool) -> None:
        """From here on the output belongs to the turn; it is read when `resume` is called."""
        self.work = work
        self._quiet.clear()
        self._beside = {task.id for task in self.adapter.background()}
        before = self.adapter.begin_turn(work.turn.id if is_prompted else None, work.turn.options)
        if before:
            self.runner.send(f"begin-{work.turn.id}", before)
        if self.drained.is_set():
            work.exited(self._explained())  # It was ended between its waking up and this.

    def replay(self, line: bytes, seq: Seq) -> None:
        """Bring the adapter and the turn to where they were, by a line that is in the log already."""
        event, effect = read(self.adapter, self._turn, line)
        if effect is not None and self._tell(effect, event, seq, is_replayed=True):
            self._hold_at(self._offset)

    def resume(self) -> None:
        """Read on."""
        self._is_held = False
        asyncio.get_running_loop().call_soon(self._pump)

    async def catch_up(self) -> None:
        """Wait until all that the agent has written so far is read, or reading is held for a turn's sake."""
        await self._caught_up.wait()

    def end_turn(self) -> None:
        """The turn's `done` is in the log; what the agent writes now belongs to no turn."""
        self.work = None
        self.resume()
        # Followers have the last events by then; an idle agent needs no memory of them.
        asyncio.get_running_loop().call_later(SHRINK_AFTER_S, self._log.shrink)

    async def halt(self, reason: EndReason) -> AgentExit:
        """Ask the agent to stop, then kill its process tree. Its output is in the log when this returns."""
        if self.end_reason is None:
            self.end_reason, self.lost = reason, self._left_running()
        self.resume()
        if self.work is not None and self.exit is None and not self._is_fenced:
            await self._interrupt(self.work.turn)
        await self.runner.kill(TERM_GRACE_S)
        await self.drained.wait()
        assert self.exit is not None
        return self.exit

    def detach(self) -> None:
        """Leave the process alone, for the next server."""
        self._close()
        self._exit_task.cancel()
        self.runner.detach()

    async def _interrupt(self, turn: Turn) -> None:
        """Wait a little for the agent to end its turn by itself, so that its transcript is whole."""
        try:
            request = self.adapter.interrupt(turn.id)
        except Exception as exc:
            log.error("agent %s cannot be interrupted: %s", self.id, type(exc).__name__)
            return
        if request is None:
            return
        self.runner.send(f"interrupt-{turn.id}", request)
        try:
            async with asyncio.timeout(INTERRUPT_GRACE_S):
                await self._quiet.wait()
        except TimeoutError:
            log.info("agent %s did not react to an interrupt", self.id)

    async def _await_exit(self) -> None:
        self.exit = await self.runner.wait_exit()
        self._pump()

    # Reading

    def _pump(self) -> None:
        """Read a piece of the spool into the log; one piece per pass of the loop, so that nobody starves."""
        if self._is_fenced and self.exit is not None and not self.drained.is_set():
            self._finish()
        if self._is_held or self._is_fenced or self.drained.is_set() or not self._log.is_ready:
            return
        data = self._tail.read(READ_BYTES)
        if data:
            lines = self._framer.feed(data)
            if data.endswith(b"\0"):
                self._skip_hole()
            self._take(lines)
        if len(data) == READ_BYTES or (data and self.exit is not None):
            asyncio.get_running_loop().call_soon(self._pump)
        elif data:
            # All that there was: the watcher calls when there is more.
            self._caught_up.set()
        else:
            self._at_end()

    def _skip_hole(self) -> None:
        """An agent can make its spool any size without writing; reading that would take the time of writing it."""
        if skipped := self._tail.skip_hole(max(self._max_line_bytes, OVERSIZED_KEPT_BYTES)):
            self._framer.skip(skipped)

    def _at_end(self) -> None:
        if self._tail.size() < self._tail.offset:
            # The spool is the agent's own file, so it can be emptied by it. What comes now is at the start.
            log.warning("agent %s has truncated its output", self.id)
            self._read_from(0)
            return
        self._caught_up.set()
        if self.exit is not None:
            self._take_rest()

    def _take(self, lines: list[Line]) -> None:
        """Put lines into the log, up to one behind which, or before which, reading has to stop."""
        events: list[bytes] = []
        offset = self._offset
        adapter, turn = self.adapter, self._turn
        is_plain = len(lines) > 1 and are_plain([line for line in lines if isinstance(line, bytes)])
        for line in lines:
            start = offset
            if not isinstance(line, bytes):
                offset += line.total + 1
                events.append(raw_event(line.kept, total=line.total))
                continue
            offset += len(line) + 1
            event, effect = read(adapter, turn, line, is_plain=is_plain)
            is_plain = is_plain and event is line
            if effect is None:  # As nearly all.
                if event is not None:
                    events.append(event)
                continue
            if effect.begins and self.work is None and not self._is_halting:
                self._append(events, start)
                self._hold_at(start)
                self._keeper.woke(self)
                return
            if event is not None:
                events.append(event)
            if effect.reply is not None:
                self.runner.send(f"reply-{offset}", effect.reply)
            if self._tell(effect, event, self._log.last_seq + len(events)):
                self._append(events, offset)
                self._hold_at(offset)
                return
        self._append(events, offset)
        self._offset = offset

    def _tell(self, effect: Effect, event: bytes | None, seq: Seq, *, is_replayed: bool = False) -> bool:
        """Act on what a line means; True when reading must stop behind it because the turn is over."""
        if effect.internal_session_id is not None:
            self._keeper.named(self.session_id, effect.internal_session_id)
        if effect.timer is not None:
            self._keeper.planned(self, effect.timer, is_replayed=is_replayed)
        if effect.is_over:
            self._quiet.set()
        if self.work is None:
            return False
        try:
            self.work.heard(effect, event, seq)
        except Exception:
            log.exception("turn %s does not understand its agent", self.work.turn.id)
        return effect.is_over and not self._is_halting

    def _append(self, events: list[bytes], offset: int) -> None:
        """Put `events` into the log; `offset` is where the spool was read to for them."""
        if not events:
            return
        turn_id, count = None, len(events)
        if (work := self.work) is not None:
            turn_id = work.turn.id
            work.has_written(self.adapter.progress, self.adapter.running_tool())
        fold = self._fold(offset, self._log.last_seq + count)
        self._log.append(turn_id, one_per_line(events), count, self.id, offset, self._saved, fold)

    def _fold(self, offset: int, seq: Seq) -> str | None:
        """From time to time, what a later server needs to go on from here and not from the turn's beginning."""
        if offset - self._folded_at < FOLD_BYTES or self.work is None or self.runner.has_unsent:
            return None
        self._folded_at = offset
        if (fold := self.work.fold()) is None:
            return None
        try:
            text = json.dumps({**fold, "seq": seq, "adapter": self.adapter.state()})
        except Exception as exc:
            log.error("what agent %s has come to cannot be told: %s", self.id, type(exc).__name__)
            return None
        return text if len(text) <= MAX_FOLD_BYTES else None

    def _take_rest(self) -> None:
        """The process is gone and the spool is read to its end: what has no newline is an event, too."""
        rest = self._framer.rest()
        if isinstance(rest, OversizedLine):
            self._append([raw_event(rest.kept, total=rest.total)], self._offset + rest.total)
        elif rest:
            self._append([raw_event(rest)], self._offset + len(rest))
        self._finish()

    def _explained(self) -> Outcome:
        assert self.exit is not None
        try:
            return explain(self.exit, self.adapter)
        except Exception as exc:
            log.error("the end of agent %s is beyond its adapter: %s", self.id, type(exc).__name__)
            return INTERNAL_ERROR

    def _left_running(self) -> list[BackgroundTask]:
        """Of the turn that runs, nothing: that is its own affair."""
        tasks = self.adapter.background()
        return tasks if self.work is None else [task for task in tasks if task.id in self._beside]

    def _finish(self) -> None:
        self.lost = self.lost or self._left_running()
        self.drained.set()
        self._caught_up.set()
        self._close()
        if self.work is not None:
            self.work.exited(self._explained())
        self._keeper.exited(self)

    def _hold_at(self, offset: int) -> None:
        """Read no further than `offset` for now."""
        self._is_held = True
        self._caught_up.set()
        self._read_from(offset)

    def _read_from(self, offset: int) -> None:
        self._offset = offset
        self._tail.offset = offset
        self._framer = LineFramer(self._max_line_bytes, offset)
        asyncio.get_running_loop().call_soon(self._pump)

    def _saved(self, offset: int, is_stale: bool) -> None:
        """The log has committed the spool up to `offset`: the disk may have that part back."""
        if is_stale:
            self._lose_lease()
        elif offset - self._given_back >= GIVE_BACK_BYTES:
            self._tail.give_back(offset, self._given_back)
            self._given_back = offset

    def _lose_lease(self) -> None:
        """Somebody else owns the session now: this agent must not go on working in it."""
        if self._is_fenced:
            return
        self._is_fenced = True
        self._tasks.spawn(self.runner.kill(TERM_GRACE_S), name=f"kill:{self.id}")
        if self.work is not None:
            self.work.lost_lease()
        self._pump()

    def _close(self) -> None:
        self._watch.close()
        self._tail.close()
        self._log.listeners.discard(self._pump)
