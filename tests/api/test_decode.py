"""The door: what is let in can be stored, what is not is named."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsrv.api.strict_json import MAX_DEPTH, MAX_VALUES, parse_json
from agentsrv.errors import InvalidInput, TooLarge

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.characters(categories=["Cs", "Cc"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_what_is_let_in_can_be_stored(body: bytes) -> None:
    """Any bytes: refused as a client's mistake, or a document without NUL, lone surrogates, odd numbers."""
    try:
        document = parse_json(body)
    except InvalidInput:
        return
    text = json.dumps(document, ensure_ascii=False, allow_nan=False)
    assert "\\u0000" not in text
    text.encode()


@given(JSON)
def test_clean_documents_come_through_as_they_are(document: Any) -> None:
    """Nothing is changed on the way in."""
    body = json.dumps(document)
    if not any(word in body for word in ("\\u0000", "\\ud", "NaN", "Infinity")):
        assert parse_json(body.encode()) == document


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (rb'{"a":"\u0000"}', "a"),
        (rb'{"a":{"b":["x","\ud800"]}}', "a.b.1"),
        (b'{"deep":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}", "deep"),
    ],
)
def test_the_place_of_what_is_wrong_is_named(body: bytes, path: str) -> None:
    """`details` leads to the value, also deep inside."""
    with pytest.raises(InvalidInput) as caught:
        parse_json(body)

    assert [problem.path for problem in caught.value.problems] == [path]


@pytest.mark.parametrize("filling", [b"[],", b"{},", b"1,", b'"",', b'"\\\\\\"",'])
def test_a_body_of_millions_of_values_is_refused_before_they_are_made(filling: bytes) -> None:
    """They would take the memory and the seconds of everybody; nothing that we take has so many."""
    body = b'{"a":[' + filling * ((12 << 20) // len(filling)) + b"1]}"
    tracemalloc.start()
    with pytest.raises(TooLarge):
        parse_json(body)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak_bytes < 1 << 20


@pytest.mark.parametrize("text", ["[" * MAX_VALUES, ",{:" * MAX_VALUES, '",\\' * MAX_VALUES])
def test_text_is_one_value(text: str) -> None:
    """Whatever is in it."""
    assert parse_json(json.dumps({"prompt": text}).encode()) == {"prompt": text}
