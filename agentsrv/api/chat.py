"""OpenAI's chat completions over HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

import msgspec
from aiohttp import web

from agentsrv.api.bodies import held_body
from agentsrv.api.encode import json_response
from agentsrv.api.generate import cancel
from agentsrv.api.keys import CHAT, TURNS
from agentsrv.api.openai import (
    NOT_AGAIN,
    draining,
    error_of,
    message_of,
    note_prompt,
    require_own_tools,
    schema_of,
    session_of,
    told_of,
)
from agentsrv.api.operations import Operation
from agentsrv.api.refusals import attended
from agentsrv.api.schemas.chat import Completion, CompletionRefused, CreateCompletion, Model, ModelList
from agentsrv.api.sse import frame_of, stream_frames
from agentsrv.errors import NotFound, unsupported
from agentsrv.faces.chat import (
    Wanted,
    chunk_of,
    completion_of,
    finish_reason,
    model_view,
    usage_chunk,
)
from agentsrv.model import Outcome, Turn, TurnStatus

DONE = b"data: [DONE]\n\n"

FIELDS = {
    "agent": "model",
    "effort": "reasoning_effort",
    "images": "messages",
    "message_id": "Idempotency-Key",
    "output_schema": "response_format",
    "system_prompt": "messages",
}
"""What our fields are made of."""


async def list_models(request: web.Request) -> web.Response:
    """The agents as models, and each of their models as `agent/model`."""
    models = [model_view(name) for name in await request.app[CHAT].models()]
    return json_response({"object": "list", "data": models})


async def get_model(request: web.Request) -> web.Response:
    """One of them. 404 `model_not_found`."""
    name = request.match_info["model"]
    if name not in await request.app[CHAT].models():
        raise NotFound(
            f"there is no model {name[:100]}; GET /openai/v1/models lists them", code="model_not_found"
        )
    return json_response(model_view(name))


async def create_completion(request: web.Request) -> web.StreamResponse:
    """Give an agent the last message of a conversation, and stream what it says (OpenAI's chat completions)."""
    async with held_body(request, CreateCompletion) as body:
        wanted = _wanted(request, body)
        with told_of(FIELDS):
            turn = await request.app[CHAT].begin(wanted)
    headers = note_prompt(request, turn, wanted.messages[-1].text)
    model, wants_usage = body.model, bool(body.stream_options and body.stream_options.include_usage)
    on_lost = partial(cancel, request.app[TURNS], turn) if body.on_disconnect == "cancel" else None
    if not body.stream:
        del body, wanted
        async with attended(request, on_lost):
            return await _whole(request, turn, model, headers)
    del body, wanted  # The stream may last for hours.
    frames = _frames(request, turn, model, wants_usage=wants_usage)
    return await stream_frames(request, frames, bytes, headers=headers, on_lost=on_lost)


async def _whole(request: web.Request, turn: Turn, model: str, headers: dict[str, str]) -> web.Response:
    parts: dict[str, list[str]] = {"content": [], "reasoning_content": []}
    async for deltas in request.app[CHAT].deltas(turn):
        for field, text in deltas:
            parts[field].append(text)
    ended = await request.app[TURNS].get(turn.id)
    if (failed := _failure(ended)) is not None:
        status = 502 if ended.status.is_final else 503
        return json_response(failed, status=status, headers=headers | NOT_AGAIN)
    message = {name: "".join(found) for name, found in parts.items() if found or name == "content"}
    return json_response(completion_of(ended, model, message), headers=headers)


async def _frames(
    request: web.Request, turn: Turn, model: str, *, wants_usage: bool
) -> AsyncGenerator[bytes, None]:
    yield _frame(chunk_of(turn, model, {"role": "assistant", "content": ""}))
    async for deltas in request.app[CHAT].deltas(turn):
        yield b"".join(_frame(chunk_of(turn, model, {field: text})) for field, text in deltas)
    ended = await request.app[TURNS].get(turn.id)
    if (failed := _failure(ended)) is not None:
        yield _frame(failed)
    else:
        yield _frame(chunk_of(ended, model, {}, finish_reason(ended)))
    if wants_usage:
        yield _frame(usage_chunk(ended, model))
    yield DONE


def _frame(value: dict[str, Any]) -> bytes:
    return frame_of(msgspec.json.encode(value))


def _failure(turn: Turn) -> dict[str, Any] | None:
    if not turn.status.is_final:
        return draining()
    if turn.status not in (TurnStatus.FAILED, TurnStatus.INTERRUPTED) or finish_reason(turn) is not None:
        return None
    outcome = turn.outcome or Outcome(turn.status)
    return error_of(outcome.error or f"the job is {turn.status}", outcome.error_code or turn.status)


def _wanted(request: web.Request, body: CreateCompletion) -> Wanted:
    require_own_tools(body.tool_choice)
    if body.logprobs:
        raise unsupported("logprobs", "no agent tells them")
    if (body.modalities or ["text"]) != ["text"]:
        raise unsupported("modalities", 'an agent answers in ["text"]')
    return Wanted(
        model=body.model,
        messages=[
            message_of(message.role, message.content, f"messages.{number}")
            for number, message in enumerate(body.messages)
        ],
        session_id=session_of(
            request, body.session_id, body.metadata, body.user, is_streamed=bool(body.stream)
        ),
        cwd=body.cwd,
        effort=body.reasoning_effort,
        permission_mode=body.permission_mode,
        output_schema=schema_of("response_format", body.response_format, inside="json_schema"),
        message_id=request.headers.get("Idempotency-Key"),
    )


# fmt: off
ROUTES = (
    Operation("GET", "/openai/v1/models", list_models, {200: ModelList}, refusal=CompletionRefused),
    Operation("GET", "/openai/v1/models/{model:.+}", get_model, {200: Model}, (404,), refusal=CompletionRefused),
    Operation("POST", "/openai/v1/chat/completions", create_completion, {200: Completion},
              (404, 409, 422, 429, 502, 503, 507), body=CreateCompletion, headers=("Idempotency-Key",),
              refusal=CompletionRefused),
)
# fmt: on
