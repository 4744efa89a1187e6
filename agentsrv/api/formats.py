"""Events in the format that a client asks for: which of them are read for it, and what renders them."""

from __future__ import annotations

import re
from functools import partial
from typing import NamedTuple

from aiohttp import web

from agentsrv.api.encode import timestamp
from agentsrv.api.keys import HISTORY, SESSIONS, TURNS
from agentsrv.api.schemas.kinds import Format
from agentsrv.api.sse import Render, Source, stream
from agentsrv.model import Chunk, Millis, Seq, Session, Turn
from agentsrv.projections import native
from agentsrv.projections.acp import Acp
from agentsrv.projections.encoding import frames
from agentsrv.turns.outcomes import gap_of

GAP = "X-Log-Gap"
"""A header: the newest gap before the place at which a stream goes on. Who has not had it has to go back there."""


class Followed(NamedTuple):
    """`follow` may begin before what the client is to see; `render` knows."""

    follow: Source
    render: Render

    def timed(self) -> Followed:
        """The same, and each event says when the server has got it."""
        return self._replace(render=partial(_timed, self.render))


async def followed_turn(request: web.Request, turn: Turn, after: Seq, format: Format) -> Followed:
    """The events of a turn with seq > `after`, to its `done`."""
    turns = request.app[TURNS]
    if format == "native":
        return Followed(partial(turns.follow_turn, turn, after), native.render)
    session = await request.app[SESSIONS].get(turn.session_id)
    acp, start = await request.app[HISTORY].acp(session, after, first=turn.first_seq)
    return Followed(partial(turns.follow_turn, turn, start), partial(_frames, acp))


async def followed_session(request: web.Request, session: Session, after: Seq, format: Format) -> Followed:
    """The events of a session with seq > `after`, and those to come."""
    turns = request.app[TURNS]
    if format == "native":
        return Followed(partial(turns.follow_session, session.id, after), native.render)
    acp, start = await request.app[HISTORY].acp(session, after)
    return Followed(partial(turns.follow_session, session.id, start), partial(_frames, acp))


async def go_on(
    request: web.Request, turn: Turn, seen: Seq | None, format: Format, *, times: bool = False
) -> web.StreamResponse:
    """The turn's events after `seen` as an event stream; 204 when it has ended and the client has its last one."""
    headers = {"X-Task-Id": turn.id, "X-Session-Id": turn.session_id}
    if 0 < (gap := gap_of(turn)) <= (seen or 0):
        headers[GAP] = str(gap)
    if seen is not None and turn.last_seq is not None and seen >= turn.last_seq:
        return web.Response(status=204, headers=headers)
    followed = await followed_turn(request, turn, seen or 0, format)
    return await stream(request, *(followed.timed() if times else followed), headers=headers)


def with_time(lines: bytes, at: Millis) -> bytes:
    """JSON objects, or data of frames that are, with the time at which the server had them."""
    received = b'\\1,"receivedAt":"%s"}' % timestamp(at).encode()
    return re.sub(rb"^((?:data: )?\{.+)\}$", received, lines, flags=re.MULTILINE)


def _timed(render: Render, chunk: Chunk) -> bytes:
    return with_time(render(chunk), chunk.created_at)


def _frames(acp: Acp, chunk: Chunk) -> bytes:
    return frames(acp.read(chunk))
