"""`GET /sessions` without a request: for faces, which know no HTTP."""

from __future__ import annotations

from functools import partial
from typing import Any
from urllib.parse import urlencode

import msgspec

from agentsrv.api import merge
from agentsrv.api.encode import session_view
from agentsrv.api.forward import Forwarder
from agentsrv.faces.listing import Page
from agentsrv.fleet.registry import Registry
from agentsrv.turns.sessions import SessionService


class OwnSessions:
    """Those of one server."""

    def __init__(self, sessions: SessionService) -> None:
        self._sessions = sessions

    async def page(self, *, limit: int, cursor: str | None, cwd: str | None = None) -> Page:
        return msgspec.convert(await self.told(limit, cursor, cwd), Page)

    async def told(self, limit: int, cursor: str | None, cwd: str | None) -> dict[str, Any]:
        """As on the wire."""
        found, next_cursor = await self._sessions.list_sessions(
            limit=limit, cursor=cursor, agent=None, cwd=cwd
        )
        views = [msgspec.to_builtins(session_view(session)) for session in found]
        return {"sessions": views, "nextCursor": next_cursor}


class AllSessions:
    """Those of all servers of a fleet."""

    def __init__(self, own: OwnSessions, registry: Registry, forwarder: Forwarder) -> None:
        self._own = own
        self._registry = registry
        self._forwarder = forwarder

    async def page(self, *, limit: int, cursor: str | None, cwd: str | None = None) -> Page:
        own = await self._own.told(limit, cursor, cwd)
        query = {"limit": limit, "cursor": cursor, "cwd": cwd}
        path = f"/sessions?{urlencode({name: value for name, value in query.items() if value is not None})}"
        ask = partial(self._forwarder.ask, path=path, caller=merge.FLEET, timeout_s=merge.LIST_S)
        kind = merge.LISTS["list_sessions"]
        return msgspec.convert(await merge.whole(own, kind, limit, self._registry.others(), ask), Page)
