"""The life of a turn, from its lease to its `done`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable
from dataclasses import replace

from agentsrv.agents.base import Effect
from agentsrv.config import Config
from agentsrv.errors import AgentsrvError, NotFound
from agentsrv.eventlog import EventLog, SessionLog, now_ms, server_chunk
from agentsrv.model import (
    Chunk,
    Outcome,
    Seq,
    Session,
    SessionId,
    Source,
    Turn,
    TurnId,
    TurnOptions,
    TurnStatus,
)
from agentsrv.runner.handle import RunnerError
from agentsrv.store import events, sessions, transactions
from agentsrv.store.database import Database
from agentsrv.tasks import Tasks
from agentsrv.turns.active import ActiveTurn, Verdict
from agentsrv.turns.approvals import OUR_PREFIX, Approvals, closing_events
from agentsrv.turns.live import TERM_GRACE_S, LiveAgent
from agentsrv.turns.outcomes import explain, final_events, internal_error
from agentsrv.turns.pool import AgentPool, Starting
from agentsrv.turns.queue import PromptQueue
from agentsrv.turns.requests import new_turn, queued_again
from agentsrv.turns.worktrees import SessionWorktrees

log = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 3.0

MAX_STEERED_BYTES = 64 * 1024 * 1024
"""Of all that is added to one turn, which is kept in memory; what is more waits for the turn's end."""


