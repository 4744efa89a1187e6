"""What clients ask for: start, follow and stop turns, and answer their questions."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from agentsrv.agents import AgentRegistry
from agentsrv.config import Config
from agentsrv.errors import AgentsrvError, Conflict, LimitReached, NotFound, Unavailable
from agentsrv.eventlog import EventLog, now_ms, server_chunk
from agentsrv.model import (
    Answer,
    Chunk,
    Outcome,
    Seq,
    Session,
    SessionId,
    Source,
    Turn,
    TurnId,
    TurnStatus,
)
from agentsrv.store import events, queue, sessions, turns
from agentsrv.store.database import Database
from agentsrv.store.queue import QueuedPrompt
from agentsrv.tasks import Tasks
from agentsrv.turns.active import ActiveTurn, Pending, Verdict
from agentsrv.turns.approvals import answered_before
from agentsrv.turns.cursor import decode_cursor, encode_cursor
from agentsrv.turns.outcomes import final_events
from agentsrv.turns.queue import PromptQueue
from agentsrv.turns.requests import (
    IfBusy,
    Started,
    StartTurn,
    message_uuid,
    new_turn,
    require_same_options,
)
from agentsrv.turns.running import RunningTurns
from agentsrv.turns.worktrees import SessionWorktrees
from agentsrv.workspace.paths import Workspace

STOP_TIMEOUT_S = 15.0
QUEUE_RETRY_S = 5.0


class TurnService:
    """All turns, those that run here and those of the past; `queue` holds the prompts that wait for theirs."""

    def __init__(
        self,
        *,
        config: Config,
        db: Database,
        event_log: EventLog,
        agents: AgentRegistry,
        workspace: Workspace,
        worktrees: SessionWorktrees,
        running: RunningTurns,
        queue: PromptQueue,
    ) -> None:
        self.is_draining = False
        self._config = config
        self._db = db
        self._log = event_log
        self._agents = agents
        self._workspace = workspace
        self._worktrees = worktrees
        self._running = running
        self._running.on_end = self._start_queued
        self._running.on_refusal = self._start_queued_later
        self.queue = queue
        self._tasks = Tasks("prompts")

    # What clients ask for

    async def start(self, request: StartTurn) -> Started:
        """Take the session's lease, log the prompt and set the agent to work.

        All that a client may be told is wrong is raised here, before anything has happened: InvalidInput,
        Forbidden, Conflict (`session_busy`, `agent_mismatch`, `cwd_mismatch`, `worktree_mismatch`),
        Unprocessable (a repository that cannot have a worktree), LimitReached (`too_many_turns`), Unavailable
        (`draining`, `agent_unavailable`), StorageFull.
        """
        try:
            return await self._start(request)
        except NotFound:
            # The session has been deleted in this very moment: it is a new one.
            return await self._start(request)

    async def _start(self, request: StartTurn) -> Started:
        if request.message_id is not None:
            known = await turns.find_by_message(self._db, request.session_id, request.message_id)
            if known is not None:
                return Started(known, is_new=False)
        session, is_new = await self._session_for(request)
        needs_worktree = request.use_worktree and self._worktrees.is_missing(session)
        active = self._running.of(session.id)
        if active is not None and active.turn.message_id == request.message_id is not None:
            await asyncio.shield(active.started)
            return Started(active.turn, is_new=False)
        if request.if_busy is not IfBusy.REJECT and self.is_active(session.id):
            return await self._join(session, request)
        active = self._begin(session, request, is_new_session=is_new, needs_worktree=needs_worktree)
        try:
            # The turn belongs to the server from here on: a client that goes away takes nothing with it.
            await asyncio.shield(active.started)
        except turns.MessageIdUsed:
            return await self._repeated(request)
        return Started(active.turn, is_new=True)

    async def find_started(self, session_id: SessionId, message_id: str) -> Turn | None:
        """The turn that this `message_id` has started; None when it is new."""
        return await turns.find_by_message(self._db, session_id, message_id)

    async def get(self, turn_id: TurnId) -> Turn:
        """Raises NotFound (`job_not_found`)."""
        active = self._running.find_open(turn_id)
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
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                turn = await self._begun(turn_id)
                if active := self._running.find_open(turn.id):
                    await active.answerable.wait()
        return await self.get(turn_id)

    async def stop(self, session_id: SessionId) -> Turn:
        """End the running turn. Returns when its process tree is dead and its `done` is in the log.

        Raises NotFound (`not_running`).
        """
        active = self._running.of(session_id)
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
        if turn.status is TurnStatus.QUEUED:
            return 0
        session_log = self._log.open_session(turn.session_id)
        return session_log.last_seq if session_log else turn.first_seq

    async def follow_turn(self, turn: Turn, after: Seq) -> AsyncGenerator[Chunk, None]:
        """The turn's events with seq > `after`, up to its `done`; live ones as they come.

        A queued turn is waited for. One that is cancelled before it begins, or deleted before it is read, has
        no place in the log: its only event is a `done` with seq 0.
        """
        try:
            if not turn.status.is_final:
                turn = await self._begun(turn.id)
            active = self._running.find_open(turn.id)
            if active is None:
                turn = await turns.get(self._db, turn.id)
        except NotFound:
            status = turn.status if turn.status.is_final else TurnStatus.CANCELLED
            turn, active = replace(turn, status=status, last_seq=0), None
        if turn.status is TurnStatus.QUEUED:
            return  # The server stops.
        if turn.last_seq == 0:
            yield server_chunk(turn, Source.SERVER, 0, final_events(turn.id, Outcome(turn.status), 0))
            return
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

    async def cancel(self, turn_id: TurnId) -> Turn:
        """End one turn, whether it runs or waits; one that has ended is left as it is.

        Raises NotFound (`job_not_found`), StorageFull.
        """
        turn = await self.get(turn_id)
        if turn.status is TurnStatus.QUEUED:
            with contextlib.suppress(NotFound):
                return await self.queue.cancel(turn.session_id, turn_id)
            turn = await self.get(turn_id)
        if self._running.find(turn_id) is not None:
            with contextlib.suppress(NotFound):
                return await self.stop(turn.session_id)
        return await self.get(turn_id)

    # Questions of agents

    def pending(self) -> list[tuple[Turn, Pending]]:
        """All questions that wait for a user's answer, the oldest first."""
        found = [
            (active.turn, pending)
            for active in self._running.all()
            for pending in active.pending.values()
            # Otherwise it is being answered by what was allowed before.
            if pending.question.allowance not in active.session.allowances
        ]
        return sorted(found, key=lambda entry: entry[1].created_at)

    async def answer(self, turn_id: TurnId, question_id: str, answer: Answer) -> Answer:
        """Answer a question of the turn's agent. The same answer again is fine.

        Raises NotFound (`job_not_found`, `permission_not_found`), Conflict (`permission_answered`,
        `job_ended`), InvalidInput for an answer that does not fit, StorageFull.
        """
        if active := self._running.find_open(turn_id):
            return await self._running.approvals.answer(active, question_id, answer)
        turn = await turns.get(self._db, turn_id)
        for chunk in await events.of_server(self._db, turn.session_id, turn.first_seq, turn.last_seq or 0):
            for event in map(json.loads, chunk.lines()):
                if event.get("type") == "permission_resolved" and event["requestId"] == question_id:
                    return answered_before(event, answer)
        raise NotFound(f"job {turn_id} does not wait for {question_id}", code="permission_not_found")

    # Life of the server

    async def begin_queued(self) -> None:
        """Go on with the prompts that an earlier server left waiting."""
        await self.queue.load()
        self._start_queued()

    def drain(self) -> None:
        """Refuse new turns from now on, and answer those who wait for the end of one."""
        self.is_draining = True
        self.queue.close()
        for active in self._running.all():
            active.answerable.set()

    async def close(self) -> None:
        """Let turns that are ending end; the others go on under their runners, for the next server."""
        self.drain()
        await self._running.close()
        await self._tasks.close()

    def is_active(self, session_id: SessionId) -> bool:
        """Does a turn run in the session, or wait to run?"""
        return session_id in self._running or self.queue.first(session_id) is not None

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
        await agent.check(request.options)
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
        known = (directory, session.origin_cwd)
        if request.cwd is not None and str(self._workspace.directory(request.cwd)) not in known:
            raise Conflict(
                f"session {session.id} works in {session.cwd}; leave out cwd, or use another session",
                code="cwd_mismatch",
            )
        internal_id = session.internal_session_id or self._agents.get(session.agent).new_internal_id(
            session.id
        )
        return replace(session, cwd=directory, internal_session_id=internal_id)

    def _begin(
        self, session: Session, request: StartTurn, *, is_new_session: bool, needs_worktree: bool
    ) -> ActiveTurn:
        """Begin the turn, if the session and the server are free. No await between the checks and that."""
        if self.is_draining:
            raise _draining()
        if (active := self._running.of(session.id)) is not None:
            raise sessions.busy(session.id, active.turn.id)
        if (waiting := self.queue.first(session.id)) is not None:
            raise sessions.busy(session.id, waiting)
        if len(self._running) >= self._config.max_concurrent_turns:
            raise LimitReached(
                f"{len(self._running)} turns are running, which is the limit; try again later",
                code="too_many_turns",
                retry_after_s=5,
            )
        options = replace(request.options, model=request.options.model or session.model)
        turn = new_turn(session.id, options, request.message_id)
        event = self._agents.get(session.agent).user_event(session, turn.id, request.prompt, request.images)
        return self._running.start(
            session, turn, event, is_new_session=is_new_session, needs_worktree=needs_worktree
        )

    async def _repeated(self, request: StartTurn) -> Started:
        assert request.message_id is not None
        known = await turns.find_by_message(self._db, request.session_id, request.message_id)
        if known is None:
            raise NotFound(f"there is no session {request.session_id}", code="session_not_found")
        return Started(known, is_new=False)

    # A prompt to a busy session

    async def _join(self, session: Session, request: StartTurn) -> Started:
        """Add the prompt to the turn that runs, or to those that wait for its end."""
        if self.is_draining:
            raise _draining()
        active = self._running.of(session.id)
        if active is not None and not active.started.done():
            # It is not in the database yet, nor perhaps its session, and may never be.
            await asyncio.wait({active.started})
            return await self.start(request)
        if request.if_busy is IfBusy.STEER and active is not None and active.is_prompted:
            # A task of its own: a client that leaves must not leave a message half added.
            steering = self._tasks.start(self._steer(active, request), name=f"steer:{active.turn.id}")
            steered = await asyncio.shield(steering)
            if isinstance(steered, turns.MessageIdUsed):
                return await self._repeated(request)
            if isinstance(steered, AgentsrvError):
                raise steered
            if steered is not None:
                return steered
        return await self._enqueue(session, request)

    async def _steer(self, active: ActiveTurn, request: StartTurn) -> Started | AgentsrvError | None:
        """Put the prompt into the running turn; None when that does not take it any more."""
        event_id = message_uuid(request)
        kind = self._agents.get(active.session.agent)
        event = kind.user_event(active.session, TurnId(event_id), request.prompt, request.images)
        try:
            require_same_options(active.turn.options, request)
            after = await self._running.add(active, event_id, event, request.message_id)
        except AgentsrvError as exc:
            return exc
        return None if after is None else Started(active.turn, is_new=False, after=after)

    async def _enqueue(self, session: Session, request: StartTurn) -> Started:
        turn = new_turn(session.id, request.options, request.message_id)
        event = self._agents.get(session.agent).user_event(session, turn.id, request.prompt, request.images)
        queued = replace(turn, status=TurnStatus.QUEUED, started_at=None)
        prompt = QueuedPrompt(
            turn.id, session.id, event, request.options, request.message_id, turn.created_at
        )
        try:
            await self.queue.append(prompt)
        except turns.MessageIdUsed:
            return await self._repeated(request)
        self._start_queued()
        return Started(queued, is_new=True)

    def _start_queued(self) -> None:
        """Begin what waits where nothing runs any more, within the limit. The end of any turn comes here again."""
        free = 0 if self.is_draining else self._config.max_concurrent_turns - len(self._running)
        waiting = [session_id for session_id in self.queue.sessions() if session_id not in self._running]
        for session_id in waiting[: max(free, 0)]:
            self._tasks.spawn(self._begin_queued(session_id), name=f"queued:{session_id}")

    async def _begin_queued(self, session_id: SessionId) -> None:
        try:
            while (turn_id := self._next_in(session_id)) is not None:
                session = await sessions.find(self._db, session_id)
                prompt = await queue.find(self._db, turn_id)
                if session is None:
                    self.queue.forget(session_id)
                elif prompt is None:
                    self.queue.take(session_id, turn_id)
                elif turn_id == self._next_in(session_id):
                    self._start_prompt(session, prompt)
                    return
        except Unavailable:
            self._start_queued_later()
        else:
            self._start_queued()  # Another session's may take its place.

    def _next_in(self, session_id: SessionId) -> TurnId | None:
        """The prompt of the session that may begin now."""
        is_possible = (
            session_id not in self._running and len(self._running) < self._config.max_concurrent_turns
        )
        return self.queue.first(session_id) if is_possible and not self.is_draining else None

    def _start_queued_later(self) -> None:
        asyncio.get_running_loop().call_later(QUEUE_RETRY_S, self._start_queued)

    def _start_prompt(self, session: Session, prompt: QueuedPrompt) -> None:
        options = replace(prompt.options, model=prompt.options.model or session.model)
        turn = replace(
            new_turn(session.id, options, prompt.message_id), id=prompt.turn_id, created_at=prompt.created_at
        )
        self._running.start(self._usable(session), turn, prompt.user_event, was_queued=True)
        self.queue.take(session.id, turn.id)

    def _usable(self, session: Session) -> Session:
        """The session with its directory resolved, if it is there: otherwise its agent cannot be started."""
        with contextlib.suppress(AgentsrvError):
            return replace(session, cwd=str(self._workspace.directory(session.cwd or None)))
        return session

    async def _begun(self, turn_id: TurnId) -> Turn:
        """The turn once it is not queued any more, or the server stops."""
        turn = await self.get(turn_id)
        while not self.is_draining:
            active = self._running.find(turn_id)
            if active is not None and not active.started.done():
                # In the database it may run already.
                await asyncio.wait({active.started})
            elif turn.status is TurnStatus.QUEUED:
                await self.queue.leaves(turn.session_id, turn_id)
            else:
                break
            turn = await self.get(turn_id)
        return turn


def _not_running(session_id: SessionId) -> NotFound:
    return NotFound(f"nothing runs in session {session_id}", code="not_running")


def _draining() -> Unavailable:
    return Unavailable("the server is shutting down; try again", code="draining", retry_after_s=5)
