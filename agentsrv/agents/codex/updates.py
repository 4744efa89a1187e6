"""What the messages of Codex's app-server say, as ACP updates.

A turn is made of items. A text item may come in deltas first; a retry abandons the item that it breaks off, and
begins another one. What a helper says has another thread's id: the main thread is the one whose turn is the root
of the others.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from itertools import islice
from typing import Any

from msgspec import Struct, field

from agentsrv.agents import updates as acp
from agentsrv.agents.codes import STOP_REASONS
from agentsrv.agents.codex.outcomes import failure
from agentsrv.agents.updates import (
    MAX_PARTS,
    CallFields,
    Content,
    Recent,
    Sent,
    StopReason,
    ToolKind,
    ToolStatus,
    Update,
    as_count,
    as_id,
    as_objects,
    as_path,
    as_text,
    as_texts,
)
from agentsrv.jsontext import as_object

STATUSES: dict[str, ToolStatus] = {
    "inProgress": "in_progress",
    "completed": "completed",
    "failed": "failed",
    "declined": "failed",
}

NAMED_LATE = frozenset({"webSearch", "imageGeneration"})
"""Items that say only when they are completed what they are about."""

MAX_UNQUOTED = 16 * 1024
"""`shlex` takes time that grows with the square of a command's length."""

PIECES = ("/delta", "Delta", "/progress")

CHANGES = {"add": "Write", "update": "Edit", "delete": "Delete"}

LINE = re.compile(r"[^\n]*\n|[^\n]+")
HUNK = re.compile(r"@@ -\d+(?:,\d+)? \+(\d{1,9})")
LIST_ITEM = re.compile(r"^(?:[-*]|\d+[.)]) (?:\[[ xX]\] )?(.+)$", re.MULTILINE)


class _Streamed(Struct):
    """What was sent of a text. `part` is the paragraph that came last, where it has several."""

    part: int = 0
    sent: Sent = field(default_factory=Sent)


