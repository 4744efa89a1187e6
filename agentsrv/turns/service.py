"""What clients ask for: start, follow and stop turns, and answer their questions."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator

from msgspec.structs import replace

from agentsrv.agents import AgentRegistry
from agentsrv.errors import AgentsrvError, Conflict, LimitReached, NotFound, Unavailable
from agentsrv.eventlog import Take, server_chunk
from agentsrv.model import (
    Answer,
    Chunk,
    Outcome,
    PermissionMode,
    Seq,
    Session,
    SessionId,
    Source,
    Turn,
    TurnId,
    TurnStatus,
)
from agentsrv.store import events, sessions, turns
from agentsrv.store.prompts import QueuedPrompt
from agentsrv.tasks import Tasks
from agentsrv.turns.admission import Admission
from agentsrv.turns.cursor import decode_cursor, encode_cursor
from agentsrv.turns.driver import TurnDriver
from agentsrv.turns.means import Means
from agentsrv.turns.open_turns import OpenTurns
from agentsrv.turns.outcomes import AFTER_GAP, MACHINE_RESTARTED, final_events, gap_of
from agentsrv.turns.questions import (
    WaitingQuestion,
    answer_in,
    digest,
    not_waiting,
    require_consistent,
    require_same,
)
from agentsrv.turns.recovery import Recovery
from agentsrv.turns.requests import (
    IfBusy,
    Started,
    StartTurn,
    message_uuid,
    new_turn,
    require_same_options,
)
from agentsrv.turns.stages import Plan
from agentsrv.turns.starter import Starter
from agentsrv.turns.worktrees import SessionWorktrees

STOP_TIMEOUT_S = 15.0
ALL_SETTLED_S = 5.0
DELETION_WAIT_S = 1.0
PREVIEW_CHARACTERS = 200
"""Of a session's first prompt, for those who look for it in a list."""


