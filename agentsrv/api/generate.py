"""One prompt to an agent: started by the server, followed by whoever wants to."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

from aiohttp import web
from msgspec import UNSET

from agentsrv.api.decode import (
    chosen_model,
    given,
    held_body,
    invalid_field,
    read_optional_body,
    require_usable_id,
    session_id_of,
)
from agentsrv.api.encode import json_response, timestamp
from agentsrv.api.formats import followed_turn
from agentsrv.api.keys import CONFIG, FILES, TURNS
from agentsrv.api.schemas import MESSAGE_ID_PATTERN, Generate, JobAccepted, Stop, Stopped
from agentsrv.api.sse import stream
from agentsrv.errors import TooLarge
from agentsrv.model import SessionId, Turn, TurnOptions
from agentsrv.turns.requests import Started, StartTurn
from agentsrv.turns.service import TurnService

MAX_PROMPT_BYTES = 8 * 1024 * 1024


async def generate(request: web.Request) -> web.StreamResponse:
    """Send a prompt and stream what the agent does; with `background` only start it (202).

    Every check that can fail is made before the first byte. The turn belongs to the server: a client that
    leaves does not end it, unless it said `on_disconnect: "cancel"`. The same `message_id` again follows the
    same turn.
    """
    async with held_body(request, Generate) as body:
        started = await start(request, body)
    turn = started.turn
    if body.background:
        return accepted(request, started)
    is_own = started.is_new and body.on_disconnect == "cancel"
    format = body.format
    del body  # The stream may last for hours, and the images are megabytes.
    return await stream(
        request,
        *await followed_turn(request, turn, started.after, format),
        headers={"X-Task-Id": turn.id, "X-Session-Id": turn.session_id},
        on_lost=partial(cancel, request.app[TURNS], turn) if is_own else None,
    )


async def stop(request: web.Request) -> web.Response:
    """Stop what runs in a session; 404 when nothing does.

    Answers when the agent's whole process tree is dead.
    """
    session_id = session_id_of(request)
    body = await read_optional_body(request, Stop)
    if body.session_id not in (UNSET, session_id):
        raise invalid_field("session_id", "differs from the session in the path")
    turn = await request.app[TURNS].stop(session_id)
    return json_response(Stopped(session_id=session_id, task_id=turn.id, timestamp=timestamp()))


def accepted(request: web.Request, started: Started) -> web.Response:
    turn = started.turn
    location = str(request.app.router["get_job"].url_for(task_id=turn.id))
    has_joined = started.after > 0
    view = JobAccepted(
        task_id=turn.id, session_id=turn.session_id, status="running" if has_joined else "queued"
    )
    return json_response(view, status=202, headers={"Location": location})


async def cancel(turns: TurnService, turn: Turn) -> None:
    """End `turn` for a client that has left, but no other turn of its session."""
    await turns.cancel(turn.id)


def start_turn(request: web.Request, body: Generate) -> StartTurn:
    """What `body` asks for. Raises InvalidInput, TooLarge."""
    require_usable_id("session_id", body.session_id)
    if len(body.prompt) > MAX_PROMPT_BYTES or len(body.prompt.encode()) > MAX_PROMPT_BYTES:
        raise TooLarge(f"the prompt is larger than {MAX_PROMPT_BYTES} bytes; put what is long into a file")
    return StartTurn(
        session_id=SessionId(body.session_id),
        prompt=body.prompt,
        agent=given(body.agent),
        cwd=given(body.cwd),
        options=TurnOptions(
            model=chosen_model(body.model),
            permission_mode=given(body.permission_mode) or request.app[CONFIG].default_permission_mode,
            effort=given(body.effort),
            system_prompt=given(body.system_prompt),
            max_turns=given(body.max_turns),
            max_budget_usd=given(body.max_budget_usd),
            mcp_servers=given(body.mcp_servers),
            output_schema=given(body.output_schema),
            partial_messages=wants_deltas(body),
        ),
        message_id=message_id(request, body),
        if_busy=body.if_busy,
        use_worktree=body.use_worktree,
        is_mode_given=given(body.permission_mode) is not None,
    )


async def start(request: web.Request, body: Generate) -> Started:
    """Start the turn that `body` asks for. Raises what `TurnService.start` does, and TooLarge.

    Its images are left alone when its `message_id` has come before: the files may be gone since.
    """
    turns, asked = request.app[TURNS], start_turn(request, body)
    sources = given(body.images)
    if not sources or (asked.message_id and await turns.find_started(asked.session_id, asked.message_id)):
        return await turns.start(asked)
    async with request.app[FILES].images(sources) as images:
        return await turns.start(replace(asked, images=images))


def wants_deltas(body: Generate) -> bool:
    """Unless it says so, a client of the `acp` format gets text as it is written, and one of `native` whole."""
    chosen = given(body.partial_messages)
    return body.format == "acp" if chosen is None else chosen


def message_id(request: web.Request, body: Generate) -> str | None:
    """The client's name for this prompt: in the body, or the header `Idempotency-Key`, or in both alike."""
    in_body = given(body.message_id)
    in_headers = set(request.headers.getall("Idempotency-Key", []))
    if not in_headers:
        return in_body
    in_header = in_headers.pop()
    if in_headers or not re.match(MESSAGE_ID_PATTERN, in_header):
        raise invalid_field(
            "Idempotency-Key", "must be one, of 1 to 200 printable ASCII characters without spaces"
        )
    if in_body not in (None, in_header):
        raise invalid_field("message_id", "differs from the header Idempotency-Key")
    return in_header