class CodexUpdates:
    """The fold over one turn. `deltas` False: completed items alone."""

    def __init__(self, *, deltas: bool = True) -> None:
        self.stop_reason: StopReason | None = None
        self._deltas = deltas
        self._thread = ""
        self._helpers: Recent[str] = Recent()
        self._streamed: Recent[_Streamed] = Recent()
        self._calls: Recent[None] = Recent()

    def read(self, message: Mapping[str, Any]) -> list[Update]:
        method, params = message.get("method"), as_object(message.get("params"))
        if not isinstance(method, str) or "id" in message:
            # A question is told of in the server's own words; an answer is the server's affair.
            return []
        item_id, inside = as_id(params.get("itemId")), self._inside(params)
        if method.endswith(PIECES):
            return self._news(method, item_id, params, inside) if self._deltas else []
        item = as_object(params.get("item"))
        match method:
            case "item/started":
                return self._started(item, inside)
            case "item/completed":
                return self._completed(item, inside)
            case "item/fileChange/patchUpdated" if item_id:
                return [acp.tool_call_update(item_id, _changed(as_objects(params.get("changes"))))]
            case "thread/name/updated" if name := as_text(params.get("threadName")):
                return [acp.session_info_update(name)]
            case "error" | "warning" | "model/rerouted":
                return [_notice(method, params)]
            case "mcpServer/startupStatus/updated" if params.get("status") == "failed":
                return [
                    acp.notice("warning", as_text(params.get("error")) or "an MCP server cannot be started")
                ]
            case _ if inside is None:
                return self._about_the_turn(method, params)
            case _:
                return []

    def rest(self) -> list[Update]:
        """Whole messages come whole."""
        return []

    def asked(self, question: Mapping[str, Any]) -> CallFields:
        fields = _described(_asked_about(question)) or {"kind": "other", "rawInput": question.get("input")}
        if question.get("allowance") is None:
            # It is about more than the call: the network, a whole directory.
            fields.pop("title", None)
        return fields

    def _inside(self, params: Mapping[str, Any]) -> str | None:
        """The call by which a helper was started, for what the helper says; its thread when it is not known."""
        thread = as_id(params.get("threadId"))
        if not thread or not self._thread or thread == self._thread:
            return None
        return self._helpers.get(thread) or thread

    def _about_the_turn(self, method: str, params: Mapping[str, Any]) -> list[Update]:
        turn = as_object(params.get("turn"))
        match method:
            case "turn/started" if not self._thread and turn.get("rootTurnId") in (None, turn.get("id")):
                self._thread = as_id(params.get("threadId"))
            case "turn/completed":
                self.stop_reason = _stop_reason(turn)
            case "turn/plan/updated":
                steps = as_objects(params.get("plan"))
                return [
                    acp.plan([(as_text(step.get("step")), as_text(step.get("status"))) for step in steps])
                ]
            case "thread/tokenUsage/updated":
                usage = as_object(params.get("tokenUsage"))
                used = as_count(as_object(usage.get("last")).get("totalTokens"))
                if used and (size := as_count(usage.get("modelContextWindow"))):
                    return [acp.usage_update(used, size)]
            case _:
                pass
        return []

    # What comes in pieces

    def _news(self, method: str, item_id: str, params: Mapping[str, Any], inside: str | None) -> list[Update]:
        piece = as_text(params.get("delta"))
        match method:
            case "item/agentMessage/delta":
                return _said(self._piece(item_id, 0, piece), item_id, inside)
            case "item/reasoning/summaryTextDelta":
                part = as_count(params.get("summaryIndex"))
                return _thought(self._piece(f"{item_id}/summary", part, piece), item_id, inside)
            case "item/reasoning/textDelta":
                part = as_count(params.get("contentIndex"))
                return _thought(self._piece(f"{item_id}/content", part, piece), item_id, inside)
            case "item/commandExecution/outputDelta" if item_id:
                return [acp.tool_call_progress(item_id, output=piece)]
            case "item/mcpToolCall/progress" if item_id:
                return [acp.tool_call_progress(item_id, progress=as_text(params.get("message")))]
            case _:
                return []

    def _piece(self, key: str, part: int, piece: str) -> str:
        """What to send for a delta: paragraphs are told apart as they are in the whole text."""
        if (streamed := self._streamed.get(key)) is None:
            streamed = self._streamed[key] = _Streamed(part)
        if part != streamed.part:
            streamed.part, piece = part, f"\n\n{piece}"
        streamed.sent.add(piece)
        return piece

    def _rest(self, key: str, item_id: str, whole: str) -> tuple[str, str]:
        """What of a whole text is still to be sent, and the id of the message that it belongs to."""
        streamed = self._streamed.pop(key)
        rest = whole if streamed is None else streamed.sent.rest_of(whole)
        # A text that is not what was sent before is another message.
        return (whole, f"{item_id}#whole") if rest is None else (rest, item_id)

    # Items

    def _started(self, item: Mapping[str, Any], inside: str | None) -> list[Update]:
        if item.get("type") == "subAgentActivity":
            return self._helper(item)
        fields = _described(item)
        return [] if fields is None else self._call(item, {"status": "in_progress"} | fields, inside)

    def _completed(self, item: Mapping[str, Any], inside: str | None) -> list[Update]:
        item_id = as_id(item.get("id"))
        match item.get("type"):
            case "agentMessage":
                return _said(*self._rest(item_id, item_id, as_text(item.get("text"))), inside)
            case "exitedReviewMode":
                return _said(as_text(item.get("review")), item_id, inside)
            case "reasoning":
                return self._reasoned(item, item_id, inside)
            case "plan" if text := as_text(item.get("text")):
                steps = [found[1] for found in islice(LIST_ITEM.finditer(text), MAX_PARTS)]
                return [acp.plan([(step, "pending") for step in steps or [text]])]
            case "contextCompaction":
                return [acp.notice("compaction", "the conversation was compacted")]
            case "subAgentActivity":
                return self._helper(item)
            case _:
                return self._call_completed(item, inside)
        return []

    def _reasoned(self, item: Mapping[str, Any], item_id: str, inside: str | None) -> list[Update]:
        """The summary of its thoughts; the thoughts themselves where there is none, or where they came before."""
        summary, content = (as_texts(item.get(name)) for name in ("summary", "content"))
        found: list[Update] = []
        for name, parts, is_wanted in (("summary", summary, True), ("content", content, not summary)):
            key = f"{item_id}/{name}"
            if is_wanted or key in self._streamed:
                found += _thought(*self._rest(key, item_id, "\n\n".join(parts)), inside)
        return found

    def _call_completed(self, item: Mapping[str, Any], inside: str | None) -> list[Update]:
        fields = _described(item)
        if fields is None:
            return []
        if as_id(item.get("id")) in self._calls and item.get("type") not in NAMED_LATE:
            # The rest was told when it started.
            fields = {"status": fields["status"]} if "status" in fields else {}
        return self._call(item, {"status": "completed"} | fields | _outcome(item), inside)

    def _call(self, item: Mapping[str, Any], fields: CallFields, inside: str | None) -> list[Update]:
        call_id = as_id(item.get("id"))
        if not call_id:
            return []
        if call_id in self._calls:
            return [acp.tool_call_update(call_id, fields)]
        self._calls[call_id] = None
        return [acp.tool_call(call_id, fields, inside=inside)]

    def _helper(self, item: Mapping[str, Any]) -> list[Update]:
        """A helper has started or ended. Both are items, each of which starts and completes at once."""
        call_id, thread = as_id(item.get("id")), as_id(item.get("agentThreadId"))
        kind = item.get("kind")
        if kind not in ("started", "completed", "interrupted") or not call_id or call_id in self._calls:
            return []
        self._calls[call_id] = None
        status: ToolStatus = "completed" if kind == "completed" else "failed"
        if kind == "started":
            status = "in_progress"
            if call_id in self._calls:
                self._helpers[thread] = call_id
        elif started := self._helpers.get(thread):
            return [acp.tool_call_update(started, {"status": status})]
        title = as_text(item.get("agentPath")) or "helper"
        return [acp.tool_call(call_id, {"title": title, "kind": "think", "status": status})]


