"""What the kernel tells of files and directories: inotify(7), without a thread or a task."""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

from agentsrv import linux

MODIFY = 0x00000002
ATTRIB = 0x00000004
CLOSE_WRITE = 0x00000008
MOVED_FROM = 0x00000040
MOVED_TO = 0x00000080
CREATE = 0x00000100
DELETE = 0x00000200
DELETE_SELF = 0x00000400
MOVE_SELF = 0x00000800
UNMOUNT = 0x00002000
OVERFLOW = 0x00004000
IGNORED = 0x00008000
"""The kernel has ended this watch: what was watched is gone, or `remove` was called."""
ONLY_DIRECTORY = 0x01000000
NO_FOLLOW = 0x02000000
IS_DIRECTORY = 0x40000000
"""Of linux/inotify.h."""

HEADER = struct.Struct("iIII")
"""Watch, mask, cookie, length of the name."""
READ_BYTES = 64 * 1024


class Event(NamedTuple):
    """Something happened to `name` in a watched directory; to a watched file itself, when that is empty.

    With OVERFLOW in `mask`, events were lost: every watch may have missed some.
    """

    watch: int
    mask: int
    cookie: int
    name: bytes


class Inotify:
    """One descriptor (`fileno`) with any number of watches. It becomes readable; `read` never blocks.

    Raises OSError: EMFILE at the limit of instances.
    """

    def __init__(self) -> None:
        self._fd: int = linux.libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._fd < 0:
            raise linux.failure()

    def fileno(self) -> int:
        """-1 when it is closed."""
        return self._fd

    def add(self, path: str | bytes | os.PathLike[str], mask: int) -> int:
        """Watch `path`; the watch's number, which is the same for the same inode.

        Raises OSError: ENOSPC at the limit of watches, ENOENT, EACCES, ENOTDIR.
        """
        watch: int = linux.libc.inotify_add_watch(self._fd, os.fsencode(path), mask)
        if watch < 0:
            raise linux.failure(os.fsdecode(path))
        return watch

    def remove(self, watch: int) -> None:
        """Nothing happens when the kernel has ended it already."""
        linux.libc.inotify_rm_watch(self._fd, watch)

    def read(self) -> list[Event]:
        """What has happened since, oldest first, up to READ_BYTES of it; empty when nothing has."""
        try:
            data = os.read(self._fd, READ_BYTES)
        except BlockingIOError:
            return []
        events, position = [], 0
        while position < len(data):
            watch, mask, cookie, length = HEADER.unpack_from(data, position)
            position += HEADER.size
            events.append(Event(watch, mask, cookie, data[position : position + length].rstrip(b"\0")))
            position += length
        return events

    def close(self) -> None:
        """End all watches. Twice is fine."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
