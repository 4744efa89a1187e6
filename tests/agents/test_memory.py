"""What a job keeps of how its turn ended."""

from __future__ import annotations

from agentsrv.agents.memory import (
    MAX_ERROR_CHARACTERS,
    MAX_STRUCTURED_BYTES,
    MAX_USAGE_BYTES,
    bounded,
)
from agentsrv.model import Outcome, TurnStatus

LARGE = 5_000_000


def test_ordinary_outcome_is_kept_as_it_is() -> None:
    """What agents really say is far below the bounds."""
    outcome = Outcome(TurnStatus.COMPLETED, "no", "code", "end_turn", {"tokens": 1}, 0.1, {"answer": 42})

    assert bounded(outcome) == outcome


def test_long_error_is_cut_and_says_so() -> None:
    """A job does not become megabytes for an agent's error."""
    error = bounded(Outcome(TurnStatus.FAILED, "x" * LARGE, "code")).error

    mark = " [cut, of 5000000 characters]"
    assert error == "x" * (MAX_ERROR_CHARACTERS - len(mark)) + mark
    assert bounded(Outcome(TurnStatus.FAILED, error, "code")).error == error


def test_large_usage_says_how_large_it_was() -> None:
    """Usage is the agent's own object: cut it would be another one."""
    usage = bounded(Outcome(TurnStatus.COMPLETED, usage={"x": "y" * LARGE})).usage

    assert usage == {"truncated": True, "bytes": LARGE + len('{"x":""}')}
    assert bounded(Outcome(TurnStatus.COMPLETED, usage={"x": "y" * (MAX_USAGE_BYTES - 8)})).usage != usage


def test_structured_output_is_whole_or_the_turn_has_failed() -> None:
    """`completed` means that the output is there and valid."""
    outcome = bounded(Outcome(TurnStatus.COMPLETED, structured_output="y" * LARGE, cost_usd=0.1))
    whole = Outcome(TurnStatus.COMPLETED, structured_output="y" * (MAX_STRUCTURED_BYTES - 2))

    assert (outcome.status, outcome.error_code) == (TurnStatus.FAILED, "structured_output_too_large")
    assert (outcome.structured_output, outcome.cost_usd) == (None, 0.1)
    assert bounded(whole) == whole