def _stop_reason(turn: Mapping[str, Any]) -> StopReason | None:
    if turn.get("status") == "completed":
        return "end_turn"
    return STOP_REASONS.get(failure(as_object(turn.get("error")))[1])


def _said(words: str, message_id: str, inside: str | None) -> list[Update]:
    if inside is not None:
        return _thought(words, message_id, inside)
    return [acp.agent_message_chunk(words, message_id)] if words else []


def _thought(words: str, message_id: str, inside: str | None) -> list[Update]:
    return [acp.agent_thought_chunk(words, message_id, inside=inside)] if words else []


def _notice(method: str, params: Mapping[str, Any]) -> Update:
    error = as_object(params.get("error"))
    match method:
        case "error":
            details = (as_text(error.get("message")), as_text(error.get("additionalDetails")))
            kind: acp.NoticeKind = "retry" if params.get("willRetry") else "error"
            return acp.notice(kind, ": ".join(filter(None, details)))
        case "model/rerouted":
            models = as_text(params.get("fromModel")), as_text(params.get("toModel"))
            return acp.notice("model", f"{models[0]} gave way to {models[1]}")
        case _:
            return acp.notice("warning", as_text(params.get("message")))


def _described(item: Mapping[str, Any]) -> CallFields | None:
    """The call of a tool that an item stands for; None when it stands for none."""
    fields: CallFields
    match item.get("type"):
        case "commandExecution":
            command = _command(item)
            given = {"command": command, "cwd": as_text(item.get("cwd"))}
            fields = {"title": command, "kind": "execute", "rawInput": given}
        case "fileChange":
            fields = _changed(as_objects(item.get("changes")))
        case "mcpToolCall":
            title = f"{as_text(item.get('server'))}: {as_text(item.get('tool'))}"
            fields = {"title": title, "kind": "other", "rawInput": item.get("arguments")}
        case "dynamicToolCall":
            title = as_text(item.get("tool")) or "tool"
            fields = {"title": title, "kind": "other", "rawInput": item.get("arguments")}
        case "functionCallOutput":
            fields = {"title": as_text(item.get("name")) or "tool", "kind": "other"}
        case "collabAgentToolCall":
            given = {"prompt": as_text(item.get("prompt"))}
            fields = {"title": as_text(item.get("tool")) or "helper", "kind": "think", "rawInput": given}
        case "webSearch":
            fields = _searched(item)
        case "imageView":
            path = as_path(item.get("path"))
            fields = {"title": f"View {path}", "kind": "read", "locations": [acp.location(path)]}
        case "imageGeneration":
            fields = {"title": as_text(item.get("revisedPrompt")) or "Make an image", "kind": "other"}
        case "sleep":
            fields = {"title": "Wait", "kind": "other"}
        case _:
            return None
    if status := STATUSES.get(as_text(item.get("status"))):
        fields["status"] = status
    return fields


def _asked_about(question: Mapping[str, Any]) -> dict[str, Any]:
    """As much of an item as a question tells of it; nothing where it is about none."""
    given, details = as_object(question.get("input")), as_object(question.get("details"))
    match as_text(question.get("tool")):
        case "commandExecution" if isinstance(given.get("command"), str):
            return {"type": "commandExecution", **given}
        case "fileChange" if isinstance(given.get("changes"), list):
            return {"type": "fileChange", **given}
        case _ if tool := as_text(details.get("tool")):
            server = as_text(details.get("serverName"))
            return {"type": "mcpToolCall", "server": server, "tool": tool, "arguments": given}
        case _:
            return {}


