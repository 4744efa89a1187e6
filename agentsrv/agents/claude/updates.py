"""What Claude Code's lines say, as ACP updates.

An `assistant` line is one block of a message. With partial messages its text has come before in
`stream_event`s, of the main conversation alone; a stream that breaks is tried again from its beginning, with
another `message_start`, and only the last attempt is followed by its whole blocks. What a subagent says has the
id of the call that it works on.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field

from agentsrv.agents import updates as acp
from agentsrv.agents.claude.plan import Plan
from agentsrv.agents.updates import (
    REMEMBERED,
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
)
from agentsrv.jsontext import as_object

PLAN_TOOLS = frozenset({"TodoWrite", "TaskCreate", "TaskUpdate", "TaskList", "TaskGet"})
"""What they do is told as a plan. The first one has all of it in its input, the others change it piece by piece."""

MAX_NOTICE_CHARACTERS = 4000

USABLE_SERVERS = frozenset({"connected", "pending"})

TEXTS = frozenset({"text", "thinking"})
TOOL_USES = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})

KINDS: dict[str, ToolKind] = {
    "Bash": "execute",
    "BashOutput": "execute",
    "KillShell": "execute",
    "Monitor": "execute",
    "Read": "read",
    "NotebookRead": "read",
    "Write": "edit",
    "Edit": "edit",
    "MultiEdit": "edit",
    "NotebookEdit": "edit",
    "Glob": "search",
    "Grep": "search",
    "LS": "search",
    "ToolSearch": "search",
    "WebSearch": "search",
    "web_search": "search",
    "WebFetch": "fetch",
    "web_fetch": "fetch",
    "Task": "think",
    "Agent": "think",
    "EnterPlanMode": "switch_mode",
    "ExitPlanMode": "switch_mode",
}

ENDED: dict[str, ToolStatus] = {
    "completed": "completed",
    "failed": "failed",
    "stopped": "failed",
    "killed": "failed",
}

STOP_REASONS: dict[str, StopReason] = {
    "error_max_turns": "max_turn_requests",
    "error_max_budget_usd": "max_turn_requests",
    "max_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "model_context_window_exceeded": "max_tokens",
    "prompt_too_long": "max_tokens",
    "refusal": "refusal",
}

FAILED = re.compile(r"Exit code (\d{1,9})(?:\n(.*))?\Z", re.DOTALL)
"""How the CLI tells the model of a command that has failed: its exit code, and its output."""


class _Block(Struct):
    """A text that is being streamed, and what was sent of it."""

    type: str
    sent: Sent = field(default_factory=Sent)


class _Streamed(Struct):
    """The message that is being streamed. `blocks` are those whose whole has not come yet, by their index."""

    id: str
    attempt: int = 1
    blocks: Recent[_Block] = field(default_factory=Recent)
    waiting: dict[str, deque[str]] = field(default_factory=dict)
    """Their indexes by type, the first one first."""

    @property
    def message_id(self) -> str:
        return self.id if self.attempt == 1 else f"{self.id}#{self.attempt}"

    def begin(self, index: str, type_: str) -> None:
        self.blocks[index] = _Block(type_)
        self.waiting.setdefault(type_, deque(maxlen=REMEMBERED)).append(index)

    def take(self, type_: str) -> _Block | None:
        """The first block of this type whose whole has not come yet; it has now."""
        waiting = self.waiting.get(type_)
        while waiting:
            block = self.blocks.get(index := waiting.popleft())
            if block is not None and block.type == type_:
                return self.blocks.pop(index)
        return None


class ClaudeUpdates:
    """The fold over one turn. `deltas` False: whole blocks alone."""

    def __init__(self, *, deltas: bool = True) -> None:
        self.stop_reason: StopReason | None = None
        self._deltas = deltas
        self._has_commands = False
        self._cwd = ""
        self._model = ""
        self._streamed = _Streamed("")
        self._calls: Recent[str] = Recent()
        self._returned: Recent[bool] = Recent()
        self._plan = Plan()
        self._servers: set[str] = set()
        self._context_tokens = 0
        self._has_spoken = False

    def read(self, message: Mapping[str, Any]) -> list[Update]:
        match message.get("type"):
            case "stream_event" if self._deltas and not message.get("parent_tool_use_id"):
                return self._stream_event(as_object(message.get("event")))
            case "assistant":
                return self._assistant(message)
            case "user":
                return self._results(message)
            case "result":
                return self._result(message)
            case "system":
                return self._system(message)
            case _:
                return []

    def rest(self) -> list[Update]:
        """Whole messages come whole."""
        return []

    def asked(self, question: Mapping[str, Any]) -> CallFields:
        return _described(as_text(question.get("tool")), as_object(question.get("input")), self._cwd)

    # What is streamed

    def _stream_event(self, event: Mapping[str, Any]) -> list[Update]:
        index = str(as_count(event.get("index")))
        match event.get("type"):
            case "message_start":
                self._begin(as_id(as_object(event.get("message")).get("id")))
                return []
            case "content_block_start":
                return self._block_starts(index, as_object(event.get("content_block")))
            case "content_block_delta":
                delta = as_object(event.get("delta"))
                return self._piece(index, as_text(delta.get("text")) or as_text(delta.get("thinking")))
            case _:
                return []

    def _begin(self, id_: str) -> None:
        again = id_ == self._streamed.id
        self._streamed = _Streamed(id_, self._streamed.attempt + 1 if again else 1)

    def _block_starts(self, index: str, block: Mapping[str, Any]) -> list[Update]:
        type_ = as_text(block.get("type"))
        if type_ in TEXTS:
            self._streamed.begin(index, type_)
            return self._piece(index, as_text(block.get(type_)))
        name, call_id = as_text(block.get("name")), as_id(block.get("id"))
        if type_ not in TOOL_USES or name in PLAN_TOOLS or not call_id or call_id in self._calls:
            return []
        self._note_call(call_id, name)
        fields: CallFields = {"title": _title(name), "kind": _kind(name), "status": "pending"}
        return [acp.tool_call(call_id, fields)]

    def _piece(self, index: str, words: str) -> list[Update]:
        block = self._streamed.blocks.get(index)
        if block is None or not words:
            return []
        block.sent.add(words)
        return self._said(block.type, words, self._streamed.message_id, None)

    # What is whole

    def _assistant(self, line: Mapping[str, Any]) -> list[Update]:
        message = as_object(line.get("message"))
        inside = as_id(line.get("parent_tool_use_id")) or None
        blocks = as_objects(message.get("content"))
        if line.get("error") and message.get("model") == "<synthetic>":
            return [acp.notice("error", "\n".join(as_text(block.get("text")) for block in blocks))]
        if inside is None and (usage := as_object(message.get("usage"))):
            self._context_tokens = _context_tokens(usage) or self._context_tokens
        message_id = as_id(message.get("id"))
        return [update for block in blocks for update in self._block(block, message_id, inside)]

    def _block(self, block: Mapping[str, Any], message_id: str, inside: str | None) -> list[Update]:
        type_ = as_text(block.get("type"))
        if type_ in TEXTS:
            return self._whole(type_, as_text(block.get(type_)), message_id, inside)
        if type_ in TOOL_USES:
            return self._call(block, inside)
        if type_.endswith("tool_result"):
            return self._called(block, None)
        return []

    def _whole(self, type_: str, words: str, message_id: str, inside: str | None) -> list[Update]:
        streamed = self._streamed
        block = streamed.take(type_) if inside is None and streamed.id == message_id else None
        if block is None:
            return self._said(type_, words, message_id, inside)
        rest = block.sent.rest_of(words)
        if rest is None:
            # It is not what was sent before, so it is another message.
            return self._said(type_, words, f"{streamed.message_id}#whole", inside)
        return self._said(type_, rest, streamed.message_id, inside)

    def _said(self, type_: str, words: str, message_id: str, inside: str | None) -> list[Update]:
        if not words:
            return []
        if type_ == "thinking" or inside is not None:
            return [acp.agent_thought_chunk(words, message_id, inside=inside)]
        self._has_spoken = True
        return [acp.agent_message_chunk(words, message_id)]

    # Calls of tools

    def _call(self, block: Mapping[str, Any], inside: str | None) -> list[Update]:
        call_id, name = as_id(block.get("id")), as_text(block.get("name"))
        given = as_object(block.get("input"))
        if not call_id:
            return []
        is_known = call_id in self._calls
        self._note_call(call_id, name)
        if name in PLAN_TOOLS:
            return self._plan.wanted(call_id, name, given)
        fields = _described(name, given, self._cwd)
        fields["status"] = "in_progress"
        return [
            acp.tool_call_update(call_id, fields)
            if is_known
            else acp.tool_call(call_id, fields, inside=inside)
        ]

    def _note_call(self, call_id: str, name: str) -> None:
        """Remember what tool a call uses, if that matters for its result."""
        self._calls[call_id] = name if name in KINDS or name in PLAN_TOOLS else ""

    def _results(self, line: Mapping[str, Any]) -> list[Update]:
        """The results of calls, which the CLI gives to the model as a user message. The rest of it is no user's."""
        content = as_objects(as_object(line.get("message")).get("content"))
        results = [block for block in content if block.get("type") == "tool_result"]
        details = line.get("tool_use_result") if len(results) == 1 else None
        return [update for block in results for update in self._called(block, details)]

    def _called(self, block: Mapping[str, Any], details: Any) -> list[Update]:
        call_id = as_id(block.get("tool_use_id"))
        self._returned[call_id] = True
        name = self._calls.get(call_id) or ""
        if name in PLAN_TOOLS:
            return self._plan.done(call_id, details)
        if not call_id:
            return []
        return [acp.tool_call_update(call_id, _outcome(name, block, details, self._cwd))]

    # About the turn

    def _system(self, message: Mapping[str, Any]) -> list[Update]:
        match message.get("subtype"):
            case "init":
                self._cwd, self._model = as_path(message.get("cwd")), as_path(message.get("model"))
                return [*self._commands(message), *self._unusable(as_objects(message.get("mcp_servers")))]
            case "api_retry":
                attempt, limit = as_count(message.get("attempt")), as_count(message.get("max_retries"))
                reason = as_text(message.get("error"))
                return [acp.notice("retry", f"the model API is asked again ({attempt} of {limit}): {reason}")]
            case "informational":
                return [acp.notice("warning", as_text(message.get("content"))[:MAX_NOTICE_CHARACTERS])]
            case "compact_boundary":
                return [acp.notice("compaction", "the conversation was compacted")]
            case "model_fallback":
                return [acp.notice("model", as_text(message.get("content")))]
            case "task_progress" if call_id := as_id(message.get("tool_use_id")):
                return [acp.tool_call_progress(call_id, progress=as_text(message.get("description")))]
            case "task_notification" if call_id := as_id(message.get("tool_use_id")):
                # The result of a call that was waited for is still to come, and says more.
                is_waited_for = call_id in self._calls and call_id not in self._returned
                return [] if is_waited_for else [acp.tool_call_update(call_id, _task_ended(message))]
            case _:
                pass
        return []

    def _unusable(self, servers: list[dict[str, Any]]) -> list[Update]:
        """MCP servers that cannot be used, each told once."""
        found: list[Update] = []
        for server in servers:
            name, status = as_id(server.get("name")), as_text(server.get("status"))[:100]
            if (
                status not in USABLE_SERVERS
                and name
                and name not in self._servers
                and len(self._servers) < REMEMBERED
            ):
                self._servers.add(name)
                found.append(acp.notice("warning", f"the MCP server {name} cannot be used: {status}"))
        return found

    def _commands(self, message: Mapping[str, Any]) -> list[Update]:
        """What is told live, once a turn: the CLI says it again each time."""
        names = message.get("slash_commands")
        if not self._deltas or self._has_commands or not isinstance(names, list):
            return []
        self._has_commands = True
        return [acp.available_commands((as_id(name), "") for name in names)]

    def _result(self, message: Mapping[str, Any]) -> list[Update]:
        # One with an origin is the end of work that nobody has prompted.
        if self.stop_reason is None or not message.get("origin"):
            self.stop_reason = _stop_reason(message)
        words = as_text(message.get("result"))
        found: list[Update] = []
        if not (self._has_spoken or message.get("is_error")):
            # Structured output is said here alone.
            found += self._said("text", words, as_id(message.get("uuid")), None)
        self._has_spoken = False
        # Subagents may have used other models.
        used = as_object(as_object(message.get("modelUsage")).get(self._model))
        if self._context_tokens and (size := as_count(used.get("contextWindow"))):
            found.append(acp.usage_update(self._context_tokens, size, message.get("total_cost_usd")))
        return found


