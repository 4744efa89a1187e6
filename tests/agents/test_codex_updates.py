"""The messages of Codex's app-server as ACP updates: what it wrote (transcripts/codex/), and what it may write."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from agentsrv.agents.codex.updates import CodexUpdates
from agentsrv.agents.updates import Update
from tests.agents.test_claude_updates import calls, said

TRANSCRIPTS = Path(__file__).parent / "transcripts" / "codex"

SILENT = {
    "account/login/completed", "account/rateLimits/updated", "account/updated", "configWarning",
    "mcpServer/startupStatus/updated", "remoteControl/status/changed", "thread/goal/cleared",
    "thread/readState/changed", "thread/settings/updated", "thread/started", "thread/status/changed",
    "serverRequest/resolved", "turn/started", "turn/completed", "turn/diff/updated", "item/reasoning/summaryPartAdded",
    # The prompt is an event of its own; a text begins with its first delta, and a helper starts but once.
    "item/started userMessage", "item/completed userMessage", "item/started agentMessage", "item/started reasoning",
    "item/completed subAgentActivity",
    # A helper's context is not the conversation's; before the first answer nothing is known of it.
    "thread/tokenUsage/updated",
}  # fmt: skip
"""Kinds of notifications that may say nothing to a client."""


def messages_of(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (TRANSCRIPTS / f"{name}.jsonl").read_bytes().splitlines()]


def updates_of(messages: Iterable[dict[str, Any]], *, deltas: bool = True) -> list[Update]:
    reader = CodexUpdates(deltas=deltas)
    return [update for message in messages for update in reader.read(message)]


def kind_of(message: dict[str, Any]) -> str:
    item = message["params"].get("item")
    return f"{message['method']} {item['type']}" if item else str(message["method"])


def item(type_: str, **fields: Any) -> list[dict[str, Any]]:
    """An item that starts and is completed."""
    body = {"type": type_, "id": "i1", **fields}
    return [told("item/started", item=body | {"status": "inProgress"}), told("item/completed", item=body)]


def told(method: str, **params: Any) -> dict[str, Any]:
    return {"method": method, "params": params}


@pytest.mark.parametrize("path", sorted(TRANSCRIPTS.glob("*.jsonl")), ids=lambda path: path.stem)
def test_no_message_is_lost(path: Path) -> None:
    """Every notification says something to a client, or is of a kind that is known to be of no interest."""
    readers = CodexUpdates(), CodexUpdates(deltas=False)
    messages = [message for message in messages_of(path.stem) if "id" not in message]
    streamed, whole = ({kind_of(m) for m in messages if not reader.read(m)} for reader in readers)

    # Texts whose deltas came before have nothing to add, and the other way round.
    assert streamed <= SILENT | {"item/completed agentMessage", "item/completed reasoning"}
    assert whole <= SILENT | {"item/agentMessage/delta", "item/reasoning/summaryTextDelta"}


def test_streamed_text_comes_once() -> None:
    """With partial messages I get text and thoughts as they are written, and not again with the whole item."""
    messages = messages_of("partial")

    streamed, whole = updates_of(messages), updates_of(messages, deltas=False)
    assert said(streamed) == said(whole) == {"msg_13": "delta 0 delta 1 delta 2 delta 3 delta 4 "}
    assert said(streamed, "agent_thought_chunk") == said(whole, "agent_thought_chunk") == {"rs_12": "hmm"}


def test_paragraphs_of_thoughts_are_told_apart() -> None:
    """A summary in several parts is the same text whether it comes in deltas or whole."""
    deltas = [
        told("item/reasoning/summaryTextDelta", itemId="i1", summaryIndex=part, delta=piece)
        for part, piece in ((0, "one "), (0, "two"), (1, "three"))
    ]
    [_, completed] = item("reasoning", summary=["one two", "three"], content=["raw"])

    for messages in ([*deltas, completed], [completed]):
        assert said(updates_of(messages), "agent_thought_chunk") == {"i1": "one two\n\nthree"}


def test_abandoned_text_keeps_its_own_id() -> None:
    """A retry begins another message: what was said before is not glued to it."""
    found = said(updates_of(messages_of("drop")))

    assert set(found.values()) == {"partly"}
    assert len(found) == 6


def test_text_that_was_changed_is_another_message() -> None:
    """A completed text that does not begin with its deltas comes whole."""
    delta = told("item/agentMessage/delta", itemId="i1", delta="one tw")
    [_, completed] = item("agentMessage", text="three")

    assert said(updates_of([delta, completed])) == {"i1": "one tw", "i1#whole": "three"}


def test_command_tells_its_output_and_exit_code() -> None:
    """A command is a call of kind execute with the command as its title; a failed one has failed."""
    [call] = calls(updates_of(messages_of("command_fails"))).values()

    assert (call["title"], call["kind"], call["status"]) == ("echo out; exit 3", "execute", "failed")
    assert call["rawOutput"] == {"exitCode": 3}
    assert call["content"] == [{"type": "content", "content": {"type": "text", "text": "out\n"}}]


def test_output_of_a_command_comes_as_it_is_written() -> None:
    """Pieces of output replace nothing of the call."""
    assert updates_of([told("item/commandExecution/outputDelta", itemId="c", delta="line\n")]) == [
        {
            "sessionUpdate": "tool_call_update",
            "toolCallId": "c",
            "_meta": {"agentsrv": {"output": "line\n"}},
        }
    ]


def test_patches_are_diffs_with_places() -> None:
    """A patch shows what it does to which file, and at which line."""
    found = calls(updates_of(messages_of("patch")))

    path = "/tmp/demo/workspace/notes.txt"
    assert found[f"Write {path}"]["content"] == [
        {"type": "diff", "path": path, "oldText": None, "newText": "one\n"}
    ]
    edit = found[f"Edit {path}"]
    assert edit["content"] == [{"type": "diff", "path": path, "oldText": "one\n", "newText": "two\n"}]
    assert (edit["kind"], edit["status"], edit["locations"]) == (
        "edit",
        "completed",
        [{"path": path, "line": 1}],
    )


def test_each_hunk_of_a_patch_is_a_diff() -> None:
    """A change in several places has one diff for each, with the lines around it."""
    diff = "@@ -1,2 +1,2 @@\n a\n-b\n+c\n@@ -9 +9,2 @@\n-x\n+\u2028y\n+z\n\\ No newline at end of file\n"
    change = {"path": "/w/f", "kind": {"type": "update", "move_path": None}, "diff": diff}
    [call] = calls(updates_of(item("fileChange", changes=[change], status="completed"))).values()

    assert [(part["oldText"], part["newText"]) for part in call["content"]] == [
        ("a\nb\n", "a\nc\n"),
        ("x\n", "\u2028y\nz\n"),
    ]
    assert [place["line"] for place in call["locations"]] == [1, 9]


@pytest.mark.parametrize(
    ("change", "title", "kind"),
    [
        ({"kind": {"type": "delete"}, "diff": "gone\n"}, "Delete /w/f", "delete"),
        ({"kind": {"type": "update", "move_path": "/w/g"}, "diff": ""}, "Move /w/g", "move"),
    ],
)
def test_files_are_deleted_and_moved(change: dict[str, Any], title: str, kind: str) -> None:
    """What else a patch can do has a kind of its own."""
    [call] = calls(updates_of(item("fileChange", changes=[{"path": "/w/f", **change}]))).values()

    assert (call["title"], call["kind"]) == (title, kind)


@pytest.mark.parametrize(
    ("type_", "fields", "title", "kind"),
    [
        ("webSearch", {"query": "cats", "action": {"type": "search"}}, "WebSearch cats", "search"),
        (
            "webSearch",
            {"query": "", "action": {"type": "openPage", "url": "http://x/"}},
            "http://x/",
            "fetch",
        ),
        ("mcpToolCall", {"server": "db", "tool": "query", "arguments": {}}, "db: query", "other"),
        ("dynamicToolCall", {"tool": "t", "arguments": {}}, "t", "other"),
        ("imageView", {"path": "/w/a.png"}, "View /w/a.png", "read"),
        ("collabAgentToolCall", {"tool": "wait", "prompt": None}, "wait", "think"),
        ("commandExecution", {"command": "/bin/bash -lc 'a | b'", "exitCode": 0}, "a | b", "execute"),
        ("commandExecution", {"command": "it's", "exitCode": 0}, "it's", "execute"),
    ],
)
def test_tools_have_a_title_and_a_kind(type_: str, fields: dict[str, Any], title: str, kind: str) -> None:
    """Whatever is used, I see what for, and can choose an icon."""
    [call] = calls(updates_of(item(type_, **fields))).values()

    assert (call["title"], call["kind"], call["status"]) == (title, kind, "completed")


def test_search_is_named_when_it_is_known() -> None:
    """What is searched for comes with the end of the search, and I see it."""
    started, completed = item("webSearch", query="cats")
    started["params"]["item"]["query"] = ""

    assert list(calls(updates_of([started, completed]))) == ["WebSearch cats"]


def test_helper_that_works_on_is_not_taken_for_the_agent() -> None:
    """A helper of an earlier turn begins before the agent does: the answer is still the agent's."""
    found = updates_of(
        [
            told("turn/started", threadId="helper", turn={"id": "t0", "rootTurnId": "t"}),
            told("turn/started", threadId="main", turn={"id": "t1", "rootTurnId": "t1"}),
            told(
                "item/completed", threadId="main", item={"type": "agentMessage", "id": "i1", "text": "answer"}
            ),
        ]
    )

    assert list(said(found).values()) == ["answer"]


