"""States of folds are kept by their place, and no more of them than fits."""

from __future__ import annotations

from agentsrv.marks import Marks
from agentsrv.model import SessionId

ANN, BOB = SessionId("ann"), SessionId("bob")


def test_the_latest_state_within_the_turn_is_found() -> None:
    """One of an earlier turn is of no use, nor is one behind the place."""
    marks = Marks()
    for seq in (100, 300, 200):
        marks.keep(ANN, "acp", seq, b"%d" % seq)

    assert marks.find(ANN, "acp", 1, 250) == (200, b"200")
    assert marks.find(ANN, "acp", 1, 200) == (200, b"200")
    assert marks.find(ANN, "acp", 201, 250) is None
    assert marks.find(ANN, "acp", 1, 99) is None
    assert marks.find(ANN, "other", 1, 250) is None
    assert marks.find(BOB, "acp", 1, 250) is None


def test_memory_is_bounded() -> None:
    """The log that nobody asks for is forgotten first; one state alone may be too much."""
    marks = Marks(max_bytes=10)
    marks.keep(ANN, "acp", 1, b"xxxx")
    marks.keep(BOB, "acp", 1, b"xxxx")
    assert marks.find(ANN, "acp", 1, 1)
    marks.keep(ANN, "acp", 2, b"xxxx")

    assert marks.find(BOB, "acp", 1, 1) is None
    assert marks.find(ANN, "acp", 1, 2) == (2, b"xxxx")
    marks.keep(ANN, "acp", 3, b"x" * 11)
    assert marks.find(ANN, "acp", 1, 3) is None
