"""Sessions: durable conversations with one agent in one working directory."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any

import msgspec
from aiohttp import web

from agentsrv.api.bodies import read_body, read_optional_body
from agentsrv.api.encode import json_response, session_view, timestamp
from agentsrv.api.fields import given
from agentsrv.api.formats import GAP, followed_session, with_time
from agentsrv.api.keys import HISTORY, SESSIONS, TURNS
from agentsrv.api.operations import Operation
from agentsrv.api.schemas.events import JOB_EVENTS
from agentsrv.api.schemas.jobs import Follow
from agentsrv.api.schemas.sessions import (
    AllowanceList,
    CreateSession,
    DeleteSession,
    ForkSession,
    ListMessages,
    ListSessions,
    MessageList,
    RemoveAllowances,
    SessionDeleted,
    SessionList,
    SessionView,
    UpdateSession,
)
from agentsrv.api.sse import require_reached, resume_point, stream
from agentsrv.api.transfer import send
from agentsrv.api.urls import location_of, read_query, session_id_of
from agentsrv.errors import invalid_field
from agentsrv.model import SETTING_SOURCES, Seq, Session, SessionId
from agentsrv.turns.history import Messages

DEFAULT_PAGE = 100
"""Messages, when they are read backwards."""


async def list_sessions(request: web.Request) -> web.Response:
    """All sessions, newest first."""
    query = read_query(request, ListSessions)
    sessions, cursor = await request.app[SESSIONS].list_sessions(
        limit=query.limit,
        cursor=given(query.cursor),
        agent=given(query.agent),
        cwd=given(query.cwd),
        archived=given(query.archived),
        with_labels=_labels(query),
    )
    views = [session_view(session) for session in sessions]
    return json_response(
        SessionList(sessions=views, count=len(views), next_cursor=cursor, timestamp=timestamp())
    )


async def create_session(request: web.Request) -> web.Response:
    """Make a session; the server chooses an id when none is given."""
    body = await read_body(request, CreateSession)
    session_id = given(body.session_id)
    session = await request.app[SESSIONS].create(
        session_id=session_id and SessionId(session_id),
        agent=given(body.agent),
        cwd=given(body.cwd),
        model=given(body.model),
        name=given(body.name) or None,
        setting_sources=_sources(body).get("setting_sources"),
        is_warm=given(body.warm),
        **_own(body),
    )
    return _created(request, session)


async def get_session(request: web.Request) -> web.Response:
    """One session."""
    return json_response(session_view(await request.app[SESSIONS].get(session_id_of(request))))


async def update_session(request: web.Request) -> web.Response:
    """Change a session's name or the model that it uses from its next turn on."""
    session_id = session_id_of(request)
    body = await read_body(request, UpdateSession)
    return json_response(
        session_view(
            await request.app[SESSIONS].update(
                session_id, **_changes(body), **_sources(body), **_archived(body), **_own(body)
            )
        )
    )


async def list_allowances(request: web.Request) -> web.Response:
    """What the session's agent may do without asking again, as its questions name it (`allowance`)."""
    return _allowances(await request.app[SESSIONS].get(session_id_of(request)))


async def remove_allowances(request: web.Request) -> web.Response:
    """Take one of them back, or all: the agent asks again."""
    query = read_query(request, RemoveAllowances)
    return _allowances(await request.app[SESSIONS].disallow(session_id_of(request), given(query.allowance)))


def _allowances(session: Session) -> web.Response:
    allowed = list(session.allowances)
    return json_response(AllowanceList(allowances=allowed, count=len(allowed), timestamp=timestamp()))


async def fork_session(request: web.Request) -> web.Response:
    """Make a session that goes on from what this one's agent knows now.

    A turn that runs is not part of it.
    """
    source_id = session_id_of(request)
    body = await read_optional_body(request, ForkSession)
    session_id = given(body.session_id)
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
    """The whole messages of a session, oldest first, without token deltas.

    With `before` the last ones before that event; a number beyond the end gives the newest page.
    """
    query = read_query(request, ListMessages)
    session = await request.app[SESSIONS].get(session_id_of(request))
    history = request.app[HISTORY]
    is_acp = query.format == "acp"
    after, before, limit = given(query.after), given(query.before), given(query.limit)
    if before is None:
        read = partial(history.acp_messages, has_questions=query.questions) if is_acp else history.messages
        groups = read(session, after or 0)
        pieces = _message_list(session.id, groups, after or 0, limit or math.inf, timed=query.times)
        return await send(request, pieces, headers={"Content-Type": "application/json; charset=utf-8"})
    if after is not None:
        raise invalid_field("before", "cannot be given together with after")
    found, end = await history.messages_before(
        session, before, limit or DEFAULT_PAGE, as_acp=is_acp, has_questions=query.questions
    )
    values = [msgspec.Raw(value) for one in found for value in _values(one, timed=query.times)]
    return json_response(
        MessageList(
            session_id=session.id,
            messages=values,
            count=len(values),
            first_event_id=found[0].seq if found else 0,
            last_event_id=found[-1].seq if found else 0,
            event_ids=[one.seq for one in found for _ in one.values],
            up_to_event_id=end,
            timestamp=timestamp(),
        )
    )


