"""The agent processes of this server: at most one per session, warm between turns, within limits."""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from functools import partial

from msgspec import Struct
from msgspec.structs import asdict

from agentsrv.agents import AgentRegistry
from agentsrv.agents.timers import TimerNews
from agentsrv.config import Config
from agentsrv.errors import AgentsrvError
from agentsrv.eventlog import EventLog, now_ms
from agentsrv.model import Lease, RunnerId, Session, SessionId, Turn, TurnOptions
from agentsrv.runner.room import runner_room, write_for_agent
from agentsrv.runner.spec import RunnerError, RunnerSpec
from agentsrv.runner.watch import FileWatcher
from agentsrv.runner.zygote import Zygote
from agentsrv.store import runners, sessions
from agentsrv.store.database import Database
from agentsrv.store.runners import RunnerRecord
from agentsrv.tasks import Tasks
from agentsrv.threads import Threads
from agentsrv.turns.notes import tell
from agentsrv.turns.process import TERM_GRACE_S, AgentProcess, AnyRunner, EndReason
from agentsrv.turns.signals import AgentGone, AgentPlanned, AgentWoke, Signals
from agentsrv.users import User, acting_as

log = logging.getLogger(__name__)

LAUNCH_FILES = r"[a-z][a-z-]*\.(?:json|txt)"
"""What adapters write for their agents to read (`Launch.files`)."""

TURN_LINGER_S = 24 * 3600.0
"""An agent whose server went away in the middle of a turn goes on for so long."""


class Starting(Struct, frozen=True):
    """A process that a turn needs. `spawning` is under way already, unless another one must end first."""

    record: RunnerRecord
    spawning: asyncio.Task[AnyRunner | RunnerError] | None


