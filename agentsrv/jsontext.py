"""JSON as agents write it and as the server writes it: one object, one line.

What is read is read leniently: a program that writes NaN, half a character or a lone surrogate still means
something by the rest. What is written is JSON in UTF-8 that every client can read.
"""

from __future__ import annotations

import json
import re
from itertools import accumulate
from typing import Any, Never

import msgspec

MAX_DEPTH = 200
"""Deeper objects are not read: each step through one takes a piece of the stack."""

STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
NOT_BRACKETS = bytes(set(range(256)) - STEPS.keys())

MAX_VALUES = 100_000
"""Objects of more are not read: 16 MiB of text take 50 ms, 16 MiB of small values two seconds, and a thread is no way
out, for reading JSON holds the interpreter's lock."""

PROBE_BYTES = 2 * 1024 * 1024
"""What is intricate is so from its beginning, mostly."""

NOT_STRUCTURE = bytes(set(range(256)) - set(b"[]{},"))

MAX_MENDED_BYTES = 1024 * 1024
"""Of what is not UTF-8. To mend it takes time for each byte that is wrong."""

LONE_OR_PAIRED = re.compile(rb"\\u[dD][89a-fA-F]")
"""A surrogate."""

_decode = msgspec.json.Decoder().decode


def dump(value: Any) -> bytes:
    """One line of JSON, as short as can be. NaN and the infinities become null, a lone surrogate "?"."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        mended = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
        return msgspec.json.encode(json.loads(mended, parse_constant=_nothing))


def load_object(line: bytes) -> dict[str, Any] | None:
    """A line as an object that `dump` takes; None when it is anything else, or beyond what is read.

    Bytes that are not UTF-8 become "�", lone surrogates, which JSON can say and no UTF-8 can hold, "?", NaN null.
    """
    if is_intricate(line) or _depth(line) > MAX_DEPTH:
        return None
    try:
        message = _decode(line)
    except (ValueError, RecursionError):
        message = _mended(line)
    return message if isinstance(message, dict) else None


def _mended(line: bytes) -> Any:
    """The value of a line that is not quite JSON. Four times slower than the decoder that refuses such lines."""
    if len(line) > MAX_MENDED_BYTES and not is_utf8(line):
        return None
    try:
        message = json.loads(line.decode("utf-8", "replace"), parse_constant=_nothing)
        if LONE_OR_PAIRED.search(line):
            text = json.dumps(message, ensure_ascii=False)
            message = json.loads(text.encode("utf-8", "replace"), parse_constant=_nothing)
    except (ValueError, RecursionError):
        return None
    return message


def is_intricate(line: bytes) -> bool:
    """Has it more than MAX_VALUES values? What stands within texts does not count."""
    if len(line) <= MAX_VALUES:
        return False
    return _has_many_values(line[:PROBE_BYTES]) or (len(line) > PROBE_BYTES and _has_many_values(line))


def _has_many_values(line: bytes) -> bool:
    if len(line.translate(None, NOT_STRUCTURE)) <= MAX_VALUES:
        return False
    unescaped = line.replace(rb"\\", b"").replace(rb"\"", b"") if b"\\" in line else line
    if unescaped.count(b'"') > 4 * (MAX_VALUES + 1):  # A value has a key and a text at most.
        return True
    outside = b"".join(unescaped.split(b'"')[::2])
    return len(outside.translate(None, NOT_STRUCTURE)) > MAX_VALUES


def is_json(line: bytes) -> bool:
    """Is it JSON in UTF-8? NaN and the infinities are not; nor is what no client would read for its depth."""
    try:
        json.loads(line.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def as_object(value: Any) -> dict[str, Any]:
    """What should be an object; an empty one in place of anything else."""
    return value if isinstance(value, dict) else {}


def raw_event(line: bytes, *, total: int | None = None) -> bytes:
    """A line that is not JSON text, kept as an event. `total`: it was this long, and was cut.

    It is cut here when it is long and not UTF-8.
    """
    if total is None and len(line) > MAX_MENDED_BYTES and not is_utf8(line):
        line, total = line[:MAX_MENDED_BYTES], len(line)
    event: dict[str, Any] = {"type": "raw", "data": line.decode("utf-8", "replace")}
    if total is not None:
        event |= {"truncated": True, "bytes": total}
    return msgspec.json.encode(event)


def _depth(line: bytes) -> int:
    """How deeply it may be nested: brackets within texts count as well."""
    brackets = line.translate(None, NOT_BRACKETS)
    if len(brackets) <= MAX_DEPTH:
        return 0
    return max(accumulate(map(STEPS.__getitem__, brackets)))


def _nothing(_: str) -> None:
    return None


def _refuse(constant: str) -> Never:
    raise ValueError(f"{constant} is not JSON")
