"""Jobs: turns under the name that the wire has for them."""

from __future__ import annotations

from aiohttp import web

from agentsrv.api.encode import job_view, json_response, timestamp
from agentsrv.api.fields import given
from agentsrv.api.formats import go_on
from agentsrv.api.keys import TURNS
from agentsrv.api.operations import NO_BODY, Operation
from agentsrv.api.schemas.events import JOB_EVENTS
from agentsrv.api.schemas.jobs import Follow, GetJob, JobList, JobView, ListJobs
from agentsrv.api.sse import require_reached, resume_point
from agentsrv.api.urls import read_query, turn_id_of
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
    return await go_on(request, turn, seen, query.format, times=query.times)


# fmt: off
ROUTES = (
    Operation("GET", "/generate/v2/jobs", list_jobs, {200: JobList}, query=ListJobs),
    Operation("GET", "/generate/v2/jobs/{task_id}", get_job, {200: JobView}, (404,), query=GetJob),
    Operation("GET", "/generate/v2/jobs/{task_id}/stream", follow_job, {200: JOB_EVENTS, 204: NO_BODY},
              (404, 410), query=Follow, headers=("Last-Event-ID",)),
)
# fmt: on
