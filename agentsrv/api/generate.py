"""One prompt to an agent: started by the server, followed by whoever wants to."""

from __future__ import annotations

import re
from functools import partial

from aiohttp import web
from msgspec import UNSET

from agentsrv.api.decode import (
    chosen_model,
    given,
    invalid_field,
    read_body,
    read_optional_body,
    require_native,
    require_usable_id,
    session_id_of,
    unsupported,
)
from agentsrv.api.encode import json_response, timestamp
from agentsrv.api.keys import CONFIG, TURNS
from agentsrv.api.schemas import MESSAGE_ID_PATTERN, Generate, JobAccepted, Stop, Stopped
from agentsrv.api.sse import stream
from agentsrv.errors import TooLarge
from agentsrv.model import PermissionMode, SessionId, Turn, TurnOptions
from agentsrv.turns.service import StartTurn, TurnService

MAX_PROMPT_BYTES = 8 * 1024 * 1024


async def generate(request: web.Request) -> web.StreamResponse:
    """Send a prompt and stream what the agent does; with `background` only start it (202).

    Every check that can fail is made before the first byte. The turn belongs to the server: a client that
    leaves does not end it, unless it said `on_disconnect: "cancel"`. The same `message_id` again follows the
    same turn.
    """
    body = await read_body(request, Generate)
    start = start_turn(request, body)
    turns = request.app[TURNS]
    turn = (await turns.start(start)).turn
    if body.background:
        return accepted(request, turn)
    return await stream(
        request,
        turns.follow_turn(turn, 0),
        headers={"X-Task-Id": turn.id, "X-Session-Id": turn.session_id},
        on_lost=partial(stop_if_current, turns, turn) if body.on_disconnect == "cancel" else None,
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


def accepted(request: web.Request, turn: Turn) -> web.Response:
    location = str(request.app.router["get_job"].url_for(task_id=turn.id))
    return json_response(
        JobAccepted(task_id=turn.id, session_id=turn.session_id), status=202, headers={"Location": location}
    )


async def stop_if_current(turns: TurnService, turn: Turn) -> None:
    """End `turn` for a client that has left, but no later turn of its session."""
    if not (await turns.get(turn.id)).status.is_final:
        await turns.stop(turn.session_id)


def start_turn(request: web.Request, body: Generate) -> StartTurn:
    """What `body` asks for. Raises InvalidInput (`unsupported_option` for what comes later), TooLarge."""
    require_usable_id("session_id", body.session_id)
    require_supported(body)
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
            partial_messages=body.partial_messages,
        ),
        message_id=message_id(request, body),
    )


def require_supported(body: Generate) -> None:
    """Refuse what this server knows of and cannot do yet: an option is never ignored silently."""
    require_native(body.format)
    if body.use_worktree:
        raise unsupported("use_worktree", "worktrees are not available yet")
    if given(body.images):
        raise unsupported("images", "images are not available yet")
    if given(body.permission_mode) not in (None, PermissionMode.BYPASS):
        raise unsupported("permission_mode", "only bypass is available yet: nobody could answer an approval")


def message_id(request: web.Request, body: Generate) -> str | None:
    """The client's name for this prompt: in the body, or the header `Idempotency-Key`, or in both alike."""
    in_body = given(body.message_id)
    in_header = request.headers.get("Idempotency-Key")
    if in_header is None:
        return in_body
    if not re.match(MESSAGE_ID_PATTERN, in_header):
        raise invalid_field("Idempotency-Key", "must be 1 to 200 printable ASCII characters without spaces")
    if in_body not in (None, in_header):
        raise invalid_field("message_id", "differs from the header Idempotency-Key")
    return in_header
