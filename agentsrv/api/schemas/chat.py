"""Bodies of OpenAI's chat completions, as far as they mean something here. Other fields are ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from agentsrv.api.schemas.kinds import PathText, SessionIdText
from agentsrv.model import PermissionMode


class ChatMessage(Struct, kw_only=True):
    """`content` is text, or parts: `{"type": "text", "text"}` and `{"type": "image_url", "image_url": {"url"}}`."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None


class StreamOptions(Struct, kw_only=True):
    include_usage: bool | None = False


class CreateCompletion(Struct, kw_only=True):
    """What is beyond OpenAI's: `session_id`, `cwd`, `permission_mode`, `on_disconnect`."""

    model: Annotated[str, Meta(min_length=1, max_length=300)]
    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=10_000)]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    tool_choice: str | dict[str, Any] | None = None
    logprobs: bool | None = None
    modalities: list[str] | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    response_format: dict[str, Any] | None = None
    session_id: SessionIdText | None = None
    cwd: PathText | None = None
    permission_mode: PermissionMode | None = None
    on_disconnect: Literal["continue", "cancel"] = "cancel"


class Completion(Struct, kw_only=True):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: dict[str, int]


class Model(Struct, kw_only=True):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(Struct, kw_only=True):
    object: Literal["list"]
    data: list[Model]


class CompletionError(Struct, kw_only=True):
    message: str
    type: str
    code: str
    param: str | None


class CompletionRefused(Struct, kw_only=True):
    error: CompletionError
