"""Plain values become bodies and queries here, field by field, and all fields that are wrong are reported together.

Text that SQLite, the file system or `exec` would choke on (NUL, lone surrogates) is refused.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import Any, TypeVar, get_args

import msgspec

from agentsrv.errors import Problem, invalid_fields

T = TypeVar("T", bound=msgspec.Struct)

V = TypeVar("V")

UNMATCHED = "matching regex"
"""What msgspec says of a text that does not have the pattern of its field."""

Convert = Callable[[Any, Any], Any]


def given(value: V | msgspec.UnsetType) -> V | None:
    return None if isinstance(value, msgspec.UnsetType) else value


def text_problem(text: str) -> str | None:
    """Why `text` cannot be stored or passed on, if so."""
    if "\0" in text:
        return "must not contain NUL"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return "must not contain lone surrogates"
    return None


def convert(values: Mapping[str, Any], kind: type[T], convert_field: Convert) -> T:
    """A `kind` from `values`, field by field. Raises InvalidInput with all that are wrong."""
    fields: dict[str, Any] = {}
    problems: list[Problem] = []
    for field in fields_of(kind):
        name = field.encode_name
        if name in values:
            try:
                fields[field.name] = convert_field(values[name], field.type)
            except msgspec.ValidationError as exc:
                problems.append(_problem(name, str(exc), field.type))
        elif field.required:
            problems.append(Problem(name, "is required"))
    if problems:
        raise invalid_fields(problems)
    return kind(**fields)


def convert_strictly(value: Any, kind: Any) -> Any:
    return msgspec.convert(value, kind)


def convert_text(text: str | list[str], kind: Any) -> Any:
    """`true`, `false` and whole numbers may be meant as such; text may be meant as text."""
    if reason := next(filter(None, map(text_problem, [text] if isinstance(text, str) else text)), None):
        raise msgspec.ValidationError(reason)
    if not isinstance(text, str):
        return msgspec.convert(text, kind)
    try:
        return msgspec.convert(text, kind)
    except msgspec.ValidationError as exc:
        if UNMATCHED in str(exc):
            raise
        return msgspec.convert(_literal(text), kind)


@functools.cache
def fields_of(kind: type[Any]) -> tuple[msgspec.structs.FieldInfo, ...]:
    """msgspec evaluates all annotations each time that it is asked: 0.35 ms for the body of a prompt."""
    return msgspec.structs.fields(kind)


def _literal(text: str) -> bool | int | str:
    if text in ("true", "false"):
        return text == "true"
    return int(text) if re.fullmatch("-?[0-9]{1,18}", text) else text


def _problem(name: str, message: str, kind: Any) -> Problem:
    """msgspec's ``Expected `str`, got `int` - at `$[0].data` ``: its path goes on from ours."""
    reason, _, inner = message.partition(" - at `$")
    if not inner and reason.startswith("Invalid enum value") and (choices := list(_choices(kind))):
        reason = f"must be one of {', '.join(choices)}"
    elif not inner and UNMATCHED in reason and (description := next(_descriptions(kind), None)):
        reason = f"must be {description}"
    steps = re.findall(r"[^.\[\]`]+", inner)
    return Problem(".".join([name, *steps]), reason)


def _choices(kind: Any) -> Iterator[str]:
    """The texts that a field of this type may have, where they are listed."""
    if isinstance(kind, str):
        yield kind
    elif isinstance(kind, type) and issubclass(kind, StrEnum):
        yield from kind
    else:
        for part in get_args(kind):
            yield from _choices(part)


def _descriptions(kind: Any) -> Iterator[str]:
    """What a field of this type must be, in words."""
    if isinstance(kind, msgspec.Meta):
        if kind.description is not None:
            yield kind.description
    else:
        for part in get_args(kind):
            yield from _descriptions(part)
