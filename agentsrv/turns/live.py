"""A live agent process: its spool becomes events, its events become the verdict on its turn."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from agentsrv.agents.base import Adapter, Effect, load_object, raw_event
from agentsrv.eventlog import SessionLog
from agentsrv.model import Lease, RunnerId, SessionId
from agentsrv.runner.handle import AgentExit
from agentsrv.runner.spool import OVERSIZED_KEPT_BYTES, LineFramer, OversizedLine, SpoolTail
from agentsrv.runner.watch import FileWatcher
from agentsrv.tasks import Tasks
from agentsrv.turns.active import ActiveTurn, Runner, Verdict
from agentsrv.turns.approvals import OUR_PREFIX, request_event

log = logging.getLogger(__name__)

READ_BYTES = 256 * 1024
GIVE_BACK_BYTES = 4 * 1024 * 1024

INTERRUPT_GRACE_S = 1.0
SHRINK_AFTER_S = 1.0
TERM_GRACE_S = 3.0

OUR_TYPES = frozenset({"permission_request", "permission_resolved", "gap"})
NOT_DONE = msgspec.Raw()


class LiveAgent:
    """One agent process under its runner, warm between turns.

    Its output is read here, in the event loop and without a task: the watcher calls `pump` when the spool has
    grown, and `pump` appends what it reads to the log. Reading stops at the end of a turn until the turn's
    `done` is committed, at a line with which the agent wakes up by itself until that turn is open, and while
    the log is not ready. What is not read waits in the spool. Raises OSError when that cannot be opened.
    """

    def __init__(
        self,
        *,
        key: str,
        runner: Runner,
        adapter: Adapter,
        session_log: SessionLog,
        lease: Lease,
        spool_offset: int,
        max_line_bytes: int,
        on_wake: Callable[[LiveAgent], None],
        on_exit: Callable[[LiveAgent], None],
        on_internal_id: Callable[[SessionId, str], None],
    ) -> None:
        self.key = key
        self.runner = runner
        self.adapter = adapter
        self.turn: ActiveTurn | None = None
        self.lease = lease
        self.exit: AgentExit | None = None
        self.drained = asyncio.Event()
        self._tail = SpoolTail(runner.directory / "out", spool_offset)
        self._log = session_log
        self._log.on_ready = self.pump
        self._framer = LineFramer(max_line_bytes, spool_offset)
        self._max_line_bytes = max_line_bytes
        self._offset = spool_offset
        self._given_back = spool_offset
        self._is_held = False
        self._is_halting = False
        self._is_fenced = False
        self._quiet = asyncio.Event()
        self._caught_up = asyncio.Event()
        self._on_wake = on_wake
        self._on_exit = on_exit
        self._on_internal_id = on_internal_id
        self._unsent: list[str] = []
        self._refused: list[str] = []

    @property
    def id(self) -> RunnerId:
        return self.runner.id

    @property
    def session_id(self) -> SessionId:
        return self._log.session_id

    def start(self, watcher: FileWatcher, tasks: Tasks) -> None:
        """Read the spool from now on, and notice the end of the process."""
        self._tasks = tasks
        self._watch = watcher.watch(self.runner.directory / "out", self.pump)
        self._exit_task = tasks.start(self._await_exit(), name=f"exit:{self.id}")
        asyncio.get_running_loop().call_soon(self.pump)

    def begin(self, turn: ActiveTurn) -> None:
        """From here on the output belongs to `turn`; its prompt, when it has one, goes to the agent.

        Sending a prompt that the runner has already is harmless: it knows the turn's id.
        """
        self.turn = turn
        self.lease = turn.lease
        turn.adapter, turn.runner, turn.caught_up = self.adapter, self.runner, self._caught_up
        self._quiet.clear()
        self.adapter.begin_turn(turn.turn.id if turn.is_prompted else None, turn.turn.options)
        if self.drained.is_set():
            # It was ended between its waking up and this.
            turn.settle(Verdict.EXITED)
        self._send_prompt()
        for message_id in turn.steered:
            self.steer(message_id)
        self._release()

    def replay(self, line: bytes) -> None:
        """Bring the adapter to where it was by a line of the turn that is in the log already."""
        effect = self._receive(line)
        if effect is not None and self._judge(effect):
            self._hold_at(self._offset)

    def steer(self, message_id: str) -> None:
        """Give the agent what was added to its turn under this id, now or as soon as it takes it."""
        self._unsent.append(message_id)
        self._send_steered()

    def unread(self) -> list[bytes]:
        """What was added to the turn and its agent will never read, unless the turn was stopped."""
        if self.turn is None or self._is_halting:
            return []
        return [self.turn.steered[message_id] for message_id in (*self._refused, *self._unsent)]

    @property
    def is_usable(self) -> bool:
        """May a turn begin here?"""
        return self.exit is None and not self._is_halting and not self._is_fenced

    async def catch_up(self) -> None:
        """Wait until all that the agent has written so far is read, or reading is held for a turn's sake."""
        await self._caught_up.wait()

    def resume(self) -> None:
        """Read on where `on_wake` had held: the agent's work is not going to be a turn of its own."""
        self._release()

    def end_turn(self) -> None:
        """The turn's `done` is in the log; what the agent writes now belongs to no turn."""
        self.turn = None
        self._unsent.clear()
        self._refused.clear()
        self._release()
        # Followers have the last events by then; an idle agent needs no memory of them.
        asyncio.get_running_loop().call_later(SHRINK_AFTER_S, self._log.shrink)

    async def halt(self) -> AgentExit:
        """Ask the agent to stop, then kill its process tree. Its output is in the log when this returns."""
        self._is_halting = True
        self._release()
        if self.exit is None and self.turn is not None:
            turn_id = self.turn.turn.id
            if (request := self.adapter.interrupt(turn_id)) is not None:
                self.runner.send(f"interrupt-{turn_id}", request)
                await self._interrupted()
        await self.runner.kill(TERM_GRACE_S)
        await self.drained.wait()
        assert self.exit is not None
        return self.exit

    def detach(self) -> None:
        """Leave the process alone, for the next server."""
        self._close()
        self._exit_task.cancel()
        self.runner.detach()

    def pump(self) -> None:
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
            asyncio.get_running_loop().call_soon(self.pump)
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

    def _take(self, lines: list[bytes | OversizedLine]) -> None:
        receive = self._receive
        events: list[bytes] = []
        offset = self._offset
        for line in lines:
            start = offset
            if not isinstance(line, bytes):
                offset += line.total + 1
                events.append(raw_event(line.kept, total=line.total))
                continue
            offset += len(line) + 1
            effect = receive(line)
            if effect is None:
                events.append(_not_ours(line))
                continue
            if effect.begins and self.turn is None and not self._is_halting:
                self._append(events, start)
                self._hold_at(start)
                self._on_wake(self)
                return
            if effect.question is not None and self.turn is not None:
                events.append(request_event(self.turn.turn, effect.question))
            elif effect.event is not None:
                events.append(_not_ours(effect.event))
            if self._heed(effect, offset):
                self._append(events, offset)
                self._hold_at(offset)
                return
        self._append(events, offset)
        self._offset = offset

    def _receive(self, line: bytes) -> Effect | None:
        """What the adapter makes of a line; an ordinary event when it is too odd for it."""
        try:
            return self.adapter.receive(line)
        except Exception as exc:
            # Not its message: that may quote the line.
            log.error("agent %s wrote a line that is beyond its adapter: %s", self.id, type(exc).__name__)
            return None

    def _heed(self, effect: Effect, offset: int) -> bool:
        """Act on what a line means; True when reading must stop behind it because the turn is over."""
        if effect.reply is not None:
            self.runner.send(f"reply-{offset}", effect.reply)
        return self._judge(effect)

    def _judge(self, effect: Effect) -> bool:
        """What a line means for the turn; True when it is over."""
        if effect.takes_prompt:
            self._send_prompt()
        if effect.internal_session_id is not None:
            self._on_internal_id(self.session_id, effect.internal_session_id)
        if effect.begins:
            self._send_steered()
        if effect.is_over:
            self._quiet.set()
        turn = self.turn
        if turn is None:
            return False
        if effect.question is not None or effect.withdrawn is not None:
            turn.on_effect(turn, effect)
        if self._is_halting:
            return False
        if effect.lost_steer in turn.steered and effect.lost_steer not in self._refused:
            self._refused.append(effect.lost_steer)
        if effect.outcome is not None and not turn.verdict.done():
            turn.outcome = effect.outcome
        if effect.gave_up is not None:
            turn.outcome = effect.gave_up
            turn.settle(Verdict.GAVE_UP)
        if effect.is_over:
            turn.settle(Verdict.OVER)
        return effect.is_over

    def _send_prompt(self) -> None:
        """Give the agent the turn's prompt, if it takes it yet. The runner takes a turn's id only once."""
        if self.turn is None or self.turn.user_event is None:
            return
        if (data := self.adapter.prompt(self.turn.user_event)) is not None:
            self.runner.send(self.turn.turn.id, data)
            # It may hold large images, and the log has it.
            self.turn.user_event = None

    def _send_steered(self) -> None:
        if self.turn is None:
            return
        for message_id in list(self._unsent):
            if (data := self.adapter.steer(message_id, self.turn.steered[message_id])) is not None:
                self.runner.send(message_id, data)
                self._unsent.remove(message_id)

    def _append(self, events: list[bytes], offset: int) -> None:
        """Put `events` into the log; `offset` is where the spool was read to for them."""
        if not events:
            return
        turn = self.turn
        if turn is not None:
            turn.last_output_at = asyncio.get_running_loop().time()
        self._log.append(
            self.lease,
            None if turn is None else turn.turn.id,
            _one_per_line(events),
            len(events),
            self.id,
            offset,
            lambda is_stale: self._saved(offset, is_stale),
        )

    def _take_rest(self) -> None:
        """The process is gone and the spool is read to its end: what has no newline is an event, too."""
        assert self.exit is not None
        rest = self._framer.rest()
        if isinstance(rest, OversizedLine):
            self._append([raw_event(rest.kept, total=rest.total)], self._offset + rest.total)
        elif rest:
            self._append([raw_event(rest)], self._offset + len(rest))
        self._finish()

    def _finish(self) -> None:
        self.drained.set()
        self._caught_up.set()
        self._close()
        if self.turn is not None:
            self.turn.settle(Verdict.EXITED)
        self._on_exit(self)

    def _hold_at(self, offset: int) -> None:
        """Read no further than `offset` for now."""
        self._is_held = True
        self._caught_up.set()
        self._read_from(offset)

    def _read_from(self, offset: int) -> None:
        self._offset = offset
        self._tail.offset = offset
        self._framer = LineFramer(self._max_line_bytes, offset)
        asyncio.get_running_loop().call_soon(self.pump)

    def _release(self) -> None:
        self._is_held = False
        asyncio.get_running_loop().call_soon(self.pump)

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
        if self.turn is not None:
            self.turn.settle(Verdict.STALE)
        self.pump()

    async def _await_exit(self) -> None:
        self.exit = await self.runner.wait_exit()
        self.pump()

    async def _interrupted(self) -> None:
        """Wait a little for the agent to end its turn by itself, so that its transcript is whole."""
        try:
            async with asyncio.timeout(INTERRUPT_GRACE_S):
                await self._quiet.wait()
        except TimeoutError:
            log.info("agent %s did not react to an interrupt", self.id)

    def _close(self) -> None:
        self._watch.close()
        self._tail.close()
        if self._log.on_ready == self.pump:
            self._log.on_ready = None


