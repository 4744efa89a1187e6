"""What an agent does, in the words of the Agent Client Protocol (ACP): the values of `session/update`.

The shapes are those of ACP's schema (the PyPI package agent-client-protocol 0.12). Each agent has a reader that
says its own lines in them (`Agent.updates`); what ACP has no word for is in `_meta` under `agentsrv`. The values
come from programs that may write anything, so there are functions here that take the odd for the absent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Generic, Literal, Protocol, TypedDict, TypeVar
from zlib import crc32

Update = dict[str, Any]
Content = dict[str, Any]

ToolKind = Literal[
    "read", "edit", "delete", "move", "search", "execute", "think", "fetch", "switch_mode", "other"
]
ToolStatus = Literal["pending", "in_progress", "completed", "failed"]
StopReason = Literal["end_turn", "max_tokens", "max_turn_requests", "refusal", "cancelled"]
NoticeKind = Literal["retry", "error", "warning", "model", "compaction"]

T = TypeVar("T")

REMEMBERED = 4096
"""So many calls or messages of one turn are known by their ids; of more, the oldest are forgotten."""

MAX_ID_CHARACTERS = 256
MAX_PATH_CHARACTERS = 4096
MAX_COST_USD = 1e9
MAX_PARTS = 2000
"""So many blocks, changes or steps of one message are told of. An update repeats ids and paths with each of its
parts, so that without these limits a megabyte of a hostile line would become a terabyte."""


class CallFields(TypedDict, total=False):
    """What is told of a call of a tool. An update names what has changed; it replaces that as a whole."""

    title: str
    kind: ToolKind
    status: ToolStatus
    content: list[Content]
    locations: list[dict[str, Any]]
    rawInput: Any
    rawOutput: Any


class UpdateReader(Protocol):
    """A fold over what an agent says in one turn. Pure: what it says follows from the messages alone.

    It can be pickled, and consists of values and classes of its agent's package alone (`projections/states.py`): long
    turns are not read from the start by everybody.
    """

    @property
    def stop_reason(self) -> StopReason | None:
        """Why the turn ended, as far as the agent has said."""
        ...

    def read(self, message: Mapping[str, Any]) -> list[Update]:
        """What the agent's next message says, oldest first; nothing when that is of no interest or unknown."""
        ...

    def rest(self) -> list[Update]:
        """What it still holds back of a message that came in pieces; asked for at the turn's end."""
        ...

    def asked(self, question: Mapping[str, Any]) -> CallFields:
        """The call that a `permission_request` is about, in the words in which it is told of.

        Without a title where the call's own would not say all that is asked for.
        """
        ...


# Updates


def user_message_chunk(content: Content, message_id: str | None) -> Update:
    return _chunk("user_message_chunk", content, message_id)


def agent_message_chunk(words: str, message_id: str | None) -> Update:
    return _chunk("agent_message_chunk", text_block(words), message_id)


def agent_thought_chunk(words: str, message_id: str | None, *, inside: str | None = None) -> Update:
    """A thought, or `inside` a call anything that the agent working on that call says."""
    return _chunk("agent_thought_chunk", text_block(words), message_id) | _within(inside)


def tool_call(call_id: str, fields: CallFields, *, inside: str | None = None) -> Update:
    """The first that is heard of a call; it has a title. `inside`: it is made for another call's sake."""
    return {"sessionUpdate": "tool_call", "toolCallId": call_id, **fields, **_within(inside)}


def tool_call_update(call_id: str, fields: CallFields) -> Update:
    return {"sessionUpdate": "tool_call_update", "toolCallId": call_id, **fields}


def tool_call_progress(call_id: str, **progress: str) -> Update:
    """News of a running call that replace nothing: `output` is a piece of it, `progress` a line for people."""
    return {"sessionUpdate": "tool_call_update", "toolCallId": call_id, **_meta(progress)}


def plan(entries: list[tuple[str, str]]) -> Update:
    """The whole plan: (what, status). A status in nobody's words is a pending one."""
    known = {"in_progress": "in_progress", "inProgress": "in_progress", "completed": "completed"}
    return {
        "sessionUpdate": "plan",
        "entries": [
            {"content": content, "priority": "medium", "status": known.get(status, "pending")}
            for content, status in entries
        ],
    }


