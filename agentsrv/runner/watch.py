"""Calls back when a file is written to: one inotify descriptor for all files, no tasks, no threads."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import struct
from collections.abc import Callable
from pathlib import Path

IN_MODIFY = 0x00000002
IN_CLOEXEC = os.O_CLOEXEC
IN_NONBLOCK = os.O_NONBLOCK
EVENT = struct.Struct("iIII")
"""Watch, mask, cookie, length of the name. Watches on files, not directories, have no names."""
OVERFLOW = -1
READ_BYTES = EVENT.size * 4096
POLL_S = 0.05

NETWORK_FILE_SYSTEMS = frozenset(
    {
        0x6969,  # NFS
        0x517B,  # SMB
        0xFE534D42,  # SMB2
        0xFF534D42,  # CIFS
        0x65735546,  # FUSE, also virtiofs
        0x01021997,  # 9P
        0x00C36400,  # Ceph
        0x5346414F,  # AFS
    }
)
"""From linux/magic.h. There a write may come from elsewhere, or past the kernel that we ask."""

_libc = ctypes.CDLL(None, use_errno=True)


class Watch:
    """One watched file. After `close`, which may come twice, there is no more callback."""

    def __init__(self, watcher: FileWatcher, path: Path, callback: Callable[[], None]) -> None:
        self.path = path
        self.size = path.stat().st_size
        self.descriptor: int | None = None
        self._callback: Callable[[], None] | None = callback
        self._watcher = watcher

    def notify(self) -> None:
        if self._callback is not None:
            self._callback()

    def close(self) -> None:
        self._callback = None
        self._watcher.remove(self)


class FileWatcher:
    """Belongs to the loop in which the first watch begins. `close` ends all watches.

    Writes between two turns of the loop give one callback. A write before `watch` gives none, so a reader
    watches first and then reads to the end.
    """

    def __init__(self, *, use_inotify: bool = True) -> None:
        self._use_inotify = use_inotify
        self._fd: int | None = None
        self._watches: dict[int, list[Watch]] = {}
        self._polled: list[Watch] = []
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, path: Path, callback: Callable[[], None]) -> Watch:
        """Call `callback` after each change of `path` until the watch is closed. Raises FileNotFoundError."""
        watch = Watch(self, path, callback)
        descriptor = -1
        if self._opened() >= 0:
            descriptor = _libc.inotify_add_watch(self._fd, os.fsencode(path), IN_MODIFY)
        if descriptor >= 0:
            watch.descriptor = descriptor
            self._watches.setdefault(descriptor, []).append(watch)
        if descriptor < 0 or file_system(path) in NETWORK_FILE_SYSTEMS:
            self._polled.append(watch)
            self._schedule_poll()
        return watch

    def remove(self, watch: Watch) -> None:
        if watch in self._polled:
            self._polled.remove(watch)
        if watch.descriptor is None:
            return
        others = self._watches[watch.descriptor]
        others.remove(watch)
        if not others:
            del self._watches[watch.descriptor]
            # Fails when the file is gone: the kernel has ended the watch with it.
            _libc.inotify_rm_watch(self._fd, watch.descriptor)
        watch.descriptor = None

    def close(self) -> None:
        """End all watches. Twice is fine."""
        if self._fd is not None and self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
        self._fd = -1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for watch in [watch for watches in self._watches.values() for watch in watches]:
            watch.descriptor = None
        self._watches.clear()
        self._polled.clear()

    def _opened(self) -> int:
        """The inotify descriptor, which the first watch opens; -1 where there is no inotify."""
        if self._fd is None:
            self._loop = asyncio.get_running_loop()
            self._fd = _libc.inotify_init1(IN_CLOEXEC | IN_NONBLOCK) if self._use_inotify else -1
            if self._fd >= 0:
                self._loop.add_reader(self._fd, self._on_readable)
        return self._fd

    def _on_readable(self) -> None:
        assert self._fd is not None
        descriptors = {event[0] for event in EVENT.iter_unpack(os.read(self._fd, READ_BYTES))}
        if OVERFLOW in descriptors:
            descriptors = set(self._watches)
        for descriptor in descriptors:
            for watch in self._watches.get(descriptor, ()):
                self._loop.call_soon(watch.notify)

    def _schedule_poll(self) -> None:
        if self._timer is None and self._polled:
            self._timer = self._loop.call_later(POLL_S, self._poll)

    def _poll(self) -> None:
        self._timer = None
        for watch in tuple(self._polled):
            with contextlib.suppress(OSError):
                size = watch.path.stat().st_size
                if size != watch.size:
                    watch.size = size
                    self._loop.call_soon(watch.notify)
        self._schedule_poll()


def file_system(path: Path) -> int:
    """The type of the file system that holds `path`, as in linux/magic.h; 0 when the kernel does not say."""
    buffer = ctypes.create_string_buffer(256)  # struct statfs is 120 bytes; its first word is the type.
    if _libc.statfs(os.fsencode(path), buffer) != 0:
        return 0
    return int.from_bytes(buffer.raw[: ctypes.sizeof(ctypes.c_long)], "little") & 0xFFFFFFFF
