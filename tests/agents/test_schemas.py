"""Structured output that was asked for: given as asked, or the job has failed."""

from __future__ import annotations

from typing import Any

import pytest

from agentsrv.agents.schemas import checked_output, require_schema
from agentsrv.errors import InvalidInput
from agentsrv.model import Outcome, TurnOptions, TurnStatus

DOUBLES: dict[str, Any] = {
    "$ref": "#/$defs/0",
    "$defs": {f"{n}": {"allOf": 2 * [{"$ref": f"#/$defs/{n + 1}"}]} for n in range(40)} | {"40": {}},
}
"""Its check takes 2^40 steps."""
CHOICES: dict[str, Any] = {"items": {"anyOf": [{"const": n} for n in range(3000)]}}

NUMBER = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}


def judged(schema: dict[str, Any], output: Any) -> Outcome:
    return checked_output(
        TurnOptions(output_schema=schema), Outcome(TurnStatus.COMPLETED, structured_output=output)
    )


def test_output_as_wanted_is_passed_on() -> None:
    """The data is the job's."""
    outcome = judged(NUMBER, {"n": 5})

    assert (outcome.status, outcome.structured_output) == (TurnStatus.COMPLETED, {"n": 5})


@pytest.mark.parametrize(
    ("schema", "output", "code", "words"),
    [
        (NUMBER, None, "structured_output_missing", "has not given"),
        (NUMBER, {"n": "text"}, "structured_output_invalid", "$.n"),
        (NUMBER, {}, "structured_output_invalid", "'n' is a required property"),
        (NUMBER, {"n": 1, "m": 2}, "structured_output_invalid", "'m' was unexpected"),
        ({"items": {"enum": ["a"]}, "type": "array"}, ["a", "b"], "structured_output_invalid", "$[1]"),
        ({"$ref": "http://127.0.0.1:9/x"}, {"n": 1}, "structured_output_invalid", "cannot be followed"),
        ({"$ref": "#"}, {"n": 1}, "structured_output_invalid", "cannot be followed"),
    ],
)
def test_output_that_was_not_wanted_fails_the_job(
    schema: dict[str, Any], output: Any, code: str, words: str
) -> None:
    """Not `completed`, and the wrong data is not passed on; the error says what is wrong, and where."""
    outcome = judged(schema, output)

    assert (outcome.status, outcome.error_code, outcome.structured_output) == (TurnStatus.FAILED, code, None)
    assert words in str(outcome.error)


@pytest.mark.parametrize(
    ("schema", "output", "words"),
    [
        ({"properties": {"s": {"pattern": "^[a-z]+$"}}}, {"s": "abc"}, None),
        ({"properties": {"s": {"pattern": "^[a-z]+$"}}}, {"s": "ABC"}, "$.s"),
        ({"patternProperties": {"^n": {"type": "integer"}}, "additionalProperties": False}, {"n1": 1}, None),
        (
            {"patternProperties": {"^n": {"type": "integer"}}, "additionalProperties": False},
            {"n1": "x"},
            "$.n1",
        ),
        ({"patternProperties": {"^n": {}}, "additionalProperties": False}, {"m": 1}, "not match any"),
        ({"anyOf": [{"properties": {"s": {"pattern": "^(a+)+$"}}}]}, {"s": "a" * 60 + "!"}, "too costly"),
        (DOUBLES, {"n": 1}, "too costly"),
        (CHOICES, 100_000 * [-1], "too costly"),
        ({"uniqueItems": True}, [{"n": n} for n in range(50_000)], "too costly"),
        ({"unevaluatedProperties": False, "properties": {"a": {}}}, {"b": 1}, "'b' was unexpected"),
    ],
)
def test_costly_schemas_count(schema: dict[str, Any], output: Any, words: str | None) -> None:
    """What does not match has failed; a check that takes exponential time is given up, and told."""
    outcome = judged(schema, output)

    assert (outcome.status is TurnStatus.COMPLETED) == (words is None)
    assert (words or "") in str(outcome.error)


@pytest.mark.parametrize("schema", [{"type": "no such type"}, {"required": 5}, {"properties": []}])
def test_what_is_no_schema_is_refused_with_the_prompt(schema: dict[str, Any]) -> None:
    """Before anything has been started, by the name of the option."""
    with pytest.raises(InvalidInput) as caught:
        require_schema(schema)

    assert caught.value.problems[0].path == "output_schema"
