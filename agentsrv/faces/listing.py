"""The list of sessions, as other protocols have it: that of `GET /sessions`, of all servers of a fleet."""

from __future__ import annotations

from typing import Protocol

import msgspec


class Listed(msgspec.Struct, rename="camel"):
    """What a list says of a session."""

    id: str
    name: str
    agent: str
    cwd: str
    model: str | None
    active_task_id: str | None
    worktree: str | None
    preview: str | None
    updated_at: str


class Page(msgspec.Struct, rename="camel"):
    """`unreachable`: the servers that are not in it; None where there is only one."""

    sessions: list[Listed]
    next_cursor: str | None
    unreachable: list[str] | None = None


class Listing(Protocol):
    async def page(self, *, limit: int, cursor: str | None, cwd: str | None = None) -> Page:
        """The newest first. Raises InvalidInput for a bad cursor."""
        ...
