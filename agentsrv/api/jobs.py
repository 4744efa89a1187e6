"""Jobs: turns under the name that the wire has for them."""

from __future__ import annotations

from aiohttp import web

from agentsrv.api.decode import given, read_query, turn_id_of
from agentsrv.api.encode import job_view, json_response, timestamp
from agentsrv.api.formats import followed_turn
from agentsrv.api.keys import TURNS
from agentsrv.api.schemas import Follow, GetJob, JobList, ListJobs
from agentsrv.api.sse import require_reached, resume_point, stream
from agentsrv.model import SessionId


async def get_job(request: web.Request) -> web.Response:
    """One job. With `wait` the answer comes when the job has ended, or after so many seconds."""
    query = read_query(request, GetJob)
    turns = request.app[TURNS]
    turn_id = turn_id_of(request)
    turn = await (turns.wait(turn_id, query.wait) if query.wait else turns.get(turn_id))
    return json_response(job_view(turn, turns.last_seq(turn)))


async def list_jobs(request: web.Request) -> web.Response:
    """Jobs, newest first."""
    query = read_query(request, ListJobs)
    turns = request.app[TURNS]
    session_id = given(query.session_id)
    found, cursor = await turns.list_turns(
        session_id=None if session_id is None else SessionId(session_id),
        status=given(query.status),
        limit=query.limit,
        cursor=given(query.cursor),
    )
    jobs = [job_view(turn, turns.last_seq(turn)) for turn in found]
    return json_response(JobList(jobs=jobs, count=len(jobs), next_cursor=cursor, timestamp=timestamp()))


async def follow_job(request: web.Request) -> web.StreamResponse:
    """The job's events from its first one, or after `Last-Event-ID`, to `done`.

    204 when the job has ended and the client has its last event already.
    """
    query = read_query(request, Follow)
    seen = resume_point(request, query)
    after = seen or 0
    turns = request.app[TURNS]
    turn = await turns.get(turn_id_of(request))
    require_reached(after, turns.last_seq(turn))
    if seen is not None and turn.last_seq is not None and seen >= turn.last_seq:
        return web.Response(status=204)
    return await stream(
        request,
        *await followed_turn(request, turn, after, query.format),
        headers={"X-Task-Id": turn.id, "X-Session-Id": turn.session_id},
    )