def _kind(name: str) -> ToolKind:
    return KINDS.get(name, "other")


def _title(name: str) -> str:
    """The name; of an MCP server's tool `server: tool`."""
    prefix, _, tool = name.removeprefix("mcp__").partition("__")
    return f"{prefix}: {tool}" if name.startswith("mcp__") and tool else name or "tool"


def _described(name: str, given: dict[str, Any], cwd: str) -> CallFields:
    """What a call is about to do."""
    path = _absolute(as_path(given.get("file_path")) or as_path(given.get("notebook_path")), cwd)
    fields: CallFields = {"kind": _kind(name), "title": _title(name)}
    if path:
        fields |= {"title": f"{name} {path}", "locations": [acp.location(path, _line(given.get("offset")))]}
    match name:
        case "Write":
            fields["content"] = [acp.diff(path, None, as_text(given.get("content")))]
        case "Edit":
            fields["content"] = [_edit(path, given)]
        case "MultiEdit":
            fields["content"] = [_edit(path, edit) for edit in as_objects(given.get("edits"))]
        case "ExitPlanMode":
            fields["title"] = "Leave plan mode"
            fields["content"] = acp.text_content(as_text(given.get("plan")))
        case _:
            # Elsewhere the content says all that the input does.
            fields["rawInput"] = given
            fields["title"] = _subject(name, given) or fields["title"]
    return fields


