"""The spool, an agent's stdout as a file: read on, give consumed blocks back to the disk."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from agentsrv.linux import punch_hole

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
        return punch_hole(self._fd, start, end)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
