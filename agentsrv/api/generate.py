"""One prompt to an agent: started by the server, followed by whoever wants to."""

from __future__ import annotations

import re
from functools import partial
from hashlib import sha256

from aiohttp import web
from msgspec import UNSET

from agentsrv.api.audit import note
from agentsrv.api.bodies import held_body, read_optional_body
from agentsrv.api.encode import json_response, timestamp
from agentsrv.api.fields import given
from agentsrv.api.formats import followed_turn, go_on
from agentsrv.api.keys import PROMPTS, TURNS
from agentsrv.api.operations import Operation
from agentsrv.api.schemas.events import JOB_EVENTS
from agentsrv.api.schemas.jobs import ComeBack, Generate, JobAccepted, Stop, Stopped, WorktreeOptions
from agentsrv.api.schemas.kinds import MESSAGE_ID_PATTERN
from agentsrv.api.sse import seen_by, stream
from agentsrv.api.urls import location_of, read_query, session_id_of
from agentsrv.errors import invalid_field
from agentsrv.model import SessionId, Turn, TurnId, TurnOptions, TurnStatus
from agentsrv.turns.prompts import Prompt
from agentsrv.turns.requests import Started
from agentsrv.turns.service import TurnService
from agentsrv.turns.setup import WorktreeWish


async def generate(request: web.Request) -> web.StreamResponse:
    """Send a prompt and stream what the agent does; with `background` only start it (202).

    Every check that can fail is made before the first byte. The turn belongs to the server: a client that
    leaves does not end it, unless it said `on_disconnect: "cancel"`. The same `message_id` again follows the
    same turn. With `Last-Event-ID`, or `lastEventId` in the URL, the client comes back: nothing is started, and the
    stream goes on after that event.
    """
    seen = seen_by(request, read_query(request, ComeBack).last_event_id)
    async with held_body(request, Generate) as body:
        text = body.prompt.encode()
        note(request, session=body.session_id, bytes=len(text), sha256=sha256(text).hexdigest())
        if seen is not None:
            turn = await request.app[PROMPTS].resume(prompt_of(request, body), seen)
            return await go_on(request, turn, seen, body.format)
        started = await request.app[PROMPTS].send(prompt_of(request, body))
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
    """Stop what runs in a session, or only the job `task_id` of the body; 404 when nothing does.

    Answers when the agent's whole process tree is dead.
    """
    session_id = session_id_of(request)
    body = await read_optional_body(request, Stop)
    if body.session_id not in (UNSET, session_id):
        raise invalid_field("session_id", "differs from the session in the path")
    task_id = given(body.task_id)
    turn = await request.app[TURNS].stop(session_id, TurnId(task_id) if task_id else None)
    return json_response(Stopped(session_id=session_id, task_id=turn.id, timestamp=timestamp()))


def accepted(request: web.Request, started: Started) -> web.Response:
    turn = started.turn
    location = location_of(request, "get_job", task_id=turn.id)
    # That it runs already is told by `queued`, too, which is what the earlier server said.
    status = TurnStatus.QUEUED if started.is_new else turn.status
    view = JobAccepted(task_id=turn.id, session_id=turn.session_id, status=status)
    return json_response(view, status=202, headers={"Location": location})


async def cancel(turns: TurnService, turn: Turn) -> None:
    """End `turn` for a client that has left, but no other turn of its session."""
    await turns.cancel(turn.id)


def prompt_of(request: web.Request, body: Generate) -> Prompt:
    """What `body` asks for. Raises InvalidInput."""
    return Prompt(
        session_id=SessionId(body.session_id),
        text=body.prompt,
        agent=given(body.agent),
        cwd=given(body.cwd),
        permission_mode=given(body.permission_mode),
        options=TurnOptions(
            model=given(body.model),
            effort=given(body.effort),
            system_prompt=given(body.system_prompt),
            max_turns=given(body.max_turns),
            max_budget_usd=given(body.max_budget_usd),
            mcp_servers=given(body.mcp_servers),
            output_schema=given(body.output_schema),
            partial_messages=wants_deltas(body),
        ),
        images=given(body.images) or (),
        message_id=message_id(request, body),
        if_busy=body.if_busy,
        if_lost=body.if_lost,
        use_worktree=body.use_worktree or given(body.worktree) is not None,
        worktree=worktree_wish(given(body.worktree)),
    )


def worktree_wish(options: WorktreeOptions | None) -> WorktreeWish:
    """Raises InvalidInput."""
    if options is None:
        return WorktreeWish()
    base, branch, setup = given(options.base), given(options.branch), given(options.setup)
    if base is not None and branch is not None:
        raise invalid_field("worktree.branch", "is where it begins; leave base out")
    if any("\0" in word for word in setup or ()) or setup == [""]:
        raise invalid_field("worktree.setup", "must be a program and its arguments")
    return WorktreeWish(
        base=base,
        branch=branch,
        copy=tuple(given(options.copy) or ()),
        setup=None if setup is None else tuple(setup),
        setup_timeout_s=given(options.setup_timeout),
    )


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


# fmt: off
ROUTES = (
    Operation("POST", "/generate/v2", generate, {200: JOB_EVENTS, 202: JobAccepted},
              (404, 409, 422, 429, 503, 507), body=Generate, query=ComeBack,
              headers=("Idempotency-Key", "Last-Event-ID")),
    Operation("DELETE", "/generate/{session_id}/stop", stop, {200: Stopped}, (404, 503),
              body=Stop, is_body_required=False),
)
# fmt: on