class AgentPool:
    """Starts agents, keeps them for their session's next turn, and ends them when they idle too long."""

    def __init__(
        self,
        *,
        config: Config,
        db: Database,
        event_log: EventLog,
        agents: AgentRegistry,
        zygote: Zygote,
        watcher: FileWatcher,
        threads: Threads,
        signals: Signals,
    ) -> None:
        self.threads = threads
        self._config = config
        self._db = db
        self._log = event_log
        self._agents = agents
        self._zygote = zygote
        self._watcher = watcher
        self._signals = signals
        self._tasks = Tasks("agents")
        self.room = runner_room(config.state_dir / "runners", LAUNCH_FILES, config.agent_user)
        self._live: dict[SessionId, AgentProcess] = {}
        self._new_names: dict[SessionId, str] = {}
        self._warming: dict[SessionId, asyncio.Task[None]] = {}
        # Idle agents, the one that idles longest first, each with the timer that ends it.
        self._idle: dict[RunnerId, tuple[AgentProcess, asyncio.TimerHandle]] = {}

    @property
    def agent_user(self) -> User | None:
        """Who agents run as, if it is not the server's own user."""
        return self._config.agent_user

    def of(self, session_id: SessionId) -> AgentProcess | None:
        """The session's process, if it has one."""
        return self._live.get(session_id)

    def has_warm(self, session: Session, turn: Turn) -> bool:
        """Is there a process that can take the turn?"""
        agent = self._live.get(session.id)
        if agent is None or not agent.is_usable or agent.key != self._key(session, turn):
            return False
        return not _stands_nowhere(agent.runner.pid)

    def start(self, session: Session, turn: Turn) -> Starting | None:
        """Begin to start the process that `turn` needs; None when a warm agent can take it.

        The caller commits `record`, and then gives it to `take`, or to `abandon`.
        """
        if self.has_warm(session, turn):
            return None
        record = RunnerRecord(RunnerId(uuid.uuid4().hex), session.id, self._key(session, turn), now_ms())
        if session.id in self._live:
            # Two processes must not work on one conversation.
            return Starting(record, None)
        return Starting(
            record, self._tasks.start(self._spawn(session, turn.options, record), name=f"start:{record.id}")
        )

    async def take(self, session: Session, turn: Turn, starting: Starting | None) -> AgentProcess:
        """The agent for `turn`. Raises RunnerError when it cannot be started."""
        agent = self._live.get(session.id)
        if agent is not None and agent.is_usable and starting is None:
            self.busy(agent)
            return agent
        if agent is not None:
            await self.retire(agent, "replaced")
        if starting is None:
            # The warm agent has died since `start`.
            starting = self.start(session, turn)
            assert starting is not None
            record = starting.record
            await self._db.write(lambda db: runners.insert(db, record), must_happen=True)
        if starting.spawning is not None:
            runner = await starting.spawning
        else:
            runner = await self._spawn(session, turn.options, starting.record)
        if isinstance(runner, RunnerError):
            self._start_discarding(starting.record.id)
            raise runner
        return await self._take_in(runner, starting.record, session)

    async def _take_in(self, runner: AnyRunner, record: RunnerRecord, session: Session) -> AgentProcess:
        try:
            return await self.adopt(runner, record, session)
        except OSError as exc:
            await runner.kill(0.0)
            self._start_discarding(record.id)
            raise RunnerError(f"the agent's output cannot be read: {exc}") from exc

    async def abandon(self, starting: Starting) -> None:
        """The turn is not going to happen: end what was started for it, of which there is no row."""
        runner = None if starting.spawning is None else await starting.spawning
        if runner is not None and not isinstance(runner, RunnerError):
            await runner.kill(0.0)
        await self._remove(starting.record.id)

    async def adopt(self, runner: AnyRunner, record: RunnerRecord, session: Session) -> AgentProcess:
        """Take a process in, whose output is read from where the log has it once it gets a turn, or rests.

        Raises OSError when that cannot be opened.
        """
        adapter = self._agents.get(session.agent).adapter(session, record.agent_state)
        session_log = await self._log.session(session.id)
        process = AgentProcess(record, runner, adapter, session_log, self, self._config.max_line_bytes)
        process.start(self._watcher, self._tasks)
        self._live[session.id] = process
        return process

    def warm_up(self, session: Session, options: TurnOptions) -> None:
        """Start ahead the process that a prompt with these options will need. It counts as an idle one."""
        key = self._shared_key(session, options)
        is_known = session.id in self._live or session.id in self._warming
        if key is not None and self._config.max_warm_agents and not is_known:
            record = RunnerRecord(RunnerId(uuid.uuid4().hex), session.id, key, now_ms())
            warming = self._warm_up(session, options, record)
            self._warming[session.id] = self._tasks.start(warming, name=f"warm:{session.id}")

    async def warmed(self, session_id: SessionId) -> None:
        """Wait for a process that is being started ahead."""
        if (warming := self._warming.get(session_id)) is not None:
            await asyncio.wait({warming})

    async def _warm_up(self, session: Session, options: TurnOptions, record: RunnerRecord) -> None:
        try:
            await self._db.write(lambda db: runners.insert(db, record))
            runner = await self._spawn(session, options, record)
            if isinstance(runner, RunnerError):
                self._start_discarding(record.id)
                raise runner
            session_log = await self._log.session(session.id)  # Kept until the process keeps it.
            session_log.lease = Lease(session.id, session.generation)
            process = await self._take_in(runner, record, session)
        except (RunnerError, AgentsrvError) as exc:
            log.warning("no agent was started ahead for session %s: %s", session.id, exc)
        else:
            process.resume()
            self.rest(process)
        finally:
            del self._warming[session.id]

    def busy(self, agent: AgentProcess) -> None:
        """The agent has a turn: it is not idle any more."""
        if (entry := self._idle.pop(agent.id, None)) is not None:
            entry[1].cancel()
        agent.runner.set_linger(TURN_LINGER_S)

    def rest(self, agent: AgentProcess) -> None:
        """The agent has no turn any more: keep it warm, within the limits."""
        if agent.is_outdated:
            self._start_retiring(agent, "replaced")
        if not agent.is_usable:
            return
        idle_s = self._config.agent_idle_timeout_s
        # The runner ends it as well, should no server be there to do it.
        agent.runner.set_linger(TURN_LINGER_S if agent.adapter.has_background_work else idle_s)
        timer = asyncio.get_running_loop().call_later(idle_s, self._idled_out, agent)
        self._idle[agent.id] = (agent, timer)
        surplus = len(self._idle) - self._config.max_warm_agents
        unneeded = [agent for agent, _ in self._idle.values() if not agent.adapter.has_background_work]
        for oldest in unneeded[: max(surplus, 0)]:
            self._start_retiring(oldest, "limit")
        working = [agent for agent, _ in self._idle.values() if agent.adapter.has_background_work]
        for oldest in working[: max(len(working) - self._config.max_background_agents, 0)]:
            self._start_retiring(oldest, "limit")

    async def retire(self, agent: AgentProcess, reason: EndReason) -> None:
        """End an agent; its last output is in the log when this returns."""
        self.busy(agent)
        await agent.halt(reason)

    def renew(self, session_id: SessionId) -> None:
        """What the session's process knows does not count any more: no further turn begins there."""
        if (agent := self._live.get(session_id)) is not None:
            agent.is_outdated = True
            if agent.id in self._idle:
                self._start_retiring(agent, "replaced")

    async def discard(self, runner_id: RunnerId) -> None:
        """Forget a runner that is gone. First its row: a directory without a row is always rubbish."""
        await self._db.write(lambda db: runners.delete(db, runner_id), must_happen=True)
        await self._remove(runner_id)

    async def close(self) -> None:
        """End idle agents; leave those at work to their runners, for the next server."""
        idle = [agent for agent, _ in self._idle.values() if not agent.adapter.has_background_work]
        await asyncio.gather(*(self.retire(agent, "limit") for agent in idle))
        for agent in list(self._live.values()):
            agent.detach()
        for _, timer in self._idle.values():
            timer.cancel()
        await self._tasks.close()

    def _key(self, session: Session, turn: Turn) -> str:
        return self._shared_key(session, turn.options) or f"turn-{turn.id}"

    def _shared_key(self, session: Session, options: TurnOptions) -> str | None:
        """Equal where one process can serve in turn; None: each turn has its own."""
        key = self._agents.get(session.agent).process_key(options)
        return None if key is None else f"{key} {session.cwd}"

    async def _remove(self, runner_id: RunnerId) -> None:
        await self.threads.state.run(self.room.remove, runner_id)

    async def _spawn(
        self, session: Session, options: TurnOptions, record: RunnerRecord
    ) -> AnyRunner | RunnerError:
        try:
            await self._agents.get(session.agent).prepare()
            spec = await self.threads.state.run(self._prepare, session, options, record)
            return await self._zygote.spawn(spec)
        except (RunnerError, OSError, AgentsrvError) as exc:
            about = exc.about if isinstance(exc, RunnerError) else "runner"
            return RunnerError(f"the agent could not be started: {exc}", about=about)
        except Exception:
            log.exception("an agent for session %s could not be started", session.id)
            return RunnerError("the agent could not be started; see the server's log")

    def _prepare(self, session: Session, options: TurnOptions, record: RunnerRecord) -> RunnerSpec:
        """Look for the conversation, and write the files that the agent will read. Blocking."""
        kind = self._agents.get(session.agent)
        directory = self.room.path / record.id
        with acting_as(self._config.agent_user):
            resume = kind.transcript_of(session) is not None
        launch = kind.launch(session, options, resume=resume, directory=directory)
        directory.mkdir(mode=self.room.mode, parents=True)
        for name, content in launch.files.items():
            write_for_agent(directory / name, content, self._config.agent_user)
        return RunnerSpec(
            id=record.id,
            argv=launch.argv,
            cwd=session.cwd,
            env=launch.env,
            directory=directory,
            opening=launch.opening,
            grace_s=TERM_GRACE_S,
            quota_bytes=self._config.spool_quota_bytes,
            orphan_s=TURN_LINGER_S,
            user=self._config.agent_user,
        )

    def _idled_out(self, agent: AgentProcess) -> None:
        self.busy(agent)
        if agent.adapter.has_background_work:
            self.rest(agent)
        else:
            self._start_retiring(agent, "limit")

    def _start_retiring(self, agent: AgentProcess, reason: EndReason) -> None:
        self.busy(agent)
        self._tasks.spawn(self._retire_idle(agent, reason), name=f"retire:{agent.id}")

    async def _retire_idle(self, agent: AgentProcess, reason: EndReason) -> None:
        if agent.work is None:  # No turn has begun there just before this.
            await self.retire(agent, reason)

    def _start_discarding(self, runner_id: RunnerId) -> None:
        self._tasks.spawn(self.discard(runner_id), name=f"discard:{runner_id}")

    # What processes tell

    def woke(self, process: AgentProcess) -> None:
        self.busy(process)
        self._signals.agent_woke.send(AgentWoke(process.session_id))

    def exited(self, process: AgentProcess) -> None:
        self.busy(process)
        if self._live.get(process.session_id) is process:
            del self._live[process.session_id]
            self._signals.agent_gone.send(AgentGone(process.session_id))
        self._tasks.spawn(self._discard_after_its_turn(process), name=f"discard:{process.id}")

    async def _discard_after_its_turn(self, process: AgentProcess) -> None:
        """Until all that follows from its end is in the log, the next server has to find how it ended."""
        if process.work is not None:
            await process.work.ended.wait()
        if process.lost:
            event = {"type": "background_ended", "tasks": [asdict(task) for task in process.lost]}
            event["reason"] = process.end_reason or "exited"
            await tell(self._db, self._log, process.session_id, event)
        await self.discard(process.id)

    def named(self, session_id: SessionId, conversation: str) -> None:
        is_writing = session_id in self._new_names
        self._new_names[session_id] = conversation
        if not is_writing:
            self._tasks.spawn(self._store_name(session_id), name=f"conversation:{session_id}")

    def planned(self, process: AgentProcess, news: TimerNews, *, is_replayed: bool) -> None:
        self._signals.agent_planned.send(AgentPlanned(process.session_id, process.id, news, is_replayed))

    async def _store_name(self, session_id: SessionId) -> None:
        """Of the names that come while one is being written, the last one: an agent may change it all the time."""
        stored = None
        while stored != (name := self._new_names[session_id]):
            write = partial(sessions.set_internal_id, session_id=session_id, internal_id=name)
            await self._db.write(write, must_happen=True)
            stored = name
        del self._new_names[session_id]


def _stands_nowhere(pid: int) -> bool:
    """Was the directory of a process removed? Another one may have its name by now, which it would not see."""
    try:
        return os.readlink(f"/proc/{pid}/cwd").endswith(" (deleted)")
    except OSError:
        return False
