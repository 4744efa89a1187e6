"""What a request says of where it belongs. Whatever is wrong with it is told by its handler."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Struct

from agentsrv.api.bodies import FIELDS, parse_fields
from agentsrv.api.openai import session_of
from agentsrv.api.terminals.handshake import token_of
from agentsrv.errors import AgentsrvError, InvalidInput, invalid_field
from agentsrv.jsontext import as_object
from agentsrv.model import SESSION_ID

SESSION_HEADER = "X-Session-Id"

MAX_TASK_CHARACTERS = 200
"""No job's id is longer; other servers are asked for it in a URL."""


class Peek(msgspec.Struct):
    """What a body says."""

    session: Any = msgspec.field(name="session_id", default=None)
    camel_session: Any = msgspec.field(name="sessionId", default=None)
    previous_response_id: Any = None
    conversation: Any = None
    metadata: Any = None
    user: Any = None
    stream: Any = None
    terminal: Any = msgspec.field(name="terminalId", default=None)
    server: Any = None

    @property
    def session_id(self) -> str | None:
        return _id(self.session if self.camel_session is None else self.camel_session)


class ToolCall(Struct, frozen=True):
    """What a message of MCP is about. `begins`: it may make a session."""

    session_id: str | None = None
    task_id: str | None = None
    begins: bool = False


def peek_at(request: web.Request, body: bytes | bytearray) -> Peek:
    try:
        if request.content_type == FIELDS:
            return msgspec.convert(parse_fields(body), Peek)
        return msgspec.json.decode(body, type=Peek)
    except (msgspec.DecodeError, InvalidInput, ValueError, RecursionError):
        return Peek()


def tool_call_in(body: bytes | bytearray) -> ToolCall:
    try:
        message = as_object(msgspec.json.decode(body))
    except (msgspec.DecodeError, ValueError, RecursionError):
        return ToolCall()
    params = as_object(message.get("params"))
    if message.get("method") != "tools/call":
        return ToolCall()
    arguments = as_object(params.get("arguments"))
    task_id = arguments.get("task_id")
    return ToolCall(
        session_id=_id(arguments.get("session_id")),
        task_id=task_id if isinstance(task_id, str) and len(task_id) <= MAX_TASK_CHARACTERS else None,
        begins=params.get("name") == "send_prompt",
    )


def session_in_header(request: web.Request) -> str | None:
    """Raises InvalidInput."""
    given = request.headers.getall(SESSION_HEADER, [])
    if not given:
        return None
    if len(given) > 1 or not SESSION_ID.match(given[0]):
        raise invalid_field(SESSION_HEADER, "must be the id of one session")
    return given[0]


def conversation_of(request: web.Request, peek: Peek) -> str | None:
    """The session that a request in OpenAI's words is of."""
    metadata = peek.metadata if isinstance(peek.metadata, dict) else None
    user = peek.user if isinstance(peek.user, str) else None
    try:
        return session_of(request, peek.session, metadata, user, is_streamed=peek.stream is True)
    except InvalidInput:
        return None


def server_of_token(request: web.Request) -> str | None:
    """Where the token says that its terminal is. That it is a good one is for that server to see."""
    try:
        payload = token_of(request).split(".")[1]
        claims = msgspec.json.decode(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        server = claims.get("srv")
    except (AgentsrvError, IndexError, AttributeError, msgspec.DecodeError, binascii.Error, ValueError):
        return None
    return server if isinstance(server, str) else None


def _id(found: Any) -> str | None:
    return found if isinstance(found, str) and SESSION_ID.match(found) else None
