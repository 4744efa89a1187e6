"""Lines with very many values: an agent cannot make the server read them for seconds."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsrv import jsontext
from agentsrv.agents.contract import Effect
from agentsrv.agents.messages import user_event
from agentsrv.agents.reading import UNREADABLE, receive
from agentsrv.jsontext import MAX_VALUES, is_intricate, load_object, raw_event
from agentsrv.model import TurnOptions
from tests.agents.test_any_line import AGENTS, MIB, PROMPT, make_adapter

VALUES: tuple[list[Any], ...] = ([{"a": 1}], [[]], ["text"], [1], [{"a": "text", "b": [None]}])
SPECIAL: list[tuple[str, dict[str, Any]]] = [
    ("claude", {"type": "assistant", "message": {"content": "MANY"}}),
    ("claude", {"type": "result", "user_message_uuids": [PROMPT], "result": "MANY"}),
    ("claude", {"type": "control_request", "request_id": "q", "request": {"input": "MANY"}}),
    ("claude", {"type": "system", "subtype": "init", "tools": "MANY"}),
    ("codex", {"method": "turn/completed", "params": {"threadId": None, "turn": "MANY"}}),
    ("codex", {"id": 7, "method": "item/commandExecution/requestApproval", "params": "MANY"}),
    ("acp", {"id": f"prompt-{PROMPT}", "result": {"_meta": "MANY"}}),
    ("acp", {"id": 7, "method": "session/request_permission", "params": {"toolCall": "MANY"}}),
    ("acp", {"method": "session/update", "params": {"sessionId": "c", "update": "MANY"}}),
]


def with_many(message: Any, values: list[Any], times: int = 1) -> bytes:
    """`message` with a list of too many values where it says MANY."""
    many = json.dumps(values * (MAX_VALUES + 1) * times)
    return json.dumps(message).replace('"MANY"', many).encode()


def received(agent: str, message: Any, values: list[Any]) -> Effect | None:
    adapter = make_adapter(agent)
    adapter.prompt(user_event("hello", PROMPT, "s"))
    return receive(adapter, with_many(message, values))


def outside_of_texts(line: str) -> int:
    """How many values begin or end there, found slowly."""
    count, is_text, is_escaped = 0, False, False
    for character in line:
        if is_escaped:
            is_escaped = False
        elif is_text and character == "\\":
            is_escaped = True
        elif character == '"':
            is_text = not is_text
        elif not is_text:
            count += character in "[]{},"
    return count


json_values = st.recursive(
    st.integers() | st.text('a"\\,[{é\U0001f600'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text('"\\,}'), inner),
)


@given(json_values)
def test_what_stands_in_texts_is_not_counted(value: Any) -> None:
    """Whatever is quoted and escaped there: a file of code is one value."""
    for line in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jsontext, "MAX_VALUES", count := outside_of_texts(line))
            assert not is_intricate(line.encode())
            patch.setattr(jsontext, "MAX_VALUES", count - 1)
            assert is_intricate(line.encode()) or count == 0


@pytest.mark.parametrize(
    ("agent", "message", "values"),
    [*((*each, VALUES[0]) for each in SPECIAL), *((*SPECIAL[0], each) for each in VALUES[1:])],
)
def test_no_value_of_an_intricate_line_is_made(agent: str, message: Any, values: list[Any]) -> None:
    """What is allocated meanwhile is a few copies of the line, and not an object for each value."""
    adapter, line = make_adapter(agent), with_many(message, values, 8)
    tracemalloc.start()
    try:
        receive(adapter, line)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 2 * len(line) + 32 * MIB


def test_large_texts_are_read() -> None:
    """A question about a file of megabytes is asked, also when the file is JSON itself."""
    content = json.dumps([{"a": 'x"y\\'}] * MAX_VALUES)
    request = {"subtype": "can_use_tool", "tool_name": "Write", "input": {"content": content}}
    line = json.dumps({"type": "control_request", "request_id": "q", "request": request}).encode()
    effect = receive(make_adapter("claude"), line)

    assert effect is not None
    assert effect.question is not None
    assert effect.question.input == {"content": content}


def test_an_intricate_question_is_refused() -> None:
    """So that the agent does not wait for an answer for ever."""
    claude, codex, acp = (received(*SPECIAL[number], [[]]) for number in (2, 5, 7))

    assert claude is not None
    assert claude.reply is not None
    assert json.loads(claude.reply)["response"]["request_id"] == "q"
    for effect in (codex, acp):
        assert effect is not None
        assert effect.reply is not None
        assert json.loads(effect.reply)["id"] == 7


def test_an_intricate_end_is_an_end() -> None:
    """The job fails and says that its result cannot be read; it does not wait for another one."""
    claude, codex, acp = (received(*SPECIAL[number], [[]]) for number in (1, 4, 6))

    for effect in (claude, acp):
        assert effect is not None
        assert (effect.outcome, effect.is_over) == (UNREADABLE, True)
    assert codex is not None
    assert codex.outcome == UNREADABLE


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("line", [b"[" * MIB, b'{"a":' * MIB, b'[{"type":1},' * MIB])
def test_what_only_looks_intricate_is_kept(agent: str, line: bytes) -> None:
    """What is no JSON is a raw event."""
    effect = receive(make_adapter(agent, TurnOptions()), line)

    assert effect == Effect(event=raw_event(line))


def test_long_garbage_is_cut_and_says_so() -> None:
    """To make a text of bytes that are none takes time for each; a short one is kept whole."""
    long, short = json.loads(raw_event(b"\xff" * 2 * MIB)), json.loads(raw_event(b"\xff" * 100))

    assert (len(long["data"]), long["truncated"], long["bytes"]) == (MIB, True, 2 * MIB)
    assert (len(short["data"]), "truncated" in short) == (100, False)
    assert load_object(b'{"a":"' + b"\xff" * 2 * MIB + b'"}') is None
