"""Cuts a stream of bytes into lines. Pure."""

from __future__ import annotations

from msgspec import Struct

OVERSIZED_KEPT_BYTES = 64 * 1024


class OversizedLine(Struct, frozen=True):
    """A line over the limit: its first 64 KiB and its whole length, both without the newline."""

    kept: bytes
    total: int


class LineFramer:
    """Cuts bytes into lines, whatever the reads they came in. Pure.

    Whether a line is oversized depends on its length alone, so a second reading of the same bytes gives the
    same lines: sequence numbers rest on that.
    """

    def __init__(self, max_line_bytes: int, offset: int = 0) -> None:
        """`offset` is the place in the file of the first byte that will be fed."""
        self._max_line_bytes = max_line_bytes
        self._parts: list[bytes] = []
        self._length = 0
        self.offset = offset
        """The place behind the newline of the last line handed out."""

    def feed(self, data: bytes) -> list[bytes | OversizedLine]:
        """The lines that `data` completes, without their newlines, oldest first."""
        *whole, rest = data.split(b"\n")
        if not whole:
            self._keep(data)
            return []
        self.offset += self._length + len(data) - len(rest)
        lines: list[bytes | OversizedLine] = [*whole]
        if self._length:
            self._keep(whole[0])
            lines[0] = self.rest()
            self._parts, self._length = [], 0
        if rest:
            self._keep(rest)
        if len(data) > self._max_line_bytes:
            return [self._cut(line) for line in lines]
        return lines

    def skip(self, size: int) -> None:
        """As if so many zeros were fed, which are more than a line may have."""
        self._keep(bytes(OVERSIZED_KEPT_BYTES))
        self._length += size - OVERSIZED_KEPT_BYTES

    def rest(self) -> bytes | OversizedLine:
        """The last line so far, which has no newline yet: `b""` when there is none."""
        joined = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        if self._length > self._max_line_bytes:
            return OversizedLine(joined[:OVERSIZED_KEPT_BYTES], self._length)
        return joined

    def _keep(self, data: bytes) -> None:
        """Add `data` to the last line. Of a line that is oversized already, only the length grows."""
        self._length += len(data)
        if self._length <= self._max_line_bytes:
            self._parts.append(data)
        else:
            kept = b"".join([*self._parts, data[:OVERSIZED_KEPT_BYTES]])
            self._parts = [kept[:OVERSIZED_KEPT_BYTES]]

    def _cut(self, line: bytes | OversizedLine) -> bytes | OversizedLine:
        if isinstance(line, bytes) and len(line) > self._max_line_bytes:
            return OversizedLine(line[:OVERSIZED_KEPT_BYTES], len(line))
        return line
