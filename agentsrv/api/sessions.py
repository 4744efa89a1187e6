"""Sessions: durable conversations with one agent in one working directory."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from aiohttp import web

from agentsrv.api.decode import (
    chosen_model,
    given,
    read_body,
    read_optional_body,
    read_query,
    require_usable_id,
    session_id_of,
)
from agentsrv.api.encode import json_response, session_view, timestamp
from agentsrv.api.formats import followed_session
from agentsrv.api.keys import SESSIONS
from agentsrv.api.schemas import (
    CreateSession,
    DeleteSession,
    Follow,
    ForkSession,
    ListMessages,
    ListSessions,
    SessionDeleted,
    SessionList,
    UpdateSession,
)
from agentsrv.api.sse import require_reached, resume_point, stream
from agentsrv.api.transfer import send
from agentsrv.model import Seq, Session, SessionId
from agentsrv.turns.sessions import Messages


async def list_sessions(request: web.Request) -> web.Response:
    """All sessions, newest first."""
    query = read_query(request, ListSessions)
    sessions, cursor = await request.app[SESSIONS].list_sessions(
        limit=query.limit, cursor=given(query.cursor), agent=given(query.agent)
    )
    views = [session_view(session) for session in sessions]
    return json_response(
        SessionList(sessions=views, count=len(views), next_cursor=cursor, timestamp=timestamp())
    )


async def create_session(request: web.Request) -> web.Response:
    """Make a session; the server chooses an id when none is given."""
    body = await read_body(request, CreateSession)
    session_id = given(body.session_id)
    require_usable_id("sessionId", session_id)
    session = await request.app[SESSIONS].create(
        session_id=session_id and SessionId(session_id),
        agent=body.agent,
        cwd=given(body.cwd),
        model=chosen_model(body.model),
        name=given(body.name),
    )
    return _created(request, session)


async def get_session(request: web.Request) -> web.Response:
    """One session."""
    return json_response(session_view(await request.app[SESSIONS].get(session_id_of(request))))


async def update_session(request: web.Request) -> web.Response:
    """Change a session's name or the model that it uses from its next turn on."""
    session_id = session_id_of(request)
    body = await read_body(request, UpdateSession)
    return json_response(session_view(await request.app[SESSIONS].update(session_id, **_changes(body))))


async def fork_session(request: web.Request) -> web.Response:
    """Make a session that goes on from what this one's agent knows now.

    A turn that runs is not part of it.
    """
    source_id = session_id_of(request)
    body = await read_optional_body(request, ForkSession)
    session_id = given(body.session_id)
    require_usable_id("sessionId", session_id)
    session = await request.app[SESSIONS].fork(source_id, session_id=session_id, **_changes(body))
    return _created(request, session)


async def delete_session(request: web.Request) -> web.Response:
    """Delete a session with its jobs and events; 409 while a turn runs.

    `force=true` stops the turn first. `worktree=remove` removes the session's git worktree and its branch too:
    409 when something would be lost with them, unless `force=true`.
    """
    query = read_query(request, DeleteSession)
    session_id = session_id_of(request)
    with_worktree = given(query.worktree) is not None
    await request.app[SESSIONS].delete(session_id, force=query.force, with_worktree=with_worktree)
    return json_response(SessionDeleted(session_id=session_id, timestamp=timestamp()))


async def list_messages(request: web.Request) -> web.StreamResponse:
    """The whole messages of a session, oldest first, without token deltas."""
    query = read_query(request, ListMessages)
    sessions = request.app[SESSIONS]
    session = await sessions.get(session_id_of(request))
    read = sessions.messages if query.format == "native" else sessions.acp_messages
    pieces = _message_list(
        session.id, read(session, query.after), query.after, given(query.limit) or math.inf
    )
    return await send(request, pieces, headers={"Content-Type": "application/json; charset=utf-8"})


async def follow_session(request: web.Request) -> web.StreamResponse:
    """The events of all turns of a session, past and to come, as an event stream that stays open."""
    query = read_query(request, Follow)
    after = resume_point(request, query) or 0
    session_id = session_id_of(request)
    session = await request.app[SESSIONS].get(session_id)
    require_reached(after, await request.app[SESSIONS].last_seq(session_id))
    followed = await followed_session(request, session, after, query.format)
    return await stream(request, *followed, headers={"X-Session-Id": session_id})


async def _message_list(
    session_id: SessionId, groups: AsyncGenerator[list[Messages], None], after: Seq, limit: float
) -> AsyncGenerator[bytes, None]:
    """A `MessageList`, piece by piece: a long session is more than should be held. No event is cut in two."""
    before = b'{"sessionId":%b,"messages":[' % msgspec.json.encode(session_id)
    count = 0
    async with aclosing(groups):
        async for group in groups:
            page: list[bytes] = []
            for seq, messages in group:
                if count + len(page) < limit:
                    page += messages
                    after = seq
            if page:
                yield before + b",".join(page)
                before = b","
                count += len(page)
            if count >= limit:
                break
    end = msgspec.json.encode(timestamp())
    last = b'],"count":%d,"lastEventId":%d,"timestamp":%b}' % (count, after, end)
    yield last if count else before + last


def _created(request: web.Request, session: Session) -> web.Response:
    location = str(request.app.router["get_session"].url_for(session_id=session.id))
    return json_response(session_view(session), status=201, headers={"Location": location})


def _changes(body: UpdateSession | ForkSession) -> dict[str, str | None]:
    """Those of name and model that the body holds."""
    changes: dict[str, str | None] = {}
    if not isinstance(body.name, msgspec.UnsetType):
        changes["name"] = body.name
    if not isinstance(body.model, msgspec.UnsetType):
        changes["model"] = chosen_model(body.model)
    return changes