def usage_update(used: int, size: int, cost_usd: Any = None) -> Update:
    """How many tokens of the model's context are used, and how many there are; what the agent says it has spent."""
    update: Update = {"sessionUpdate": "usage_update", "used": used, "size": size}
    if isinstance(cost_usd, int | float) and 0 < cost_usd < MAX_COST_USD:
        update["cost"] = {"amount": float(cost_usd), "currency": "USD"}
    return update


def available_commands(commands: Iterable[tuple[str, str]]) -> Update:
    """The slash commands that a prompt may begin with: (name, description)."""
    listed = [{"name": name, "description": about} for name, about in islice(commands, MAX_PARTS) if name]
    return {"sessionUpdate": "available_commands_update", "availableCommands": listed}


def session_info_update(title: str) -> Update:
    return {"sessionUpdate": "session_info_update", "title": title}


def notice(kind: NoticeKind, message: str) -> Update:
    """What a person may want to know and no message of the conversation says."""
    return {
        "sessionUpdate": "session_info_update",
        **_meta({"notice": {"kind": kind, "message": message}}),
    }


# What is in them


def text_block(words: str) -> Content:
    return {"type": "text", "text": words}


def image_block(data: str, mime_type: str) -> Content:
    """`data` in base64."""
    return {"type": "image", "data": data, "mimeType": mime_type}


def content(block: Content) -> Content:
    return {"type": "content", "content": block}


def text_content(words: str) -> list[Content]:
    return [content(text_block(words))] if words else []


def diff(path: str, old: str | None, new: str) -> Content:
    """What a call does to a file, or to a part of it. `old` None: the file is new."""
    return {"type": "diff", "path": path, "oldText": old, "newText": new}


def location(path: str, line: int | None = None) -> dict[str, Any]:
    """`line` from 1."""
    return {"path": path} if line is None else {"path": path, "line": line}


# For readers


class Sent:
    """How much of a text has been sent in pieces: its length and a checksum, for the text may be long.

    The checksum is a number, so that a reader can be copied. Whom it could deceive has written both texts.
    """

    def __init__(self) -> None:
        self._length = 0
        self._checksum = 0

    def add(self, piece: str) -> None:
        self._length += len(piece)
        self._checksum = crc32(piece.encode(), self._checksum)

    def rest_of(self, whole: str) -> str | None:
        """What is still to be sent; None when what was sent is not the beginning of it."""
        begun = crc32(whole[: self._length].encode())
        return whole[self._length :] if begun == self._checksum else None


class Recent(Generic[T]):
    """What is known by id of the latest calls or messages of a turn."""

    def __init__(self) -> None:
        self._known: dict[str, T] = {}

    def __contains__(self, id_: str) -> bool:
        return id_ in self._known

    def __setitem__(self, id_: str, value: T) -> None:
        if len(id_) > MAX_ID_CHARACTERS:
            return
        if len(self._known) >= REMEMBERED and id_ not in self._known:
            del self._known[next(iter(self._known))]
        self._known[id_] = value

    def get(self, id_: str) -> T | None:
        return self._known.get(id_)

    def pop(self, id_: str) -> T | None:
        return self._known.pop(id_, None)

    def items(self) -> list[tuple[str, T]]:
        return list(self._known.items())


def as_objects(value: Any) -> list[dict[str, Any]]:
    """The first MAX_PARTS of them."""
    return [item for item in value[:MAX_PARTS] if isinstance(item, dict)] if isinstance(value, list) else []


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def as_id(value: Any) -> str:
    """The name of a message or call; empty when it is too long to be one."""
    return value if isinstance(value, str) and len(value) <= MAX_ID_CHARACTERS else ""


def as_path(value: Any) -> str:
    """A path, or as much of it as a path can have."""
    return as_text(value)[:MAX_PATH_CHARACTERS]


def as_texts(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def as_count(value: Any) -> int:
    is_count = isinstance(value, int) and not isinstance(value, bool)
    return value if is_count and 0 <= value < 1 << 53 else 0


def _chunk(kind: str, block: Content, message_id: str | None) -> Update:
    chunk = {"sessionUpdate": kind, "content": block}
    return chunk | {"messageId": message_id} if message_id else chunk


def _within(call_id: str | None) -> dict[str, Any]:
    return _meta({"parentToolCallId": call_id}) if call_id else {}


def _meta(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {"_meta": {"agentsrv": dict(facts)}}
