"""One open turn: finds out the facts of its life, and carries out what `lifecycle` says follows from them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from msgspec.structs import asdict, replace

from agentsrv.agents.contract import Effect
from agentsrv.errors import AgentsrvError, NotFound
from agentsrv.eventlog import SessionLog, now_ms, server_chunk
from agentsrv.model import Answer, Outcome, PermissionMode, Seq, Session, Source, Turn, TurnStatus
from agentsrv.runner.spec import RunnerError
from agentsrv.store import sessions, transactions, turns
from agentsrv.tasks import Tasks
from agentsrv.turns import facts, lifecycle
from agentsrv.turns.answering import Answering, disk_full
from agentsrv.turns.clock import Clock
from agentsrv.turns.closing import close
from agentsrv.turns.facts import Command, Fact
from agentsrv.turns.lifecycle import Ended, Opening, Running, State, Waiting
from agentsrv.turns.means import Means
from agentsrv.turns.outcomes import INTERNAL_ERROR
from agentsrv.turns.pool import Starting
from agentsrv.turns.process import AgentProcess
from agentsrv.turns.questions import WaitingQuestion, question_in
from agentsrv.turns.signals import ToolChanged, TurnEnded, TurnOpened, TurnRefused
from agentsrv.turns.stages import Plan, Stage

log = logging.getLogger(__name__)

STOP_IS_STORED_S = 1.0
"""A stop does not wait longer for a database that does not answer."""

FULL_CHECK_S = 0.5


class TurnDriver:
    """Holds the state of one turn. `on_end` is called when its session is free, before anybody else is told.

    opened: done when it is known that the turn takes place; raises what has kept it from that.
    ended: its `done` is in the log, or it never takes place.
    answerable: whoever waits for the end gets an answer now. It has ended, or the server stops.
    """

    def __init__(
        self, opening: Opening, means: Means, tasks: Tasks, on_end: Callable[[TurnDriver], None]
    ) -> None:
        loop = asyncio.get_running_loop()
        self.state: State = opening
        self.is_prompted = opening.prompt is not None
        self.opened: asyncio.Future[None] = loop.create_future()
        # Maybe nobody waits for it: a failure must not be reported as never retrieved then.
        self.opened.add_done_callback(lambda opened: opened.cancelled() or opened.exception())
        self.ended = asyncio.Event()
        self.answerable = asyncio.Event()
        self._means = means
        self._tasks = tasks
        self._on_end = on_end
        self._log: SessionLog | None = None
        self._process: asyncio.Future[AgentProcess | None] = loop.create_future()
        self._facts: deque[Fact] = deque()
        self._clock = Clock(means.config, self.feed, self._runs_tool, self._progress)
        folding = means.pool.threads.folding
        self.answering = Answering(self, means.db, folding, means.signals, means.config.permission_timeout_s)
        self._is_showing = False
        self._is_unwanted = False
        self._tool: str | None = None
        self._retiring: asyncio.Task[None] | None = None
        self._stop_is_stored: asyncio.Task[None] | None = None

    @property
    def turn(self) -> Turn:
        return self.state.turn

    @property
    def session(self) -> Session:
        return self.state.session

    @property
    def log(self) -> SessionLog:
        assert self._log is not None
        return self._log

    async def process(self) -> AgentProcess | None:
        """The process that works for the turn, once there is one; None when there never will be."""
        return await asyncio.shield(self._process)

    # What its user wants

    def stop(self) -> None:
        """End it. `gone` tells when its process tree is dead and its `done` in the log."""
        self._is_unwanted = True
        if not isinstance(self.state, Ended):
            self.feed(facts.Stopped())

    async def gone(self) -> None:
        """Wait for the end, and after a stop also for that of the process."""
        await self.ended.wait()
        if self._retiring is not None:
            await asyncio.shield(self._retiring)

    async def add(self, event_id: str, event: bytes, message_id: str | None) -> Seq | None:
        """Put a user event into the turn; returns the seq before it, 0 when it is there already.

        None when the turn is ending, or has got too much. Raises MessageIdUsed, StorageFull.
        """
        async with self.held() as seq:
            state = self.state
            if not isinstance(state, Running | Waiting):
                return None
            if event_id in state.steered:
                return 0
            if not lifecycle.has_room_for(state, event):
                return None
            chunk = server_chunk(state.turn, Source.USER, seq, [event])
            await transactions.add_to_turn(self._means.db, state.turn, chunk, message_id)
            self.log.publish(chunk)
            # Before the agent's next line is read, which may be the last one of the turn.
            self.feed(facts.Added(event_id, event, seq))
        return seq - 1

    def allow_only(self, allowances: tuple[str, ...]) -> None:
        """What was allowed for the session has been taken back, but for these."""
        if isinstance(self.state, Running | Waiting):
            self.feed(facts.Disallowed(allowances))

    def change_mode(self, mode: PermissionMode) -> bool:
        """Work in another permission mode from now on; False when its process cannot."""
        process = self._process.result() if self._process.done() else None
        if process is None or not isinstance(self.state, Running | Waiting):
            return False
        if (data := process.adapter.change_mode(mode)) is None:
            return False
        if data:
            process.runner.send(f"mode-{uuid4()}", data)
        self.feed(facts.ModeChanged(mode))
        write = partial(turns.set_mode, turn_id=self.turn.id, mode=mode)
        self._tasks.spawn(self._means.db.write(write, must_happen=True), name=f"mode:{self.turn.id}")
        return True

    def questions(self) -> list[WaitingQuestion]:
        """Those that wait for a user."""
        waiting = self.state.questions.values() if isinstance(self.state, Waiting) else ()
        return [
            WaitingQuestion(self.turn, question_in(pending.event), pending.created_at, pending.expires_at)
            for pending in waiting
            if not pending.is_settling
        ]

    async def answer(self, question_id: str, answer: Answer) -> Answer:
        """Record an answer and give it to the agent; the same one again changes nothing.

        Raises NotFound (`permission_not_found`), Conflict (`permission_answered`, `job_ended`), InvalidInput
        for an answer that does not fit the question, StorageFull.
        """
        # A task of its own: a client that leaves must not leave an answer half given.
        answering = self.answering.answer(question_id, answer)
        done = await asyncio.shield(self._tasks.start(answering, name=f"answer:{question_id}"))
        if isinstance(done, AgentsrvError):
            raise done
        return done

    # Its beginning

    async def run(self, plan: Plan) -> None:
        """Open the turn, and set its agent to work. What keeps it from being opened, `opened` raises."""
        prepared: list[tuple[Stage, Plan]] = []
        starting = None
        try:
            for stage in self._means.stages:
                plan = await stage.prepare(plan)
                prepared.append((stage, plan))
            await self._means.pool.warmed(plan.session.id)
            # The process starts meanwhile; it gets its prompt only when the turn is committed.
            starting = self._means.pool.start(plan.session, plan.turn)
            for stage in self._means.stages:
                await stage.make_ready(plan)
            await self._open(plan, starting)
        except Exception as exc:
            await self._take_back(prepared, starting)
            self._refuse(plan, exc)
        else:
            await self._get_process(plan, starting)

    async def _take_back(self, prepared: list[tuple[Stage, Plan]], starting: Starting | None) -> None:
        """Leave everything as it was. Whatever fails here, the session must not stay busy for its sake."""
        try:
            if starting is not None:
                await self._means.pool.abandon(starting)
            for stage, its_plan in reversed(prepared):
                await stage.undo(its_plan)
        except Exception:
            log.exception("something is left of turn %s, which could not be opened", self.turn.id)

    async def run_unprompted(self, plan: Plan, process: AgentProcess) -> None:
        """The same for what the agent has begun by itself."""
        try:
            await self._open(plan, None)
        except Exception as exc:
            self._refuse(plan, exc)
        else:
            self._begin(process)
            process.resume()

    async def _open(self, plan: Plan, starting: Starting | None) -> None:
        """Commit lease, turn, prompt and a new process's runner, all or nothing; then show the prompt."""
        # Kept, so that those who follow from now on find it in memory.
        self._log = await self._means.event_log.session(plan.session.id, is_new=plan.is_new_session)
        async with self._log.hold() as seq:
            turn = replace(plan.turn, first_seq=seq)
            chunk = None
            if plan.prompt is not None:
                chunk = server_chunk(turn, Source.USER, seq, [plan.prompt, *plan.events])
            turn = await transactions.open_turn(
                self._means.db,
                plan.session,
                turn,
                is_new_session=plan.is_new_session,
                prompt=chunk,
                runner=None if starting is None else starting.record,
                was_queued=plan.was_queued,
            )
            # What the session's process writes from here on, before its turn begins or as it is replaced,
            # comes behind the prompt: under the older lease it would be refused.
            self._log.lease = turn.lease
            if chunk is not None:
                self._log.publish(chunk)
            self.feed(facts.Opened(plan.session, turn, plan.prompt))
        self.opened.set_result(None)
        self._means.signals.turn_opened.send(TurnOpened(plan.session, turn))

    def _refuse(self, plan: Plan, exc: Exception) -> None:
        """The turn does not take place."""
        if not isinstance(exc, AgentsrvError):
            log.error("turn %s could not be opened", plan.turn.id, exc_info=exc)
        if plan.was_queued and not isinstance(exc, NotFound):  # Otherwise it was cancelled a moment ago.
            self._means.queue.put_back(plan.session.id, plan.turn.id)
        self.opened.set_exception(exc)
        self._process.set_result(None)
        self.feed(facts.Refused())
        if (process := self._means.pool.of(plan.session.id)) is not None:
            process.resume()
        self._means.signals.turn_refused.send(TurnRefused(plan.session, plan.turn))

    async def _get_process(self, plan: Plan, starting: Starting | None) -> None:
        try:
            process = await self._means.pool.take(plan.session, self.turn, starting)
            self._begin(process)
            process.resume()
        except RunnerError as exc:
            code = "storage_full" if exc.about == "disk" else "agent_not_started"
            self.lack_process(Outcome(TurnStatus.FAILED, str(exc), code))
        except Exception:
            log.exception("turn %s gets no agent", self.turn.id)
            self.lack_process(INTERNAL_ERROR)

    def _begin(self, process: AgentProcess) -> None:
        self._process.set_result(process)
        process.begin(self, is_prompted=self.is_prompted)
        self.feed(facts.Ready())

    def lack_process(self, outcome: Outcome) -> None:
        """There will be no process."""
        if not self._process.done():
            self._process.set_result(None)
        self.feed(facts.NoAgent(outcome))

    # After a restart

    def resume(self, session_log: SessionLog, process: AgentProcess | None) -> None:
        """Be a turn that an earlier server has opened. Once its past is known, `go_on`; then `count_time`."""
        self._log = session_log
        # No limit ends a turn of which not all is known: its agent may have ended it in time.
        self._clock.stop()
        self.opened.set_result(None)
        self.feed(facts.Opened(self.session, replace(self.turn, status=TurnStatus.RUNNING)))
        if process is not None:
            self._begin(process)

    def start_agent(self) -> None:
        """The earlier server has not come to that: nobody has had the prompt."""
        self.log.lease = self.turn.lease
        self._show_status()
        plan = Plan(self.session, self.turn, None)
        self._tasks.spawn(self._get_process(plan, None), name=f"turn:{self.turn.id}")
        self._means.signals.turn_opened.send(TurnOpened(self.session, self.turn, is_resumed=True))

    def go_on(self, process: AgentProcess) -> None:
        """All that the log has is known; what else the agent has written comes next."""
        if isinstance(self.state, Running | Waiting):
            process.resume()
        self._show_status()
        self._means.signals.turn_opened.send(TurnOpened(self.session, self.turn, is_resumed=True))

    def count_time(self) -> None:
        """All that its agent had written meanwhile is in the log: its time limits count."""
        self._clock.start()

    # What its agent says

    def heard(self, effect: Effect, event: bytes | None, seq: Seq) -> None:
        if effect.takes_prompt or effect.begins:
            self.feed(facts.Listening())
        if (question := effect.question) is not None and event is not None:
            self.answering.ask(question.id, event, seq, question.allowance, now_ms())
        if effect.withdrawn is not None:
            self.feed(facts.Withdrawn(effect.withdrawn))
        for message_id in effect.lost_steers:
            self.feed(facts.Unheard(message_id))
        for message_id in effect.read_steers:
            self.feed(facts.Read(message_id))
        if effect.cwd is not None:
            self._moved(effect.cwd)
        if effect.outcome is not None:
            self.feed(facts.Reported(effect.outcome))
        if effect.looks_over or effect.begins:
            self._clock.sees_end(effect.looks_over)
        if effect.gave_up is not None:
            self.feed(facts.GaveUp(effect.gave_up))
        if effect.is_over:
            self.feed(facts.Over())

    def running_tool(self) -> str | None:
        """The name of the tool that the agent waits for."""
        process = self._process.result() if self._process.done() else None
        return None if process is None else process.adapter.running_tool()

    def _runs_tool(self) -> bool:
        return self.running_tool() is not None

    def _progress(self) -> int | None:
        process = self._process.result() if self._process.done() else None
        return None if process is None else process.adapter.progress

    def _moved(self, cwd: str) -> None:
        """The agent works in another directory from now on, also after its process has ended."""
        if Path(cwd).is_relative_to(self._means.config.workspace_base):
            write = self._means.db.write(lambda db: sessions.move(db, self.session.id, cwd), must_happen=True)
            self._tasks.spawn(write, name=f"move:{self.session.id}")
        else:
            log.warning("session %s has left the workspace; its directory stays as it was", self.session.id)

    def has_written(self, progress: int | None, tool: str | None) -> None:
        self._clock.heard(progress)
        if tool != self._tool:
            self._tool = tool
            self._means.signals.tool_changed.send(ToolChanged(self.session.id))

    def fold(self) -> dict[str, Any] | None:
        state = self.state
        if not isinstance(state, Running | Waiting) or state.prompt is not None:
            return None
        return {
            "turn": state.turn.id,
            "outcome": state.outcome and asdict(state.outcome),
            "questions": [question.seq for question in state.questions.values()],
            "steered": [[message.seq, message.place.name] for message in state.steered.values()],
        }

    def exited(self, outcome: Outcome) -> None:
        self.feed(facts.Exited(outcome))

    def lost_lease(self) -> None:
        self.feed(facts.LeaseLost())

    # From fact to fact

    def feed(self, fact: Fact) -> None:
        """Take a step, and carry out what follows; a fact that is found meanwhile comes after that."""
        self._facts.append(fact)
        if len(self._facts) > 1:
            return
        while self._facts:
            try:
                self.state, commands = lifecycle.step(self.state, self._facts[0])
                for command in commands:
                    self._carry_out(command)
            except Exception:
                log.exception("a mistake in turn %s", self.turn.id)
            self._facts.popleft()
        self._clock.set(self.state)

    def _carry_out(self, command: Command) -> None:
        match command:
            case facts.SendPrompt(event):
                if self._send(self.turn.id, lambda process: process.adapter.prompt(event)):
                    self.feed(facts.Prompted())
            case facts.SendSteered(id, event):
                if self._send(id, lambda process: process.adapter.steer(id, event)):
                    self.feed(facts.Sent(id))
            case facts.Tell(id, data):
                self._send(f"permission-{id}", lambda _: data)
            case facts.Settle(id, answer):
                self._tasks.spawn(self.answering.settle(id, answer), name=f"settle:{id}")
            case facts.ShowStatus():
                self._show_status()
            case facts.RememberStop(turn_id):
                write = self._means.db.write(lambda db: turns.note_stop(db, turn_id))
                self._stop_is_stored = self._tasks.start(write, name=f"stop:{turn_id}")
            case facts.Halt():
                self._tasks.spawn(self._halt(), name=f"halt:{self.turn.id}")
            case facts.Close():
                self._tasks.spawn(close(self, self._means), name=f"close:{self.turn.id}")
            case facts.Release():
                self._release()

    def _send(self, message_id: str, say: Callable[[AgentProcess], bytes | None]) -> bool:
        """Write to the agent's stdin what `say` returns; False when it takes nothing now.

        The runner takes a message's id only once, so after a restart it may be sent again.
        """
        process = self._process.result() if self._process.done() else None
        if process is None:
            return False
        try:
            data = say(process)
        except Exception as exc:
            log.error("turn %s cannot be told to its agent: %s", self.turn.id, type(exc).__name__)
            self.feed(facts.GaveUp(INTERNAL_ERROR))
            return False
        if data is not None:
            process.runner.send(message_id, data)
        return data is not None

    def _show_status(self) -> None:
        """Have the database say what the turn does; of many changes at once, the last one."""
        if not self._is_showing:
            self._is_showing = True
            self._tasks.spawn(self._status_shown(), name=f"status:{self.turn.id}")

    async def _status_shown(self) -> None:
        shown = None
        while isinstance(self.state, Running | Waiting) and shown is not self.turn.status:
            shown = self.turn.status
            write = partial(turns.set_status, turn_id=self.turn.id, status=shown)
            await self._means.db.write(write, must_happen=True)
        self._is_showing = False

    # Its end

    async def _halt(self) -> None:
        if self._stop_is_stored is not None:
            # So that it counts as cancelled, even if the server is killed before it can say so.
            await asyncio.wait({self._stop_is_stored}, timeout=STOP_IS_STORED_S)
        if (process := await self.process()) is not None:
            await process.halt("stopped")
        self.feed(facts.Halted())

    def _release(self) -> None:
        """Free the session and tell all who wait: a client that sees `done` may start the next turn at once."""
        self._on_end(self)
        self.ended.set()
        self.answerable.set()
        if (process := self._process.result()) is not None:
            if self._is_unwanted and process.is_usable:
                # The turn ended by itself just before it was stopped; what its agent has begun ends all the same.
                self._retiring = self._tasks.start(
                    self._means.pool.retire(process, "stopped"), name=f"retire:{process.id}"
                )
            process.end_turn()
            if self._lacks_login and not process.adapter.has_background_work:
                # It may keep what it was started with: a login that is made now is for the next one.
                self._means.pool.renew(self.session.id)
            if self._retiring is None:
                self._means.pool.rest(process)
        if self.opened.exception() is None:
            self._means.signals.turn_ended.send(TurnEnded(self.session, self.turn))

    @property
    def _lacks_login(self) -> bool:
        outcome = self.turn.outcome
        return outcome is not None and outcome.error_code == "agent_not_authenticated"

    def let_go(self) -> None:
        """The server stops: whatever time brings, it brings to the next one."""
        self._clock.stop()

    @asynccontextmanager
    async def held(self, *, must_happen: bool = False) -> AsyncIterator[Seq]:
        """The log, for an event. Raises StorageFull when whoever has it waits for space, unless it `must_happen`."""
        async with AsyncExitStack() as stack:
            yield await self._take_log(stack, None if must_happen else FULL_CHECK_S)

    async def _take_log(self, stack: AsyncExitStack, check_s: float | None) -> Seq:
        while True:
            try:
                async with asyncio.timeout(check_s):
                    return await stack.enter_async_context(self.log.hold())
            except TimeoutError:
                if self._means.db.is_full:
                    raise disk_full() from None
