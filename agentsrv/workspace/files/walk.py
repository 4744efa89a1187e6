"""Going through directories: nearest first, in order of names, never through a link, never into what is private.

Two layers. `directories` opens one directory after the other and sorts what is in it by kind: names only, no
`stat`. `Listing` makes the entries that clients see of it. A tree of 100,000 files must not cost more than a
few times what `find` needs, so the loops here do nothing twice.
"""

from __future__ import annotations

import os
import stat
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from typing import Literal

from msgspec import UNSET, Struct, UnsetType, field

from agentsrv.errors import Conflict
from agentsrv.workspace.files.checkouts import Checkout, is_checkout, shown
from agentsrv.workspace.mounts import mounts_below
from agentsrv.workspace.paths import WORKTREES, Workspace, displayed, file_uri, is_text

# fmt: off
IGNORED = frozenset(
    {
        ".git", ".hg", ".svn", ".jj", WORKTREES,
        "node_modules", "bower_components", ".next", ".nuxt", ".parcel-cache",
        ".venv", "venv", "__pycache__", ".tox", ".nox", ".mypy_cache", ".pytest_cache", ".ruff_cache",
        ".cache", ".gradle", ".terraform",
    }
)
# fmt: on
"""Folders that hold what programs made, mostly much of it. They are listed, and entered when asked for."""

GIT = ".git"
"""Not even listed, unless ignored folders are asked for: it is no folder of the user's."""

MAX_PENDING = 200_000
"""Directories seen and not yet entered; what comes on top is left out."""

MAX_IN_DIRECTORY = 200_000
"""Entries of one directory; it is read at a stretch."""

BATCH = 1000

DETAILED = 5000

FIRST_SECOND, LAST_SECOND = -62_135_596_800, 253_402_300_799
"""What a calendar has: the years 1 to 9999. A file may claim any other time."""

TargetType = Literal["file", "directory"]
TARGETS: dict[int, TargetType] = {stat.S_IFDIR: "directory", stat.S_IFREG: "file"}

EntryType = Literal["file", "directory", "symlink", "other"]


class Entry(Struct, rename="camel", gc=False):
    """One thing in a directory, as it looks on the wire. `path` begins at the workspace.

    Made by the hundred thousand, so it is encoded as it is and not copied into another shape first.
    """

    name: str
    type: EntryType
    path: str
    in_git_repo: bool
    git_root: str | None
    """The checkout it lies in (or is); `/` is the workspace itself."""
    size: int | UnsetType = UNSET
    """In bytes, of files."""
    modified_at: str | UnsetType = UNSET
    target_type: TargetType | UnsetType = UNSET
    """What a link leads to, when that lies in the workspace and exists."""
    ignored: bool | UnsetType = UNSET
    """A folder that a walk does not enter unless asked."""
    denied: bool | UnsetType = UNSET
    """A directory that the server may not read."""
    mount: bool | UnsetType = UNSET
    """A directory on which another file system is mounted. A walk does not enter it."""
    uri: str | UnsetType = UNSET
    """There when the path is not UTF-8: the exact path. `name` and `path` then are for people only."""


class Directory(Struct):
    """One directory of a walk, open until the next one is asked for. Names are in order, by kind."""

    descriptor: int
    path: str
    prefix: str
    """What to put before a name to have its path in the workspace."""
    folders: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


class Walk(Struct, kw_only=True):
    """Iterate it once: the root, then what is below it, level by level, `max_depth` levels of entries.

    A walk that comes to `deadline` (on the monotonic clock) ends early. Directories that vanish meanwhile, or
    turn into something else, are left out, and so are those that may not be read, the root included. Other file
    systems mounted below the root are not entered.
    """

    workspace: Workspace
    root: str
    max_depth: int
    include_ignored: bool
    deadline: float
    on_enter: Callable[[Directory], None] = lambda _: None
    """Called with each directory before its names are read."""
    is_truncated: bool = False
    """After the walk: was that not all?"""
    mounts: frozenset[str] = frozenset()

    def __iter__(self) -> Iterator[Directory]:
        self.mounts = mounts_below(self.root)
        prefix = self.workspace.relative(self.root)
        pending = deque([(self.root, f"{prefix}/" if prefix else "", 1)])
        while pending:
            path, prefix, depth = pending.popleft()
            if time.monotonic() > self.deadline:
                self.is_truncated = True
                return
            try:
                descriptor = self.workspace.enter(path)
            except (OSError, Conflict):
                continue
            directory = Directory(descriptor, path, prefix)
            try:
                self.on_enter(directory)
                self._read(directory)
                yield directory
            finally:
                os.close(descriptor)
            if depth < self.max_depth:
                self._enter_later(directory, depth + 1, pending)

    def _read(self, directory: Directory) -> None:
        folders, files, links = directory.folders, directory.files, directory.links
        with os.scandir(directory.descriptor) as entries:
            for entry in islice(entries, MAX_IN_DIRECTORY):
                if entry.is_file(follow_symlinks=False):
                    files.append(entry.name)
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
                elif entry.is_symlink():
                    links.append(entry.name)
                else:
                    directory.others.append(entry.name)
            self.is_truncated |= next(entries, None) is not None
        if self.workspace.may_hold_private(directory.path):
            for names in (folders, files):
                names[:] = [n for n in names if not self.workspace.is_private(f"{directory.path}/{n}")]
        if not self.include_ignored:
            for names in (folders, files):
                if GIT in names:
                    names.remove(GIT)
        folders.sort()
        files.sort()
        links.sort()

    def _enter_later(self, directory: Directory, depth: int, pending: deque[tuple[str, str, int]]) -> None:
        path, prefix = directory.path.rstrip("/"), directory.prefix
        for name in directory.folders:
            below = f"{path}/{name}"
            if (self.include_ignored or name not in IGNORED) and below not in self.mounts:
                pending.append((below, f"{prefix}{name}/", depth))
        if len(pending) > MAX_PENDING:
            self.is_truncated = True
            while len(pending) > MAX_PENDING:
                pending.pop()


