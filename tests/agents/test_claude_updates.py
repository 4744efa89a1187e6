"""Claude Code's lines as ACP updates: what the real CLI wrote (transcripts/claude/), and what it may write."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from agentsrv.agents.claude.updates import ClaudeUpdates
from agentsrv.agents.updates import Update

TRANSCRIPTS = Path(__file__).parent / "transcripts" / "claude"

SILENT = {
    "command_lifecycle", "conversation_reset", "control_response",
    # Questions are told in the server's own words.
    "control_request", "control_cancel_request",
    "system/session_state_changed", "system/init", "system/status", "system/thinking_tokens",
    "system/background_tasks_changed", "system/task_started", "system/task_updated",
    "stream_event/message_start", "stream_event/message_delta", "stream_event/message_stop",
    "stream_event/content_block_start", "stream_event/content_block_stop",
    "stream_event/signature_delta", "stream_event/input_json_delta",
    # What the CLI itself tells the model, and results of interrupted turns, which say nothing.
    "user/text", "result", "system/model_refusal_no_fallback",
}  # fmt: skip
"""Kinds of lines that may say nothing to a client."""


def lines_of(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (TRANSCRIPTS / f"{name}.jsonl").read_bytes().splitlines()]


def updates_of(lines: Iterable[dict[str, Any]], *, deltas: bool = True) -> list[Update]:
    reader = ClaudeUpdates(deltas=deltas)
    return [update for line in lines for update in reader.read(line)]


def kind_of(line: dict[str, Any]) -> str:
    """The type of a line, and what tells its kind more closely."""
    event = line.get("event", {})
    within = {
        "system": line.get("subtype"),
        "stream_event": event.get("delta", {}).get("type") or event.get("type"),
        "user": next((block["type"] for block in blocks(line)), "text"),
    }.get(line["type"])
    return f"{line['type']}/{within}" if within else str(line["type"])


def blocks(line: dict[str, Any]) -> list[dict[str, Any]]:
    content = line.get("message", {}).get("content", [])
    return content if isinstance(content, list) else []


def said(updates: list[Update], kind: str = "agent_message_chunk") -> dict[str, str]:
    """The text of each message, by its id."""
    texts: dict[str, str] = {}
    for update in updates:
        if update["sessionUpdate"] == kind:
            texts[update["messageId"]] = texts.get(update["messageId"], "") + update["content"]["text"]
    return texts


def calls(updates: list[Update]) -> dict[str, Any]:
    """Each call of a tool as it is after all its updates, by its title."""
    found: dict[str, dict[str, Any]] = {}
    for update in updates:
        if "toolCallId" in update:
            found.setdefault(update["toolCallId"], {}).update(update)
    return {call["title"]: call for call in found.values()}


def assistant(*content: dict[str, Any], id_: str = "m1", **fields: Any) -> dict[str, Any]:
    return {"type": "assistant", "message": {"id": id_, "content": list(content)}, **fields}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def use(name: str, **given: Any) -> dict[str, Any]:
    return assistant({"type": "tool_use", "id": "c1", "name": name, "input": given})


def result(content: Any, **fields: Any) -> dict[str, Any]:
    block = {"type": "tool_result", "tool_use_id": "c1", "content": content}
    return {"type": "user", "message": {"content": [block | fields]}}


def stream(*words: str, id_: str = "m1") -> list[dict[str, Any]]:
    """A message of one text block, up to its last delta."""
    block = {"type": "content_block_start", "index": 0, "content_block": text("")}
    deltas = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
        for piece in words
    ]
    events = [{"type": "message_start", "message": {"id": id_}}, block, *deltas]
    return [{"type": "stream_event", "event": event, "parent_tool_use_id": None} for event in events]


@pytest.mark.parametrize("path", sorted(TRANSCRIPTS.glob("*.jsonl")), ids=lambda path: path.stem)
def test_no_line_is_lost(path: Path) -> None:
    """Every line says something to a client, or is of a kind that is known to be of no interest."""
    readers = ClaudeUpdates(), ClaudeUpdates(deltas=False)
    lines = lines_of(path.stem)
    streamed, whole = ({kind_of(line) for line in lines if not reader.read(line)} for reader in readers)

    # Blocks whose deltas came before have nothing to add, and the other way round.
    has_deltas = any(line["type"] == "stream_event" for line in lines)
    assert streamed <= SILENT | ({"assistant"} if has_deltas or path.stem == "todo" else set())
    # A plan is told when the CLI has changed it.
    planned = {"assistant"} if path.stem == "todo" else set()
    assert whole <= SILENT | {"stream_event/text_delta", "stream_event/thinking_delta"} | planned


def test_streamed_text_comes_once() -> None:
    """With partial messages I get text as it is written, and not again with the whole message."""
    lines = lines_of("partial_messages")

    streamed, whole = updates_of(lines), updates_of(lines, deltas=False)
    assert (
        said(streamed)
        == said(whole)
        == {
            "msg_9cf3e39266f08833fe56": "delta 0 delta 1 delta 2 ",
            "msg_657424ddb22b4358038a": "end",
        }
    )
    assert said(streamed, "agent_thought_chunk") == {"msg_9cf3e39266f08833fe56": "hm"}


def test_rest_of_a_text_follows_its_deltas() -> None:
    """Deltas that are missing at the end come with the whole block."""
    assert said(updates_of([*stream("one ", "two"), assistant(text("one two three"))])) == {
        "m1": "one two three"
    }


def test_answer_after_a_broken_stream_is_a_message_of_its_own() -> None:
    """A stream breaks, and the answer comes whole, under its own id or with other words: it is all there."""
    broken = stream("one ", "tw")

    assert said(updates_of([*broken, assistant(text("three"), id_="m2")])) == {"m1": "one tw", "m2": "three"}
    assert said(updates_of([*broken, assistant(text("three"))])) == {"m1": "one tw", "m1#whole": "three"}


def test_each_attempt_at_a_message_has_its_own_id() -> None:
    """The API breaks off and is asked again: what it says then is not glued to what it said before."""
    lines = [*stream("one ", "tw"), *stream("one ", "two"), assistant(text("one two"))]

    assert said(updates_of(lines)) == {"m1": "one tw", "m1#2": "one two"}


def test_command_tells_its_output_and_exit_code() -> None:
    """A command is a call of kind execute with the command as its title."""
    done = calls(updates_of([use("Bash", command="ls"), result("a.txt")]))["ls"]
    failed = calls(updates_of([use("Bash", command="ls"), result("Exit code 3\nout", is_error=True)]))["ls"]

    assert (done["kind"], done["status"], done["rawOutput"]) == ("execute", "completed", {"exitCode": 0})
    assert (failed["status"], failed["rawOutput"]) == ("failed", {"exitCode": 3})
    assert failed["content"] == [{"type": "content", "content": {"type": "text", "text": "out"}}]


def test_edits_are_diffs_with_places() -> None:
    """Write and Edit show what they do to which file, by its absolute path, and at which line."""
    found = calls(updates_of(lines_of("write_edit")))

    path = "/workspace/a.txt"
    assert found[f"Write {path}"]["content"] == [
        {"type": "diff", "path": path, "oldText": None, "newText": "one two"}
    ]
    edit = found[f"Edit {path}"]
    assert edit["content"] == [{"type": "diff", "path": path, "oldText": "two", "newText": "three"}]
    assert (edit["kind"], edit["status"], edit["locations"]) == (
        "edit",
        "completed",
        [{"path": path, "line": 1}],
    )


def test_overwritten_file_shows_what_it_was() -> None:
    """When a file that was there is written, the diff has its former content, once the CLI has said it."""
    details = {"filePath": "/w/a", "content": "new", "originalFile": "old", "structuredPatch": []}
    lines = [use("Write", file_path="/w/a", content="new"), result("ok") | {"tool_use_result": details}]

    assert calls(updates_of(lines))["Write /w/a"]["content"] == [
        {"type": "diff", "path": "/w/a", "oldText": "old", "newText": "new"}
    ]


@pytest.mark.parametrize(
    ("name", "given", "title", "kind"),
    [
        ("Read", {"file_path": "/w/a", "offset": 7}, "Read /w/a", "read"),
        ("Grep", {"pattern": "x", "path": "src"}, "Grep x src", "search"),
        ("Glob", {"pattern": "*.py"}, "Glob *.py", "search"),
        ("WebSearch", {"query": "cats"}, "WebSearch cats", "search"),
        ("WebFetch", {"url": "http://x/"}, "http://x/", "fetch"),
        ("Task", {"description": "look around"}, "look around", "think"),
        ("ExitPlanMode", {"plan": "1. do"}, "Leave plan mode", "switch_mode"),
        ("mcp__db__query", {"sql": "x"}, "db: query", "other"),
        ("Skill", {}, "Skill", "other"),
    ],
)
def test_tools_have_a_title_and_a_kind(name: str, given: dict[str, Any], title: str, kind: str) -> None:
    """Whatever tool is used, I see what it is used for, and can choose an icon."""
    [call] = updates_of([use(name, **given)])

    assert (call["sessionUpdate"], call["title"], call["kind"], call["status"]) == (
        "tool_call",
        title,
        kind,
        "in_progress",
    )


def test_todo_list_is_a_plan() -> None:
    """TodoWrite is not a call but the plan, each time as a whole."""
    todos = [{"content": "a", "status": "completed"}, {"content": "b", "status": "in_progress"}]

    assert updates_of([use("TodoWrite", todos=todos), result("ok")]) == [
        {
            "sessionUpdate": "plan",
            "entries": [
                {"content": "a", "priority": "medium", "status": "completed"},
                {"content": "b", "priority": "medium", "status": "in_progress"},
            ],
        }
    ]


def test_call_that_is_waited_for_ends_with_its_result() -> None:
    """The notice of a task that the agent waits for comes just before its result, which alone ends the call."""
    notice = {"type": "system", "subtype": "task_notification", "tool_use_id": "c", "status": "completed"}
    call = {"type": "tool_use", "id": "c", "name": "Bash", "input": {"command": "ls"}}
    result = {"type": "tool_result", "tool_use_id": "c", "content": "a.txt", "is_error": False}
    lines: list[dict[str, Any]] = [
        {"type": "assistant", "message": {"id": "m", "content": [call]}},
        notice | {"summary": "List files"},
        {"type": "user", "message": {"role": "user", "content": [result]}},
    ]
    ended = [update for update in updates_of(lines) if update.get("status") == "completed"]

    assert [update["content"] for update in ended] == [
        [{"type": "content", "content": {"type": "text", "text": "a.txt"}}]
    ]


def test_background_command_ends_when_it_ends() -> None:
    """A command in the background is in progress until the CLI tells of its end, maybe after the answer."""
    found = updates_of(lines_of("background_bash"))

    statuses = [update["status"] for update in found if "status" in update]
    assert statuses == ["in_progress", "in_progress", "completed"]


def test_subagent_speaks_in_thoughts_inside_its_call() -> None:
    """What a subagent says is not the answer: it is a thought that names the call, and so do its calls."""
    found = updates_of(lines_of("subagent_long"))

    inside = {
        update["sessionUpdate"]: update["_meta"]["agentsrv"]["parentToolCallId"]
        for update in found
        if "parentToolCallId" in update.get("_meta", {}).get("agentsrv", {})
    }
    task = calls(found)["d"]
    assert inside == {"agent_thought_chunk": task["toolCallId"], "tool_call": task["toolCallId"]}
    assert list(said(found).values()) == ["end", "ok"]
    assert task["status"] == "completed"


def test_answers_of_every_kind_are_messages() -> None:
    """Structured output is a message, as for other agents; so is what /cost answers, and it comes once."""
    assert list(said(updates_of(lines_of("structured_output"))).values()) == ['{"n":5}']
    assert str(said(updates_of(lines_of("slash")))).count("Estimated cost") == 1


def test_work_that_nobody_prompted_is_not_why_the_turn_ended() -> None:
    """A background command wakes the agent within a turn: the reason is that of the answer to the prompt."""
    reader = ClaudeUpdates()
    reader.read({"type": "result", "subtype": "success", "stop_reason": "max_tokens"})
    reader.read({"type": "result", "subtype": "success", "origin": {"kind": "task"}})

    assert reader.stop_reason == "max_tokens"


def test_used_context_is_told() -> None:
    """After a turn I know how full the model's context is."""
    [usage] = [u for u in updates_of(lines_of("mcp")) if u["sessionUpdate"] == "usage_update"]

    assert (usage["used"], usage["size"]) == (11, 1_000_000)
    assert usage["cost"]["currency"] == "USD"
    assert usage["cost"]["amount"] > 0


