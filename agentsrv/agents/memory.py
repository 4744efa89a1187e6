"""What an adapter remembers of what an agent says: bounded, in bytes and count, whatever the agent says."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from agentsrv.jsontext import dump
from agentsrv.model import Outcome, TurnStatus

V = TypeVar("V")
P = TypeVar("P", bound=msgspec.Struct)
T = TypeVar("T", bound=msgspec.Struct)

MAX_ID_CHARACTERS = 256
MAX_KNOWN = 1024
MAX_COUNTS = 32
MAX_ERROR_CHARACTERS = 8 * 1024
MAX_RESULT_CHARACTERS = 64 * 1024
MAX_USAGE_BYTES = 16 * 1024
MAX_STRUCTURED_BYTES = 1024 * 1024


def state_of(process: msgspec.Struct, turn: msgspec.Struct) -> dict[str, Any]:
    """What an adapter knows of its process and its turn, as it is stored."""
    state: dict[str, Any] = msgspec.to_builtins(process, order="deterministic")
    return state | {"turn": msgspec.to_builtins(turn, order="deterministic")}


def restored(state: Mapping[str, Any], process: type[P], turn: type[T]) -> tuple[P, T]:
    """The same again, of what was stored."""
    return msgspec.convert(state, process), msgspec.convert(state.get("turn", {}), turn)


def as_id(value: Any) -> str | None:
    """A name that an agent gave to something; None when it is none that can be remembered."""
    return value if isinstance(value, str) and 0 < len(value) <= MAX_ID_CHARACTERS else None


def remember(known: dict[str, V], id_: str | None, value: V) -> None:
    """Note what is known under an id; of too many the oldest is forgotten."""
    if id_ is None:
        return
    if len(known) >= MAX_KNOWN and id_ not in known:
        del known[next(iter(known))]
    known[id_] = value


def note(known: set[str], id_: str, wanted: Collection[str]) -> None:
    """Note an id that is wanted, or may be later; of the latter not too many."""
    if id_ in wanted or (len(known) < MAX_KNOWN and len(id_) <= MAX_ID_CHARACTERS):
        known.add(id_)


def bounded(outcome: Outcome) -> Outcome:
    """What is kept of an outcome: what an agent says of its end may be of any size. The log has all of it.

    A text that is cut says how long it was, and usage that is too large how large, in its place. Structured output
    is never cut: with too much of it the turn has failed. Twice is fine.
    """
    usage, size = outcome.usage, 0 if outcome.usage is None else len(dump(outcome.usage))
    outcome = replace(
        outcome,
        error=cut(outcome.error, MAX_ERROR_CHARACTERS),
        stop_reason=as_id(outcome.stop_reason),
        usage=usage if size <= MAX_USAGE_BYTES else {"truncated": True, "bytes": size},
        result=cut(outcome.result, MAX_RESULT_CHARACTERS),
    )
    size = 0 if outcome.structured_output is None else len(dump(outcome.structured_output))
    if size <= MAX_STRUCTURED_BYTES:
        return outcome
    error = f"the structured output has {size} bytes, of {MAX_STRUCTURED_BYTES} that a job keeps; it is in the log"
    code = "structured_output_too_large"
    return replace(outcome, status=TurnStatus.FAILED, error=error, error_code=code, structured_output=None)


def cut(words: str | None, max_characters: int) -> str | None:
    if words is None or len(words) <= max_characters:
        return words
    mark = f" [cut, of {len(words)} characters]"
    return words[: max_characters - len(mark)] + mark


def add_counts(counts: dict[str, int], more: Mapping[str, Any]) -> None:
    """Add up counts by name; what is no count, or has a name too many, is left out."""
    for name, count in more.items():
        is_known = name in counts or (len(counts) < MAX_COUNTS and len(name) <= MAX_ID_CHARACTERS)
        if is_known and is_count(count):
            counts[name] = counts.get(name, 0) + count


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53
