"""Frames of a WebSocket's client have to be masked (RFC 6455, 5.1), which aiohttp's reader does not ask for."""

from __future__ import annotations

from typing import Protocol

NOT_ALLOWED = b"\xf0\x80"
"""A head with reserved bits: what reads it closes the socket with 1002, as for any frame that is none."""

MASKED = 0x80
MASK_BYTES = 4
LENGTH_BYTES = {126: 2, 127: 8}


class Reader(Protocol):
    def feed_data(self, data: bytes) -> tuple[bool, bytes]: ...

    def feed_eof(self) -> None: ...


class MaskedFrames:
    """Passes on what comes, as far as its frames are masked; then one that is not allowed, and nothing more.

    The bytes of one read may begin and end anywhere; an unfinished head is kept until the rest of it has come.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._head = b""
        self._skip = 0
        """What is still to come of a frame whose head was passed on."""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        data = self._head + data
        at = self._skip
        while (size := _frame_bytes(data, at)) is not None:
            if not data[at + 1] & MASKED:
                return self._reader.feed_data(data[:at] + NOT_ALLOWED)
            at += size
        self._head, self._skip = data[at:], max(0, at - len(data))
        return self._reader.feed_data(data[:at])

    def feed_eof(self) -> None:
        self._reader.feed_eof()


def _frame_bytes(data: bytes, at: int) -> int | None:
    """The size of the frame that begins there, as its head says; None when that is not all there."""
    if len(data) < at + 2:
        return None
    length = data[at + 1] & ~MASKED
    more = LENGTH_BYTES.get(length, 0)
    if len(data) < at + 2 + more:
        return None
    payload = int.from_bytes(data[at + 2 : at + 2 + more]) if more else length
    return 2 + more + MASK_BYTES + payload
