"""Approvals: what agents ask, and what users answer."""

from __future__ import annotations

from aiohttp import web
from msgspec import UnsetType

from agentsrv.api.decode import given, invalid_field, read_body, turn_id_of
from agentsrv.api.encode import json_response, pending_view, timestamp
from agentsrv.api.keys import TURNS
from agentsrv.api.schemas import AnswerPermission, PermissionAnswered, PermissionList
from agentsrv.model import Answer, Decision, Turn
from agentsrv.turns.active import Pending


async def list_permissions(request: web.Request) -> web.Response:
    """All questions of agents that wait for an answer, the oldest first."""
    return _listed(request.app[TURNS].pending())


async def list_job_permissions(request: web.Request) -> web.Response:
    """The same of one job."""
    turns = request.app[TURNS]
    turn = await turns.get(turn_id_of(request))
    return _listed([entry for entry in turns.pending() if entry[0].id == turn.id])


async def answer_permission(request: web.Request) -> web.Response:
    """Answer a question. The same answer again is fine; another one is 409, as it is after the time limit."""
    turn_id = turn_id_of(request)
    request_id = request.match_info["request_id"]
    body = await read_body(request, AnswerPermission)
    if body.remember and body.decision != "allow":
        raise invalid_field("remember", "goes with the decision allow only")
    answer = Answer(
        Decision(body.decision),
        remember=not isinstance(body.remember, UnsetType),
        message=given(body.message),
        updated_input=given(body.updated_input),
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


def _listed(entries: list[tuple[Turn, Pending]]) -> web.Response:
    views = [pending_view(turn, pending) for turn, pending in entries]
    return json_response(PermissionList(permissions=views, count=len(views), timestamp=timestamp()))
