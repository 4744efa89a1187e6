"""What the routes that speak OpenAI's protocols have in common: conversations by header, and errors."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from agentsrv.api.audit import note
from agentsrv.api.refusals import error_of_http, error_response, http_error_response
from agentsrv.errors import AgentsrvError, InvalidInput, Problem, invalid_field, unsupported
from agentsrv.faces.chat import Message
from agentsrv.jsontext import as_object
from agentsrv.model import SESSION_ID_PATTERN, SessionId, Turn

MESSAGES = uuid.UUID("0f4c1a52-7c0e-5b7e-9b1f-5a9c2f6f3c77")
"""The namespace of sessions that a message has begun."""

OPEN_WEBUI = "X-OpenWebUI-Chat-Id"
CHAT_HEADERS = (OPEN_WEBUI, "X-Conversation-Id")
"""How chat programs tell which conversation a request is of, by names of their own."""

SESSION_HEADERS = ("X-Session-Id", *CHAT_HEADERS)

OURS = "/openai/v1/"

NOT_AGAIN = {"X-Should-Retry": "false"}
"""OpenAI's clients would give the agent the same once more, by themselves."""


@web.middleware
async def refuse_in_shape(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What is refused below OURS has the status that it has everywhere, and OpenAI's body, which its clients show."""
    try:
        return await handler(request)
    except (AgentsrvError, web.HTTPException) as exc:
        if OURS not in request.path:
            raise
        return _refusal(exc)


def _refusal(exc: AgentsrvError | web.HTTPException) -> web.Response:
    if isinstance(exc, web.HTTPException):
        response, error = http_error_response(exc.with_traceback(None)), error_of_http(exc)
    else:
        response, error = error_response(exc), exc
    param = error.problems[0].path if error.problems else None
    response.body = msgspec.json.encode(error_of(error.message, error.code, param))
    return response


@contextmanager
def told_of(fields: Mapping[str, str]) -> Iterator[None]:
    """What is wrong with a field of ours is told of the client's, of which it was made."""
    try:
        yield
    except InvalidInput as exc:
        problems = [
            Problem(fields.get(problem.path.partition(".")[0], problem.path), problem.message)
            for problem in exc.problems
        ]
        text = "; ".join(f"{problem.path}: {problem.message}" for problem in problems) or exc.message
        raise InvalidInput(text, code=exc.code, problems=problems) from exc


def error_of(message: str, code: str, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "agentsrv_error", "code": code, "param": param}}


def draining() -> dict[str, Any]:
    """Of a turn that a stopping server leaves running."""
    return error_of("the server stops; the job goes on", "draining")


def session_of(
    request: web.Request,
    session_id: str | None,
    metadata: Mapping[str, Any] | None,
    user: str | None,
    *,
    is_streamed: bool,
) -> SessionId | None:
    """The conversation, by the first of the ways in which clients name it; None: a new one that has no name."""
    named: dict[str, object] = {
        "session_id": session_id,
        **{name: request.headers.get(name) for name in SESSION_HEADERS},
    }
    if not is_streamed and named.pop(OPEN_WEBUI):
        # What its user says Open WebUI streams. This is a question of its own about that chat, for a title or tags.
        user = None
    named["metadata.session_id"] = (metadata or {}).get("session_id")
    for field, value in named.items():
        if isinstance(value, str) and re.match(SESSION_ID_PATTERN, value):
            return SessionId(value)
        if value and field in CHAT_HEADERS:
            # Open WebUI calls its temporary chats `local:...`, for example.
            return _named_after("chat", str(value))
        if value:
            raise invalid_field(field, "names no session: letters, digits, dots, dashes and underscores")
    if user:
        # Any text, an address perhaps: who has no other name for a conversation has one for each user.
        return _named_after("user", user)
    # The same message again is of the same session, though its client has no name for that.
    message_id = request.headers.get("Idempotency-Key")
    return SessionId(f"chat-{uuid.uuid5(MESSAGES, message_id)}") if message_id else None


def _named_after(kind: str, text: str) -> SessionId:
    return SessionId(f"{kind}-{sha256(text.encode(errors='replace')).hexdigest()[:32]}")


def message_of(role: str, parts: str | list[dict[str, Any]] | None, field: str) -> Message:
    """One of a conversation: text, or parts that are texts, pictures, and what a model has refused with."""
    if parts is None or isinstance(parts, str):
        return Message(role, parts or "")
    texts, images = [], []
    for place, part in enumerate(parts):
        image = part.get("image_url")
        url = image.get("url") if isinstance(image, dict) else image
        if isinstance(text := part.get("refusal" if part.get("type") == "refusal" else "text"), str):
            texts.append(text)
        elif isinstance(url, str) and url.startswith("data:"):
            images.append(url)
        else:
            raise invalid_field(f"{field}.content.{place}", "must be text, or an image as a data: URL")
    return Message(role, "\n".join(texts), tuple(images))


def schema_of(field: str, wanted: Any, inside: str | None = None) -> dict[str, Any] | None:
    """The schema that an answer is to have. `inside`: where in `wanted` it is, if not in that itself."""
    wanted = as_object(wanted) if wanted is not None else {"type": "text"}
    if wanted.get("type") == "text":
        return None
    schema = as_object(wanted.get(inside) if inside else wanted).get("schema")
    if wanted.get("type") != "json_schema" or not isinstance(schema, dict):
        raise invalid_field(field, 'must be of the type "json_schema", and have a "schema"')
    return schema


def require_own_tools(tool_choice: str | dict[str, Any] | None) -> None:
    """Of a client's functions none is ever called, so one that must be is refused. Raises InvalidInput."""
    if tool_choice not in (None, "none", "auto"):
        raise unsupported("tool_choice", "an agent has its own tools, and chooses among them by itself")


def note_prompt(request: web.Request, turn: Turn, text: str) -> dict[str, str]:
    """For the audit log; the headers that tell which job and session it has become."""
    data = text.encode(errors="replace")
    note(request, session=turn.session_id, bytes=len(data), sha256=sha256(data).hexdigest())
    return {"X-Task-Id": turn.id, "X-Session-Id": turn.session_id}
