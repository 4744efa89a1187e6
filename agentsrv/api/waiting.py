"""Prompts that wait until their session is free."""

from __future__ import annotations

from aiohttp import web

from agentsrv.api.bodies import read_body
from agentsrv.api.encode import json_response, queued_view, timestamp
from agentsrv.api.keys import TURNS
from agentsrv.api.operations import Operation
from agentsrv.api.schemas.jobs import ArrangeQueue, JobsCancelled, QueueList
from agentsrv.api.urls import session_id_of, turn_id_of
from agentsrv.model import SessionId, TurnId
from agentsrv.store.prompts import WaitingPrompt


async def list_queue(request: web.Request) -> web.Response:
    """The prompts that wait in a session, the next one first."""
    session_id = session_id_of(request)
    return _listed(session_id, await request.app[TURNS].queue.list_prompts(session_id))


async def arrange_queue(request: web.Request) -> web.Response:
    """Change the order of what waits; 409 when `taskIds` are not exactly the jobs that wait."""
    session_id = session_id_of(request)
    body = await read_body(request, ArrangeQueue)
    turn_ids = [TurnId(task_id) for task_id in body.task_ids]
    return _listed(session_id, await request.app[TURNS].queue.arrange(session_id, turn_ids))


async def clear_queue(request: web.Request) -> web.Response:
    """Cancel all prompts that wait in a session; what runs goes on."""
    session_id = session_id_of(request)
    cancelled = await request.app[TURNS].queue.clear(session_id)
    return json_response(
        JobsCancelled(session_id=session_id, task_ids=list(cancelled), timestamp=timestamp())
    )


async def cancel_queued(request: web.Request) -> web.Response:
    """Cancel one prompt that waits; 404 when it does not wait any more."""
    session_id = session_id_of(request)
    turn = await request.app[TURNS].queue.cancel(session_id, turn_id_of(request))
    return json_response(JobsCancelled(session_id=session_id, task_ids=[turn.id], timestamp=timestamp()))


def _listed(session_id: SessionId, prompts: list[WaitingPrompt]) -> web.Response:
    views = [queued_view(prompt, position) for position, prompt in enumerate(prompts, 1)]
    return json_response(
        QueueList(session_id=session_id, queue=views, count=len(views), timestamp=timestamp())
    )


# fmt: off
ROUTES = (
    Operation("GET", "/sessions/{session_id}/queue", list_queue, {200: QueueList}, (404,)),
    Operation("PUT", "/sessions/{session_id}/queue", arrange_queue, {200: QueueList}, (404, 409, 507),
              body=ArrangeQueue),
    Operation("DELETE", "/sessions/{session_id}/queue", clear_queue, {200: JobsCancelled}, (404, 507)),
    Operation("DELETE", "/sessions/{session_id}/queue/{task_id}", cancel_queued, {200: JobsCancelled},
              (404, 507)),
)
# fmt: on