def _subject(name: str, given: Mapping[str, Any]) -> str:
    """A title that says more than the tool's name; empty when there is none."""
    match name:
        case "Bash":
            return as_text(given.get("command"))
        case "Task" | "Agent":
            return as_text(given.get("description"))
        case "WebFetch" | "web_fetch":
            return as_text(given.get("url"))
        case "Grep" | "Glob" | "LS" | "ToolSearch" | "WebSearch" | "web_search":
            words = (as_text(given.get(key)) for key in ("pattern", "query", "path"))
            return " ".join([name, *filter(None, words)])
        case _:
            return ""


def _edit(path: str, edit: Mapping[str, Any]) -> Content:
    return acp.diff(path, as_text(edit.get("old_string")), as_text(edit.get("new_string")))


def _outcome(name: str, block: Mapping[str, Any], details: Any, cwd: str) -> CallFields:
    """What came of a call. `details` are the CLI's own words about it."""
    kind, said, result = _kind(name), as_object(details), block.get("content")
    fields: CallFields = {"status": "completed", "content": _contents(result)}
    if block.get("is_error"):
        fields["status"] = "failed"
        if kind == "execute" and (failed := FAILED.match(as_text(result))):
            fields["content"] = acp.text_content(failed[2] or "")
            fields["rawOutput"] = {"exitCode": int(failed[1])}
    elif said.get("backgroundTaskId") or said.get("isAsync"):
        # It has only begun; a `task_notification` will tell of its end.
        fields = {"status": "in_progress"}
    elif kind == "edit":
        fields = _edited(said, cwd)
    elif kind == "execute":
        fields["rawOutput"] = {"exitCode": 0}
    elif kind != "read" and isinstance(details, dict | list):
        fields["rawOutput"] = details
    return fields


