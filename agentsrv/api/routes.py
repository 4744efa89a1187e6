"""Every URL, by subject. The router, the OpenAPI document and the check for a key are made from these tables."""

from __future__ import annotations

import asyncio

from aiohttp import web

from agentsrv.api import (
    access,
    acp,
    activity,
    agents,
    audit,
    background,
    chat,
    console,
    env,
    files,
    generate,
    git,
    health,
    jobs,
    mcp,
    openapi,
    permissions,
    responses,
    servers,
    sessions,
    timers,
    waiting,
)
from agentsrv.api.access_log import STRANGERS, Strangers
from agentsrv.api.bodies import MAX_LARGE_BODIES, continue_later
from agentsrv.api.keys import (
    BODIES,
    CONFIG,
    GROUPS,
    LARGE_BODIES,
    PARSING,
    PUBLIC,
    REDEEMING,
    SCOPES,
    STREAMED,
)
from agentsrv.api.middleware import add_headers
from agentsrv.api.operations import Group, Operation
from agentsrv.api.terminals import routes as terminals
from agentsrv.limits import Rates
from agentsrv.model import Scope

REDEEMED_A_MINUTE = 10


# fmt: off
ROUTES = (
    Group("server", "Is the server well, and what can it do",
          health.ROUTES + servers.ROUTES + openapi.ROUTES + env.ROUTES),
    Group("console", "A page to see and answer everything", console.ROUTES),
    Group("agents", "The agents that are installed here", agents.ROUTES),
    Group("sessions", "Durable conversations with one agent in one directory",
          sessions.ROUTES + timers.ROUTES + background.ROUTES + activity.ROUTES, changing=Scope.PROMPT),
    Group("jobs", "Prompts, and what agents do about them", generate.ROUTES + jobs.ROUTES, changing=Scope.PROMPT),
    Group("queue", "Prompts that wait until their session is free", waiting.ROUTES, changing=Scope.PROMPT),
    Group("permissions", "What agents ask, and the answers", permissions.ROUTES, changing=Scope.ANSWER),
    Group("files", "The files of the workspace", files.ROUTES, reading=Scope.FILES, changing=Scope.FILES),
    Group("git", "Repositories, worktrees and differences", git.ROUTES, changing=Scope.PROMPT),
    Group("terminals", "Shells that outlive their sockets", terminals.ROUTES, reading=Scope.TERMINALS,
          changing=Scope.TERMINALS),
    Group("faces", "The same for those who speak another protocol", acp.ROUTES + mcp.ROUTES,
          reading=None, changing=None),
    Group("openai", "Agents as models, for programs that speak OpenAI's protocol", chat.ROUTES + responses.ROUTES,
          changing=Scope.PROMPT),
    Group("keys", "Keys of devices", access.ROUTES, reading=None, changing=None),
    Group("audit", "Who has done what", audit.ROUTES, reading=Scope.ADMIN),
)
# fmt: on

OPERATIONS = tuple(op for group in ROUTES for op in group.operations)


def setup(app: web.Application) -> None:
    """Add the routes, and the headers that every answer has, to an application that holds CONFIG."""
    app[GROUPS] = ROUTES
    app[SCOPES] = {handler: scope for group in ROUTES for handler, scope in group.scopes().items()}
    app[PUBLIC] = frozenset(op.handler for op in OPERATIONS if op.is_public)
    app[BODIES] = {op.handler: op.body for op in OPERATIONS if isinstance(op.body, type)}
    app[LARGE_BODIES] = asyncio.Semaphore(MAX_LARGE_BODIES)
    app[STRANGERS] = Strangers()
    app[REDEEMING] = Rates(REDEEMED_A_MINUTE)
    app[PARSING] = asyncio.Lock()
    app[STREAMED] = frozenset(op.handler for op in OPERATIONS if isinstance(op.body, str))
    # Where earlier clients look for files. First, so that `filesystem` is not taken for a session.
    for op in files.ROUTES:
        _add(app, op, f"/sessions{op.path}")
    for op in OPERATIONS:
        _add(app, op, op.path, name=op.name)
    app.on_response_prepare.append(add_headers(app[CONFIG]))
    app.on_response_prepare.append(audit.record)


def _add(app: web.Application, op: Operation, path: str, *, name: str | None = None) -> None:
    methods = ("GET", "HEAD") if op.method == "GET" else (op.method,)
    for method in methods:
        app.router.add_route(method, path, op.handler, name=name, expect_handler=continue_later)
    if not path.endswith("/") and ":" not in path and 308 not in op.answers:
        # Load balancers and earlier clients like to add the slash. Where it means something else, we send there.
        for method in methods:
            app.router.add_route(method, f"{path}/", op.handler, expect_handler=continue_later)
