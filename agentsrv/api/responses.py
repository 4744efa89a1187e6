"""OpenAI's Responses and Conversations over HTTP."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
from aiohttp import web

from agentsrv.api.bodies import held_body, read_body, read_optional_body
from agentsrv.api.encode import json_response
from agentsrv.api.generate import cancel
from agentsrv.api.keys import RESPONSES, TURNS
from agentsrv.api.openai import (
    NOT_AGAIN,
    draining,
    message_of,
    note_prompt,
    require_own_tools,
    schema_of,
    session_of,
    told_of,
)
from agentsrv.api.operations import Operation
from agentsrv.api.refusals import attended
from agentsrv.api.schemas.chat import CompletionRefused
from agentsrv.api.schemas.responses import (
    ConversationView,
    CreateConversation,
    CreateResponse,
    Deleted,
    FollowResponse,
    ItemList,
    ListItems,
    ResponseView,
    UpdateConversation,
)
from agentsrv.api.sse import stream_frames
from agentsrv.api.urls import read_query
from agentsrv.errors import invalid_field, unsupported
from agentsrv.faces.chat import Message, Wanted
from agentsrv.faces.responses import Numbered, Place, conversation_view
from agentsrv.faces.responses_words import Delta

ROLES = ("user", "assistant", "system", "developer")

DONE_ELSEWHERE = frozenset({"reasoning", "mcp_call", "mcp_list_tools", "item_reference"})
"""Items that clients send back with what was said, and that no agent can be told again."""


FIELDS = {
    "agent": "model",
    "effort": "reasoning.effort",
    "images": "input",
    "mcp_servers": "tools",
    "message_id": "Idempotency-Key",
    "output_schema": "text.format",
    "system_prompt": "instructions",
}
"""What our fields are made of."""


async def create_response(request: web.Request) -> web.StreamResponse:
    """Give an agent something to do, and stream what it says and does (OpenAI's Responses).

    With `background` the answer comes at once, and nobody who leaves ends it.
    """
    async with held_body(request, CreateResponse) as body:
        wanted, place = _wanted(request, body), _place(body)
        with told_of(FIELDS):
            turn = await request.app[RESPONSES].begin(wanted, place)
    headers = note_prompt(request, turn, wanted.messages[-1].text)
    is_background, is_streamed = bool(body.background), bool(body.stream)
    on_disconnect = body.on_disconnect or ("continue" if is_background else "cancel")
    del body, wanted  # The stream may last for hours.
    on_lost = partial(cancel, request.app[TURNS], turn) if on_disconnect == "cancel" else None
    if is_streamed:
        events = request.app[RESPONSES].events(turn)
        return await stream_frames(request, events, _frames, headers=headers, on_lost=on_lost)
    if is_background:
        return json_response(await request.app[RESPONSES].view(turn), headers=headers)
    async with attended(request, on_lost):
        response = await request.app[RESPONSES].ended(turn)
    if response["status"] in ("queued", "in_progress"):
        return json_response(draining(), status=503, headers=headers | NOT_AGAIN)
    return json_response(response, headers=headers)


async def get_response(request: web.Request) -> web.StreamResponse:
    """A response as it is now; with `stream` its events, those after `starting_after` or all, to the last one."""
    query = read_query(request, FollowResponse)
    turn = await request.app[RESPONSES].get(_response_id(request))
    if not query.stream:
        return json_response(await request.app[RESPONSES].view(turn))
    after = -1 if query.starting_after is None else query.starting_after
    return await stream_frames(request, request.app[RESPONSES].events(turn, after), _frames)


async def cancel_response(request: web.Request) -> web.StreamResponse:
    """End a response, whether its agent works or it waits; one that has ended stays as it is."""
    return json_response(await request.app[RESPONSES].cancel(_response_id(request)))


async def delete_response(request: web.Request) -> web.StreamResponse:
    """Delete a response that is a conversation of its own; one that is part of a longer one goes with that (409)."""
    id_ = _response_id(request)
    await request.app[RESPONSES].delete(id_)
    return json_response(Deleted(id=id_, object="response", deleted=True))


async def create_conversation(request: web.Request) -> web.StreamResponse:
    """A new session, for responses that are given its id as `conversation`."""
    body = await read_optional_body(request, CreateConversation)
    session = await request.app[RESPONSES].create_conversation(
        model=body.model, cwd=body.cwd, metadata=body.metadata or {}
    )
    return json_response(conversation_view(session))


async def get_conversation(request: web.Request) -> web.StreamResponse:
    """A conversation: any session, by its id behind `conv_`."""
    return json_response(conversation_view(await request.app[RESPONSES].conversation(_conversation(request))))


async def update_conversation(request: web.Request) -> web.StreamResponse:
    """Set the metadata of a conversation."""
    body = await read_body(request, UpdateConversation)
    session = await request.app[RESPONSES].note(_conversation(request), body.metadata)
    return json_response(conversation_view(session))


async def delete_conversation(request: web.Request) -> web.StreamResponse:
    """Delete a conversation with all that was said in it; what runs in it is stopped."""
    id_ = _conversation(request)
    await request.app[RESPONSES].delete_conversation(id_)
    return json_response(Deleted(id=id_, object="conversation.deleted", deleted=True))


async def list_items(request: web.Request) -> web.StreamResponse:
    """What was said and done in a conversation, the newest first unless `order` says otherwise."""
    query = read_query(request, ListItems)
    items, has_more = await request.app[RESPONSES].items(
        _conversation(request), limit=query.limit, after=query.after, is_newest_first=query.order == "desc"
    )
    ends = (items[0]["id"], items[-1]["id"]) if items else (None, None)
    return json_response(
        ItemList(object="list", data=items, first_id=ends[0], last_id=ends[1], has_more=has_more)
    )


def _response_id(request: web.Request) -> str:
    return request.match_info["response_id"]


def _conversation(request: web.Request) -> str:
    return request.match_info["conversation_id"]


_encoder = msgspec.json.Encoder()


def _frames(numbered: Numbered) -> bytearray:
    """One buffer for all: an event may hold megabytes, and copies of those cost more than to encode them."""
    frames = bytearray()
    begun, head = None, b""
    for number, event in enumerate(numbered.events, numbered.first):
        if isinstance(event, Delta):
            if event.begun is not begun:
                begun = event.begun
                head = b"event: %b\ndata: %b" % (begun.type.encode(), begun.json)
            frames += head
            _encoder.encode_into(event.piece, frames, -1)
            frames += b',"sequence_number":%d}\n\n' % number
        else:
            frames += b"event: %b\ndata: " % event["type"].encode()
            _encoder.encode_into({**event, "sequence_number": number}, frames, -1)
            frames += b"\n\n"
    return frames


def _wanted(request: web.Request, body: CreateResponse) -> Wanted:
    require_own_tools(body.tool_choice)
    if body.prompt is not None:
        raise unsupported("prompt", "there are no templates here; say it with `input`")
    said = [Message("system", body.instructions)] if body.instructions else []
    notes = {
        "model": body.model,
        "background": bool(body.background),
        "previous_response_id": body.previous_response_id,
        "metadata": body.metadata,
    }
    return Wanted(
        model=body.model,
        messages=[*said, *_messages(body.input)],
        session_id=session_of(
            request, body.session_id, body.metadata, body.user, is_streamed=bool(body.stream)
        ),
        cwd=body.cwd,
        effort=None if body.reasoning is None else body.reasoning.effort,
        permission_mode=body.permission_mode,
        output_schema=schema_of("text.format", (body.text or {}).get("format")),
        mcp_servers=_servers_of(body.tools or []),
        message_id=request.headers.get("Idempotency-Key"),
        notes=notes,
        field="input",
    )


def _place(body: CreateResponse) -> Place:
    conversation = body.conversation
    if isinstance(conversation, dict):
        conversation = conversation.get("id")
        if not isinstance(conversation, str) or not conversation:
            raise invalid_field("conversation", "must be the id of one")
    return Place(body.previous_response_id, conversation)


def _messages(input: str | list[dict[str, Any]]) -> list[Message]:
    if isinstance(input, str):
        return [Message("user", input)]
    found = []
    for number, item in enumerate(input):
        role, content = item.get("role"), item.get("content")
        if item.get("type") in DONE_ELSEWHERE:
            continue
        if item.get("type", "message") != "message" or role not in ROLES:
            raise unsupported(f"input.{number}", "only messages can be told to an agent")
        if not isinstance(content, str) and not _are_objects(content):
            raise invalid_field(f"input.{number}.content", "must be text or a list of parts")
        found.append(message_of(role, content, f"input.{number}"))
    return found


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _servers_of(tools: list[dict[str, Any]]) -> dict[str, Any] | None:
    """MCP servers, which an agent can use as the model's side would. Its own tools it has anyway."""
    found: dict[str, Any] = {}
    for number, tool in enumerate(tools):
        match tool:
            case {"type": "mcp", "server_label": str(label), "server_url": str(url)}:
                found[label] = {"type": "http", "url": url, "headers": tool.get("headers") or {}}
            case _:
                raise unsupported(
                    f"tools.{number}", "an agent has its own tools, and takes MCP servers with a URL"
                )
    return found or None


# fmt: off
ROUTES = (
    Operation("POST", "/openai/v1/responses", create_response, {200: ResponseView},
              (404, 409, 422, 429, 503, 507), body=CreateResponse, headers=("Idempotency-Key",),
              refusal=CompletionRefused),
    Operation("GET", "/openai/v1/responses/{response_id}", get_response, {200: ResponseView}, (404, 410),
              query=FollowResponse, refusal=CompletionRefused),
    Operation("POST", "/openai/v1/responses/{response_id}/cancel", cancel_response, {200: ResponseView}, (404, 507),
              refusal=CompletionRefused),
    Operation("DELETE", "/openai/v1/responses/{response_id}", delete_response, {200: Deleted}, (404, 409, 503, 507),
              refusal=CompletionRefused),
    Operation("POST", "/openai/v1/conversations", create_conversation, {200: ConversationView}, (507,),
              body=CreateConversation, is_body_required=False, refusal=CompletionRefused),
    Operation("GET", "/openai/v1/conversations/{conversation_id}", get_conversation, {200: ConversationView}, (404,),
              refusal=CompletionRefused),
    Operation("POST", "/openai/v1/conversations/{conversation_id}", update_conversation, {200: ConversationView},
              (404, 507), body=UpdateConversation, refusal=CompletionRefused),
    Operation("DELETE", "/openai/v1/conversations/{conversation_id}", delete_conversation, {200: Deleted},
              (404, 409, 503, 507), refusal=CompletionRefused),
    Operation("GET", "/openai/v1/conversations/{conversation_id}/items", list_items, {200: ItemList}, (404, 410),
              query=ListItems, refusal=CompletionRefused),
)
# fmt: on