class TurnService:
    """All turns, those that run here and those of the past; `queue` holds the prompts that wait for theirs."""

    def __init__(
        self,
        means: Means,
        agents: AgentRegistry,
        admission: Admission,
        worktrees: SessionWorktrees,
        open_turns: OpenTurns,
        recovery: Recovery,
        starter: Starter,
    ) -> None:
        self.is_draining = False
        self.is_refusing = False  # New turns, while all else goes on.
        self._ended = asyncio.Event()
        means.signals.turn_ended.subscribe(lambda _: self._ended.set())
        means.signals.turn_refused.subscribe(lambda _: self._ended.set())
        self.queue = means.queue
        self.deletions: dict[SessionId, asyncio.Event] = {}
        """The sessions that are being deleted; set when that is over."""
        self._config = means.config
        self._db = means.db
        self._homes = means.homes
        self._log = means.event_log
        self._pool = means.pool
        self._agents = agents
        self._admission = admission
        self._worktrees = worktrees
        self._open = open_turns
        self._recovery = recovery
        self._starter = starter
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
        except (NotFound, Conflict) as exc:
            # The session has been deleted in this very moment: it is a new one.
            if exc.code == "session_deleting":
                await self._wait_for_deletion(request.session_id)
            elif isinstance(exc, Conflict):
                raise
            return await self._start(request)

    def allow_only(self, session_id: SessionId, allowances: tuple[str, ...]) -> None:
        """A turn that runs asks again for what is not allowed any more."""
        if (driver := self._open.of(session_id)) is not None:
            driver.allow_only(allowances)

    def change_mode(self, session_id: SessionId, mode: PermissionMode) -> None:
        """A turn that runs works in this mode from now on. Raises Conflict (`mode_is_fixed`) when it cannot."""
        driver = self._open.of(session_id)
        if driver is not None and not driver.change_mode(mode):
            raise Conflict(
                f"the agent of job {driver.turn.id} cannot change to {mode} while it works; stop it, or wait",
                code="mode_is_fixed",
            )

    async def _wait_for_deletion(self, session_id: SessionId) -> None:
        """A moment: it takes long only where an agent has to be stopped, or gigabytes to be removed."""
        if (over := self.deletions.get(session_id)) is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DELETION_WAIT_S):
                    await over.wait()

    async def settled(self, session_id: SessionId) -> None:
        """Wait until what an earlier server has left of a session is taken over."""
        await self._recovery.settled(session_id)

    async def _start(self, request: StartTurn) -> Started:
        await self._recovery.settled(request.session_id)
        if request.message_id is not None:
            known = await turns.find_by_message(self._db, request.session_id, request.message_id)
            if known is not None:
                return Started(known, is_new=False)
        session, is_new = await self._admission.session_for(request)
        request = self._admission.in_mode(session, request)
        needs_worktree = request.use_worktree and await self._worktrees.is_missing(session)
        driver = self._open.of(session.id)
        if driver is not None and driver.turn.message_id == request.message_id is not None:
            await asyncio.shield(driver.opened)
            return Started(driver.turn, is_new=False)
        if request.if_busy is not IfBusy.REJECT and self.is_active(session.id):
            return await self._join(session, request)
        driver = self._begin(session, request, is_new_session=is_new, needs_worktree=needs_worktree)
        try:
            # The turn belongs to the server from here on: a client that goes away takes nothing with it.
            await asyncio.shield(driver.opened)
        except turns.MessageIdUsed:
            return await self._repeated(request)
        return Started(driver.turn, is_new=True)

    async def find_started(self, session_id: SessionId, message_id: str) -> Turn | None:
        """The turn that this `message_id` has started; None when it is new."""
        return await turns.find_by_message(self._db, session_id, message_id)

    async def get(self, turn_id: TurnId) -> Turn:
        """Raises NotFound (`job_not_found`)."""
        driver = self._open.find_opened(turn_id)
        turn = driver.turn if driver is not None else await turns.get(self._db, turn_id)
        return await self.get(turn_id) if await self._recovery.settled(turn.session_id) else turn

    async def gap_before(self, session_id: SessionId, seen: Seq) -> Seq:
        """The newest gap among a session's events up to `seen`; 0: none."""
        turn = await turns.last_of_code(self._db, session_id, MACHINE_RESTARTED, seen + AFTER_GAP + 1)
        return gap_of(turn) if turn is not None else 0

    async def list_turns(
        self, *, session_id: SessionId | None, status: TurnStatus | None, limit: int, cursor: str | None
    ) -> tuple[list[Turn], str | None]:
        """A page, newest first, and the cursor of the next one. Raises InvalidInput for a bad cursor."""
        before = decode_cursor(cursor)
        found = await turns.page(
            self._db, session_id=session_id, status=status, before=before, limit=limit + 1
        )
        page = found[:limit]
        return page, encode_cursor(page[-1].created_at, page[-1].id) if len(found) > limit else None

    async def wait(self, turn_id: TurnId, timeout_s: float) -> Turn:
        """The turn once it has ended, or as it is after `timeout_s` or when the server stops."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                turn = await self._begun(turn_id)
                if driver := self._open.find_opened(turn.id):
                    await driver.answerable.wait()
        return await self.get(turn_id)

    async def stop(self, session_id: SessionId, turn_id: TurnId | None = None) -> Turn:
        """End the running turn, or what an earlier one has left running. Returns when the process tree is dead
        and the turn's `done` in the log. With `turn_id` only that turn is meant, and none that has come after it.

        Raises NotFound (`not_running`).
        """
        await self._recovery.settled(session_id)
        driver = self._open.of(session_id)
        if turn_id is not None and (driver is None or driver.turn.id != turn_id):
            raise _not_running(session_id)
        if driver is None:
            return await self._stop_background(session_id)
        driver.stop()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await driver.gone()
        except TimeoutError:
            raise Unavailable(
                f"job {driver.turn.id} is being stopped, but its end cannot be recorded yet; ask again",
                code="database_unavailable",
                retry_after_s=5,
            ) from None
        if not driver.turn.status.is_final:
            raise _not_running(session_id)  # It could not even be opened.
        return driver.turn

    async def _stop_background(self, session_id: SessionId) -> Turn:
        """End what a turn has left running when it ended; returns the newest one. Raises NotFound (`not_running`)."""
        newest = await turns.page(self._db, session_id=session_id, status=None, before=None, limit=1)
        process = self._pool.of(session_id)
        is_resting = process is not None and process.work is None and process.adapter.has_background_work
        if process is None or not is_resting or not newest:
            raise _not_running(session_id)
        await self._pool.retire(process, "stopped")
        return newest[0]

    async def stop_unprompted(self, session_id: SessionId) -> None:
        """End what an agent has begun by itself, if it does. Raises NotFound, Unavailable."""
        if (driver := self._open.of(session_id)) is not None and not driver.is_prompted:
            await self.stop(session_id, driver.turn.id)

    def running_tool(self, session_id: SessionId) -> str | None:
        """The name of the tool that the session's agent waits for now."""
        return driver.running_tool() if (driver := self._open.of(session_id)) is not None else None

    def last_seq(self, turn: Turn) -> Seq:
        """The newest seq that a follower of `turn` may have seen."""
        if turn.last_seq is not None:
            return turn.last_seq
        if turn.status is TurnStatus.QUEUED:
            return 0
        session_log = self._log.open_session(turn.session_id)
        return session_log.last_seq if session_log else turn.first_seq

    async def follow_turn(
        self, turn: Turn, after: Seq, take: Take | None = None
    ) -> AsyncGenerator[Chunk, None]:
        """The turn's events with seq > `after`, up to its `done`; live ones as they come, offered to `take` first.

        A queued turn is waited for. One that is cancelled before it begins, or deleted before it is read, has
        no place in the log: its only event is a `done` with seq 0.
        """
        try:
            if not turn.status.is_final:
                turn = await self._begun(turn.id)
            driver = self._open.find_opened(turn.id)
            if driver is None:
                turn = await turns.get(self._db, turn.id)
        except NotFound:
            status = turn.status if turn.status.is_final else TurnStatus.CANCELLED
            turn, driver = replace(turn, status=status, last_seq=0), None
        if turn.status is TurnStatus.QUEUED:
            return  # The server stops.
        if turn.last_seq == 0:
            yield server_chunk(turn, Source.SERVER, 0, final_events(turn.id, Outcome(turn.status), 0))
            return
        first = max(after, turn.first_seq - 1)

        def end() -> Seq | None:
            return driver.turn.last_seq if driver else turn.last_seq

        async with contextlib.aclosing(self._log.follow(turn.session_id, first, end, take)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def follow_session(
        self, session_id: SessionId, after: Seq, take: Take | None = None
    ) -> AsyncGenerator[Chunk, None]:
        """All events of a session with seq > `after`, and what comes until the server stops."""
        async with contextlib.aclosing(self._log.follow(session_id, after, lambda: None, take)) as chunks:
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
        if self._open.find(turn_id) is not None:
            with contextlib.suppress(NotFound):
                return await self.stop(turn.session_id, turn_id)
        return await self.get(turn_id)

    # Questions of agents

    async def all_settled(self) -> None:
        """The same for all sessions, unless it takes long."""
        await self._recovery.all_settled(ALL_SETTLED_S)

    def questions(self) -> list[WaitingQuestion]:
        """All that wait for a user's answer, the oldest first."""
        found = [question for driver in self._open.all() for question in driver.questions()]
        return sorted(found, key=lambda question: question.created_at)

    async def answer(self, turn_id: TurnId, question_id: str, answer: Answer) -> Answer:
        """Answer a question of the turn's agent. The same answer again is fine.

        Raises NotFound (`job_not_found`, `permission_not_found`), Conflict (`permission_answered`,
        `job_ended`), InvalidInput for an answer that does not fit, StorageFull.
        """
        require_consistent(answer)
        turn = await self.get(turn_id)
        if driver := self._open.find_opened(turn_id):
            with contextlib.suppress(NotFound):
                return await driver.answer(question_id, answer)
        for chunk in await events.written_by(
            self._db, Source.SERVER, turn.session_id, turn.first_seq, self.last_seq(turn)
        ):
            for event in map(json.loads, chunk.lines()):
                if event.get("type") == "permission_resolved" and event["requestId"] == question_id:
                    return require_same(question_id, digest(answer_in(event)), answer)
        raise not_waiting(turn, question_id)

    # Life of the server

    async def begin_queued(self) -> None:
        """Go on with the prompts that an earlier server left waiting."""
        await self.queue.load()
        self._starter.look()

    @property
    def active(self) -> int:
        """How many turns are open."""
        return len(self._open)

    async def idle(self) -> None:
        """Wait until no turn is open."""
        while self._open:
            self._ended.clear()
            await self._ended.wait()

    def refuse(self) -> None:
        """Refuse new turns from now on, and begin none that waits."""
        self.is_refusing = True
        self._starter.drain()

    def drain(self) -> None:
        """The same, and answer those who wait for the end of one."""
        self.refuse()
        self.is_draining = True
        self.queue.close()
        for driver in self._open.all():
            driver.answerable.set()

    async def close(self) -> None:
        """Let turns that are ending end; the others go on under their runners, for the next server."""
        self.drain()
        await self._recovery.close()
        await self._open.close()
        await self._starter.close()
        await self._tasks.close()

    def is_active(self, session_id: SessionId) -> bool:
        """Does a turn run in the session, or wait to run?"""
        return session_id in self._open or self.queue.any_of(session_id) is not None

    def require_idle(self, session_id: SessionId) -> None:
        """Raises Conflict (`session_busy`) while a turn runs in the session, or waits to run."""
        driver, waiting = self._open.of(session_id), self.queue.any_of(session_id)
        if (turn_id := driver.turn.id if driver is not None else waiting) is not None:
            raise sessions.busy(session_id, turn_id)

    # Before the turn

    def _begin(
        self, session: Session, request: StartTurn, *, is_new_session: bool, needs_worktree: bool
    ) -> TurnDriver:
        """Begin the turn, if the session and the server are free."""
        if self.is_refusing:
            raise _draining()
        if (driver := self._open.of(session.id)) is not None:
            raise sessions.busy(session.id, driver.turn.id)
        if (waiting := self.queue.any_of(session.id)) is not None:
            raise sessions.busy(session.id, waiting)
        if len(self._open) >= self._config.max_concurrent_turns:
            raise LimitReached(
                f"{len(self._open)} turns are running, which is the limit; try again later",
                code="too_many_turns",
                retry_after_s=5,
            )
        session = replace(session, preview=session.preview or request.prompt[:PREVIEW_CHARACTERS])
        options = self._admission.options_in(session, request.options)
        turn = new_turn(session.id, options, request.message_id, self._homes.new_turn_id())
        event = self._agents.get(session.agent).user_event(session, turn.id, request.prompt, request.images)
        return self._open.start(
            Plan(
                session,
                turn,
                event,
                is_new_session=is_new_session,
                needs_worktree=needs_worktree,
                worktree=request.worktree,
                if_lost=request.if_lost,
            )
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
        if self.is_draining or (self.is_refusing and request.if_busy is IfBusy.QUEUE):
            raise _draining()
        driver = self._open.of(session.id)
        if driver is not None and not driver.opened.done():
            # It is not in the database yet, nor perhaps its session, and may never be.
            await asyncio.wait({driver.opened})
            return await self.start(request)
        if request.if_busy is IfBusy.STEER and driver is not None and driver.is_prompted:
            # A task of its own: a client that leaves must not leave a message half added.
            steering = self._tasks.start(self._steer(driver, request), name=f"steer:{driver.turn.id}")
            steered = await asyncio.shield(steering)
            if isinstance(steered, turns.MessageIdUsed):
                return await self._repeated(request)
            if isinstance(steered, AgentsrvError):
                raise steered
            if steered is not None:
                return steered
        return await self._enqueue(session, request)

    async def _steer(self, driver: TurnDriver, request: StartTurn) -> Started | AgentsrvError | None:
        """Put the prompt into the running turn; None when that does not take it any more."""
        event_id = message_uuid(request)
        kind = self._agents.get(driver.session.agent)
        event = kind.user_event(driver.session, TurnId(event_id), request.prompt, request.images)
        try:
            require_same_options(driver.turn.options, request)
            after = await driver.add(event_id, event, request.message_id)
        except AgentsrvError as exc:
            return exc
        return None if after is None else Started(driver.turn, is_new=False, after=after)

    async def _enqueue(self, session: Session, request: StartTurn) -> Started:
        turn = new_turn(session.id, request.options, request.message_id, self._homes.new_turn_id())
        event = self._agents.get(session.agent).user_event(session, turn.id, request.prompt, request.images)
        queued = replace(turn, status=TurnStatus.QUEUED, started_at=None)
        prompt = QueuedPrompt(
            turn.id, session.id, request.prompt, event, request.options, request.message_id, turn.created_at
        )
        try:
            await self.queue.append(prompt)
        except turns.MessageIdUsed:
            return await self._repeated(request)
        self._starter.look()
        return Started(queued, is_new=True)

    async def _begun(self, turn_id: TurnId) -> Turn:
        """The turn once it is not queued any more, or the server stops."""
        turn = await self.get(turn_id)
        while not self.is_draining:
            driver = self._open.find(turn_id)
            if driver is not None and not driver.opened.done():
                # In the database it may run already.
                await asyncio.wait({driver.opened})
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
