"""What an ACP agent says is in ACP's words already. It is checked here, and messages are put together from chunks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from agentsrv.agents import updates as acp
from agentsrv.agents.updates import (
    MAX_PARTS,
    CallFields,
    Content,
    Recent,
    StopReason,
    ToolKind,
    ToolStatus,
    Update,
    as_count,
    as_id,
    as_objects,
    as_path,
    as_text,
)
from agentsrv.jsontext import as_object

CHUNKS = frozenset({"agent_message_chunk", "agent_thought_chunk"})
KINDS = frozenset(get_args(ToolKind))
STATUSES = frozenset(get_args(ToolStatus))
STOP_REASONS: dict[str, StopReason] = {reason: reason for reason in get_args(StopReason)}

TERMINAL_OUTPUT = ("terminal_output", "terminal_output_delta")

MAX_HELD = 8 * 1024 * 1024
"""Of a message that is put together; a longer one comes in several."""


class AcpUpdates:
    """A fold over what an ACP agent says in one turn."""

    def __init__(self, *, deltas: bool = True) -> None:
        self.stop_reason: StopReason | None = None
        self._deltas = deltas
        self._calls: Recent[None] = Recent()
        self._held: tuple[str, str] | None = None
        self._title = ""
        self._parts: list[str] = []
        self._size = 0

    def read(self, message: Mapping[str, Any]) -> list[Update]:
        if message.get("method") != "session/update":
            return self._answered(message) if "method" not in message else []
        update = as_object(as_object(message.get("params")).get("update"))
        kind = as_text(update.get("sessionUpdate"))
        if kind in CHUNKS:
            return self._chunk(kind, update)
        found = self._told(kind, update)
        return [*self.rest(), *found] if found else []

    def rest(self) -> list[Update]:
        """What is held back of a message, as a whole."""
        held, words = self._held, "".join(self._parts)
        self._held, self._parts, self._size = None, [], 0
        if held is None or not words:
            return []
        kind, message_id = held
        chunk = acp.agent_message_chunk if kind == "agent_message_chunk" else acp.agent_thought_chunk
        return [chunk(words, message_id or None)]

    def asked(self, question: Mapping[str, Any]) -> CallFields:
        given = as_object(question.get("input"))
        fields: CallFields = {"rawInput": given}
        if (kind := as_text(question.get("tool"))) in KINDS:
            fields["kind"] = kind  # type: ignore[typeddict-item]  # It is one of them.
        return fields

    def _answered(self, message: Mapping[str, Any]) -> list[Update]:
        """An answer to a request of ours: with that to the prompt the turn is over."""
        result, error = as_object(message.get("result")), as_object(message.get("error"))
        if (reason := STOP_REASONS.get(as_text(result.get("stopReason")))) is not None:
            self.stop_reason = reason
            return self.rest()
        if not error:
            return []
        kind: acp.NoticeKind = (
            "warning" if message.get("id") in ("session-load", "session-resume") else "error"
        )
        return [*self.rest(), acp.notice(kind, as_text(error.get("message")))]

    def _chunk(self, kind: str, update: Mapping[str, Any]) -> list[Update]:
        words = as_text(as_object(update.get("content")).get("text"))
        message_id = as_id(update.get("messageId"))
        if self._deltas:
            chunk = acp.agent_message_chunk if kind == "agent_message_chunk" else acp.agent_thought_chunk
            return [chunk(words, message_id or None)] if words else []
        is_same = self._held == (kind, message_id) and self._size < MAX_HELD
        found = [] if is_same else self.rest()
        self._held = (kind, message_id)
        self._parts.append(words)
        self._size += len(words)
        return found

    def _told(self, kind: str, update: Mapping[str, Any]) -> list[Update]:
        match kind:
            case "tool_call" | "tool_call_update":
                return self._call(update)
            case "plan":
                steps = as_objects(update.get("entries"))
                return [
                    acp.plan([(as_text(step.get("content")), as_text(step.get("status"))) for step in steps])
                ]
            case "usage_update" if self._deltas:
                used, size = as_count(update.get("used")), as_count(update.get("size"))
                cost = as_object(update.get("cost"))
                spent = cost.get("amount") if cost.get("currency") == "USD" else None
                return [acp.usage_update(used, size, spent)] if used and size else []
            case "available_commands_update" if self._deltas:
                commands = as_objects(update.get("availableCommands"))
                names = ((as_text(one.get("name")), as_text(one.get("description"))) for one in commands)
                return [acp.available_commands(names)]
            case "session_info_update" if (title := as_text(update.get("title"))) and title != self._title:
                self._title = title
                return [acp.session_info_update(title)]
            case _:
                return []

    def _call(self, update: Mapping[str, Any]) -> list[Update]:
        if not (call_id := as_id(update.get("toolCallId"))):
            return []
        fields, is_known = _fields(update), call_id in self._calls
        self._calls[call_id] = None
        found: list[Update] = []
        if not is_known:
            title = as_text(update.get("title")) or "tool"
            found.append(
                acp.tool_call(call_id, {"title": title, "kind": "other", "status": "pending", **fields})
            )
        elif fields:
            found.append(acp.tool_call_update(call_id, fields))
        if self._deltas and (output := _live_output(update)):
            found.append(acp.tool_call_progress(call_id, output=output))
        return found


def _fields(update: Mapping[str, Any]) -> CallFields:
    """What an update says of its call, as far as it is in ACP's words."""
    fields: CallFields = {}
    if title := as_text(update.get("title")):
        fields["title"] = title
    if (kind := as_text(update.get("kind"))) in KINDS:
        fields["kind"] = kind  # type: ignore[typeddict-item]  # It is one of them.
    if (status := as_text(update.get("status"))) in STATUSES:
        fields["status"] = status  # type: ignore[typeddict-item]  # It is one of them.
    for name in ("rawInput", "rawOutput"):
        if update.get(name):
            fields[name] = update[name]
    if content := _content(update.get("content")):
        fields["content"] = content
    if locations := as_objects(update.get("locations")):
        fields["locations"] = [_location(location) for location in locations]
    return fields


def _content(value: Any) -> list[Content]:
    found: list[Content] = []
    for part in as_objects(value)[:MAX_PARTS]:
        block = as_object(part.get("content"))
        if part.get("type") == "diff":
            old = part.get("oldText")
            old_text = old if isinstance(old, str) else None
            found.append(acp.diff(as_path(part.get("path")), old_text, as_text(part.get("newText"))))
        elif block.get("type") == "text":
            found += acp.text_content(as_text(block.get("text")))
        elif block.get("type") == "image":
            image = acp.image_block(as_text(block.get("data")), as_text(block.get("mimeType")))
            found.append(acp.content(image))
    return found


def _location(value: Mapping[str, Any]) -> dict[str, Any]:
    return acp.location(as_path(value.get("path")), as_count(value.get("line")) or None)


def _live_output(update: Mapping[str, Any]) -> str:
    """A piece of what a command writes, in the two ways that agents have found for that."""
    meta = as_object(update.get("_meta"))
    live = as_object(as_object(meta.get("toolNotification")).get("params"))
    pieces = [as_text(chunk.get("output")) for chunk in as_objects(live.get("chunks"))]
    pieces += [as_text(as_object(meta.get(name)).get("data")) for name in TERMINAL_OUTPUT]
    return "".join(pieces)