def _outcome(item: Mapping[str, Any]) -> CallFields:
    """What a completed call has brought."""
    match item.get("type"):
        case "commandExecution":
            content = acp.text_content(as_text(item.get("aggregatedOutput")))
            return {"content": content, "rawOutput": {"exitCode": item.get("exitCode")}}
        case "mcpToolCall":
            result, error = as_object(item.get("result")), as_object(item.get("error"))
            content = _contents(result.get("content")) or acp.text_content(as_text(error.get("message")))
            return {"content": content, "rawOutput": item.get("result")}
        case "dynamicToolCall":
            return {"content": _contents(item.get("contentItems"))}
        case "functionCallOutput":
            output = item.get("output")
            return {"content": acp.text_content(output) if isinstance(output, str) else _contents(output)}
        case "imageGeneration" if data := as_text(item.get("result")):
            return {"content": [acp.content(acp.image_block(data, "image/png"))]}
        case _:
            return {}


def _command(item: Mapping[str, Any]) -> str:
    """What the shell is told, without the shell around it.

    Not what Codex makes of it for people (`commandActions`): that leaves out `cd` and the end of a pipe.
    """
    command = as_text(item.get("command"))
    try:
        shell = shlex.split(command) if len(command) <= MAX_UNQUOTED else []
    except ValueError:
        return command
    return shell[2] if len(shell) == 3 and shell[1] in ("-c", "-lc") else command


def _searched(item: Mapping[str, Any]) -> CallFields:
    action = as_object(item.get("action"))
    url, query = as_text(action.get("url")), as_text(item.get("query"))
    if url:
        return {"title": url, "kind": "fetch", "rawInput": action}
    return {"title": f"WebSearch {query}".rstrip(), "kind": "search", "rawInput": {"query": query}}


def _changed(changes: list[dict[str, Any]]) -> CallFields:
    """What is done to files. Of a changed one only the parts around the changes are known."""
    content: list[Content] = []
    locations: list[dict[str, Any]] = []
    kinds: set[str] = set()
    for change in changes:
        if len(content) >= MAX_PARTS:
            break
        kind, path, text = (
            as_object(change.get("kind")),
            as_path(change.get("path")),
            as_text(change.get("diff")),
        )
        kinds.add(as_text(kind.get("type")))
        path = as_path(kind.get("move_path")) or path
        match kind.get("type"):
            case "add":
                parts: list[tuple[str | None, str, int | None]] = [(None, text, None)]
            case "delete":
                parts = [(text, "", None)]
            case _:
                parts = _hunks(text)
        content += [acp.diff(path, old, new) for old, new, _ in parts]
        locations += [acp.location(path, line) for *_, line in parts] or [acp.location(path)]
    verb = CHANGES.get(kinds.pop(), "Edit") if len(kinds) == 1 else "Edit"
    paths = dict.fromkeys(location["path"] for location in locations)
    is_move = bool(changes) and not content
    kind_of_call: ToolKind = "move" if is_move else "delete" if verb == "Delete" else "edit"
    return {
        "title": f"{'Move' if is_move else verb} {', '.join(paths)}".rstrip(),
        "kind": kind_of_call,
        "content": content,
        "locations": locations,
    }


def _hunks(diff: str) -> list[tuple[str | None, str, int | None]]:
    """(before, after, line) of each hunk of a unified diff, with the lines around the change.

    What comes after MAX_PARTS of them is in the last one.
    """
    hunks: list[tuple[list[str], list[str], int | None]] = []
    for line in LINE.findall(diff):
        if line.startswith("@@") and len(hunks) < MAX_PARTS:
            found = HUNK.match(line)
            hunks.append(([], [], int(found[1]) or None if found else None))
        elif hunks:
            _add(line, *hunks[-1][:2])
    return [("".join(old), "".join(new), line) for old, new, line in hunks]


def _add(line: str, old: list[str], new: list[str]) -> None:
    """A line of a hunk, to the texts that it is part of."""
    sides = {" ": (old, new), "-": (old,), "+": (new,), "\\": ()}.get(line[0], ())
    for side in sides:
        side.append(line[1:])


def _contents(value: Any) -> list[Content]:
    """Blocks of MCP or of Codex itself: text, and images as data."""
    found: list[Content] = []
    for block in as_objects(value):
        if words := as_text(block.get("text")):
            found += acp.text_content(words)
        elif block.get("type") == "image" and as_text(block.get("data")):
            image = acp.image_block(as_text(block.get("data")), as_text(block.get("mimeType")))
            found.append(acp.content(image))
    return found
