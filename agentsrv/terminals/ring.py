"""The last output of a terminal, bounded, in a file that outlives the server."""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

from agentsrv.terminals.replay import Modes, find_sane_start, repeatable

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

    The file is mapped and shared: what is in it is there after a `kill -9`, without a system call for each
    write. `room` is where to read the next output into, `advance` makes it part of the ring. `start` is
    always a place where a terminal that was reset can begin, given the modes that were switched before.
    """

    def __init__(self, path: Path) -> None:
        """Open an existing ring; one that is not intact becomes empty."""
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), HEADER_BYTES + CAPACITY_BYTES)
        self._data = memoryview(self._map)[HEADER_BYTES:]
        magic, end, start, length = HEADER.unpack_from(self._map)
        if magic != MAGIC or not 0 <= end - start <= CAPACITY_BYTES or length > HEADER_BYTES - HEADER.size:
            end = start = length = 0
        self.start: int = start
        self.end: int = end
        self._modes = Modes(self._map[HEADER.size : HEADER.size + length])
        self._write_header()

    @staticmethod
    def create(path: Path) -> None:
        """Make an empty ring. Raises OSError; on a full disk now, not as a signal at the first write."""
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
        END.pack_into(self._map, END_OFFSET, self.end)

    def read(self, position: int, limit: int) -> bytes:
        """At most `limit` bytes from `position`, which must not lie before `start`."""
        size = min(self.end - position, limit)
        offset = position % CAPACITY_BYTES
        if offset + size <= CAPACITY_BYTES:
            return bytes(self._data[offset : offset + size])
        return bytes(self._data[offset:]) + bytes(self._data[: offset + size - CAPACITY_BYTES])

    def replay(self) -> bytes:
        """What makes a terminal that was reset look like this one, from all that is here."""
        return self._modes.sequence() + repeatable(self.read(self.start, CAPACITY_BYTES))

    def modes(self) -> Modes:
        """The modes as of the end."""
        modes = Modes(self._modes.sequence())
        modes.feed(self.read(self.start, CAPACITY_BYTES))
        return modes

    def close(self) -> None:
        """Closing twice is fine."""
        self._data.release()
        self._map.close()

    def _drop(self, size: int) -> None:
        size = min(size, self.end - self.start)
        ahead = self.read(self.start + size, LOOK_AHEAD_BYTES)
        cut = size + find_sane_start(ahead)
        self._modes.feed(self.read(self.start, cut))
        self.start += cut
        self._write_header()

    def _write_header(self) -> None:
        modes = self._modes.sequence()
        header = HEADER.pack(MAGIC, self.end, self.start, len(modes)) + modes
        self._map[: len(header)] = header
