"""Other file systems that are mounted somewhere. One that does not answer holds up for ever whoever looks into it.

The kernel's own list of them costs one read and asks no file system.
"""

from __future__ import annotations

import errno
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ESCAPED = re.compile(r"\\([0-7]{3})")

PATIENCE_S = 2.0
"""When somebody has waited so long for a file system, nobody else begins to."""
LIST_AGE_S = 1.0


def mounts_below(directory: str) -> frozenset[str]:
    """Absolute paths; empty where the kernel does not tell."""
    try:
        lines = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return frozenset()
    start = directory.rstrip("/") + "/"
    paths = (ESCAPED.sub(lambda code: chr(int(code[1], 8)), line.split(" ")[4]) for line in lines)
    return frozenset(path for path in paths if path.startswith(start) and path != start)


class Mounts:
    """Who waits for which file system, but for the one of `base`: so that few threads are lost to a dead one."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._lock = threading.Lock()
        self._known: frozenset[str] = frozenset()
        self._known_at = float("-inf")
        self._visits: dict[str, list[float]] = {}
        """Since when calls wait, by mount."""

    @contextmanager
    def visit(self, path: str) -> Iterator[None]:
        """Around a call that may wait for what holds the absolute `path`. Raises TimeoutError (ETIMEDOUT)."""
        if (mount := self._mount_of(path)) is None:
            yield
            return
        began = time.monotonic()
        with self._lock:
            visits = self._visits.setdefault(mount, [])
            if visits and began - visits[0] > PATIENCE_S:
                raise TimeoutError(errno.ETIMEDOUT, "the file system does not answer", mount)
            visits.append(began)
        try:
            yield
        finally:
            with self._lock:
                visits.remove(began)

    def _mount_of(self, path: str) -> str | None:
        now = time.monotonic()
        if now - self._known_at > LIST_AGE_S:
            self._known = frozenset(m for m in mounts_below("/") if not f"{self._base}/".startswith(f"{m}/"))
            self._known_at = now
        while path and path not in self._known:
            path = path.rpartition("/")[0]
        return path or None
