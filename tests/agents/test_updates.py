"""What readers of agents' lines share."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentsrv.agents.updates import REMEMBERED, Recent, Sent


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