async def follow_session(request: web.Request) -> web.StreamResponse:
    """The events of all turns of a session, past and to come, as an event stream that stays open."""
    query = read_query(request, Follow)
    after = resume_point(request, query) or 0
    session_id = session_id_of(request)
    session = await request.app[SESSIONS].get(session_id)
    require_reached(after, await request.app[SESSIONS].last_seq(session_id))
    headers: dict[str, str] = {"X-Session-Id": session_id}
    if after and (gap := await request.app[TURNS].gap_before(session_id, after)):
        headers[GAP] = str(gap)
    followed = await followed_session(request, session, after, query.format)
    return await stream(request, *(followed.timed() if query.times else followed), headers=headers)


async def _message_list(
    session_id: SessionId,
    groups: AsyncGenerator[list[Messages], None],
    after: Seq,
    limit: float,
    *,
    timed: bool,
) -> AsyncGenerator[bytes, None]:
    """A `MessageList`, piece by piece: a long session is more than should be held. No event is cut in two."""
    before = b'{"sessionId":%b,"messages":[' % msgspec.json.encode(session_id)
    count = 0
    async with aclosing(groups):
        async for group in groups:
            page: list[bytes] = []
            for one in group:
                if count + len(page) < limit:
                    page += _values(one, timed=timed)
                    after = one.seq
            if page:
                yield before + b",".join(page)
                before = b","
                count += len(page)
            if count >= limit:
                break
    end = msgspec.json.encode(timestamp())
    last = b'],"count":%d,"lastEventId":%d,"timestamp":%b}' % (count, after, end)
    yield last if count else before + last


def _values(messages: Messages, *, timed: bool) -> list[bytes]:
    return [with_time(value, messages.at) if timed else value for value in messages.values]


def _created(request: web.Request, session: Session) -> web.Response:
    location = location_of(request, "get_session", session_id=session.id)
    return json_response(session_view(session), status=201, headers={"Location": location})


def _changes(body: UpdateSession | ForkSession) -> dict[str, str | None]:
    """Those of name, model and directory that the body holds."""
    changes: dict[str, str | None] = {}
    if not isinstance(body.name, msgspec.UnsetType):
        changes["name"] = body.name or None
    if not isinstance(body.model, msgspec.UnsetType):
        changes["model"] = body.model
    if isinstance(body, UpdateSession) and (cwd := given(body.cwd)) is not None:
        changes["cwd"] = cwd
    return changes


def _own(body: CreateSession | UpdateSession) -> dict[str, Any]:
    """What the body says of the session's defaults for prompts, and of its user's notes."""
    names = ("permission_mode", "effort", "mcp_servers", "tags", "metadata")
    said = {name: getattr(body, name) for name in names if getattr(body, name) is not msgspec.UNSET}
    return said if "tags" not in said else said | {"tags": tuple(dict.fromkeys(said["tags"]))}


def _labels(query: ListSessions) -> tuple[str, ...]:
    """As the store has them: `#tag`, `key=value`."""
    tag, pair = given(query.tag), given(query.metadata)
    return tuple(label for label in (tag and f"#{tag}", pair) if label is not None)


def _archived(body: UpdateSession) -> dict[str, bool]:
    return {} if isinstance(body.archived, msgspec.UnsetType) else {"archived": body.archived}


def _sources(body: CreateSession | UpdateSession) -> dict[str, tuple[str, ...] | None]:
    """Whose settings are to count, if the body says so. Raises InvalidInput when it says it twice."""
    trusts = given(body.trust_repository)
    if isinstance(body.setting_sources, msgspec.UnsetType):
        sources = SETTING_SOURCES if trusts else SETTING_SOURCES[:1]
        return {} if trusts is None else {"setting_sources": sources}
    if trusts is not None:
        raise invalid_field("trust_repository", "says the same as setting_sources: send one of them")
    return {"setting_sources": None if body.setting_sources is None else tuple(body.setting_sources)}


# fmt: off
ROUTES = (
    Operation("GET", "/sessions", list_sessions, {200: SessionList}, query=ListSessions),
    Operation("POST", "/sessions", create_session, {201: SessionView}, (409, 507),
              body=CreateSession),
    Operation("GET", "/sessions/{session_id}", get_session, {200: SessionView}, (404,)),
    Operation("PUT", "/sessions/{session_id}", update_session, {200: SessionView}, (404, 409, 507),
              body=UpdateSession),
    Operation("GET", "/sessions/{session_id}/allowances", list_allowances, {200: AllowanceList}, (404,)),
    Operation("DELETE", "/sessions/{session_id}/allowances", remove_allowances, {200: AllowanceList},
              (404, 507), query=RemoveAllowances),
    Operation("DELETE", "/sessions/{session_id}", delete_session, {200: SessionDeleted},
              (404, 409, 422, 503, 507), query=DeleteSession),
    Operation("POST", "/sessions/{session_id}/fork", fork_session, {201: SessionView},
              (404, 409, 507), body=ForkSession, is_body_required=False),
    Operation("GET", "/sessions/{session_id}/messages", list_messages, {200: MessageList}, (404,),
              query=ListMessages),
    Operation("GET", "/sessions/{session_id}/events", follow_session, {200: JOB_EVENTS},
              (404, 410), query=Follow, headers=("Last-Event-ID",)),
)
# fmt: on
