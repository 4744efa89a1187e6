"""What agents have planned for later."""

from __future__ import annotations

from aiohttp import web

from agentsrv.api.encode import json_response, timestamp
from agentsrv.api.keys import TIMERS
from agentsrv.api.operations import Operation
from agentsrv.api.schemas.timers import TimerList, TimerView
from agentsrv.api.urls import session_id_of
from agentsrv.model import SessionId
from agentsrv.store.timers import TimerRecord


async def list_timers(request: web.Request) -> web.Response:
    """What the session's agent has planned for later, the next one first."""
    session_id = session_id_of(request)
    return _listed(session_id, await request.app[TIMERS].of(session_id))


async def cancel_timer(request: web.Request) -> web.Response:
    """Take one of them out; 404 when it does not wait any more. Answers with what is left."""
    session_id = session_id_of(request)
    return _listed(session_id, await request.app[TIMERS].cancel(session_id, request.match_info["timer_id"]))


def _listed(session_id: SessionId, found: list[TimerRecord]) -> web.Response:
    views = [
        TimerView(timer_id=one.id, at=timestamp(one.at), schedule=one.schedule, prompt=one.prompt)
        for one in found
    ]
    return json_response(
        TimerList(session_id=session_id, timers=views, count=len(views), timestamp=timestamp())
    )


# fmt: off
ROUTES = (
    Operation("GET", "/sessions/{session_id}/timers", list_timers, {200: TimerList}, (404,)),
    Operation("DELETE", "/sessions/{session_id}/timers/{timer_id}", cancel_timer, {200: TimerList}, (404, 507)),
)
# fmt: on