class Listing:
    """The entries of a walk, in batches. `count` and `is_truncated` are right once it is used up.

    `checkout` is what the walk's root lies in. The first `DETAILED` entries, which are the nearest ones, have
    size and time; all of them with `all_details`. To ask the disk for each would make a large walk take several
    times as long.
    """

    def __init__(
        self,
        walk: Walk,
        checkout: Checkout | None,
        *,
        include_files: bool,
        limit: int,
        all_details: bool = False,
    ) -> None:
        self.count = 0
        self.is_truncated = False
        self._walk = walk
        self._include_files = include_files
        self._limit = limit
        self._details = limit if all_details else DETAILED
        self._checkouts = {walk.root: shown(walk.workspace, checkout)}

    def __iter__(self) -> Generator[list[Entry], None, None]:
        batch: list[Entry] = []
        for directory in self._walk:
            batch += self._entries(directory)
            excess = self.count + len(batch) - self._limit
            if excess > 0:
                del batch[-excess:]
                self.is_truncated = True
                break
            if len(batch) >= BATCH:
                yield self._counted(batch)
                batch = []
        self.is_truncated = self.is_truncated or self._walk.is_truncated
        yield self._counted(batch)

    def _counted(self, batch: list[Entry]) -> list[Entry]:
        self.count += len(batch)
        return batch

    def _entries(self, directory: Directory) -> list[Entry]:
        """Folders, files, links and the rest of one directory."""
        prefix, own = directory.prefix, self._checkouts.pop(directory.path)
        is_inside = own is not None
        entries = [self._folder(directory, name, own) for name in directory.folders]
        entries += [
            link
            for name in directory.links
            if (link := self._link(directory, name, own)).target_type == "directory" or self._include_files
        ]
        if self._include_files:
            entries += [Entry(name, "file", prefix + name, is_inside, own) for name in directory.files]
            entries += [Entry(name, "other", prefix + name, is_inside, own) for name in directory.others]
        for entry in entries[: max(self._details, 0)]:
            if entry.mount is UNSET:
                add_details(entry, directory.descriptor)
        self._details -= len(entries)
        if not (prefix.isascii() and all(entry.name.isascii() for entry in entries)):
            make_writable(entries, self._walk.workspace)
        return entries

    def _folder(self, directory: Directory, name: str, own: str | None) -> Entry:
        path, descriptor = directory.prefix + name, directory.descriptor
        entry = Entry(name, "directory", path, own is not None, own)
        if f"{directory.path.rstrip('/')}/{name}" in self._walk.mounts:
            entry.mount = True
            return entry
        if not os.access(name, os.R_OK | os.X_OK, dir_fd=descriptor, effective_ids=True):
            entry.denied = True
        elif is_checkout(name, descriptor):
            entry.in_git_repo, entry.git_root = True, path
        if name in IGNORED and not self._walk.include_ignored:
            entry.ignored = True
        else:
            self._checkouts[f"{directory.path.rstrip('/')}/{name}"] = entry.git_root
        return entry

    def _link(self, directory: Directory, name: str, own: str | None) -> Entry:
        entry = Entry(name, "symlink", directory.prefix + name, own is not None, own)
        try:
            # By the kernel, which gives a chain of links up after forty of them.
            target = os.open(name, os.O_PATH, dir_fd=directory.descriptor)
        except OSError:
            return entry  # It leads nowhere.
        try:
            if self._walk.workspace.contains(os.readlink(f"/proc/self/fd/{target}")):
                entry.target_type = TARGETS.get(stat.S_IFMT(os.fstat(target).st_mode), UNSET)
        finally:
            os.close(target)
        return entry


def add_details(entry: Entry, directory: int) -> None:
    """Size and time of what stands in the open `directory`; not when it is gone."""
    try:
        found = os.stat(entry.name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return
    if stat.S_ISREG(found.st_mode):
        entry.size = found.st_size
    entry.modified_at = wire_time(found.st_mtime_ns)


def make_writable(entries: list[Entry], workspace: Workspace) -> None:
    """What is not UTF-8 cannot be written in JSON: show it readably, and add what can be handed back."""
    for entry in entries:
        if not is_text(entry.path):
            entry.uri = file_uri(f"{workspace.base}/{entry.path}")
            entry.name, entry.path = displayed(entry.name), displayed(entry.path)
        if entry.git_root and not is_text(entry.git_root):
            entry.git_root = displayed(entry.git_root)


def wire_time(nanoseconds: int) -> str:
    """ISO 8601 in UTC with milliseconds and `Z`."""
    milliseconds = nanoseconds // 1_000_000 % 1000
    return f"{_shown_second(wire_second(nanoseconds))}.{milliseconds:03d}Z"


def wire_second(nanoseconds: int) -> int:
    """In whole seconds since 1970, within what a calendar has."""
    return min(max(nanoseconds // 1_000_000_000, FIRST_SECOND), LAST_SECOND)


@lru_cache(4096)
def _shown_second(seconds: int) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.replace(tzinfo=None).isoformat()
