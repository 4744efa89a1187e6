"""What decides what a line of Claude Code means: it is read fast, and the rest of it is skipped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec


class Envelope(msgspec.Struct):
    type: str | None = None
    subtype: str | None = None


class Place(msgspec.Struct):
    """What names a message of a conversation. Those of a subagent have a parent."""

    type: str | None = None
    uuid: str | None = None
    session_id: str | None = None
    parent_tool_use_id: str | None = None


class Block(msgspec.Struct):
    """A block of a message: the use of a tool has an id and a name, its result the id of the use."""

    type: str | None = None
    id: str | None = None
    name: str | None = None
    tool_use_id: str | None = None


class Said(msgspec.Struct):
    """A message of the conversation, and who has made it up."""

    model: str | None = None
    content: list[Block] | str | None = None


NOTHING_SAID = Said()


class Line(Envelope):
    """What an adapter reads of each line, in one pass over it."""

    message: Said | str | None = None


decode_envelope = msgspec.json.Decoder(Envelope).decode
decode_line = msgspec.json.Decoder(Line).decode
decode_place = msgspec.json.Decoder(Place).decode

REFUSED = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
"""What the decoders raise."""


class Request(msgspec.Struct):
    request_id: str | None = None


_decode_request = msgspec.json.Decoder(Request).decode


def request_id_of(line: bytes) -> str | None:
    """Of a line that is too much to be read whole."""
    try:
        return _decode_request(line).request_id
    except REFUSED:
        return None


def said_in(message: Mapping[str, Any]) -> Said:
    """The same of a line that the decoder has refused; nothing when that is odd itself."""
    try:
        return msgspec.convert(message.get("message"), Said)
    except msgspec.ValidationError:
        return NOTHING_SAID


def text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None
