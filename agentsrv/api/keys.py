"""Where handlers find the services: `request.app[TURNS]` is a TurnService, for readers and for mypy."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.typedefs import Handler

from agentsrv.config import Config

if TYPE_CHECKING:
    from agentsrv.agents import AgentRegistry
    from agentsrv.api.openapi import Operation
    from agentsrv.store.health import HealthCheck
    from agentsrv.terminals.manager import TerminalManager
    from agentsrv.terminals.tokens import TerminalTokens
    from agentsrv.turns.service import TurnService
    from agentsrv.turns.sessions import SessionService
    from agentsrv.turns.worktrees import SessionWorktrees
    from agentsrv.workspace.service import FileService
    from agentsrv.workspace.worker import GitWorkers

CONFIG = web.AppKey("config", Config)
TURNS: web.AppKey[TurnService] = web.AppKey("turns")
SESSIONS: web.AppKey[SessionService] = web.AppKey("sessions")
AGENTS: web.AppKey[AgentRegistry] = web.AppKey("agents")
TERMINALS: web.AppKey[TerminalManager] = web.AppKey("terminals")
TERMINAL_TOKENS: web.AppKey[TerminalTokens] = web.AppKey("terminal_tokens")
GIT: web.AppKey[GitWorkers] = web.AppKey("git")
WORKTREES: web.AppKey[SessionWorktrees] = web.AppKey("worktrees")
FILES: web.AppKey[FileService] = web.AppKey("files")
HEALTH: web.AppKey[HealthCheck] = web.AppKey("health")
OPERATIONS: web.AppKey[tuple[Operation, ...]] = web.AppKey("operations")
"""The table of routes.py: what the middlewares and the OpenAPI document know about every route."""
PUBLIC: web.AppKey[frozenset[Handler]] = web.AppKey("public")
"""The handlers that need no key."""
LARGE_BODIES: web.AppKey[asyncio.Semaphore] = web.AppKey("large_bodies")
"""Who reads a large body or deals with one has a place in it."""
PARSING: web.AppKey[asyncio.Lock] = web.AppKey("parsing")
"""Held while a large body is parsed."""
STREAMED: web.AppKey[frozenset[Handler]] = web.AppKey("streamed")
"""The handlers that put a body on the disk as it comes, and count its bytes themselves."""
