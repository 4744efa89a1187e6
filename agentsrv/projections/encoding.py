"""What projections have to tell, as JSON and as Server-Sent Events."""

from __future__ import annotations

import logging

import msgspec

from agentsrv.model import Seq
from agentsrv.projections.acp import Told, Value

log = logging.getLogger(__name__)

MAX_TOLD_BYTES = 64 * 1024 * 1024
"""So much of one event is told of. No line of an agent is that long; what one is made into may be."""

_encode = msgspec.json.Encoder().encode


def encoded(told: list[Told]) -> list[tuple[Seq, list[bytes]]]:
    """(seq, JSON values) of each event."""
    return [(seq, values) for seq, event in told if (values := _values(event))]


def frames(told: list[Told]) -> bytes:
    """As SSE frames. Of an event's frames the last one alone has an id.

    So a client that has lost its connection between them gets all of them again, and misses none.
    """
    return b"".join([_frames(seq, values) for seq, values in encoded(told)])


def _values(event: list[Value]) -> list[bytes]:
    values: list[bytes] = []
    left = MAX_TOLD_BYTES
    try:
        for value in event:
            data = _encode(value)
            left -= len(data)
            if left < 0:
                break
            values.append(data)
    except (ValueError, TypeError) as exc:
        # A hostile line must not end the stream for ever.
        log.error("an event cannot be told of: %s", type(exc).__name__)
    return values


def _frames(seq: Seq, values: list[bytes]) -> bytes:
    *others, last = values
    return b"".join([b"data: %s\n\n" % value for value in others]) + b"data: %s\nid: %d\n\n" % (last, seq)
