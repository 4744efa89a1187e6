"""The spool, an agent's stdout as a file: read on, cut into lines, give consumed blocks back to the disk."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

OVERSIZED_KEPT_BYTES = 64 * 1024

FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02

_libc = ctypes.CDLL(None, use_errno=True)


NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Nothing that a spool is to blame for."""


def is_spool(path: Path) -> bool:
    """Is a file there that can be read on? An agent may have put a pipe in its place, or taken our right to it.

    Raises OSError when there is no descriptor left to find out.
    """
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return False
        SpoolTail(path).close()
    except OSError as exc:
        if exc.errno in NO_ROOM:
            raise
        return False
    return True


class SpoolTail:
    """Reads a spool from `offset` on, while the agent writes it. Closing twice is fine.

    It stays with the file that it has opened, whatever the path leads to later.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        # Never waits for the other end of a pipe.
        self._fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        self.offset = offset
        """Where the next read starts."""

    def read(self, max_bytes: int = 1 << 20) -> bytes:
        """The next bytes, at most `max_bytes`; `b""` when all that is written has been read."""
        data = os.pread(self._fd, max_bytes, self.offset)
        self.offset += len(data)
        return data

    def skip_hole(self, longer_than: int) -> int:
        """Pass over bytes that were never written, when there are so many; how many they were."""
        size = self.size()
        try:
            end = os.lseek(self._fd, self.offset, os.SEEK_DATA)
        except OSError as exc:
            end = size if exc.errno == errno.ENXIO else 0  # ENXIO: to the end nothing was written.
        skipped = end - self.offset
        if skipped <= longer_than:
            return 0
        self.offset = end
        return skipped

    def size(self) -> int:
        """How much the agent has written so far, also what was given back."""
        return os.fstat(self._fd).st_size

    def give_back(self, upto: int, start: int = 0) -> bool:
        """Free the whole blocks from `start` up to `upto` (bytes); sizes and offsets stay. Blocking.

        False where the file system cannot punch holes: then the file just stays as large as it is.
        """
        if self._fd < 0:
            return False
        block = os.fstat(self._fd).st_blksize
        start, end = start // block * block, upto // block * block
        if end <= start:
            return True
        mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
        return bool(_libc.fallocate(self._fd, mode, ctypes.c_long(start), ctypes.c_long(end - start)) == 0)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@dataclass(frozen=True, slots=True)
class OversizedLine:
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
        if b"\n" not in data:
            self._keep(data)
            return []
        first, *others = data.split(b"\n")
        self._keep(first)
        lines: list[bytes | OversizedLine] = [self.rest(), *others]
        rest = others[-1]
        lines.pop()
        self.offset += self._length + len(data) - len(first) - len(rest)
        self._parts, self._length = [], 0
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
