"""What readers of agents' lines share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsrv.agents.claude.updates import ClaudeUpdates
from agentsrv.agents.codex.updates import CodexUpdates
from agentsrv.agents.updates import MAX_PARTS, REMEMBERED, Recent, Sent, UpdateReader
from agentsrv.jsontext import dump


@given(st.lists(st.text()), st.text())
def test_rest_of_a_text_is_what_was_not_sent(pieces: list[str], rest: str) -> None:
    """However a text was cut into pieces: they and the rest make the whole."""
    sent = Sent()
    for piece in pieces:
        sent.add(piece)

    assert sent.rest_of("".join(pieces) + rest) == rest


@given(st.text(min_size=1), st.text())
def test_another_text_is_told_from_the_rest_of_one(begun: str, whole: str) -> None:
    """A whole text that does not begin with what was sent is not the rest of it."""
    sent = Sent()
    sent.add(begun)

    expected = whole.removeprefix(begun) if whole.startswith(begun) else None
    assert sent.rest_of(whole) == expected


def test_memory_of_calls_is_bounded() -> None:
    """An agent that makes calls without end costs a follower no more than so many."""
    recent: Recent[int] = Recent()
    for number in range(REMEMBERED + 10):
        recent[str(number)] = number
    recent["x" * 100_000] = 0

    assert len(recent.items()) == REMEMBERED
    assert "9" not in recent
    assert str(REMEMBERED + 9) in recent


LONG = "x" * 10_000

HUGE: dict[str, tuple[Callable[[], UpdateReader], dict[str, Any]]] = {
    "ids of messages": (
        ClaudeUpdates,
        {"type": "assistant", "message": {"id": LONG, "content": [{"type": "text", "text": "a"}] * 5000}},
    ),
    "ids of parents": (
        ClaudeUpdates,
        {
            "type": "assistant",
            "parent_tool_use_id": LONG,
            "message": {"id": "m", "content": [{"type": "text", "text": "a"}] * 5000},
        },
    ),
    "paths of edits": (
        ClaudeUpdates,
        {
            "type": "assistant",
            "message": {
                "content": [
                    {
                        "type": "tool_use",
                        "id": "c",
                        "name": "MultiEdit",
                        "input": {"file_path": LONG, "edits": [{}] * 5000},
                    }
                ]
            },
        },
    ),
    "paths of hunks": (
        CodexUpdates,
        {
            "method": "item/started",
            "params": {
                "item": {
                    "type": "fileChange",
                    "id": "c",
                    "changes": [{"path": LONG, "kind": {"type": "update"}, "diff": "@@\n" * 5000}] * 10,
                }
            },
        },
    ),
}


@pytest.mark.parametrize("name", HUGE)
def test_a_line_does_not_grow_without_bounds(name: str) -> None:
    """What a line says once is repeated with each of its parts: both are limited."""
    reader, message = HUGE[name]

    assert len(dump(reader().read(message))) < 40_000_000


def test_no_hunk_is_lost() -> None:
    """Of a change with more parts than are told of apart, the last one has the rest."""
    change = {"path": "p", "kind": {"type": "update"}, "diff": "".join(f"@@\n+{n}\n" for n in range(3000))}
    item = {"type": "fileChange", "id": "c", "changes": [change]}
    [update] = CodexUpdates().read({"method": "item/started", "params": {"item": item}})

    assert len(update["content"]) == MAX_PARTS
    assert update["content"][-1]["newText"].split() == [str(n) for n in range(MAX_PARTS - 1, 3000)]


def test_a_long_command_is_told_as_it_is() -> None:
    """To take it out of the shell around it would take longer than anybody waits."""
    command = "bash -lc '" + "x" * 1_000_000 + "'"
    item = {"type": "commandExecution", "id": "c", "command": command}
    [update] = CodexUpdates().read({"method": "item/started", "params": {"item": item}})

    assert update["title"] == command


def test_blocks_that_were_begun_and_never_ended() -> None:
    """However many there are, a whole block finds its own: the first one of its type."""
    reader = ClaudeUpdates()
    reader.read(streamed({"type": "message_start", "message": {"id": "m"}}))
    for index in range(5000):
        block = {"type": "text" if index == 4999 else "thinking"}
        reader.read(streamed({"type": "content_block_start", "index": index, "content_block": block}))
    delta = {"type": "text_delta", "text": "a"}
    reader.read(streamed({"type": "content_block_delta", "index": 4999, "delta": delta}))
    whole = {"type": "assistant", "message": {"id": "m", "content": [{"type": "text", "text": "ab"}]}}

    assert [update["content"]["text"] for update in reader.read(whole)] == ["b"]


def streamed(event: dict[str, Any]) -> dict[str, Any]:
    return {"type": "stream_event", "event": event}
