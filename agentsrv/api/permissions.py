"""Approvals: what agents ask, and what users answer."""

from __future__ import annotations

from aiohttp import web
from msgspec import UnsetType

from agentsrv.api.audit import note
from agentsrv.api.bodies import read_body
from agentsrv.api.encode import json_response, question_view, timestamp
from agentsrv.api.fields import given
from agentsrv.api.keys import TURNS
from agentsrv.api.operations import Operation
from agentsrv.api.schemas.permissions import AnswerPermission, PermissionAnswered, PermissionList
from agentsrv.api.urls import turn_id_of
from agentsrv.model import Answer, Decision
from agentsrv.turns.questions import WaitingQuestion


async def list_permissions(request: web.Request) -> web.Response:
    """All questions of agents that wait for an answer, the oldest first."""
    await request.app[TURNS].all_settled()
    return _listed(request.app[TURNS].questions())


async def list_job_permissions(request: web.Request) -> web.Response:
    """The same of one job."""
    turns = request.app[TURNS]
    turn = await turns.get(turn_id_of(request))
    return _listed([waiting for waiting in turns.questions() if waiting.turn.id == turn.id])


async def answer_permission(request: web.Request) -> web.Response:
    """Answer a question. The same answer again is fine; another one is 409, as it is after the time limit."""
    turn_id = turn_id_of(request)
    request_id = request.match_info["request_id"]
    body = await read_body(request, AnswerPermission)
    note(request, decision=body.decision)
    answer = Answer(
        Decision(body.decision),
        remember=not isinstance(body.remember, UnsetType),
        message=given(body.message),
        updated_input=given(body.updated_input),
        permission_mode=given(body.permission_mode),
    )
    await request.app[TURNS].answer(turn_id, request_id, answer)
    return json_response(
        PermissionAnswered(
            request_id=request_id,
            task_id=turn_id,
            decision=body.decision,
            remember=body.remember,
            timestamp=timestamp(),
        )
    )


def _listed(questions: list[WaitingQuestion]) -> web.Response:
    views = [question_view(waiting) for waiting in questions]
    return json_response(PermissionList(permissions=views, count=len(views), timestamp=timestamp()))


# fmt: off
ROUTES = (
    Operation("GET", "/generate/v2/jobs/{task_id}/permissions", list_job_permissions,
              {200: PermissionList}, (404,)),
    Operation("POST", "/generate/v2/jobs/{task_id}/permissions/{request_id}", answer_permission,
              {200: PermissionAnswered}, (404, 409, 507), body=AnswerPermission),
    Operation("GET", "/permissions", list_permissions, {200: PermissionList}),
)
# fmt: on
