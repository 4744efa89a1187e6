"""`AsyncAgentsrv`: a server, from asyncio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

from agentsrv.client.connection import Connection, Options
from agentsrv.client.files import AsyncFiles
from agentsrv.client.git import AsyncGit
from agentsrv.client.jobs import AsyncJob, start
from agentsrv.client.prompts import ImageSource
from agentsrv.client.resources import (
    AsyncAgents,
    AsyncHealth,
    AsyncJobs,
    AsyncKeys,
    AsyncPermissions,
    AsyncSessions,
    AsyncTerminals,
)
from agentsrv.client.servers import Server, find_server

IfBusy = Literal["reject", "queue", "steer"]
PermissionMode = Literal["bypass", "accept_edits", "ask", "plan"]


class AsyncAgentsrv:
    """A server. Without `base_url` and `api_key` it is the one that the environment or `agentsrv login` names.

    It belongs to the event loop in which it is first used; `async with` closes its connections.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = 60.0,
        max_retries: int = 4,
        reconnect_timeout: float | None = None,
    ) -> None:
        options = Options(timeout, max_retries, reconnect_timeout)
        self._use(Connection(find_server(base_url, api_key), options))

    @classmethod
    def at(cls, server: Server, *, timeout: float = 60.0, max_retries: int = 4) -> Self:
        """For a server that `find_server` has found."""
        client = cls.__new__(cls)
        client._use(Connection(server, Options(timeout, max_retries)))
        return client

    def _use(self, connection: Connection) -> None:
        self._connection = connection
        self.sessions = AsyncSessions(connection)
        self.jobs = AsyncJobs(connection)
        self.permissions = AsyncPermissions(connection)
        self.files = AsyncFiles(connection)
        self.git = AsyncGit(connection)
        self.terminals = AsyncTerminals(connection)
        self.keys = AsyncKeys(connection)
        self.agents = AsyncAgents(connection)
        self.health = AsyncHealth(connection)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_url!r})"

    @property
    def base_url(self) -> str:
        return self._connection.server.url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections, also those of what `with_options` has made."""
        await self._connection.close()

    def with_options(
        self,
        *,
        timeout: float | None = None,
        max_retries: int | None = None,
        reconnect_timeout: float | None = None,
    ) -> Self:
        """The same server and connections with other options."""
        given = {"timeout": timeout, "max_retries": max_retries, "reconnect_timeout": reconnect_timeout}
        changes = {name: value for name, value in given.items() if value is not None}
        other = type(self).__new__(type(self))
        other._use(self._connection.with_options(**changes))
        return other

    async def run(
        self,
        /,
        prompt: str,
        *,
        session: str | None = None,
        agent: str | None = None,
        cwd: str | None = None,
        permission_mode: PermissionMode | None = None,
        model: str | None = None,
        effort: str | None = None,
        images: Sequence[ImageSource] = (),
        use_worktree: bool | None = None,
        if_busy: IfBusy = "reject",
        message_id: str | None = None,
        **options: Any,
    ) -> AsyncJob:
        """Send a prompt; the job, at once. Without `session` it begins a new one.

        What is None is up to the server and the session. `options` are further fields of `POST /generate/v2`, such as
        `system_prompt`, `output_schema`, `max_turns`, `max_budget_usd` or `mcp_servers`.
        """
        return await start(
            self._connection,
            prompt,
            session=session,
            agent=agent,
            cwd=cwd,
            permission_mode=permission_mode,
            model=model,
            effort=effort,
            images=images,
            use_worktree=use_worktree,
            if_busy=if_busy,
            message_id=message_id,
            **options,
        )
