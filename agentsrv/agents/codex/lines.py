"""What decides what a line of Codex means: it is read fast, and the rest of it is skipped."""

from __future__ import annotations

from typing import Any

import msgspec

from agentsrv.jsontext import as_object, load_object


class _Envelope(msgspec.Struct):
    """What decides whether a line means something to the server. The rest of it is skipped unread."""

    method: str | None = None
    id: int | str | None = None
    type: str | None = None


class _Item(msgspec.Struct, rename="camel"):
    type: str | None = None
    id: str | None = None
    client_id: str | None = None


class _ItemParams(msgspec.Struct):
    item: _Item


class _ItemEnvelope(msgspec.Struct):
    params: _ItemParams


class _ThreadParams(msgspec.Struct, rename="camel"):
    thread_id: str | None = None


class _ThreadEnvelope(msgspec.Struct):
    params: _ThreadParams


REFUSED = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
"""What the decoders raise."""

decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_thread = msgspec.json.Decoder(_ThreadEnvelope).decode
_decode_item = msgspec.json.Decoder(_ItemEnvelope).decode


def item_of(line: bytes) -> _Item:
    try:
        return _decode_item(line).params.item
    except REFUSED:
        return _Item()


def params_of(line: bytes) -> dict[str, Any]:
    return as_object((load_object(line) or {}).get("params"))


def thread_of(line: bytes) -> str | None:
    """The conversation that a message is about."""
    try:
        return _decode_thread(line).params.thread_id
    except REFUSED:
        thread = params_of(line).get("threadId")
        return thread if isinstance(thread, str) else None
