"""Deleted and added files that belong together: what `renames` finds, put into the list of changes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Container, Sequence
from contextlib import suppress

from msgspec.structs import replace

from agentsrv.workspace.git.diff.changes import Delta
from agentsrv.workspace.git.diff.contents import (
    MAX_CONTENT_BYTES,
    Contents,
    Unreadable,
    Version,
    git_hash,
)
from agentsrv.workspace.git.diff.renames import find_renames

LARGE_BYTES = 8 * 1024 * 1024
"""A file that was added and is larger is not searched for similarities, only for being a deleted one."""
MAX_KEPT_BYTES = 64 * 1024 * 1024
MAX_READ_BYTES = 256 * 1024 * 1024
"""Of what has come, to look for similarities; then only what may be equal to something that went is read."""


class _Reader:
    """Reads what `renames` looks at, mostly more than once, and keeps a part of it."""

    def __init__(self, contents: Contents, sizes: Container[int], deadline: float) -> None:
        self.contents = contents
        self._sizes = sizes
        self._deadline = deadline
        self._kept: dict[bytes, bytes] = {}
        self._kept_bytes = 0
        self._read_bytes = 0

    def read(self, entry: Version) -> bytes | None:
        """None for what cannot be read, or not in time, and for what is large and cannot be equal to a deleted file."""
        if (content := self._kept.get(entry.path)) is not None:
            return content
        if time.monotonic() > self._deadline:
            return None
        try:
            size = self.contents.size(entry)
            is_like_one = size in self._sizes
            if size > MAX_CONTENT_BYTES or (size > LARGE_BYTES and not is_like_one):
                return None
            if self._read_bytes > MAX_READ_BYTES and not is_like_one:
                return None
            self._read_bytes += size
            content = self.contents.read(entry)
        except Unreadable:
            return None
        if self._kept_bytes + len(content) > MAX_KEPT_BYTES:
            self._kept.clear()
            self._kept_bytes = 0
        self._kept[entry.path] = content
        self._kept_bytes += len(content)
        return content


class _Side:
    """An entry as `renames` looks at it. What is not read resembles nothing."""

    def __init__(self, entry: Version, reader: _Reader) -> None:
        self.path = entry.path
        self.mode = entry.mode
        self._entry = entry
        self._reader = reader

    def size(self) -> int:
        # What is on disk may have other line ends than what would be stored.
        if self._entry.id is None:
            return len(self.read() or b"")
        try:
            return self._reader.contents.size(self._entry)
        except Unreadable:
            return 0

    def key(self) -> bytes | None:
        if self._entry.id is not None:
            return bytes(self._entry.id.raw)
        content = self.read()
        return None if content is None else git_hash(content)

    def is_binary(self) -> bool:
        return self._reader.contents.is_binary(self._entry, self.read() or b"")

    def read(self) -> bytes | None:
        return self._reader.read(self._entry)


def sizes_of(entries: Sequence[Version], contents: Contents) -> set[int]:
    found = set()
    for entry in entries:
        with suppress(Unreadable):
            found.add(contents.size(entry))
    return found


def with_renames(changes: list[Delta], contents: Contents, *, copies: bool, deadline: float) -> list[Delta]:
    """`changes` with deleted and added files that belong together made one; with `copies` also changed ones.

    Half of the time that is left is for this: all of it has to be shown besides.
    """
    old = [
        (change.old, change.new is not None)
        for change in changes
        if change.old is not None and (copies or change.new is None) and not change.is_conflicted
    ]
    come = [
        change.new
        for change in changes
        if change.old is None and change.new is not None and not change.is_conflicted
    ]
    if not old or not come:
        return changes
    sources = [entry for entry, _ in old]
    kept = {index for index, (_, is_kept) in enumerate(old) if is_kept}
    reader = _Reader(contents, sizes_of(sources, contents), (time.monotonic() + deadline) / 2)
    pairs = find_renames(
        [_Side(entry, reader) for entry in sources],
        [_Side(entry, reader) for entry in come],
        kept if copies else None,
    )
    # The last one to use a source that is gone has its name changed, those before it are copies.
    uses = Counter(index for index, _ in pairs.values())
    uses.update(kept)
    gone = {sources[index].path for index in uses.keys() - kept}
    by_path = {come[index].path: pair for index, pair in pairs.items()}
    found = []
    for change in changes:
        if change.old is None and change.path in by_path and not change.is_conflicted:
            index, score = by_path[change.path]
            uses[index] -= 1
            found.append(replace(change, old=sources[index], score=score, is_copy=uses[index] > 0))
        elif change.new is not None or change.path not in gone:
            found.append(change)
    return found
