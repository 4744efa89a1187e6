"""The server as an application: what is started and stopped, in which order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from aiohttp import web

from agentsrv.api import keys, routes
from agentsrv.api.acp import close_sockets
from agentsrv.api.acp_http import HttpConnections
from agentsrv.api.crowd import Line
from agentsrv.api.hop import HOP_SECRET, secret_of
from agentsrv.api.middleware import middlewares
from agentsrv.config import Config
from agentsrv.owned import PASSABLE, PRIVATE, only_server
from agentsrv.services import Services, build
from agentsrv.store.migrate import migrate
from agentsrv.tasks import Vitals
from agentsrv.users import acting_as, require_rights
from agentsrv.workspace.paths import DEFAULT_DIRECTORY


def make_app(config: Config, vitals: Vitals | None = None) -> web.Application:
    """The whole service as an application, to be served or mounted with `add_subapp`. Looks at paths, changes nothing.

    Start-up (by whoever runs the application) raises StartupError. It stops in two steps: `on_shutdown`
    refuses new turns and ends streams, the cleanup then closes everything in reverse order. Agents at work go
    on under their runners, and the next application with the same state directory takes them over. `vitals` learns
    of a failure after which it has to be stopped; `/health` says so, too.
    """
    services = build(config, vitals or Vitals())
    fleet = services.fleet
    innermost = [] if fleet is None else [fleet.router.to_its_home]
    app = web.Application(middlewares=[*middlewares(config), *innermost])
    _hand_over(services, app)
    routes.setup(app)

    async def run(_: web.Application) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await _start(services, stack)
            yield

    async def shut_down(_: web.Application) -> None:
        services.turns.drain()
        services.activity.close()
        services.terminals.drain()
        services.files.drain()
        services.event_log.close()
        if fleet is not None:
            fleet.forwarder.drain()

    app.cleanup_ctx.append(run)
    app.on_shutdown.append(shut_down)
    app.on_shutdown.append(close_sockets)
    return app


def _hand_over(services: Services, app: web.Application) -> None:
    """What the handlers ask."""
    app[keys.CONFIG] = services.config
    app[keys.REQUESTS] = Line()
    app[keys.SLICES] = Line()
    app[keys.THREADS] = services.threads
    app[keys.AGENTS] = services.agents
    app[keys.TURNS] = services.turns
    app[keys.ACTIVITY] = services.activity
    app[keys.SESSIONS] = services.sessions
    app[keys.BACKGROUND] = services.background
    app[keys.TIMERS] = services.timers
    app[keys.HISTORY] = services.history
    app[keys.PROMPTS] = services.prompts
    app[keys.TERMINALS] = services.terminals
    app[keys.TERMINAL_TOKENS] = services.terminal_tokens
    app[keys.FILES] = services.files
    app[keys.GIT] = services.git
    app[keys.WORKTREES] = services.worktrees
    app[keys.HEALTH] = services.health
    app[keys.REGISTRY] = None if services.fleet is None else services.fleet.registry
    app[HOP_SECRET] = secret_of(services.config)
    app[keys.KEYRING] = services.keyring
    app[keys.HOLDERS] = services.holders
    app[keys.AUDIT] = services.audit
    app[keys.MCP] = services.mcp
    app[keys.CHAT] = services.chat
    app[keys.RESPONSES] = services.responses
    app[keys.ACP] = services.acp
    app[keys.ACP_HTTP] = HttpConnections(services.acp, services.homes.new_turn_id)
    app[keys.ACP_SOCKETS] = set[web.WebSocketResponse]()


async def _start(services: Services, stack: AsyncExitStack) -> None:
    """Start everything; `stack` stops it in the reverse order."""
    config, threads = services.config, services.threads
    require_rights(config.agent_user)
    mode = PRIVATE if config.agent_user is None else PASSABLE
    await stack.enter_async_context(only_server(config.state_dir, config.shutdown_grace_s, mode))
    with acting_as(config.agent_user):
        (config.workspace_base / DEFAULT_DIRECTORY).mkdir(parents=True, exist_ok=True)
    stack.push_async_callback(threads.close)
    stack.push_async_callback(services.zygote.close)
    stack.push_async_callback(services.git.close)
    stack.push_async_callback(services.git_writers.close)
    stack.push_async_callback(services.snapshot_writers.close)
    # At the same time: one waits for an interpreter to start, the other for the disk.
    await asyncio.gather(services.zygote.start(), threads.state.run(migrate, config.database_path))
    stack.push_async_callback(services.db.close)
    await services.db.open()
    stack.push_async_callback(services.health.close)
    stack.push_async_callback(services.keyring.close)
    stack.push_async_callback(services.holders.close)
    stack.push_async_callback(services.audit.close)
    stack.push_async_callback(services.remover.close)
    await services.remover.start()
    await services.files.open()
    if services.fleet is not None:
        # Before anything that an earlier incarnation has begun goes on.
        stack.push_async_callback(services.fleet.registry.close)
        await services.fleet.registry.start()
    stack.callback(services.watcher.close)
    stack.push_async_callback(services.pool.close)
    stack.push_async_callback(services.turns.close)
    stack.push_async_callback(services.sessions.close)
    stack.push_async_callback(services.history.close)
    await services.recovery.start()
    await services.turns.begin_queued()
    stack.push_async_callback(services.timers.close)
    stack.push_async_callback(services.timer_notes.close)
    await services.timers.start()
    stack.push_async_callback(services.terminals.close)
    await services.terminals.recover()
    if services.fleet is not None:
        stack.push_async_callback(services.fleet.forwarder.close)
        services.fleet.forwarder.open()
        services.fleet.registry.serve()
