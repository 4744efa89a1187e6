"""What becomes of an agent's line on its way into the log. Pure."""

from __future__ import annotations

import logging

import msgspec

from agentsrv.agents.contract import Adapter, Effect
from agentsrv.agents.reading import receive
from agentsrv.jsontext import load_object, raw_event
from agentsrv.model import Turn
from agentsrv.turns.questions import OUR_PREFIX, request_event

log = logging.getLogger(__name__)

OUR_TYPES = frozenset(
    {"permission_request", "permission_resolved", "prompt_dropped", "gap", "timer", "background_ended"}
)
NOT_DONE = msgspec.Raw()
ODD = (msgspec.DecodeError, RecursionError)
"""What the decoder raises, also for lone surrogates and odd types."""


class _Claims(msgspec.Struct):
    """What a client looks at first. The rest of a line is skipped unread."""

    type: str | None = None
    done: msgspec.Raw = NOT_DONE


_claims = msgspec.json.Decoder(_Claims)


def are_plain(lines: list[bytes]) -> bool:
    """Does none of these lines say what is the server's to say? One look at all costs less than one at each.

    It holds up to the first line that does not become an event as it is: one that is no JSON by itself may enclose
    those behind it, and hide them.
    """
    data = b"\n".join(lines)
    if data.startswith(OUR_PREFIX) or b"\n" + OUR_PREFIX in data:
        return False
    try:
        claims = _claims.decode_lines(data)
    except Exception:  # Whatever it is: each line is looked at, then.
        return False
    return all(claim.done is NOT_DONE and claim.type not in OUR_TYPES for claim in claims)


def read(
    adapter: Adapter, turn: Turn | None, line: bytes, *, is_plain: bool = False
) -> tuple[bytes | None, Effect | None]:
    """What the log keeps of a line, and what it means. Whatever is odd about it, a line becomes an event.

    `turn`: the one that the agent works for. Without one a question is an event like all others. `is_plain`: see
    `are_plain`.
    """
    try:
        effect = receive(adapter, line)
        if effect is None:
            return line if is_plain else not_ours(line), None
        if effect.question is not None and turn is not None:
            return request_event(turn, effect.question), effect
        return None if effect.event is None else not_ours(effect.event), effect
    except Exception as exc:
        # Not its message: that may quote the line.
        log.error("a line of %s is beyond its adapter: %s", adapter.name, type(exc).__name__)
        return _unread(line), None


def _unread(line: bytes) -> bytes:
    try:
        return raw_event(line) if load_object(line) is None else not_ours(line)
    except Exception:
        return raw_event(line)


def not_ours(event: bytes) -> bytes:
    """An agent's line that clients would take for the end of the job, a question or an answer of ours is data.

    So would the next server, which believes the log.
    """
    try:
        claims = _claims.decode(event)
        is_ours = claims.type in OUR_TYPES or claims.done is not NOT_DONE
    except ODD:
        message = load_object(event) or {}
        is_ours = "done" in message or str(message.get("type")) in OUR_TYPES
    return raw_event(event) if is_ours or event.startswith(OUR_PREFIX) else event


def one_per_line(events: list[bytes]) -> bytes:
    """Join events to a chunk's data. What would break the stream (CR, bytes that are not UTF-8) is mended."""
    data = b"\n".join(events) + b"\n"
    if b"\r" in data:
        # Outside of strings a CR is white space, and inside of them JSON does not allow it.
        data = data.replace(b"\r", b" ")
    if data.isascii() or _is_utf8(data):
        return data
    return b"".join((event if _is_utf8(event) else raw_event(event)) + b"\n" for event in events)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