def test_declined_call_has_failed() -> None:
    """What I did not allow did not happen."""
    [call] = calls(updates_of(item("commandExecution", command="rm x", status="declined"))).values()

    assert call["status"] == "failed"


def test_plan_is_told_as_a_whole() -> None:
    """The plan, each time with all its steps; a plan in prose is one step."""
    steps = [{"step": "a", "status": "completed"}, {"step": "b", "status": "inProgress"}]
    found = updates_of(
        [
            told("turn/plan/updated", plan=steps),
            *item("plan", text="# Plan\n1. a\n2. b"),
            *item("plan", text="Just do it."),
        ]
    )

    assert [[(entry["content"], entry["status"]) for entry in plan["entries"]] for plan in found] == [
        [("a", "completed"), ("b", "in_progress")],
        [("a", "pending"), ("b", "pending")],
        [("Just do it.", "pending")],
    ]


def test_helper_speaks_in_thoughts_inside_its_call() -> None:
    """What a helper says is not the answer: it is a thought that names the call which started it."""
    found = updates_of(messages_of("helper"))

    [thought] = [update for update in found if update["sessionUpdate"] == "agent_thought_chunk"]
    [call] = calls(found).values()
    assert thought["_meta"]["agentsrv"]["parentToolCallId"] == call["toolCallId"]
    assert (call["kind"], call["status"], list(said(found).values())) == ("think", "completed", ["spawned"])


