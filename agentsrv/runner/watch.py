"""Calls back when a file is written to: one inotify descriptor for all files, no tasks, no threads."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from agentsrv import inotify
from agentsrv.inotify import Inotify
from agentsrv.linux import file_system_type

log = logging.getLogger(__name__)

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
        self._inotify: Inotify | None = None
        self._watches: dict[int, list[Watch]] = {}
        self._polled: list[Watch] = []
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, path: Path, callback: Callable[[], None]) -> Watch:
        """Call `callback` after each change of `path` until the watch is closed. Raises FileNotFoundError."""
        watch = Watch(self, path, callback)
        watch.descriptor = self._ask_kernel(path)
        if watch.descriptor is not None:
            self._watches.setdefault(watch.descriptor, []).append(watch)
        if watch.descriptor is None or file_system_type(path) in NETWORK_FILE_SYSTEMS:
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
        if not others and self._inotify is not None:
            del self._watches[watch.descriptor]
            self._inotify.remove(watch.descriptor)
        watch.descriptor = None

    def close(self) -> None:
        """End all watches. Twice is fine."""
        self._use_inotify = False
        if self._inotify is not None:
            self._loop.remove_reader(self._inotify)
            self._inotify.close()
            self._inotify = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for watch in [watch for watches in self._watches.values() for watch in watches]:
            watch.descriptor = None
        self._watches.clear()
        self._polled.clear()

    def _ask_kernel(self, path: Path) -> int | None:
        """The number of a new watch of the kernel; None where it gives none."""
        self._loop = asyncio.get_running_loop()
        if not self._use_inotify:
            return None
        try:
            if self._inotify is None:
                self._inotify = Inotify()
                self._loop.add_reader(self._inotify, self._on_readable)
            return self._inotify.add(path, inotify.MODIFY)
        except OSError:
            return None

    def _on_readable(self) -> None:
        assert self._inotify is not None
        changed: set[int] = set()
        for event in self._inotify.read():
            changed.update(self._watches if event.mask & inotify.OVERFLOW else (event.watch,))
        for descriptor in changed:
            for watch in tuple(self._watches.get(descriptor, ())):
                try:
                    watch.notify()  # At once: by the loop it would cost each event a pass more.
                except Exception:
                    log.exception("what has changed in %s was not dealt with", watch.path)

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
