"""Lines that an agent may write, for property tests: any bytes, and transcripts with something wrong in them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

TRANSCRIPTS = Path(__file__).with_name("transcripts")

HOSTILE = [
    b"\xff", b"\xed\xa0\xbd", b"\xc3", b"\x00", b"\r", b"\x85", b"NaN", b"-Infinity", b"1e999", b"9" * 5000,
    b'"\\ud83d"', b"[" * 300 + b"]" * 300, b'{"a":' * 300 + b"1" + b"}" * 300, b"null", b"[]", b"{}", b'""', b"-1",
]  # fmt: skip
"""What takes the place of a value, or stands somewhere within a line."""

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@cache
def known_lines(agent: str) -> list[bytes]:
    """Every kind of line of the transcripts once, short ones."""
    kinds: dict[Any, bytes] = {}
    for path in sorted((TRANSCRIPTS / agent).glob("*.jsonl")):
        for line in path.read_bytes().splitlines():
            kinds.setdefault(shape(json.loads(line)), line)
    return [line for line in kinds.values() if len(line) < 8000]


def shape(message: dict[str, Any]) -> tuple[Any, ...]:
    item = message.get("params", {}).get("item", {}) if isinstance(message.get("params"), dict) else {}
    request = message.get("request", {})
    params = message["params"] if isinstance(message.get("params"), dict) else {}
    update = params.get("update", {})
    return (
        message.get("type"), message.get("subtype"), message.get("method"), message.get("state"), item.get("type"),
        request.get("subtype"), request.get("tool_name"), "error" in message, "result" in message,
        update.get("sessionUpdate"), update.get("status"),
    )  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, agent: str) -> bytes:
    """A line of a transcript in which one value is another one."""
    message = json.loads(draw(st.sampled_from(known_lines(agent))))
    place = draw(st.sampled_from(places(message)))
    holder = message
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = "@HERE@"
    value = draw(st.sampled_from(HOSTILE) | VALUES.map(lambda value: json.dumps(value).encode()))
    return json.dumps(message, ensure_ascii=False).encode().replace(b'"@HERE@"', value).replace(b"\n", b" ")


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where values are within a value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, inner in pairs for found in [(*path, key), *places(inner, (*path, key))]]


def damaged(agent: str) -> st.SearchStrategy[bytes]:
    """A line of a transcript with bytes put in, or cut off."""
    return st.builds(
        lambda line, at, bytes_, cut: line[: at % len(line)] + bytes_ + line[at % len(line) + cut :],
        st.sampled_from(known_lines(agent)),
        st.integers(0, 10_000),
        st.sampled_from(HOSTILE),
        st.integers(0, 20),
    ).map(lambda line: line.replace(b"\n", b" "))


def any_line(agent: str) -> st.SearchStrategy[bytes]:
    objects = st.dictionaries(st.text(max_size=8), VALUES, max_size=4).map(
        lambda value: json.dumps(value).encode()
    )
    anything = st.binary(max_size=64).map(lambda line: line.replace(b"\n", b" "))
    return st.one_of(mutated(agent), damaged(agent), st.sampled_from(known_lines(agent)), objects, anything)
