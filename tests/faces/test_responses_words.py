"""What a response comes to, without a server."""

from __future__ import annotations

from typing import Any

import pytest

from agentsrv.faces.responses_words import MAX_KEPT, Output
from agentsrv.model import Outcome, SessionId, Turn, TurnId, TurnStatus

TURN = Turn(TurnId("t"), SessionId("s"), 0, TurnStatus.RUNNING, 1)
MIB = 1024 * 1024


def said(text: str, message_id: str, kind: str = "agent_message_chunk") -> dict[str, Any]:
    return {"update": {"sessionUpdate": kind, "messageId": message_id, "content": {"text": text}}}


def called(call_id: str, output: str) -> dict[str, Any]:
    content = [{"type": "content", "content": {"type": "text", "text": output}}]
    update = {"sessionUpdate": "tool_call", "toolCallId": call_id, "title": "cat", "status": "completed"}
    return {"update": update | {"content": content}}


def whole(*values: dict[str, Any]) -> list[dict[str, Any]]:
    output = Output(TURN, "codex")
    for value in values:
        output.read(value)
    output.end(Outcome(TurnStatus.COMPLETED))
    return output.items


def texts(items: list[dict[str, Any]]) -> list[str]:
    return [item["content"][0]["text"] for item in items if item["type"] == "message"]


@pytest.mark.parametrize("noise", [called("c", "x" * MIB), said("x" * MIB, "t", "agent_thought_chunk")])
def test_the_answer_is_there_whatever_came_before_it(noise: dict[str, Any]) -> None:
    """What agents say goes before what their tools print: of that the oldest is left out when all is too much."""
    items = whole(said("I look.", "a"), *[noise, said("Hm.", "b")] * 9, said("Done.", "z"))

    assert texts(items)[0] == "I look."
    assert texts(items)[-1] == "Done."
    assert len(str(items)) < 2 * MAX_KEPT
    assert items[-3]["type"] != "message"


def test_of_too_many_words_the_last_are_there() -> None:
    items = whole(*[said("x" * MIB, f"m{n}") for n in range(9)], said("Done.", "z"))

    assert texts(items)[-1] == "Done."
    assert MAX_KEPT / 2 < len(str(items)) < 2 * MAX_KEPT
