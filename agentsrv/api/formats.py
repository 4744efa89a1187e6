"""Events in the format that a client asks for: which of them are read for it, and what renders them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import NamedTuple

from aiohttp import web

from agentsrv.api.keys import AGENTS, SESSIONS, TURNS
from agentsrv.api.schemas import Format
from agentsrv.api.sse import Render
from agentsrv.model import Chunk, Seq, Session, Turn
from agentsrv.projections import native
from agentsrv.projections.acp import Acp


class Followed(NamedTuple):
    """`chunks` may begin before what the client is to see; `render` knows."""

    chunks: AsyncGenerator[Chunk, None]
    render: Render


async def followed_turn(request: web.Request, turn: Turn, after: Seq, format: Format) -> Followed:
    """The events of a turn with seq > `after`, to its `done`."""
    turns = request.app[TURNS]
    if format == "native":
        return Followed(turns.follow_turn(turn, after), native.render)
    session = await request.app[SESSIONS].get(turn.session_id)
    return Followed(turns.follow_turn(turn, 0), _acp(request, session, after))


async def followed_session(request: web.Request, session: Session, after: Seq, format: Format) -> Followed:
    """The events of a session with seq > `after`, and those to come."""
    turns = request.app[TURNS]
    if format == "native":
        return Followed(turns.follow_session(session.id, after), native.render)
    first = await request.app[SESSIONS].start_of_turn(session.id, after)
    return Followed(turns.follow_session(session.id, first - 1), _acp(request, session, after))


def _acp(request: web.Request, session: Session, after: Seq) -> Render:
    return Acp(session.id, request.app[AGENTS].get(session.agent).updates, after=after).render