def test_slash_commands_are_told_live() -> None:
    """Once a turn; the messages of a conversation do not repeat them."""
    found = [u for u in updates_of(lines_of("mcp")) if u["sessionUpdate"] == "available_commands_update"]
    whole = updates_of(lines_of("mcp"), deltas=False)

    assert {"name": "dataviz", "description": ""} in found[0]["availableCommands"]
    assert len(found) == 1
    assert "available_commands_update" not in [update["sessionUpdate"] for update in whole]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mcp", "end_turn"),
        ("max_turns", "max_turn_requests"),
        ("max_budget", "max_turn_requests"),
        ("error_429", None),
        ("interrupt_hang", None),
    ],
)
def test_stop_reason_is_told(name: str, reason: str | None) -> None:
    """Why a turn ended, in ACP's words; errors have none."""
    reader = ClaudeUpdates()
    for line in lines_of(name):
        reader.read(line)
        if line["type"] == "result":
            break

    assert reader.stop_reason == reason


def test_retries_and_errors_are_notices() -> None:
    """That the model API is asked again, and what it refused, I learn without it being an answer."""
    found = updates_of(lines_of("error_500"))

    kinds = [update["_meta"]["agentsrv"]["notice"]["kind"] for update in found if "_meta" in update]
    assert (kinds, said(found)) == (["retry", "error"], {})


