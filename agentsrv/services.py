"""Builds every object of a server, each with all that it needs. Nothing is started here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from agentsrv.access import Keyring
from agentsrv.agents import AgentRegistry
from agentsrv.agents.acp.agent import AcpAgent
from agentsrv.agents.acp.table import agents_of, wanted_in
from agentsrv.agents.claude.agent import ClaudeCode
from agentsrv.agents.codex.agent import Codex
from agentsrv.api.holders import Holders
from agentsrv.api.listing import OwnSessions
from agentsrv.audit import Audit
from agentsrv.config import Config
from agentsrv.eventlog import EventLog
from agentsrv.faces.acp_turns import Means as AcpMeans
from agentsrv.faces.chat import Chat
from agentsrv.faces.listing import Listing
from agentsrv.faces.mcp import Mcp
from agentsrv.faces.responses import Responses
from agentsrv.fleet.connect import ping
from agentsrv.fleet.homes import Homes, LocalHomes
from agentsrv.runner.watch import FileWatcher
from agentsrv.runner.zygote import Zygote
from agentsrv.store.database import Database
from agentsrv.store.deletion import Remover
from agentsrv.store.health import HealthCheck
from agentsrv.tasks import Vitals
from agentsrv.terminals.manager import TerminalManager
from agentsrv.terminals.tokens import TerminalTokens
from agentsrv.threads import Threads
from agentsrv.turns.activity import Activity
from agentsrv.turns.admission import Admission
from agentsrv.turns.background import Background
from agentsrv.turns.conversations import ConversationStage
from agentsrv.turns.history import History
from agentsrv.turns.means import Means
from agentsrv.turns.open_turns import OpenTurns
from agentsrv.turns.pool import AgentPool
from agentsrv.turns.prompts import Prompts
from agentsrv.turns.queue import PromptQueue
from agentsrv.turns.recovery import Recovery
from agentsrv.turns.service import TurnService
from agentsrv.turns.sessions import SessionService
from agentsrv.turns.setup import WorktreeSetup
from agentsrv.turns.signals import Signals
from agentsrv.turns.snapshots import SnapshotStage
from agentsrv.turns.stages import HomeStage, WorktreeStage
from agentsrv.turns.starter import Starter
from agentsrv.turns.timer_notes import TimerNotes
from agentsrv.turns.timers import Timers
from agentsrv.turns.worktrees import SessionWorktrees
from agentsrv.workspace.files.service import Depths, FileService
from agentsrv.workspace.finder import PathFinder
from agentsrv.workspace.git.workers import WRITE_TIMEOUT_S, GitWorkers
from agentsrv.workspace.paths import Workspace

if TYPE_CHECKING:
    from agentsrv.member import Fleet, Member

AGENT_KINDS: tuple[type[ClaudeCode] | type[Codex], ...] = (ClaudeCode, Codex)
"""The agents that have an adapter of their own; the first one is the default. Others speak ACP (`agents/acp`)."""


class Services(Struct, frozen=True):
    """All that is started, stopped, or asked by a face of the server."""

    config: Config
    threads: Threads
    db: Database
    event_log: EventLog
    agents: AgentRegistry
    zygote: Zygote
    watcher: FileWatcher
    pool: AgentPool
    recovery: Recovery
    git: GitWorkers
    git_writers: GitWorkers
    snapshot_writers: GitWorkers
    worktrees: SessionWorktrees
    turns: TurnService
    remover: Remover
    sessions: SessionService
    history: History
    prompts: Prompts
    terminals: TerminalManager
    terminal_tokens: TerminalTokens
    files: FileService
    health: HealthCheck
    homes: Homes
    fleet: Fleet | None
    activity: Activity
    background: Background
    timer_notes: TimerNotes
    timers: Timers
    keyring: Keyring
    holders: Holders
    audit: Audit
    mcp: Mcp
    chat: Chat
    responses: Responses
    acp: AcpMeans


def build(config: Config, vitals: Vitals) -> Services:
    """Raises StartupError for settings that are wrong."""
    threads = Threads(config.agent_user)
    db = Database(config.database_path, synchronous=config.database_synchronous, vitals=vitals)
    event_log = EventLog(db)
    agents = make_agents(config, threads)
    zygote = Zygote(config.environment, threads.processes)
    watcher = FileWatcher()
    workspace = make_workspace(config)
    paths = PathFinder(workspace, threads.paths)
    git = GitWorkers(workspace, config.environment, threads.processes)
    git_writers = GitWorkers(
        workspace, config.environment, threads.processes, may_write=True, request_timeout_s=WRITE_TIMEOUT_S
    )
    snapshot_writers = GitWorkers(
        workspace, config.environment, threads.processes, may_write=True, is_forking=True
    )
    snapshots = SnapshotStage(paths, snapshot_writers if config.turn_snapshots else None)
    worktrees = SessionWorktrees(db, paths, readers=git, writers=git_writers)
    signals = Signals()
    pool = AgentPool(
        config=config,
        db=db,
        event_log=event_log,
        agents=agents,
        zygote=zygote,
        watcher=watcher,
        threads=threads,
        signals=signals,
    )
    queue = PromptQueue(db, signals)
    timer_notes = TimerNotes(db, event_log, signals)
    member = join(config)
    homes: Homes = LocalHomes() if member is None else member.homes
    stages = (
        HomeStage(homes, db),
        ConversationStage(db, agents, pool),
        WorktreeStage(worktrees, WorktreeSetup(config, threads.setups)),
        timer_notes,
        snapshots,
    )
    means = Means(config, db, event_log, pool, queue, stages, signals, homes)
    open_turns = OpenTurns(means)
    recovery = Recovery(db, event_log, pool, open_turns)
    admission = Admission(config, db, agents, paths)
    starter = Starter(means, admission, open_turns, recovery)
    turns = TurnService(means, agents, admission, worktrees, open_turns, recovery, starter)
    remover = Remover(db)
    sessions = SessionService(means, agents, admission, turns, worktrees, threads, remover, snapshots)
    files = FileService(
        workspace,
        threads,
        depths=Depths(config.filesystem_default_depth, config.filesystem_max_depth),
        uploads_directory=config.state_dir / "uploads",
        max_upload_bytes=config.max_upload_bytes,
        search_path=config.environment.get("PATH", ""),
    )
    prompts = Prompts(config=config, agents=agents, files=files, turns=turns)
    history = History(db, event_log, agents, threads.folding)
    chat = Chat(prompts, turns, sessions, history, agents)
    terminals = TerminalManager(config, zygote, threads, find_directory=paths.directory, homes=homes)
    fleet = None if member is None else member.fleet(db, threads, turns, sessions, terminals, vitals)
    listing: Listing = OwnSessions(sessions) if fleet is None else fleet.listing
    keyring = Keyring(db, config.api_keys)
    return Services(
        config=config,
        threads=threads,
        db=db,
        event_log=event_log,
        agents=agents,
        zygote=zygote,
        watcher=watcher,
        pool=pool,
        recovery=recovery,
        git=git,
        git_writers=git_writers,
        snapshot_writers=snapshot_writers,
        worktrees=worktrees,
        turns=turns,
        remover=remover,
        sessions=sessions,
        history=history,
        prompts=prompts,
        terminals=terminals,
        terminal_tokens=TerminalTokens(config, threads.folding),
        files=files,
        health=HealthCheck(db, vitals, redis_answers(config, fleet)),
        homes=homes,
        fleet=fleet,
        keyring=keyring,
        holders=Holders(keyring),
        audit=Audit(db, config.audit_days),
        activity=Activity(db, turns, signals),
        mcp=Mcp(config.app_version, prompts, turns, sessions, listing, git),
        chat=chat,
        responses=Responses(chat, turns, sessions, history),
        background=Background(means, recovery),
        timer_notes=timer_notes,
        timers=Timers(means, turns, timer_notes),
        acp=AcpMeans(
            version=config.app_version,
            max_message_bytes=config.max_body_bytes,
            prompts=prompts,
            turns=turns,
            sessions=sessions,
            listing=listing,
            history=history,
            agents=agents,
            default_mode=config.default_permission_mode,
        ),
    )


def join(config: Config) -> Member | None:
    """This server's part in a fleet, where it is to have one."""
    if config.server_name is None:
        return None
    from agentsrv.member import Member

    return Member(config, config.server_name)


def redis_answers(config: Config, fleet: Fleet | None) -> Callable[[], Awaitable[bool]] | None:
    """How to find out whether Redis is there; None where there is none."""
    if fleet is not None:
        return fleet.registry.is_heard
    return partial(ping, config.redis_url) if config.redis_url else None


def make_workspace(config: Config) -> Workspace:
    """Everything below the base but the server's own directories, database and settings."""
    home = config.environment.get("HOME")
    return Workspace(
        config.workspace_base,
        private=(config.state_dir, config.database_path.parent),
        private_files=[path for path in (config.database_path, config.env_file) if path is not None],
        home=Path(home) if home else None,
        user=config.agent_user,
        protected_names=[name for kind in AGENT_KINDS for name in kind.protected_names],
    )


def make_agents(config: Config, threads: Threads) -> AgentRegistry:
    """Raises StartupError for what is wrong with their settings."""
    native = [kind(config, threads.programs) for kind in AGENT_KINDS]
    wanted = wanted_in(config.agents_file)
    others = [
        AcpAgent(known, config, threads.programs, is_wanted=known.name in wanted)
        for known in agents_of(config.agents_file)
    ]
    return AgentRegistry([*native, *others])
