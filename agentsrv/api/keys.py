"""Where handlers find the services: `request.app[TURNS]` is a TurnService, for readers and for mypy."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.typedefs import Handler

from agentsrv.api.operations import Group
from agentsrv.config import Config
from agentsrv.threads import Threads

if TYPE_CHECKING:
    import msgspec

    from agentsrv.access import Keyring
    from agentsrv.agents import AgentRegistry
    from agentsrv.api.acp_http import HttpConnections
    from agentsrv.api.crowd import Line
    from agentsrv.api.holders import Holders
    from agentsrv.audit import Audit
    from agentsrv.faces.acp_turns import Means as AcpMeans
    from agentsrv.faces.chat import Chat
    from agentsrv.faces.mcp import Mcp
    from agentsrv.faces.responses import Responses
    from agentsrv.fleet.registry import Registry
    from agentsrv.limits import Rates
    from agentsrv.model import Scope
    from agentsrv.store.health import HealthCheck
    from agentsrv.terminals.manager import TerminalManager
    from agentsrv.terminals.tokens import TerminalTokens
    from agentsrv.turns.activity import Activity
    from agentsrv.turns.background import Background
    from agentsrv.turns.history import History
    from agentsrv.turns.prompts import Prompts
    from agentsrv.turns.service import TurnService
    from agentsrv.turns.sessions import SessionService
    from agentsrv.turns.timers import Timers
    from agentsrv.turns.worktrees import SessionWorktrees
    from agentsrv.workspace.files.service import FileService
    from agentsrv.workspace.git.workers import GitWorkers

CONFIG = web.AppKey("config", Config)
PROMPTS: web.AppKey[Prompts] = web.AppKey("prompts")
ACTIVITY: web.AppKey[Activity] = web.AppKey("activity")
TURNS: web.AppKey[TurnService] = web.AppKey("turns")
SESSIONS: web.AppKey[SessionService] = web.AppKey("sessions")
BACKGROUND: web.AppKey[Background] = web.AppKey("background")
TIMERS: web.AppKey[Timers] = web.AppKey("timers")
HISTORY: web.AppKey[History] = web.AppKey("history")
AGENTS: web.AppKey[AgentRegistry] = web.AppKey("agents")
TERMINALS: web.AppKey[TerminalManager] = web.AppKey("terminals")
TERMINAL_TOKENS: web.AppKey[TerminalTokens] = web.AppKey("terminal_tokens")
GIT: web.AppKey[GitWorkers] = web.AppKey("git")
WORKTREES: web.AppKey[SessionWorktrees] = web.AppKey("worktrees")
FILES: web.AppKey[FileService] = web.AppKey("files")
HEALTH: web.AppKey[HealthCheck] = web.AppKey("health")
REQUESTS: web.AppKey[Line] = web.AppKey("requests")
SLICES: web.AppKey[Line] = web.AppKey("slices")
"""Where strangers wait to be heard, and for each piece of a large answer: who asks little is not behind the latter."""
GROUPS: web.AppKey[tuple[Group, ...]] = web.AppKey("groups")
"""The table of routes.py: what the middlewares and the OpenAPI document know about every route."""
SCOPES: web.AppKey[dict[Handler, Scope | None]] = web.AppKey("scopes")
"""What a key has to be allowed for each handler."""
HOLDERS: web.AppKey[Holders] = web.AppKey("holders")
KEYRING: web.AppKey[Keyring] = web.AppKey("keyring")
REDEEMING: web.AppKey[Rates] = web.AppKey("redeeming")
"""How often codes are tried."""
CHAT: web.AppKey[Chat] = web.AppKey("chat")
RESPONSES: web.AppKey[Responses] = web.AppKey("responses")
MCP: web.AppKey[Mcp] = web.AppKey("mcp")
ACP: web.AppKey[AcpMeans] = web.AppKey("acp")
ACP_HTTP: web.AppKey[HttpConnections] = web.AppKey("acp_http")
ACP_SOCKETS: web.AppKey[set[web.WebSocketResponse]] = web.AppKey("acp_sockets")
AUDIT: web.AppKey[Audit] = web.AppKey("audit")
PUBLIC: web.AppKey[frozenset[Handler]] = web.AppKey("public")
"""The handlers that need no key."""
LARGE_BODIES: web.AppKey[asyncio.Semaphore] = web.AppKey("large_bodies")
"""Who reads a large body or deals with one has a place in it."""
PARSING: web.AppKey[asyncio.Lock] = web.AppKey("parsing")
"""Held while a large body is parsed."""
STREAMED: web.AppKey[frozenset[Handler]] = web.AppKey("streamed")
"""The handlers that put a body on the disk as it comes, and count its bytes themselves."""
REGISTRY: web.AppKey[Registry | None] = web.AppKey("registry")
BODIES: web.AppKey[dict[Handler, type[msgspec.Struct]]] = web.AppKey("bodies")
"""The JSON that handlers take."""
RELAYED = web.RequestKey("relayed", bool)
"""Set when the answer is another server's, which has all that answers carry."""
ABOUT_SESSION = web.RequestKey("about_session", bool)
THREADS: web.AppKey[Threads] = web.AppKey("threads")
