"""Lines that a fast decoder refuses (no JSON, odd types, lone surrogates), and those with too many values to read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec.structs import replace

from agentsrv.agents.contract import Adapter, Effect
from agentsrv.jsontext import is_intricate, is_json, is_utf8, load_object, raw_event
from agentsrv.model import Outcome, TurnStatus

NOTHING = Effect(event=None)

UNREADABLE = Outcome(
    TurnStatus.FAILED,
    "how the turn has ended cannot be read: the agent's last message is too large",
    "agent_error",
)


def receive(adapter: Adapter, line: bytes) -> Effect | None:
    """What a line means to an adapter, which reads no line whole that would take it seconds."""
    if not is_intricate(line):
        return adapter.receive(line)
    try:
        effect = adapter.skim(line)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return Effect(event=raw_event(line))
    return effect if is_utf8(line) else _as_text(effect, line)


def read_odd(line: bytes, read: Callable[[dict[str, Any]], Effect | None]) -> Effect | None:
    """What `read` makes of the line, as far as it is an object; its event is JSON in UTF-8 in any case."""
    if not line.strip():
        return NOTHING
    message = load_object(line)
    effect = None if message is None else read(message)
    if message is not None and is_json(line):
        return effect
    return _as_text(effect, line)


def _as_text(effect: Effect | None, line: bytes) -> Effect:
    """The same of a line that is no event as it is."""
    if effect is None:
        return Effect(event=raw_event(line))
    return replace(effect, event=raw_event(line)) if effect.event is line else effect