class RunningTurns:
    """The turns that run on this server, at most one in each session. Each has a task of its own.

    A turn that cannot be opened leaves everything as it was. `on_end` is called when one has ended, `on_refusal`
    when one could not be opened: something that waits in `queue` may begin now, or should try again later.
    """

    def __init__(
        self,
        *,
        config: Config,
        db: Database,
        event_log: EventLog,
        worktrees: SessionWorktrees,
        pool: AgentPool,
        queue: PromptQueue,
    ) -> None:
        self._config = config
        self._db = db
        self._log = event_log
        self._worktrees = worktrees
        self._pool = pool
        self._pool.on_wake = self._woke_up
        self._queue = queue
        self._tasks = Tasks("turns")
        self._by_session: dict[SessionId, ActiveTurn] = {}
        self.approvals = Approvals(db, self._tasks, config.permission_timeout_s)
        self.on_end: Callable[[], None] = lambda: None
        self.on_refusal: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self._by_session)

    def __contains__(self, session_id: SessionId) -> bool:
        return session_id in self._by_session

    def all(self) -> list[ActiveTurn]:
        return list(self._by_session.values())

    def of(self, session_id: SessionId) -> ActiveTurn | None:
        return self._by_session.get(session_id)

    def find(self, turn_id: TurnId) -> ActiveTurn | None:
        """Also one that is not in the database yet."""
        return next((active for active in self._by_session.values() if active.turn.id == turn_id), None)

    def find_open(self, turn_id: TurnId) -> ActiveTurn | None:
        active = self.find(turn_id)
        return active if active is not None and active.started.done() else None

    def start(
        self,
        session: Session,
        turn: Turn,
        user_event: bytes,
        *,
        is_new_session: bool = False,
        was_queued: bool = False,
        needs_worktree: bool = False,
    ) -> ActiveTurn:
        """Begin a turn in a session in which none runs. Its `started` tells when it is open, or why it never was."""
        active = self._activate(session, turn, user_event)
        active.is_new_session, active.was_queued = is_new_session, was_queued
        self._tasks.spawn(self._run(active, needs_worktree=needs_worktree), name=f"turn:{turn.id}")
        return active

    async def add(
        self, active: ActiveTurn, event_id: str, event: bytes, message_id: str | None
    ) -> Seq | None:
        """Put a user event into the turn; returns the seq before it, 0 when it is there already.

        None when the turn is ending, or has got too much. Raises MessageIdUsed, StorageFull.
        """
        assert active.log is not None
        async with active.log.hold() as seq:
            if event_id in active.steered:
                return 0
            size = len(event) + sum(map(len, active.steered.values()))
            if active.verdict.done() or active.finished.is_set() or size > MAX_STEERED_BYTES:
                return None
            chunk = server_chunk(active.turn, Source.USER, seq, [event])
            await transactions.add_to_turn(self._db, active.turn, chunk, message_id)
            active.steered[event_id] = event
            active.log.publish(chunk)
            # Before the agent's next line is read, which may be the last one of the turn.
            agent = self._pool.of(active.session.id)
            if agent is not None and agent.turn is active and not active.verdict.done():
                agent.steer(event_id)
        return seq - 1

    async def close(self) -> None:
        """Let turns that are ending end; the others go on under their runners, for the next server."""
        ending = [active for active in self.all() if active.verdict.done()]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                for active in ending:
                    await active.finished.wait()
        for active in self.all():
            active.forget_questions()
        await self._tasks.close()

    async def _run(self, active: ActiveTurn, *, needs_worktree: bool) -> None:
        if needs_worktree and not await self._moved_to_worktree(active):
            return
        # The process starts while the turn is committed; it gets its prompt only afterwards.
        starting = self._pool.start(active.session, active.turn)
        if await self._opened(active, starting):
            await self._work_and_finish(active, None, starting)

    async def _moved_to_worktree(self, active: ActiveTurn) -> bool:
        """Give the session its worktree, before its agent is started there; False when that failed."""
        try:
            active.session, active.worktree_event = await self._worktrees.make(
                active.session, is_new=active.is_new_session
            )
        except Exception as exc:
            self._refuse(active, exc)
            return False
        return True

    async def _opened(self, active: ActiveTurn, starting: Starting | None) -> bool:
        """Open the turn; when that fails leave everything as it was, and tell those who wait for it."""
        try:
            await self._open(active, starting)
        except Exception as exc:
            if starting is not None:
                await self._pool.abandon(starting)
            if active.worktree_event is not None:
                await self._worktrees.undo(active.session)
            self._refuse(active, exc)
            return False
        active.started.set_result(None)
        return True

    def _refuse(self, active: ActiveTurn, exc: Exception) -> None:
        """The turn does not take place."""
        if not isinstance(exc, AgentsrvError):
            log.error("turn %s could not be opened", active.turn.id, exc_info=exc)
        del self._by_session[active.session.id]
        if active.was_queued and not isinstance(exc, NotFound):  # Otherwise it was cancelled a moment ago.
            self._queue.put_back(active.session.id, active.turn.id)
        active.started.set_exception(exc)
        active.end()
        if (agent := self._pool.of(active.session.id)) is not None:
            agent.resume()
        self.on_refusal()

    async def _work_and_finish(
        self, active: ActiveTurn, agent: LiveAgent | None, starting: Starting | None = None
    ) -> None:
        try:
            if agent is None:
                agent = await self._pool.take(active.session, active.turn, starting)
                agent.begin(active)
            verdict = await self._verdict(active)
            outcome = await self._outcome(active, agent, verdict)
        except RunnerError as exc:
            code = "storage_full" if exc.about == "disk" else "agent_not_started"
            outcome = Outcome(TurnStatus.FAILED, str(exc), code)
        except Exception:
            log.exception("turn %s failed", active.turn.id)
            outcome = internal_error()
        try:
            await self.close_turn(active, outcome, agent)
        except AgentsrvError:
            raise
        except Exception:
            # What the agent said cannot be stored. The session must not stay busy for ever for its sake.
            log.exception("the outcome of turn %s cannot be recorded", active.turn.id)
            await self.close_turn(active, internal_error(), agent)

    async def _open(self, active: ActiveTurn, starting: Starting | None) -> None:
        """Commit lease, turn, prompt and a new process's runner, all or nothing; then show the prompt."""
        session = active.session
        # Kept, so that those who follow from now on find it in memory.
        active.log = session_log = await self._log.session(session.id, is_new=active.is_new_session)
        async with session_log.hold() as seq:
            opened = replace(active.turn, first_seq=seq)
            chunk = None
            if active.user_event is not None:
                lines = [line for line in (active.user_event, active.worktree_event) if line is not None]
                chunk = server_chunk(opened, Source.USER, seq, lines)

            active.turn = await transactions.open_turn(
                self._db,
                session,
                opened,
                is_new_session=active.is_new_session,
                prompt=chunk,
                runner=None if starting is None else starting.record,
                was_queued=active.was_queued,
            )
            # What the session's process writes from here on, before its turn begins or as it is replaced,
            # comes behind the prompt: under the older lease it would be refused.
            if (agent := self._pool.of(session.id)) is not None:
                agent.lease = active.lease
            if chunk is not None:
                session_log.publish(chunk)

    async def _verdict(self, active: ActiveTurn) -> Verdict:
        """Wait for the turn's verdict, or pass it when a time limit is over."""
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        while not active.verdict.done():
            limits = []
            if active.pending:
                # It is not the agent that keeps still.
                active.last_output_at = loop.time()
            if self._config.turn_timeout_s:
                limits.append(started_at + self._config.turn_timeout_s)
            if self._config.turn_idle_timeout_s:
                limits.append(active.last_output_at + self._config.turn_idle_timeout_s)
            if limits and min(limits) <= loop.time():
                active.settle(Verdict.TIMED_OUT)
                break
            await asyncio.wait({active.verdict}, timeout=min(limits) - loop.time() if limits else None)
        return active.verdict.result()

    async def _outcome(self, active: ActiveTurn, agent: LiveAgent, verdict: Verdict) -> Outcome:
        match verdict:
            case Verdict.OVER:
                return active.outcome or Outcome(TurnStatus.COMPLETED)
            case Verdict.EXITED:
                assert agent.exit is not None
                return active.outcome or explain(agent.exit, agent.adapter)
            case Verdict.GAVE_UP:
                await agent.halt()
                assert active.outcome is not None
                return active.outcome
            case Verdict.STOPPED:
                await agent.halt()
                return Outcome(TurnStatus.CANCELLED, stop_reason="cancelled")
            case Verdict.TIMED_OUT:
                await agent.halt()
                return Outcome(
                    TurnStatus.FAILED, "the turn took longer than the server allows", "turn_timeout"
                )
            case Verdict.STALE:
                await agent.runner.kill(TERM_GRACE_S)
                return Outcome(TurnStatus.INTERRUPTED, "another server took over the session", "stale_lease")

    async def close_turn(self, active: ActiveTurn, outcome: Outcome, agent: LiveAgent | None = None) -> None:
        """Commit the outcome with the turn's last events, release the lease, and show them."""
        session_id = active.session.id
        session_log = await self._log.session(session_id)
        async with session_log.hold() as seq:
            unanswered = closing_events(active)
            lines = [*unanswered, *final_events(active.turn.id, outcome, seq + len(unanswered))]
            turn = replace(
                active.turn,
                status=outcome.status,
                outcome=outcome,
                finished_at=now_ms(),
                last_seq=seq + len(lines) - 1,
            )
            chunk = server_chunk(turn, Source.SERVER, seq, lines)
            unread = [] if agent is None else [queued_again(turn, event) for event in agent.unread()]
            try:
                await transactions.close_turn(
                    self._db,
                    turn,
                    chunk,
                    runner_id=None if agent is None else agent.id,
                    agent_state={} if agent is None else agent.adapter.state(),
                    unread=unread,
                )
            except events.StaleLease:
                log.warning("turn %s lost its session to another owner; its end is not recorded", turn.id)
            else:
                active.turn = turn
                session_log.publish(chunk)
                for prompt in reversed(unread):
                    self._queue.put_back(session_id, prompt.turn_id)
        # From here to the end there is no await: a client that sees `done` may start the next turn at once.
        self._by_session.pop(session_id, None)
        active.end()
        if agent is not None:
            agent.end_turn()
            self._pool.rest(agent)
        self.on_end()

    def resume_turn(
        self, session: Session, turn: Turn, session_log: SessionLog, written: list[Chunk], agent: LiveAgent
    ) -> None:
        """Go on with a turn that an earlier server began; `written` is what the log has of it."""
        active = self._activate(session, turn, _prompt_of(written))
        active.log = session_log
        active.started.set_result(None)
        agent.begin(active)
        self._tasks.spawn(self._work_and_finish(active, agent), name=f"turn:{active.turn.id}")
        for number, chunk in enumerate(written):
            for line in chunk.lines() if chunk.turn_id == turn.id else ():
                self._replay(active, agent, chunk, line, is_prompt=number == 0)

    def _replay(
        self, active: ActiveTurn, agent: LiveAgent, chunk: Chunk, line: bytes, *, is_prompt: bool
    ) -> None:
        if line.startswith(OUR_PREFIX):
            self.approvals.recall(active, json.loads(line), chunk.created_at)
        elif chunk.source is Source.AGENT:
            agent.replay(line)
        elif chunk.source is Source.USER and not is_prompt:
            message_id = json.loads(line)["uuid"]
            active.steered[message_id] = line
            agent.steer(message_id)

    def _heed(self, active: ActiveTurn, effect: Effect) -> None:
        """The agent has asked something, or needs no answer any more."""
        if effect.question is not None:
            self.approvals.asked(active, effect.question)
        if effect.withdrawn is not None:
            self.approvals.withdrawn(active, effect.withdrawn)

    # Agents between turns

    def _woke_up(self, agent: LiveAgent) -> None:
        """An idle agent works again, for a background command has ended: a turn without a prompt."""
        self._tasks.spawn(self._run_unprompted(agent), name=f"wake:{agent.id}")

    async def _run_unprompted(self, agent: LiveAgent) -> None:
        session = await sessions.find(self._db, agent.session_id)
        if session is None:
            agent.resume()
            return
        if session.id in self:
            # A prompt came at the same moment. What the agent does is part of that turn, which reads on.
            return
        turn = new_turn(session.id, TurnOptions(model=session.model), None)
        active = self._activate(session, turn, None)
        if await self._opened(active, None):
            agent.begin(active)
            await self._work_and_finish(active, agent)

    def _activate(self, session: Session, turn: Turn, user_event: bytes | None) -> ActiveTurn:
        active = self._by_session[session.id] = ActiveTurn(session, turn, user_event, self._heed)
        return active


def _prompt_of(written: list[Chunk]) -> bytes | None:
    """The turn's user event; an unprompted turn has none."""
    return written[0].lines()[0] if written and written[0].source is Source.USER else None
