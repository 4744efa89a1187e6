"""The composition root: builds every object, and orders start and stop."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

from aiohttp import web

from agentsrv.agents import AgentRegistry
from agentsrv.agents.claude_code import ClaudeCode
from agentsrv.agents.codex import Codex
from agentsrv.api import routes
from agentsrv.api.keys import (
    AGENTS,
    CONFIG,
    FILES,
    GIT,
    HEALTH,
    SESSIONS,
    TERMINAL_TOKENS,
    TERMINALS,
    TURNS,
    WORKTREES,
)
from agentsrv.api.middleware import middlewares
from agentsrv.config import Config
from agentsrv.errors import StartupError
from agentsrv.eventlog import EventLog
from agentsrv.runner.watch import FileWatcher
from agentsrv.runner.zygote import Zygote
from agentsrv.store.database import Database
from agentsrv.store.health import HealthCheck
from agentsrv.store.migrate import migrate
from agentsrv.terminals.manager import TerminalManager
from agentsrv.terminals.tokens import TerminalTokens
from agentsrv.turns.pool import AgentPool
from agentsrv.turns.queue import PromptQueue
from agentsrv.turns.recovery import recover
from agentsrv.turns.running import RunningTurns
from agentsrv.turns.service import TurnService
from agentsrv.turns.sessions import SessionService
from agentsrv.turns.worktrees import SessionWorktrees
from agentsrv.workspace.paths import DEFAULT_DIRECTORY, Workspace
from agentsrv.workspace.service import FileService
from agentsrv.workspace.worker import WRITE_TIMEOUT_S, GitWorkers


def make_app(config: Config) -> web.Application:
    """The whole service as an application, to be served or mounted with `add_subapp`. Does no I/O by itself.

    Start-up (by whoever runs the application) raises StartupError. It stops in two steps: `on_shutdown`
    refuses new turns and ends streams, the cleanup then closes everything in reverse order. Agents at work go
    on under their runners, and the next application with the same state directory takes them over.
    """
    db = Database(config.database_path, synchronous=config.database_synchronous)
    event_log = EventLog(db)
    agents = make_agents(config)
    zygote = Zygote(config.environment)
    watcher = FileWatcher()
    pool = AgentPool(config=config, db=db, event_log=event_log, agents=agents, zygote=zygote, watcher=watcher)
    workspace = make_workspace(config)
    git = GitWorkers(workspace, config.environment)
    git_writers = GitWorkers(workspace, config.environment, may_write=True, request_timeout_s=WRITE_TIMEOUT_S)
    worktrees = SessionWorktrees(db, workspace, readers=git, writers=git_writers)
    queue = PromptQueue(db)
    running = RunningTurns(
        config=config, db=db, event_log=event_log, worktrees=worktrees, pool=pool, queue=queue
    )
    turns = TurnService(
        config=config,
        db=db,
        event_log=event_log,
        agents=agents,
        workspace=workspace,
        worktrees=worktrees,
        running=running,
        queue=queue,
    )
    terminals = TerminalManager(config, zygote, find_directory=workspace.directory)

    files = FileService(
        workspace,
        uploads_directory=config.state_dir / "uploads",
        max_upload_bytes=config.max_upload_bytes,
        search_path=config.environment.get("PATH", ""),
    )

    async def run(_: web.Application) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.enter_context(_only_server(config))
            stack.push_async_callback(zygote.close)
            stack.push_async_callback(git.close)
            stack.push_async_callback(git_writers.close)
            # At the same time: one waits for an interpreter to start, the other for the disk.
            await asyncio.gather(zygote.start(), asyncio.to_thread(migrate, config.database_path))
            stack.push_async_callback(db.close)
            await db.open()
            stack.callback(files.close)
            await files.open()
            stack.callback(watcher.close)
            stack.push_async_callback(pool.close)
            stack.push_async_callback(turns.close)
            await recover(db, event_log, pool, running)
            await turns.begin_queued()
            stack.push_async_callback(terminals.close)
            await terminals.recover()
            yield

    async def shut_down(_: web.Application) -> None:
        turns.drain()
        terminals.drain()
        files.drain()
        event_log.close()

    app = web.Application(middlewares=middlewares(config))
    app[CONFIG] = config
    app[AGENTS] = agents
    app[TURNS] = turns
    app[SESSIONS] = SessionService(db, event_log, agents, pool, turns, worktrees)
    app[TERMINALS] = terminals
    app[TERMINAL_TOKENS] = TerminalTokens(config)
    app[FILES] = files
    app[GIT] = git
    app[WORKTREES] = worktrees
    app[HEALTH] = HealthCheck(db, config.redis_url)
    routes.setup(app)
    app.cleanup_ctx.append(run)
    app.on_shutdown.append(shut_down)
    return app


def make_workspace(config: Config) -> Workspace:
    """Everything below the base but the server's own directories, database and settings."""
    home = config.environment.get("HOME")
    return Workspace(
        config.workspace_base,
        private=(config.state_dir, config.database_path.parent),
        private_files=[path for path in (config.database_path, config.env_file) if path is not None],
        home=Path(home) if home else None,
    )


def make_agents(config: Config) -> AgentRegistry:
    """The agents that this server can run; the first one is the default."""
    return AgentRegistry([ClaudeCode(config), Codex(config)])


@contextmanager
def _only_server(config: Config) -> Iterator[None]:
    """Make the directories, and be the only server that uses this state directory."""
    config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    (config.workspace_base / DEFAULT_DIRECTORY).mkdir(parents=True, exist_ok=True)
    lock = os.open(config.state_dir / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as exc:
        raise StartupError(
            f"another server uses {config.state_dir}; stop it, or set STATE_DIR to another directory"
        ) from exc
    finally:
        os.close(lock)