def test_used_context_is_told() -> None:
    """After each answer I know how full the model's context is."""
    found = [u for u in updates_of(messages_of("two_turns")) if u["sessionUpdate"] == "usage_update"]

    assert [(usage["used"], usage["size"]) for usage in found] == [(15, 258400), (120, 258400), (230, 258400)]


def test_retries_and_other_news_are_notices() -> None:
    """What is not part of the conversation and yet worth knowing comes as a notice."""
    found = updates_of(
        [
            told("error", error={"message": "again"}, willRetry=True),
            told("error", error={"message": "no"}, willRetry=False),
            told("model/rerouted", fromModel="a", toModel="b"),
            told("warning", message="careful"),
            *item("contextCompaction"),
        ]
    )

    notices = [update["_meta"]["agentsrv"]["notice"] for update in found]
    assert [one["kind"] for one in notices] == ["retry", "error", "model", "warning", "compaction"]


def test_name_of_the_conversation_is_told() -> None:
    """When the agent gives the conversation a title I can show it."""
    assert updates_of([told("thread/name/updated", threadName="A title")]) == [
        {"sessionUpdate": "session_info_update", "title": "A title"}
    ]


def test_stop_reason_is_told() -> None:
    """A completed turn ended by itself; one that failed has no reason in ACP's words."""
    reasons = {}
    for name in ("partial", "error_400"):
        reader = CodexUpdates()
        for message in messages_of(name):
            reader.read(message)
        reasons[name] = reader.stop_reason

    assert reasons == {"partial": "end_turn", "error_400": None}


def question_about(tool: str, given: Any, **fields: Any) -> dict[str, Any]:
    return {"tool": tool, "input": given, "title": "Really?", "allowance": "a", "details": {}} | fields


def test_question_is_about_the_call_that_i_see() -> None:
    """Asked for leave I see the command, the patch or the tool as I saw it before, to the word."""
    command = {"command": "/bin/bash -lc 'ls -l'", "cwd": "/w"}
    changes = [{"path": "/w/a", "kind": {"type": "add"}, "diff": "one"}]
    tool = {"server": "m", "tool": "hello", "arguments": {"a": 1}}
    questions = {
        "commandExecution": question_about("commandExecution", command),
        "fileChange": question_about("fileChange", {"changes": changes}),
        "mcpToolCall": question_about("mcp:m", {"a": 1}, details={"serverName": "m", "tool": "hello"}),
    }
    items: dict[str, dict[str, Any]] = {
        "commandExecution": command,
        "fileChange": {"changes": changes},
        "mcpToolCall": tool,
    }

    for type_, question in questions.items():
        [seen] = updates_of(item(type_, **items[type_])[:1])
        asked = CodexUpdates().asked(question)
        assert asked == {name: seen[name] for name in asked}
        assert {"title", "kind"} <= asked.keys()


@pytest.mark.parametrize(
    "question",
    [
        question_about("commandExecution", {"command": "curl x"}, allowance=None),
        question_about("permissions", {"permissions": {"network": True}}),
        question_about("mcp:m", {}),
        # Of older versions, which say it otherwise.
        question_about("commandExecution", {"command": ["ls", "-l"]}),
        question_about("fileChange", {"changes": {"/w/a": {"type": "add"}}}),
    ],
)
def test_question_about_more_than_a_call_says_what(question: dict[str, Any]) -> None:
    """Leave to reach a host or for more permissions is no leave for a command alone: the question's words stand."""
    asked = CodexUpdates().asked(question)

    assert "title" not in asked
    assert asked["kind"] in ("execute", "other")


@pytest.mark.parametrize(
    ("told_as", "action"),
    [
        ("cd / && cat etc/hostname", "cat etc/hostname"),
        ("cat a | head -1", "cat a"),
        ('say "it\'s" $X', "say"),
    ],
)
def test_title_of_a_command_is_all_of_it(told_as: str, action: str) -> None:
    """What Codex makes of a command for people leaves out where it runs, and the rest of a pipe."""
    command = shlex.join(["/bin/bash", "-lc", told_as])
    actions = [{"type": "read", "command": action}]

    [call, _] = updates_of(item("commandExecution", command=command, commandActions=actions))
    assert call["title"] == call["rawInput"]["command"] == told_as