def _edited(details: Mapping[str, Any], cwd: str) -> CallFields:
    """Where a file was changed. Only now is it known what a written file had in it before."""
    fields: CallFields = {"status": "completed"}
    path = _absolute(as_path(details.get("filePath")), cwd)
    lines = [_line(hunk.get("newStart")) for hunk in as_objects(details.get("structuredPatch"))]
    if path and lines:
        fields["locations"] = [acp.location(path, line) for line in lines]
    before, after = details.get("originalFile"), details.get("content")
    if path and isinstance(before, str) and isinstance(after, str):
        fields["content"] = [acp.diff(path, before, after)]
    return fields


def _task_ended(message: Mapping[str, Any]) -> CallFields:
    fields: CallFields = {"status": ENDED.get(as_text(message.get("status")), "completed")}
    if summary := as_text(message.get("summary")):
        fields["content"] = acp.text_content(summary)
    return fields


def _contents(value: Any) -> list[Content]:
    """The content of a tool's result: text, or blocks of text and images."""
    if isinstance(value, str):
        return acp.text_content(value)
    found: list[Content] = []
    for block in as_objects(value):
        source = as_object(block.get("source"))
        if block.get("type") == "image" and source.get("type") == "base64":
            image = acp.image_block(as_text(source.get("data")), as_text(source.get("media_type")))
            found.append(acp.content(image))
        elif block.get("type") == "text":
            found += acp.text_content(as_text(block.get("text")))
    return found


def _stop_reason(result: Mapping[str, Any]) -> StopReason | None:
    for key in ("subtype", "stop_reason", "terminal_reason", "api_error"):
        if reason := STOP_REASONS.get(as_text(result.get(key))):
            return reason
    return None if result.get("is_error") or result.get("subtype") != "success" else "end_turn"


def _context_tokens(usage: Mapping[str, Any]) -> int:
    """What a call to the model has put into its context, and the answer so far."""
    names = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")
    return sum(as_count(usage.get(name)) for name in names)


def _absolute(path: str, cwd: str) -> str:
    return f"{cwd.rstrip('/')}/{path}" if path and cwd and not path.startswith("/") else path


def _line(value: Any) -> int | None:
    return as_count(value) or None
