"""The last output of a terminal, bounded, in a file that outlives the server."""

from __future__ import annotations

import logging
import mmap
import os
import struct
from pathlib import Path

from agentsrv.terminals.replay import Modes

log = logging.getLogger(__name__)

CAPACITY_BYTES = 256 * 1024
DROP_BYTES = CAPACITY_BYTES // 8
"""How much room is made at once: each time costs a search for a place to cut."""
LOOK_AHEAD_BYTES = 1024

MAGIC = b"AGTRING1"
HEADER = struct.Struct("<8sQQH")
END = struct.Struct("<Q")
END_OFFSET = 8
HEADER_BYTES = 4096


class Ring:
    """Bytes `start` to `end` of all that a terminal has put out, positions counted from its beginning.

    `room` is where to read the next output into, `advance` makes it part of the ring, and `keep` writes it to the
    file: from then on it is in the kernel's hands, and there after a `kill -9`. (Not a mapped file: one that another
    process cuts short ends whoever touches it.) `start` is always a place where a terminal that was reset can begin,
    given the modes that were switched before.
    """

    def __init__(self, path: Path) -> None:
        """Open an existing ring; one that is not intact becomes empty. Raises OSError."""
        self._file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            content = os.pread(self._file, HEADER_BYTES + CAPACITY_BYTES, 0)
        except OSError:
            os.close(self._file)
            raise
        header = content[:HEADER_BYTES].ljust(HEADER_BYTES, b"\0")
        magic, end, start, length = HEADER.unpack_from(header)
        is_whole = magic == MAGIC and len(content) == HEADER_BYTES + CAPACITY_BYTES
        if not is_whole or not 0 <= end - start <= CAPACITY_BYTES or length > HEADER_BYTES - HEADER.size:
            end = start = length = 0
        # Memory of its own, which goes back to the system when the terminal ends; of no file.
        self._memory = mmap.mmap(-1, CAPACITY_BYTES)
        self._memory.write(content[HEADER_BYTES:])
        self._data = memoryview(self._memory)
        self.start: int = start
        self.end: int = end
        self._kept_end: int = end
        self._modes = Modes(header[HEADER.size : HEADER.size + length])
        self._write_header()

    @staticmethod
    def create(path: Path) -> None:
        """Make an empty ring. Raises OSError; on a full disk now, not at the first write."""
        with path.open("xb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(bytes(HEADER_BYTES + CAPACITY_BYTES))

    def room(self, size: int) -> memoryview:
        """Where to put the next output: at least one byte and at most `size`. Drops old output for it."""
        shortage = self.end + size - self.start - CAPACITY_BYTES
        if shortage > 0:
            self._drop(max(shortage, DROP_BYTES))
        offset = self.end % CAPACITY_BYTES
        return self._data[offset : min(offset + size, CAPACITY_BYTES)]

    def advance(self, size: int) -> None:
        """The first `size` bytes of the last `room` are output now."""
        self.end += size

    def keep(self) -> None:
        """Write to the file what has come since the last time."""
        while self._kept_end < self.end:
            offset = self._kept_end % CAPACITY_BYTES
            size = min(self.end - self._kept_end, CAPACITY_BYTES - offset)
            self._write(self._data[offset : offset + size], HEADER_BYTES + offset)
            self._kept_end += size
        self._write(END.pack(self.end), END_OFFSET)

    def read(self, position: int, limit: int) -> bytes:
        """At most `limit` bytes from `position`, which must not lie before `start`."""
        size = min(self.end - position, limit)
        offset = position % CAPACITY_BYTES
        if offset + size <= CAPACITY_BYTES:
            return bytes(self._data[offset : offset + size])
        return bytes(self._data[offset:]) + bytes(self._data[: offset + size - CAPACITY_BYTES])

    def snapshot(self) -> tuple[bytes, bytes]:
        """What brings a terminal that was reset to where the ring begins, and all that is here."""
        return self._modes.sequence(), self.read(self.start, CAPACITY_BYTES)

    def close(self) -> None:
        """Closing twice is fine."""
        self._close_file()
        self._data.release()
        self._memory.close()

    def _close_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _drop(self, size: int) -> None:
        self.keep()  # The header says where the output ends: in the file it must be there.
        self.start += self._modes.cut(self.read(self.start, size + LOOK_AHEAD_BYTES), size)
        self._write_header()

    def _write_header(self) -> None:
        modes = self._modes.sequence()
        self._write(HEADER.pack(MAGIC, self.end, self.start, len(modes)) + modes, 0)

    def _write(self, data: bytes | memoryview, offset: int) -> None:
        """To the file, as long as that works. Without one a terminal works on, but only until its server ends."""
        if self._file < 0:
            return
        try:
            os.pwrite(self._file, data, offset)
        except OSError as exc:
            log.warning("the output of a terminal cannot be kept for the next server: %s", exc.strerror)
            self._close_file()
