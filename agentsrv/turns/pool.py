"""The agent processes of this server: at most one per session, warm between turns, within limits."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agentsrv.agents import AgentRegistry
from agentsrv.config import Config
from agentsrv.eventlog import EventLog, now_ms
from agentsrv.model import Lease, RunnerId, Session, SessionId, Turn
from agentsrv.runner.handle import RunnerError, RunnerSpec
from agentsrv.runner.watch import FileWatcher
from agentsrv.runner.zygote import Zygote
from agentsrv.store import runners, sessions
from agentsrv.store.database import Database
from agentsrv.store.runners import RunnerRecord
from agentsrv.tasks import Tasks
from agentsrv.turns.active import ActiveTurn, Runner
from agentsrv.turns.live import TERM_GRACE_S, LiveAgent

# An agent whose server went away in the middle of a turn goes on for so long.
TURN_LINGER_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Starting:
    """A process that a turn needs. `spawning` is under way already, unless another one must end first."""

    record: RunnerRecord
    spawning: asyncio.Task[Runner | RunnerError] | None


class AgentPool:
    """Starts agents, keeps them for their session's next turn, and ends them when they idle too long.

    `on_wake` is called with an idle agent that has begun to work by itself.
    """

    def __init__(
        self,
        *,
        config: Config,
        db: Database,
        event_log: EventLog,
        agents: AgentRegistry,
        zygote: Zygote,
        watcher: FileWatcher,
    ) -> None:
        self.on_wake: Callable[[LiveAgent], None] = LiveAgent.resume
        self._config = config
        self._db = db
        self._log = event_log
        self._agents = agents
        self._zygote = zygote
        self._watcher = watcher
        self._tasks = Tasks("agents")
        self._live: dict[SessionId, LiveAgent] = {}
        # Idle agents, the one that idles longest first, each with the timer that ends it.
        self._idle: dict[RunnerId, tuple[LiveAgent, asyncio.TimerHandle]] = {}

    @property
    def directory(self) -> Path:
        """Where every runner has its directory."""
        return self._config.state_dir / "runners"

    def of(self, session_id: SessionId) -> LiveAgent | None:
        """The session's process, if it has one."""
        return self._live.get(session_id)

    def start(self, session: Session, turn: Turn) -> Starting | None:
        """Begin to start the process that `turn` needs; None when a warm agent can take it.

        The caller commits `record`, and then gives it to `take`, or to `abandon`.
        """
        key = self._agents.get(session.agent).process_key(turn.options) or f"turn-{turn.id}"
        agent = self._live.get(session.id)
        if agent is not None and agent.is_usable and agent.key == key:
            return None
        record = RunnerRecord(RunnerId(uuid.uuid4().hex), session.id, key, now_ms())
        if agent is not None:
            # Two processes must not work on one conversation.
            return Starting(record, None)
        return Starting(
            record, self._tasks.start(self._spawn(session, turn, record), name=f"start:{record.id}")
        )

    async def take(self, session: Session, turn: Turn, starting: Starting | None) -> LiveAgent:
        """The agent for `turn`. Raises RunnerError when it cannot be started."""
        agent = self._live.get(session.id)
        if agent is not None and agent.is_usable and starting is None:
            self.busy(agent)
            return agent
        if agent is not None:
            await self.retire(agent)
        if starting is None:
            # The warm agent has died since `start`.
            starting = self.start(session, turn)
            assert starting is not None
            record = starting.record
            await self._db.write(lambda db: runners.insert(db, record), must_happen=True)
        if starting.spawning is not None:
            runner = await starting.spawning
        else:
            runner = await self._spawn(session, turn, starting.record)
        if isinstance(runner, RunnerError):
            self._start_discarding(starting.record.id)
            raise runner
        try:
            return await self.adopt(runner, starting.record, session, Lease(session.id, turn.generation))
        except OSError as exc:
            await runner.kill(0.0)
            self._start_discarding(starting.record.id)
            raise RunnerError(f"the agent's output cannot be read: {exc}") from exc

    async def abandon(self, starting: Starting) -> None:
        """The turn is not going to happen: end what was started for it, of which there is no row."""
        runner = None if starting.spawning is None else await starting.spawning
        if runner is not None and not isinstance(runner, RunnerError):
            await runner.kill(0.0)
        await self._remove(starting.record.id)

    async def adopt(self, runner: Runner, record: RunnerRecord, session: Session, lease: Lease) -> LiveAgent:
        """Read a process's output on from where the log has it. Raises OSError when it cannot be opened."""
        agent = LiveAgent(
            key=record.spawn_key,
            runner=runner,
            adapter=self._agents.get(session.agent).adapter(session, record.agent_state),
            session_log=await self._log.session(session.id),
            lease=lease,
            spool_offset=record.spool_offset,
            max_line_bytes=self._config.max_line_bytes,
            on_wake=self._woke_up,
            on_exit=self._exited,
            on_internal_id=self._internal_id_changed,
        )
        self._live[session.id] = agent
        agent.start(self._watcher, self._tasks)
        return agent

    def busy(self, agent: LiveAgent) -> None:
        """The agent has a turn: it is not idle any more."""
        if (entry := self._idle.pop(agent.id, None)) is not None:
            entry[1].cancel()
        agent.runner.set_linger(TURN_LINGER_S)

    def rest(self, agent: LiveAgent) -> None:
        """The agent has no turn any more: keep it warm, within the limits."""
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
            self._start_retiring(oldest)

    async def retire(self, agent: LiveAgent) -> None:
        """End an agent; its last output is in the log when this returns."""
        self.busy(agent)
        await agent.halt()

    async def discard(self, runner_id: RunnerId) -> None:
        """Forget a runner that is gone. First its row: a directory without a row is always rubbish."""
        await self._db.write(lambda db: runners.delete(db, runner_id), must_happen=True)
        await self._remove(runner_id)

    async def close(self) -> None:
        """End idle agents; leave those at work to their runners, for the next server."""
        idle = [agent for agent, _ in self._idle.values() if not agent.adapter.has_background_work]
        await asyncio.gather(*(self.retire(agent) for agent in idle))
        for agent in list(self._live.values()):
            agent.detach()
        for _, timer in self._idle.values():
            timer.cancel()
        await self._tasks.close()

    async def _remove(self, runner_id: RunnerId) -> None:
        await asyncio.to_thread(shutil.rmtree, self.directory / runner_id, ignore_errors=True)

    async def _spawn(self, session: Session, turn: Turn, record: RunnerRecord) -> Runner | RunnerError:
        try:
            await self._agents.get(session.agent).prepare()
            spec = await asyncio.to_thread(self._prepare, session, turn, record)
            return await self._zygote.spawn(spec)
        except (RunnerError, OSError) as exc:
            about = exc.about if isinstance(exc, RunnerError) else "runner"
            return RunnerError(f"the agent could not be started: {exc}", about=about)

    def _prepare(self, session: Session, turn: Turn, record: RunnerRecord) -> RunnerSpec:
        """Look for the conversation, and write the files that the agent will read. Blocking."""
        kind = self._agents.get(session.agent)
        directory = self.directory / record.id
        resume = kind.transcript_of(session) is not None
        launch = kind.launch(session, turn.options, resume=resume, directory=directory)
        directory.mkdir(mode=0o700, parents=True)
        for name, content in launch.files.items():
            (directory / name).touch(mode=0o600)
            (directory / name).write_bytes(content)
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
        )

    def _woke_up(self, agent: LiveAgent) -> None:
        self.busy(agent)
        self.on_wake(agent)

    def _idled_out(self, agent: LiveAgent) -> None:
        self.busy(agent)
        if agent.adapter.has_background_work:
            self.rest(agent)
        else:
            self._start_retiring(agent)

    def _start_retiring(self, agent: LiveAgent) -> None:
        self.busy(agent)
        self._tasks.spawn(self._retire_idle(agent), name=f"retire:{agent.id}")

    async def _retire_idle(self, agent: LiveAgent) -> None:
        if agent.turn is None:  # Otherwise a turn has begun there just before this.
            await self.retire(agent)

    def _exited(self, agent: LiveAgent) -> None:
        """A process is gone and all its output is in the log."""
        self.busy(agent)
        if self._live.get(agent.session_id) is agent:
            del self._live[agent.session_id]
        self._start_discarding(agent.id, agent.turn)

    def _start_discarding(self, runner_id: RunnerId, turn: ActiveTurn | None = None) -> None:
        self._tasks.spawn(self._discard_after(turn, runner_id), name=f"discard:{runner_id}")

    async def _discard_after(self, turn: ActiveTurn | None, runner_id: RunnerId) -> None:
        """Until the end of its turn is in the log, the next server has to find how the process ended."""
        if turn is not None:
            await turn.finished.wait()
        await self.discard(runner_id)

    def _internal_id_changed(self, session_id: SessionId, internal_id: str) -> None:
        write = self._db.write(
            lambda db: sessions.set_internal_id(db, session_id, internal_id), must_happen=True
        )
        self._tasks.spawn(write, name=f"internal-id:{session_id}")
