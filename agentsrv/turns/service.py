"""Start, follow and stop turns."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from agentsrv.agents import AgentRegistry
from agentsrv.config import Config
from agentsrv.errors import AgentsrvError, Conflict, LimitReached, NotFound, Unavailable
from agentsrv.eventlog import EventLog, now_ms
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
from agentsrv.runner.handle import AgentExit, RunnerError
from agentsrv.store import events, sessions, transactions, turns
from agentsrv.store.database import Database
from agentsrv.tasks import Tasks
from agentsrv.turns.cursor import decode_cursor, encode_cursor
from agentsrv.turns.live import TERM_GRACE_S, ActiveTurn, LiveAgent, Verdict
from agentsrv.turns.pool import AgentPool, Starting
from agentsrv.workspace.paths import Workspace

log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 15.0
MACHINE_RESTARTED = "machine_restarted"
CLOSE_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class StartTurn:
    """What a client asks for. `agent` and `cwd` None: the session's own, or the defaults for a new one."""

    session_id: SessionId
    prompt: str
    agent: str | None = None
    cwd: str | None = None
    options: TurnOptions = field(default_factory=TurnOptions)
    message_id: str | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """`is_new` is False when the same `message_id` had started this turn before."""

    turn: Turn
    is_new: bool


class TurnService:
    """The turns of this server: each has a task of its own, from its lease to its `done`."""

    def __init__(
        self,
        *,
        config: Config,
        db: Database,
        event_log: EventLog,
        agents: AgentRegistry,
        workspace: Workspace,
        pool: AgentPool,
    ) -> None:
        self.is_draining = False
        self._config = config
        self._db = db
        self._log = event_log
        self._agents = agents
        self._workspace = workspace
        self._pool = pool
        self._pool.on_wake = self._woke_up
        self._tasks = Tasks("turns")
        self._active: dict[SessionId, ActiveTurn] = {}

    # What clients ask for

    async def start(self, request: StartTurn) -> Started:
        """Take the session's lease, log the prompt and set the agent to work.

        All that a client may be told is wrong is raised here, before anything has happened: InvalidInput,
        Forbidden, Conflict (`session_busy`, `agent_mismatch`, `cwd_mismatch`), LimitReached
        (`too_many_turns`), Unavailable (`draining`, `agent_unavailable`), StorageFull.
        """
        if request.message_id is not None:
            known = await turns.find_by_message(self._db, request.session_id, request.message_id)
            if known is not None:
                return Started(known, is_new=False)
        session, is_new = await self._session_for(request)
        running = self._active.get(session.id)
        if running is not None and running.turn.message_id == request.message_id is not None:
            await asyncio.shield(running.started)
            return Started(running.turn, is_new=False)
        active = self._reserve(session, request)
        self._tasks.spawn(self._run(active, is_new), name=f"turn:{active.turn.id}")
        try:
            # The turn belongs to the server from here on: a client that goes away takes nothing with it.
            await asyncio.shield(active.started)
        except turns.MessageIdUsed:
            return await self._repeated(request)
        return Started(active.turn, is_new=True)

    async def get(self, turn_id: TurnId) -> Turn:
        """Raises NotFound (`job_not_found`)."""
        active = self._find_active(turn_id)
        return active.turn if active else await turns.get(self._db, turn_id)

    async def list_turns(
        self, *, session_id: SessionId | None, status: TurnStatus | None, limit: int, cursor: str | None
    ) -> tuple[list[Turn], str | None]:
        """A page, newest first, and the cursor of the next one. Raises InvalidInput for a bad cursor."""
        found = await turns.page(
            self._db,
            session_id=session_id,
            status=status,
            before=decode_cursor(cursor),
            limit=limit + 1,
        )
        page = found[:limit]
        more = len(found) > limit
        return page, encode_cursor(page[-1].created_at, page[-1].id) if more else None

    async def wait(self, turn_id: TurnId, timeout_s: float) -> Turn:
        """The turn once it has ended, or as it is after `timeout_s` or when the server stops."""
        if active := self._find_active(turn_id):
            try:
                async with asyncio.timeout(timeout_s):
                    await active.answerable.wait()
            except TimeoutError:
                pass
            return active.turn
        return await turns.get(self._db, turn_id)

    async def stop(self, session_id: SessionId) -> Turn:
        """End the running turn. Returns when its process tree is dead and its `done` is in the log.

        Raises NotFound (`not_running`).
        """
        active = self._active.get(session_id)
        if active is None:
            raise _not_running(session_id)
        active.settle(Verdict.STOPPED)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await active.finished.wait()
        except TimeoutError:
            raise Unavailable(
                f"job {active.turn.id} is being stopped, but its end cannot be recorded yet; ask again",
                code="database_unavailable",
                retry_after_s=5,
            ) from None
        if not active.turn.status.is_final:
            raise _not_running(session_id)  # It could not even be opened.
        return active.turn

    def last_seq(self, turn: Turn) -> Seq:
        """The newest seq that a follower of `turn` may have seen."""
        if turn.last_seq is not None:
            return turn.last_seq
        session_log = self._log.open_session(turn.session_id)
        return session_log.last_seq if session_log else turn.first_seq

    async def follow_turn(self, turn: Turn, after: Seq) -> AsyncGenerator[Chunk, None]:
        """The turn's events with seq > `after`, up to its `done`; live ones as they come."""
        active = self._find_active(turn.id)
        if active is None:
            turn = await turns.get(self._db, turn.id)
        first = max(after, turn.first_seq - 1)

        def end() -> Seq | None:
            return active.turn.last_seq if active else turn.last_seq

        async with aclosing(self._log.follow(turn.session_id, first, end)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def follow_session(self, session_id: SessionId, after: Seq) -> AsyncGenerator[Chunk, None]:
        """All events of a session with seq > `after`, and what comes until the server stops."""
        async with aclosing(self._log.follow(session_id, after, lambda: None)) as chunks:
            async for chunk in chunks:
                yield chunk

    # Life of the server

    def drain(self) -> None:
        """Refuse new turns from now on, and answer those who wait for the end of one."""
        self.is_draining = True
        for active in self._active.values():
            active.answerable.set()

    async def close(self) -> None:
        """Let turns that are ending end; the others go on under their runners, for the next server."""
        self.drain()
        ending = [active for active in self._active.values() if active.verdict.done()]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                for active in ending:
                    await active.finished.wait()
        await self._tasks.close()

    def is_active(self, session_id: SessionId) -> bool:
        return session_id in self._active

    # Before the turn

    async def _session_for(self, request: StartTurn) -> tuple[Session, bool]:
        """The session that the turn is for, and whether it has to be created."""
        session = await sessions.find(self._db, request.session_id)
        is_new = session is None
        if session is None:
            session = self.new_session(
                request.session_id, agent=request.agent, cwd=request.cwd, model=request.options.model
            )
        else:
            session = self._checked(session, request)
        agent = self._agents.get(session.agent)
        agent.check(request.options)
        if agent.find() is None:
            raise Unavailable(
                f"the program of agent {session.agent} was not found on the server", code="agent_unavailable"
            )
        return session, is_new

    def new_session(
        self,
        session_id: SessionId,
        *,
        agent: str | None,
        cwd: str | None,
        model: str | None,
        name: str | None = None,
    ) -> Session:
        """A session that is not stored yet. Raises InvalidInput, Forbidden."""
        kind = self._agents.get(agent or self._agents.names()[0])
        now = now_ms()
        return Session(
            id=session_id,
            name=name,
            agent=kind.name,
            cwd=str(self._workspace.directory(cwd)),
            model=model,
            internal_session_id=kind.new_internal_id(session_id),
            created_at=now,
            updated_at=now,
        )

    def _checked(self, session: Session, request: StartTurn) -> Session:
        """The stored session, if the request fits it. Raises Conflict, InvalidInput, Forbidden."""
        if request.agent is not None and request.agent != session.agent:
            self._agents.get(request.agent)
            raise Conflict(
                f"session {session.id} belongs to agent {session.agent}; use it, or another session",
                code="agent_mismatch",
            )
        # Also finds out, before the stream has begun, that the directory is gone.
        # Sessions of the earlier server may have none, or a relative one, and no conversation either.
        directory = str(self._workspace.directory(session.cwd or None))
        if request.cwd is not None and str(self._workspace.directory(request.cwd)) != directory:
            raise Conflict(
                f"session {session.id} works in {session.cwd}; leave out cwd, or use another session",
                code="cwd_mismatch",
            )
        internal_id = session.internal_session_id or self._agents.get(session.agent).new_internal_id(
            session.id
        )
        return replace(session, cwd=directory, internal_session_id=internal_id)

    def _reserve(self, session: Session, request: StartTurn) -> ActiveTurn:
        """Make the session this server's only turn. No await between the checks and the reservation."""
        if self.is_draining:
            raise Unavailable("the server is shutting down; try again", code="draining", retry_after_s=5)
        if (running := self._active.get(session.id)) is not None:
            raise sessions.busy(session.id, running.turn.id)
        if len(self._active) >= self._config.max_concurrent_turns:
            raise LimitReached(
                f"{len(self._active)} turns are running, which is the limit; try again later",
                code="too_many_turns",
                retry_after_s=5,
            )
        options = replace(request.options, model=request.options.model or session.model)
        turn = _new_turn(session.id, options, request.message_id)
        event = self._agents.get(session.agent).user_event(session, turn.id, request.prompt)
        active = self._active[session.id] = ActiveTurn(session, turn, event)
        return active

    async def _repeated(self, request: StartTurn) -> Started:
        assert request.message_id is not None
        known = await turns.find_by_message(self._db, request.session_id, request.message_id)
        if known is None:
            raise NotFound(f"there is no session {request.session_id}", code="session_not_found")
        return Started(known, is_new=False)

    # The turn

    async def _run(self, active: ActiveTurn, is_new: bool) -> None:
        """The life of a turn."""
        # The process starts while the turn is committed; it gets its prompt only afterwards.
        starting = self._pool.start(active.session, active.turn)
        if await self._opened(active, starting, is_new=is_new):
            await self._work_and_finish(active, None, starting)
        elif starting is not None:
            await self._pool.abandon(starting)

    async def _opened(self, active: ActiveTurn, starting: Starting | None, *, is_new: bool) -> bool:
        """Open the turn; when that fails tell those who wait for it, and leave everything as it was."""
        try:
            await self._open(active, starting, is_new)
        except Exception as exc:
            if not isinstance(exc, AgentsrvError):
                log.exception("turn %s could not be opened", active.turn.id)
            del self._active[active.session.id]
            active.started.set_exception(exc)
            active.end()
            if (agent := self._pool.of(active.session.id)) is not None:
                agent.resume()
            return False
        active.started.set_result(None)
        return True

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
            outcome = _internal_error()
        try:
            await self.close_turn(active, outcome, agent)
        except AgentsrvError:
            raise
        except Exception:
            # What the agent said cannot be stored. The session must not stay busy for ever for its sake.
            log.exception("the outcome of turn %s cannot be recorded", active.turn.id)
            await self.close_turn(active, _internal_error(), agent)

    async def _open(self, active: ActiveTurn, starting: Starting | None, is_new: bool) -> None:
        """Commit lease, turn, prompt and a new process's runner, all or nothing; then show the prompt."""
        session = active.session
        # Kept, so that those who follow from now on find it in memory.
        active.log = session_log = await self._log.session(session.id, is_new=is_new)
        async with session_log.hold() as seq:
            opened = replace(active.turn, first_seq=seq)
            chunk = None
            if active.user_event is not None:
                chunk = _server_chunk(opened, Source.USER, seq, [active.user_event])

            active.turn = await transactions.open_turn(
                self._db,
                session,
                opened,
                is_new_session=is_new,
                prompt=chunk,
                runner=None if starting is None else starting.record,
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
                return active.outcome or _explain(agent.exit, agent)
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
            lines = _closing_events(active.turn.id, outcome, seq)
            turn = replace(
                active.turn,
                status=outcome.status,
                outcome=outcome,
                finished_at=now_ms(),
                last_seq=seq + len(lines) - 1,
            )
            chunk = _server_chunk(turn, Source.SERVER, seq, lines)

            try:
                await transactions.close_turn(
                    self._db,
                    turn,
                    chunk,
                    runner_id=None if agent is None else agent.id,
                    agent_state={} if agent is None else agent.adapter.state(),
                )
            except events.StaleLease:
                log.warning("turn %s lost its session to another owner; its end is not recorded", turn.id)
            else:
                active.turn = turn
                session_log.publish(chunk)
        # From here to the end there is no await: a client that sees `done` may start the next turn at once.
        self._active.pop(session_id, None)
        active.end()
        if agent is not None:
            agent.end_turn()
            self._pool.rest(agent)

    def resume_turn(self, active: ActiveTurn, agent: LiveAgent) -> None:
        """Go on with a turn that an earlier server began."""
        self._active[active.session.id] = active
        agent.begin(active)
        self._tasks.spawn(self._work_and_finish(active, agent), name=f"turn:{active.turn.id}")

    # Agents between turns

    def _woke_up(self, agent: LiveAgent) -> None:
        """An idle agent works again, for a background command has ended: a turn without a prompt."""
        self._tasks.spawn(self._run_unprompted(agent), name=f"wake:{agent.id}")

    async def _run_unprompted(self, agent: LiveAgent) -> None:
        session = await sessions.find(self._db, agent.session_id)
        if session is None:
            agent.resume()
            return
        if session.id in self._active:
            # A prompt came at the same moment. What the agent does is part of that turn, which reads on.
            return
        turn = _new_turn(session.id, TurnOptions(model=session.model), None)
        active = self._active[session.id] = ActiveTurn(session, turn, None)
        # Nobody else waits for it, so its failure must not be reported as never retrieved.
        active.started.add_done_callback(lambda started: started.exception())
        if await self._opened(active, None, is_new=False):
            agent.begin(active)
            await self._work_and_finish(active, agent)

    def _find_active(self, turn_id: TurnId) -> ActiveTurn | None:
        for active in self._active.values():
            if active.turn.id == turn_id and active.started.done():
                return active
        return None


def _not_running(session_id: SessionId) -> NotFound:
    return NotFound(f"nothing runs in session {session_id}", code="not_running")


def _new_turn(session_id: SessionId, options: TurnOptions, message_id: str | None) -> Turn:
    now = now_ms()
    return Turn(
        id=TurnId(str(uuid.uuid4())),
        session_id=session_id,
        generation=0,
        status=TurnStatus.RUNNING,
        created_at=now,
        started_at=now,
        message_id=message_id,
        options=options,
    )


def _server_chunk(turn: Turn, source: Source, seq: Seq, lines: list[bytes]) -> Chunk:
    data = b"\n".join(lines) + b"\n"
    return Chunk(turn.session_id, turn.id, source, now_ms(), seq, seq + len(lines) - 1, data)


def _closing_events(turn_id: TurnId, outcome: Outcome, seq: Seq) -> list[bytes]:
    """What the server says at the end, from `seq` on: `error` when something went wrong, always `done`."""
    closing: list[dict[str, Any]] = []
    if outcome.error_code == MACHINE_RESTARTED:
        # Events that were sent may not have reached the disk: their ids are about to be used again.
        closing.append({"type": "gap", "after": seq - 1})
    done: dict[str, Any] = {"done": True, "taskId": turn_id, "status": outcome.status}
    if outcome.error is not None:
        closing.append({"type": "error", "error": outcome.error, "code": outcome.error_code})
        done["error"] = outcome.error
    return [json.dumps(event).encode() for event in (*closing, done)]


def _internal_error() -> Outcome:
    return Outcome(TurnStatus.FAILED, "internal error; see the server's log", "internal_error")


def _explain(ended: AgentExit, agent: LiveAgent) -> Outcome:
    """The outcome of a turn whose process ended before the agent said how the turn did."""
    if ended.reason == "runner_lost":
        return Outcome(TurnStatus.INTERRUPTED, "the agent's runner was lost", "runner_lost")
    if ended.reason == MACHINE_RESTARTED:
        return Outcome(TurnStatus.INTERRUPTED, "the machine was restarted", MACHINE_RESTARTED)
    if ended.reason in {"killed", "orphaned"}:
        # Not by us: whoever shuts the machine down ends the runners as well.
        return Outcome(TurnStatus.INTERRUPTED, "the agent was ended from outside", "agent_interrupted")
    if ended.reason == "quota":
        error = "the agent wrote more than the server could take; it was stopped"
        return Outcome(TurnStatus.FAILED, error, "spool_quota_exceeded")
    if (explained := agent.adapter.explain_exit(ended.stderr_tail)) is not None:
        error, code = explained
        return Outcome(TurnStatus.FAILED, error, code)
    how = f"signal {ended.signal}" if ended.signal else f"exit code {ended.code}"
    return Outcome(TurnStatus.FAILED, f"the agent ended in the middle of the turn ({how})", "agent_exited")
