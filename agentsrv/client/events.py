"""What happens in a session, in typed events: those of the server's `format=acp`.

Every event has `id` (its place in the session's log; several events may have the same), `session_id` and `raw`, the
object as the server sent it. A kind that this client does not know is `Unknown`, never an exception.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Generic, TypeAlias, TypeVar

from agentsrv.client.models import PermissionAnswer

R = TypeVar("R")
"""What `Question.allow` gives: an awaitable of the answer, or with the blocking client the answer itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Event:
    id: int
    session_id: str
    raw: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class UserText(_Event):
    """What a user said: the prompt, or one that steers. A picture has a `media_type` and no text."""

    text: str
    message_id: str | None = None
    media_type: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Text(_Event):
    """A piece of what the agent says. Pieces of one message have the same `message_id`; without one it is whole."""

    text: str
    message_id: str | None = None
    parent_tool_call_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Thought(_Event):
    """A piece of what the agent thinks, or with `parent_tool_call_id` of what a helper says."""

    text: str
    message_id: str | None = None
    parent_tool_call_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall(_Event):
    """A call of a tool, or with `is_update` news of it: what is None has not changed.

    `status` is `pending`, `in_progress`, `completed` or `failed`; `kind` one of ACP's, such as `execute` or `edit`;
    `content` has ACP's blocks, among them `{"type": "diff", "path", "oldText", "newText"}`. `output` is a piece of a
    running command's output, `progress` a line about it.
    """

    tool_call_id: str
    is_update: bool
    title: str | None = None
    kind: str | None = None
    status: str | None = None
    content: tuple[dict[str, Any], ...] | None = None
    locations: tuple[dict[str, Any], ...] | None = None
    raw_input: Any = None
    raw_output: Any = None
    output: str | None = None
    progress: str | None = None
    parent_tool_call_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(_Event):
    """What the agent wants to do: `{"content", "status", "priority"}` each, all of it every time."""

    entries: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage(_Event):
    """Tokens in the agent's context, and how many there is room for. `cost` where the agent tells it."""

    used: int
    size: int
    cost: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice(_Event):
    """Something to know. `kind` is `retry`, `error`, `warning`, `model`, `compaction`, `title` or `worktree`."""

    kind: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Question(_Event, Generic[R]):
    """The agent waits for leave (`kind` is `permission`), or wants to know something (`question`).

    In a stream are also those that are settled already; an answer is then a ConflictError, or taken as the same.
    `options` are the answers that may be given; `questions` what it wants to know.
    """

    task_id: str
    request_id: str
    kind: str
    tool: str
    title: str
    input: dict[str, Any]
    options: tuple[dict[str, Any], ...] = ()
    tool_call_id: str | None = None
    allowance: str | None = None
    details: Any = None
    _reply: Callable[[Question[Any], dict[str, Any]], R] = field(repr=False, compare=False)

    @property
    def questions(self) -> tuple[dict[str, Any], ...]:
        """`{"id", "question", "header", "options", "multiSelect"}` each."""
        return _objects(self.input.get("questions")) or ()

    @property
    def can_be_remembered(self) -> bool:
        return any("remember" in option for option in self.options)

    def allow(self, *, remember: bool = False, updated_input: Mapping[str, Any] | None = None) -> R:
        """Let it. `remember`: in this session the very same is not asked again."""
        reply: dict[str, Any] = {"decision": "allow"}
        if remember:
            reply["remember"] = "session"
        if updated_input is not None:
            reply["updatedInput"] = dict(updated_input)
        return self._reply(self, reply)

    def deny(self, message: str | None = None) -> R:
        """Do not let it; `message` tells the agent why."""
        return self._reply(self, {"decision": "deny"} | ({"message": message} if message else {}))

    def answer(self, answers: Mapping[str, str | list[str]]) -> R:
        """What it wants to know: an answer, or a list of them, by the `id` of each of `questions`."""
        return self.allow(updated_input={"answers": dict(answers)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered(_Event):
    """A question is settled: `decision` is `allow`, `deny`, `timed_out` or `cancelled`.

    `answers`: what was said to each thing that it wanted to know, by its id.
    """

    task_id: str
    request_id: str
    decision: str
    message: str | None = None
    is_remembered: bool = False
    answers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Error(_Event):
    """Why the turn did not succeed. `code` is stable."""

    message: str
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw(_Event):
    """What the agent wrote and nobody could read. `size` are the bytes of a line that was cut."""

    data: str
    is_truncated: bool = False
    size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap(_Event):
    """The server's machine lost its power: whatever came with a higher id than `after` is void."""

    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Done(_Event):
    """A job has ended."""

    task_id: str
    status: str
    stop_reason: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown(_Event):
    """Something that a later server says. `kind` is its name there, empty when it has none."""

    kind: str


Event: TypeAlias = (
    UserText
    | Text
    | Thought
    | ToolCall
    | Plan
    | Usage
    | Notice
    | Question[R]
    | Answered
    | Error
    | Raw
    | Gap
    | Done
    | Unknown
)
"""`Event[Awaitable[PermissionAnswer]]` comes from AsyncAgentsrv, `Event[PermissionAnswer]` from Agentsrv."""

AsyncEvent: TypeAlias = Event[Awaitable[PermissionAnswer]]
BlockingEvent: TypeAlias = Event[PermissionAnswer]

Reply: TypeAlias = Callable[[Question[Any], dict[str, Any]], R]
"""Sends the answer to a question."""


def read(id: int, session_id: str, raw: dict[str, Any], reply: Reply[R]) -> Event[R]:
    """The event that `raw`, the data of a frame, is. Never raises, whatever is in it."""
    update = raw.get("update")
    session_id = _text(raw.get("sessionId")) or session_id
    if isinstance(update, dict):
        return _update(id, session_id, raw, update)
    return _told(id, session_id, raw, reply)


def _update(id: int, session_id: str, raw: dict[str, Any], update: dict[str, Any]) -> Event[R]:
    ours = _object(_object(update.get("_meta")).get("agentsrv"))
    content = update.get("content")
    match update.get("sessionUpdate"):
        case "agent_message_chunk" | "agent_thought_chunk" as kind if isinstance(content, dict):
            said = Text if kind == "agent_message_chunk" else Thought
            return said(
                id=id,
                session_id=session_id,
                raw=raw,
                text=_text(content.get("text")),
                message_id=_maybe(update.get("messageId")),
                parent_tool_call_id=_maybe(ours.get("parentToolCallId")),
            )
        case "tool_call" | "tool_call_update" as kind:
            return _tool_call(id, session_id, raw, update, ours, is_update=kind == "tool_call_update")
        case "user_message_chunk" if isinstance(content, dict):
            return UserText(
                id=id,
                session_id=session_id,
                raw=raw,
                text=_text(content.get("text")),
                message_id=_maybe(update.get("messageId")),
                media_type=_maybe(content.get("mimeType")),
            )
        case "plan":
            entries = _objects(update.get("entries")) or ()
            return Plan(id=id, session_id=session_id, raw=raw, entries=entries)
        case "usage_update":
            cost = update.get("cost")
            return Usage(
                id=id,
                session_id=session_id,
                raw=raw,
                used=_number(update.get("used")),
                size=_number(update.get("size")),
                cost=cost if isinstance(cost, dict) else None,
            )
        case "session_info_update" if isinstance(notice := ours.get("notice"), dict):
            kind, message = _text(notice.get("kind")), _text(notice.get("message"))
            return Notice(id=id, session_id=session_id, raw=raw, kind=kind, message=message)
        case "session_info_update" if isinstance(title := update.get("title"), str):
            return Notice(id=id, session_id=session_id, raw=raw, kind="title", message=title)
        case kind:
            return Unknown(id=id, session_id=session_id, raw=raw, kind=_text(kind))


def _tool_call(
    id: int,
    session_id: str,
    raw: dict[str, Any],
    update: dict[str, Any],
    ours: dict[str, Any],
    *,
    is_update: bool,
) -> ToolCall:
    return ToolCall(
        id=id,
        session_id=session_id,
        raw=raw,
        tool_call_id=_text(update.get("toolCallId")),
        is_update=is_update,
        title=_maybe(update.get("title")),
        kind=_maybe(update.get("kind")),
        status=_maybe(update.get("status")),
        content=_objects(update.get("content")),
        locations=_objects(update.get("locations")),
        raw_input=update.get("rawInput"),
        raw_output=update.get("rawOutput"),
        output=_maybe(ours.get("output")),
        progress=_maybe(ours.get("progress")),
        parent_tool_call_id=_maybe(ours.get("parentToolCallId")),
    )


def _told(id: int, session_id: str, raw: dict[str, Any], reply: Reply[R]) -> Event[R]:
    """What the server itself says."""
    match raw:
        case {"done": True}:
            return Done(
                id=id,
                session_id=session_id,
                raw=raw,
                task_id=_text(raw.get("taskId")),
                status=_text(raw.get("status")),
                stop_reason=_maybe(raw.get("stopReason")),
                error=_maybe(raw.get("error")),
            )
        case {"type": "permission_request"}:
            return _question(id, session_id, raw, reply)
        case {"type": "permission_resolved"}:
            return Answered(
                id=id,
                session_id=session_id,
                raw=raw,
                task_id=_text(raw.get("taskId")),
                request_id=_text(raw.get("requestId")),
                decision=_text(raw.get("decision")),
                message=_maybe(raw.get("message")),
                is_remembered=raw.get("remember") is not None,
                answers=_object(_object(raw.get("updatedInput")).get("answers")),
            )
        case {"type": "error"}:
            message, code = _text(raw.get("error")), _text(raw.get("code"))
            return Error(id=id, session_id=session_id, raw=raw, message=message, code=code)
        case {"type": "raw"}:
            return Raw(
                id=id,
                session_id=session_id,
                raw=raw,
                data=_text(raw.get("data")),
                is_truncated=raw.get("truncated") is True,
                size=_number(raw.get("bytes")) or None,
            )
        case {"type": "gap", "after": int(after)}:
            return Gap(id=id, session_id=session_id, raw=raw, after=after)
        case {"type": "prompt_dropped" | "timer" | "background_ended" as kind}:
            return Notice(id=id, session_id=session_id, raw=raw, kind=kind, message=_lost(raw))
        case {"type": "system", "subtype": "worktree_init"}:
            where = _text(raw.get("cwd"))
            return Notice(id=id, session_id=session_id, raw=raw, kind="worktree", message=where)
        case {"type": "system", "subtype": "worktree_setup"}:
            said = _text(raw.get("output"))
            return Notice(id=id, session_id=session_id, raw=raw, kind="worktree", message=said)
        case _:
            return Unknown(id=id, session_id=session_id, raw=raw, kind=_text(raw.get("type")))


def _lost(raw: dict[str, Any]) -> str:
    """What will not come to pass, or goes on no more, and why."""
    titles = [_text(task.get("title")) for task in _objects(raw.get("tasks")) or ()]
    what = "; ".join(titles) or _text(raw.get("prompt")) or "a prompt"
    return f"{what}: {_text(raw.get('reason')) or _text(raw.get('state'))}"


def _question(id: int, session_id: str, raw: dict[str, Any], reply: Reply[R]) -> Question[R]:
    return Question(
        id=id,
        session_id=session_id,
        raw=raw,
        task_id=_text(raw.get("taskId")),
        request_id=_text(raw.get("requestId")),
        kind=_text(raw.get("kind")),
        tool=_text(raw.get("tool")),
        title=_text(raw.get("title")),
        input=_object(raw.get("input")),
        options=_objects(raw.get("options")) or (),
        tool_call_id=_maybe(raw.get("toolCallId")),
        allowance=_maybe(raw.get("allowance")),
        details=raw.get("details"),
        _reply=reply,
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _maybe(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> int:
    return int(value) if isinstance(value, int | float) and isfinite(value) else 0


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: object) -> tuple[dict[str, Any], ...] | None:
    return tuple(each for each in value if isinstance(each, dict)) if isinstance(value, list) else None
