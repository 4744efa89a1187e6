"""What agents write as JSON is read as they mean it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agentsrv.jsontext import dump, load_object

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), values), st.booleans())
def test_object_is_read_as_it_was_written(value: dict[str, Any], is_ascii: bool) -> None:
    """Numbers of any size, texts in any characters, escaped or not."""
    assert load_object(json.dumps(value, ensure_ascii=is_ascii).encode()) == value


@given(
    st.dictionaries(st.text(), values),
    st.sampled_from(["NaN", "-Infinity", "1e999", '"\\ud800"', '"\udcff"']),
)
def test_one_odd_value_does_not_change_the_others(value: dict[str, Any], odd: str) -> None:
    """It is read as null, or as a text of question marks; the rest is what it was."""
    line = (
        json.dumps(value | {"odd": 0}).replace('"odd": 0', f'"odd": {odd}').encode("utf-8", "surrogateescape")
    )
    found = load_object(line)

    assert found is not None
    assert {**found, "odd": 0} == value | {"odd": 0}
    assert json.loads(dump(found["odd"])) in (None, "?", "\ufffd")