def test_image_in_a_result_is_an_image() -> None:
    """What Read shows to the model of a picture I can see, too."""
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}}
    call = calls(updates_of([use("Read", file_path="/w/a.png"), result([image])]))["Read /w/a.png"]

    block = {"type": "image", "data": "QUJD", "mimeType": "image/png"}
    assert call["content"] == [{"type": "content", "content": block}]


def test_to_do_list_is_a_plan() -> None:
    """Whether it is written as a whole or kept by the CLI and changed step by step: I see one plan."""
    plans = [
        update["entries"] for update in updates_of(lines_of("todo")) if update["sessionUpdate"] == "plan"
    ]
    calls_ = [update for update in updates_of(lines_of("todo")) if update["sessionUpdate"] == "tool_call"]

    assert [[(entry["content"], entry["status"]) for entry in plan] for plan in plans] == [
        [("Do it", "pending")],
        [("Do it", "pending"), ("Two", "pending")],
        [("Do it", "in_progress"), ("Two", "pending")],
        [("Do it", "in_progress"), ("Two", "pending")],
        [("Do it", "in_progress")],
    ]
    assert calls_ == []


def test_mcp_server_that_cannot_start_is_told_once() -> None:
    """I asked for its tools and they are not there: a notice says so, not each turn anew."""
    notices = [
        update["_meta"]["agentsrv"]["notice"]
        for update in updates_of(lines_of("mcp_bad_server"))
        if "notice" in update.get("_meta", {}).get("agentsrv", {})
    ]

    assert len(notices) == 1
    assert notices[0]["kind"] == "warning"
    assert "cannot be used: failed" in notices[0]["message"]
