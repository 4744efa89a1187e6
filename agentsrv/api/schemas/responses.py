"""Bodies of OpenAI's Responses and Conversations, as far as they mean something here. Other fields are ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from agentsrv.api.schemas.kinds import PathText, SessionIdText
from agentsrv.api.schemas.sessions import Metadata
from agentsrv.model import PermissionMode

IdText = Annotated[str, Meta(min_length=1, max_length=200)]
Item = dict[str, Any]


class Reasoning(Struct, kw_only=True):
    effort: str | None = None


class CreateResponse(Struct, kw_only=True):
    """What is beyond OpenAI's: `session_id`, `cwd`, `permission_mode`, `on_disconnect`."""

    model: Annotated[str, Meta(min_length=1, max_length=300)]
    input: str | Annotated[list[Item], Meta(min_length=1, max_length=10_000)]
    instructions: str | None = None
    previous_response_id: IdText | None = None
    conversation: IdText | dict[str, Any] | None = None
    background: bool | None = None
    stream: bool | None = None
    text: dict[str, Any] | None = None
    reasoning: Reasoning | None = None
    tools: Annotated[list[dict[str, Any]], Meta(max_length=100)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    prompt: dict[str, Any] | None = None
    user: str | None = None
    metadata: Metadata | None = None
    session_id: SessionIdText | None = None
    cwd: PathText | None = None
    permission_mode: PermissionMode | None = None
    on_disconnect: Literal["continue", "cancel"] | None = None


class FollowResponse(Struct, kw_only=True):
    stream: bool = False
    starting_after: Annotated[int, Meta(ge=0)] | None = None


class ResponseView(Struct, kw_only=True):
    """The fields that every response has; it has others."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["queued", "in_progress", "completed", "failed", "incomplete", "cancelled"]
    model: str
    output: list[Item]


class Deleted(Struct, kw_only=True):
    id: str
    object: Literal["response", "conversation.deleted"]
    deleted: bool


class CreateConversation(Struct, kw_only=True):
    """What is beyond OpenAI's: `model` and `cwd`. `items` must be empty: an agent remembers what it was told."""

    items: Annotated[list[Item], Meta(max_length=0)] | None = None
    metadata: Metadata | None = None
    model: Annotated[str, Meta(min_length=1, max_length=300)] | None = None
    cwd: PathText | None = None


class UpdateConversation(Struct, kw_only=True):
    metadata: Metadata


class ConversationView(Struct, kw_only=True):
    id: str
    object: Literal["conversation"]
    created_at: int
    metadata: dict[str, str]


class ListItems(Struct, kw_only=True):
    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"
    after: IdText | None = None


class ItemList(Struct, kw_only=True):
    object: Literal["list"]
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool
