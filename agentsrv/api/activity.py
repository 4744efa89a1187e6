"""All sessions at once, as they change: what a list on a screen is kept up to date by."""

from __future__ import annotations

import msgspec
from aiohttp import web

from agentsrv.api.encode import activity_session, question_view
from agentsrv.api.keys import ACTIVITY
from agentsrv.api.operations import Operation
from agentsrv.api.schemas.activity import (
    ActivityPermission,
    ActivityResolved,
    ActivitySession,
    ActivitySessionDeleted,
    ActivitySnapshot,
)
from agentsrv.api.schemas.events import ACTIVITY_EVENTS
from agentsrv.api.sse import frame_of, stream_frames
from agentsrv.turns.activity import Deleted, News, Resolved, SessionState, Snapshot
from agentsrv.turns.questions import WaitingQuestion


async def watch_activity(request: web.Request) -> web.StreamResponse:
    """What happens in all sessions: first how things stand, then what is new. Events have no ids."""
    return await stream_frames(request, request.app[ACTIVITY].watch(), _frames)


def _frames(news: list[News]) -> bytes:
    return b"".join(frame_of(msgspec.json.encode(message_of(one))) for one in news)


def message_of(news: News) -> msgspec.Struct:
    """As it stands on the wire, but for being JSON."""
    match news:
        case Snapshot(sessions, questions):
            return ActivitySnapshot(
                sessions=[activity_session(state) for state in sessions],
                permissions=[question_view(waiting) for waiting in questions],
            )
        case SessionState():
            return ActivitySession(session=activity_session(news))
        case Deleted(session_id):
            return ActivitySessionDeleted(session_id=session_id)
        case WaitingQuestion():
            return ActivityPermission(permission=question_view(news))
        case Resolved(turn_id, question_id):
            return ActivityResolved(task_id=turn_id, request_id=question_id)


ROUTES = (Operation("GET", "/activity", watch_activity, {200: ACTIVITY_EVENTS}),)
