"""What agents have left running beside their conversations."""

from __future__ import annotations

from aiohttp import web

from agentsrv.agents.contract import BackgroundTask
from agentsrv.api.encode import json_response, timestamp
from agentsrv.api.keys import BACKGROUND
from agentsrv.api.operations import Operation
from agentsrv.api.schemas.background import BackgroundList, BackgroundView
from agentsrv.api.urls import session_id_of
from agentsrv.model import SessionId


async def list_background(request: web.Request) -> web.Response:
    """The commands and helpers that the session's agent has left running."""
    session_id = session_id_of(request)
    return _listed(session_id, await request.app[BACKGROUND].of(session_id))


async def end_background(request: web.Request) -> web.Response:
    """End one of them; answers with what is left. `stop` ends all."""
    session_id = session_id_of(request)
    left = await request.app[BACKGROUND].end(session_id, request.match_info["background_id"])
    return _listed(session_id, left)


def _listed(session_id: SessionId, tasks: list[BackgroundTask]) -> web.Response:
    views = [BackgroundView(id=task.id, kind=task.kind, title=task.title) for task in tasks]
    return json_response(
        BackgroundList(session_id=session_id, tasks=views, count=len(views), timestamp=timestamp())
    )


# fmt: off
ROUTES = (
    Operation("GET", "/sessions/{session_id}/background", list_background, {200: BackgroundList}, (404,)),
    Operation("DELETE", "/sessions/{session_id}/background/{background_id}", end_background, {200: BackgroundList},
              (404, 409)),
)
# fmt: on
