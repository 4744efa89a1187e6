"""Events as lines: what is certain is told once, what may change is the tail."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsrv.cli.ask import describe
from agentsrv.cli.safe import one_line, visible
from agentsrv.cli.transcript import Marks, Transcript, duration
from agentsrv.client import events as e


def read(raw: dict[str, Any]) -> e.AsyncEvent:
    return e.read(1, "s", raw, lambda question, answer: NotImplemented)


def update(name: str, /, **fields: Any) -> e.AsyncEvent:
    return read({"update": {"sessionUpdate": name, **fields}})


def piece(text: str, message_id: str | None = "m") -> e.AsyncEvent:
    return update("agent_message_chunk", content={"type": "text", "text": text}, messageId=message_id)


def told(*events: e.AsyncEvent, is_full: bool = False) -> list[str]:
    transcript = Transcript(Marks(), is_full=is_full)
    lines = [line.plain for event in events for line in transcript.take(event)]
    return lines + [line.plain for line in transcript.close()]


def test_a_line_is_told_when_it_is_whole() -> None:
    """Until then it is the tail."""
    transcript = Transcript(Marks())

    assert [] == transcript.take(piece("one"))
    assert ["one"] == [line.plain for line in transcript.tail()]
    assert ["one and two"] == [line.plain for line in transcript.take(piece(" and two\nthr"))]
    assert ["thr"] == [line.plain for line in transcript.tail()]
    assert ["thr"] == [line.plain for line in transcript.close()]


@given(st.text(alphabet="ab\n ", max_size=60), st.data())
def test_pieces_make_the_text(text: str, data: st.DataObject) -> None:
    """Wherever a text is cut, the same lines come out."""
    rest, events = text, []
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        events.append(piece(rest[:size]))
        rest = rest[size:]

    *whole, last = text.split("\n")
    assert told(*events) == [*whole, *([last] if last else [])]


def test_a_call_is_one_line() -> None:
    """Its mark, kind, title and what came out; a failure has its last lines."""
    began = update("tool_call", toolCallId="t", kind="execute", title="ls", status="in_progress")
    content = [{"type": "content", "content": {"type": "text", "text": "no\nsuch\nfile"}}]
    failed = update(
        "tool_call_update", toolCallId="t", status="failed", content=content, rawOutput={"exitCode": 2}
    )

    assert ["✗ execute ls  exit 2", "    no", "    such", "    file"] == told(began, failed)


def test_an_edit_is_a_short_diff() -> None:
    """A new file has no line that went; a long one is cut, unless all is wanted."""
    content = [{"type": "diff", "path": "a", "oldText": None, "newText": "\n".join("abcdefghijklmnopqrst")}]
    call = update("tool_call", toolCallId="t", kind="edit", title="a", status="completed", content=content)

    assert "    ... 8 more lines" == told(call)[-1]
    assert ["✓ edit a", *(f"    +{letter}" for letter in "abcdefghijklmnopqrst")] == told(call, is_full=True)


def test_a_gap_is_shown() -> None:
    """What is void is said."""
    assert ["! the server's machine lost its power: what came after event 41 is void"] == told(
        read({"type": "gap", "after": 41})
    )


def test_what_nobody_has_answered_is_told_at_the_end() -> None:
    """Also where nothing more comes."""
    question = {
        "type": "permission_request",
        "requestId": "r",
        "taskId": "t",
        "kind": "permission",
        "title": "Bash: x",
    }

    assert ["? Bash: x  waits for an answer"] == told(read(question))


@given(st.text())
def test_nothing_that_is_shown_is_obeyed(text: str) -> None:
    """No control character but newline and tab, nothing that hides or turns text, however it comes."""
    question = {
        "type": "permission_request",
        "requestId": "r",
        "taskId": "t",
        "kind": "permission",
        "title": text,
    }
    call = update("tool_call", toolCallId=text, kind=text, title=text or "x", status="completed")
    shown = "\n".join(
        told(piece(text), call, read(question), read({"type": "error", "error": text, "code": text}))
    )

    for character in shown:
        assert character in "\n\t" or (ord(character) >= 32 and not 0x7F <= ord(character) < 0xA0)
        assert not 0x202A <= ord(character) <= 0x202E
    assert "\n" not in one_line(text)
    assert visible(visible(text)) == visible(text)


def test_times_are_short() -> None:
    """Nothing below a second."""
    assert ["", "42 s", "3 min 2 s", "1 h 5 min"] == [duration(each) for each in (0.9, 42, 182, 3900)]


@pytest.mark.parametrize(
    "input_",
    [{"command": "ls", "target": "production"}, {"command": {"x": "y" * 9000}}, {"a": "b", "c": "d"}],
)
def test_a_question_is_shown_with_all_of_its_input(input_: dict[str, Any]) -> None:
    """Nothing that a tool would be called with is left out, whatever else it is called with."""
    asked = {"type": "permission_request", "requestId": "r", "taskId": "t", "kind": "permission", "tool": "T"}
    question = read(asked | {"input": input_})
    assert isinstance(question, e.Question)
    shown = "\n".join(line.plain for line in describe(question))

    words = re.findall(r"\w+", json.dumps(input_).replace("command", ""))
    assert [word for word in words if word not in shown] == []


def test_how_long_a_call_took_is_told_by_the_server() -> None:
    """Whoever reads it later, all at once, is told the same."""

    def call(status: str, at: str) -> e.AsyncEvent:
        news = {"sessionUpdate": "tool_call", "toolCallId": "c", "title": "make", "status": status}
        return read({"update": news, "receivedAt": at})

    begun, ended = call("pending", "2026-11-30T08:34:15.858Z"), call("completed", "2026-11-30T08:35:18.000Z")

    assert told(begun, ended) == ["\u2713  make  1 min 2 s"]


@pytest.mark.parametrize(
    ("answered", "said"),
    [
        ({"decision": "allow", "updatedInput": {"answers": {"q": "alpine"}}}, "answered: alpine"),
        (
            {"decision": "allow", "updatedInput": {"answers": {"q": ["a", "b"], "r": "c"}}},
            "answered: a, b, c",
        ),
        ({"decision": "allow", "updatedInput": {"command": "ls"}}, "allowed"),
        ({"decision": "allow", "remember": "session"}, "allowed from now on"),
        ({"decision": "deny", "message": "no"}, "denied: no"),
    ],
)
def test_what_was_answered_is_told(answered: dict[str, Any], said: str) -> None:
    """Of a question with choices which was chosen, and not that it was allowed."""
    asked = {"type": "permission_request", "requestId": "r", "taskId": "t", "kind": "question", "tool": "T"}
    question = read(asked | {"title": "Which base image?", "input": {}})
    answer = read({"type": "permission_resolved", "requestId": "r", "taskId": "t"} | answered)

    assert told(question, answer)[-1].endswith(f"Which base image?  {said}")