def _one_per_line(events: list[bytes]) -> bytes:
    """Join events to a chunk's data. What would break the stream (CR, bytes that are not UTF-8) is mended."""
    data = b"\n".join(events) + b"\n"
    if b"\r" in data:
        # Outside of strings a CR is white space, and inside of them JSON does not allow it.
        data = data.replace(b"\r", b" ")
    if data.isascii() or _is_utf8(data):
        return data
    return b"".join((event if _is_utf8(event) else raw_event(event)) + b"\n" for event in events)


class _Claims(msgspec.Struct):
    """What a client looks at first. The rest of a line is skipped unread."""

    type: str | None = None
    done: msgspec.Raw = NOT_DONE


_decode_claims = msgspec.json.Decoder(_Claims).decode


def _not_ours(event: bytes) -> bytes:
    """An agent's line that clients would take for the end of the job, a question or an answer of ours is data.

    So would the next server, which believes the log.
    """
    try:
        claims = _decode_claims(event)
        is_ours = claims.type in OUR_TYPES or claims.done is not NOT_DONE
    except (msgspec.DecodeError, RecursionError):  # Also for lone surrogates and odd types.
        message = load_object(event) or {}
        is_ours = "done" in message or str(message.get("type")) in OUR_TYPES
    return raw_event(event) if is_ours or event.startswith(OUR_PREFIX) else event


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
