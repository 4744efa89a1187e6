"""`GET /sessions` without a request: for faces, which know no HTTP."""

from __future__ import annotations

from typing import Any

import msgspec

from agentsrv.api.encode import session_view
from agentsrv.faces.listing import Page
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
