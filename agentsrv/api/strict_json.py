"""JSON from outside: what is valid, can be stored, and does not cost more than it weighs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from agentsrv.api.fields import text_problem
from agentsrv.errors import InvalidInput, Problem, TooLarge, invalid_fields

MAX_DEPTH = 64
"""How deep a body may nest. Nothing that we accept needs more, and what comes after us recurses."""

MAX_VALUES = 100_000
"""In a body. The parser holds the whole process up, for a second with a million of them, and takes 100 MiB."""

TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
"""A text in JSON; the last one also without its end."""


def parse_json(body: bytes | bytearray) -> Any:
    """The document: no NaN, no number that does not fit, no NUL, no lone surrogate, no depth or memory bomb."""
    if has_too_many_values(body):
        raise TooLarge(f"the body has more than {MAX_VALUES} values; send less")
    try:
        document = json.loads(body.decode(), parse_constant=_refuse_constant, parse_float=_finite)
    # RecursionError: brackets by the thousand. ValueError is also what bytes that are not UTF-8 and a number
    # of 5,000 digits give.
    except (ValueError, RecursionError) as exc:
        raise InvalidInput("the body is not valid JSON", code="invalid_json") from exc
    if bad := list(_bad_values(document)):
        raise invalid_fields(bad)
    return document


def has_too_many_values(body: bytes | bytearray) -> bool:
    """More than MAX_VALUES texts, or commas, brackets and braces outside of texts? Asked before they are made."""
    count = _count_separators(body)
    if count <= MAX_VALUES:
        return False
    for number, text in enumerate(TEXT.finditer(body)):
        count -= _count_separators(text[0])
        if number > MAX_VALUES:
            return True
    return count > MAX_VALUES


def _count_separators(body: bytes | bytearray) -> int:
    return sum(map(body.count, (b",", b"[", b"{")))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("number out of range")
    return number


def _bad_values(document: Any) -> Iterator[Problem]:
    """Text that cannot be stored and what is nested too deep. A loop: recursion is what depth bombs want."""
    pending: list[tuple[Any, tuple[str, ...]]] = [(document, ())]
    while pending:
        value, path = pending.pop()
        if isinstance(value, str):
            if reason := text_problem(value):
                yield Problem(".".join(path), reason)
        elif isinstance(value, dict | list):
            if len(path) >= MAX_DEPTH:
                yield Problem(path[0], f"is nested deeper than {MAX_DEPTH}")
                return
            items = value.items() if isinstance(value, dict) else enumerate(value)
            for key, item in items:
                name = str(key)
                if text_problem(name):
                    yield Problem(".".join(path), "has a field name with characters that cannot be stored")
                elif isinstance(item, str | dict | list):
                    pending.append((item, (*path, name)))
