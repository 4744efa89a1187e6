"""What an agent gets of a conversation that it has lost."""

from __future__ import annotations

from agentsrv.projections.acp import Told
from agentsrv.turns.conversations import MAX_CHARACTERS, _Said


def said(kind: str, text: str) -> Told:
    return 1, [{"update": {"sessionUpdate": kind, "content": {"type": "text", "text": text}}}]


def test_the_newest_is_kept_of_a_long_conversation() -> None:
    """It is cut to what fits into a prompt, also where a single text is larger than that."""
    conversation = _Said()
    for number in range(2000):
        conversation.add(said("user_message_chunk", f"question {number} {'x' * 100}"))
        conversation.add(said("agent_message_chunk", f"answer {number}"))
    text = conversation.text()
    conversation.add(said("agent_message_chunk", "y" * (2 * MAX_CHARACTERS) + " the end"))

    assert text.endswith("Assistant: answer 1999")
    assert "User: question 1999" in text
    assert "question 0 " not in text
    assert MAX_CHARACTERS // 2 < len(text) <= MAX_CHARACTERS
    assert len(conversation.text()) == MAX_CHARACTERS
    assert conversation.text().endswith(" the end")
