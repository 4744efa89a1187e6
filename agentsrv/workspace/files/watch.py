"""What changes in a directory and below, as it happens, so that clients need not ask again and again.

Each directory is watched by inotify, and always before it is listed: so nothing falls between the two. Recursion
is our own, since links must not lead out of the workspace and folders like `node_modules` are not worth a watch.
Where something may have been missed (the kernel's queue ran over, there are too many directories) the client is
told to look again: nothing is lost without a word.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
import time
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Literal

from msgspec import UNSET, Struct, UnsetType, field

from agentsrv import inotify
from agentsrv.errors import AgentsrvError, LimitReached, Unavailable
from agentsrv.inotify import Event, Inotify
from agentsrv.threads import Pool
from agentsrv.workspace.files.checkouts import git_directory
from agentsrv.workspace.files.walk import GIT, IGNORED, Directory, Walk
from agentsrv.workspace.paths import Workspace, displayed, file_uri, is_text

MAX_WATCHES = 16
"""At the same time."""

MAX_DIRECTORIES = 8192
"""Of one watch. The kernel has so many for a whole user, often 65,536 or more."""

MAX_CHANGES = 500
"""In one message; with more it is better to look again."""

MAX_READS = 64
"""Of the kernel's queue, for one message."""

GATHER_S = 0.1
"""Changes that follow each other are told together, after this time."""
MAX_SHARE, MAX_PAUSE_S = 0.2, 10.0
"""What all watches together may have of a processor, averaged; so long each pauses at most."""
CHECK_S = 5.0
"""How often, without news, it is looked whether the root is there: nobody tells when a directory above it moves."""

GIT_STATE = frozenset({"HEAD", "index", "packed-refs", "FETCH_HEAD"})
"""Files of a git directory that say: branch, commit or index are others now."""

GONE = inotify.DELETE | inotify.MOVED_FROM
# What is written through a mapping is told only when the file is closed.
WRITTEN = inotify.MODIFY | inotify.CLOSE_WRITE | inotify.ATTRIB
MASK = GONE | inotify.CREATE | inotify.MOVED_TO | WRITTEN | inotify.ONLY_DIRECTORY

Kind = Literal["added", "modified", "deleted"]


class Change(Struct, rename="camel", order=True, frozen=True):
    """One path that is another now. `.git` stands for the state of a repository: branch, commit, index."""

    path: str
    change: Kind
    uri: str | UnsetType = UNSET


class Changes(Struct, frozen=True):
    """What happened since the last one; `is_overflow`: too much or unknown, look at everything again."""

    changes: list[Change]
    is_overflow: bool = False
    is_root_gone: bool = False


class _Names:
    """The names in a directory, as eight bytes each: there may be a million of them."""

    def __init__(self, names: Iterable[str]) -> None:
        self._hashes = array("q", sorted(map(hash, names)))

    def update(self, name: str, *, is_there: bool) -> bool:
        """Note that a name is there, or not; was it?"""
        value = hash(name)
        at = bisect_left(self._hashes, value)
        was_there = at < len(self._hashes) and self._hashes[at] == value
        if is_there and not was_there:
            self._hashes.insert(at, value)
        elif was_there and not is_there:
            del self._hashes[at]
        return was_there


class _Watched(Struct):
    """What the kernel watches under one number: a directory of the tree, a git directory, or both."""

    path: str | None = None
    names: _Names = field(default_factory=lambda: _Names(()))
    mark: str | None = None
    """For a git directory: the `.git` of its checkout."""


class TreeWatch(Struct, eq=False):
    """One client's watch. Its methods block, but for `fileno`, and one of them runs at a time."""

    workspace: Workspace
    root: str
    max_depth: int
    walk_from: Callable[[str], Walk]
    """A walk of as many levels."""
    max_directories: int = MAX_DIRECTORIES
    max_changes: int = MAX_CHANGES
    is_partial: bool = False
    """Are there more directories than a watch may have, or than the kernel gives watches for?"""
    _inotify: Inotify | None = None
    _root_id: tuple[int, int] = (0, 0)
    _watched: dict[int, _Watched] = field(default_factory=dict)
    _numbers: dict[str, int] = field(default_factory=dict)
    """Of the directories of the tree, by path."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    """`close` may come while a call that was given up still runs; the descriptor must not be another's then."""

    def start(self) -> None:
        """Raises Unavailable when the kernel gives no watch, NotFound and the like for the root."""
        with self._lock:
            self._start()

    def fileno(self) -> int:
        """Readable when there is something for `next` to tell."""
        return -1 if self._inotify is None else self._inotify.fileno()

    def close(self) -> None:
        with self._lock:
            if self._inotify is not None:
                self._inotify.close()

    def next(self) -> Changes:
        """What has happened since the last call."""
        with self._lock:
            if not self._is_root_there():
                return Changes([], is_root_gone=True)
            return self._told()

    def directories(self) -> set[str]:
        """Those that are watched."""
        return set(self._numbers)

    def _start(self) -> None:
        if self._inotify is not None:
            self._inotify.close()
        try:
            self._inotify = Inotify()
        except OSError as exc:
            raise _no_watches() from exc
        self._watched, self._numbers, self.is_partial = {}, {}, False
        with self.workspace.open_directory(self.root) as descriptor:
            self._root_id = _identity(descriptor)
        self._add(self.root)
        if not self._numbers and self.is_partial:
            raise _no_watches()

    def _is_root_there(self) -> bool:
        try:
            with self.workspace.open_directory(self.root) as descriptor:
                return _identity(descriptor) == self._root_id
        except AgentsrvError:
            return False

    def _told(self) -> Changes:
        was_partial = self.is_partial
        touched, marks, is_lost = self._read()
        if is_lost:
            self._start()
            return Changes([], is_overflow=True)
        kinds: dict[str, Kind] = dict.fromkeys(marks, "modified")
        for path, names in touched.items():
            kinds |= self._kinds(path, names)
        for path in [path for path in kinds if self._is_new_directory(path)]:
            kinds = {**dict.fromkeys(self._add(path), "added"), **kinds}
        if len(kinds) > self.max_changes or self.is_partial > was_partial:
            return Changes([], is_overflow=True)
        return Changes(sorted(self._change(path, kind) for path, kind in kinds.items()))

    def _read(self) -> tuple[dict[str, set[str]], set[str], bool]:
        """Names by directory to look at, repositories with a new state, and whether events were lost."""
        touched, marks, is_lost = defaultdict[str, set[str]](set), set[str](), False
        assert self._inotify is not None
        for _ in range(MAX_READS):
            for event in (events := self._inotify.read()):
                is_lost |= bool(event.mask & inotify.OVERFLOW)
                if (watched := self._watched.get(event.watch)) is not None:
                    self._note(event, watched, touched, marks)
            if not events:
                break
        return touched, marks, is_lost

    def _note(self, event: Event, watched: _Watched, touched: dict[str, set[str]], marks: set[str]) -> None:
        name = os.fsdecode(event.name)
        if event.mask & inotify.IGNORED:
            self._drop(event.watch)
        elif watched.mark is not None and name in GIT_STATE:
            marks.add(watched.mark)
        if watched.path is None or not name:
            return
        touched[watched.path].add(name)
        if event.mask & GONE and event.mask & inotify.IS_DIRECTORY:
            self._forget(f"{watched.path}/{name}", with_all_below=bool(event.mask & inotify.MOVED_FROM))

    def _kinds(self, path: str, names: set[str]) -> dict[str, Kind]:
        """What became of some names in a directory, by what is there now."""
        there = self._those_there(path, names)
        number = self._numbers.get(path)
        known = None if number is None else self._watched[number].names
        kinds: dict[str, Kind] = {}
        for name in names:
            was_there = known is None or known.update(name, is_there=name in there)
            # What has come and gone may have been seen in between.
            kind: Kind = ("modified" if was_there else "added") if name in there else "deleted"
            if not self.workspace.is_private(child := f"{path.rstrip('/')}/{name}"):
                kinds[child] = kind
        return kinds

    def _those_there(self, path: str, names: set[str]) -> set[str]:
        try:
            with self.workspace.open_directory(path) as directory:
                return {name for name in names if _mode(name, directory) is not None}
        except AgentsrvError:
            return set()

    def _is_new_directory(self, path: str) -> bool:
        """Also true of a `.git`: its directory is looked at again, and is a checkout now."""
        name = os.path.basename(path)
        if path in self._numbers or (name in IGNORED and name != GIT):
            return False
        is_near = self._level(path) < self.max_depth
        return name == GIT or (is_near and stat.S_ISDIR(_mode(path) or 0))

    def _level(self, path: str) -> int:
        """How far below the root."""
        return path.count("/") - self.root.rstrip("/").count("/") if path != self.root else 0

    def _add(self, root: str) -> list[str]:
        """Watch this directory and all below; what is in them already."""
        if os.path.basename(root) == GIT and root != self.root:
            self._note_checkout(os.path.dirname(root))
            return []
        inside: list[str] = []
        walk = self.walk_from(root)
        walk.max_depth -= self._level(root)
        walk.on_enter = self._watch
        for directory in walk:
            if (number := self._numbers.get(directory.path)) is None:
                if self.is_partial:
                    break
                continue
            names = [*directory.folders, *directory.files, *directory.links, *directory.others]
            self._watched[number].names = _Names(names)
            self._note_checkout(directory.path)
            inside += [f"{directory.path.rstrip('/')}/{name}" for name in names]
        self.is_partial |= walk.is_truncated
        return inside

    def _watch(self, directory: Directory) -> None:
        """Before its names are read: what comes meanwhile is told twice rather than not at all."""
        if (number := self._watch_path(f"/proc/self/fd/{directory.descriptor}")) is not None:
            self._watched.setdefault(number, _Watched()).path = directory.path
            self._numbers[directory.path] = number

    def _watch_path(self, path: str) -> int | None:
        if len(self._watched) >= self.max_directories:
            self.is_partial = True
            return None
        assert self._inotify is not None
        try:
            return self._inotify.add(path, MASK)
        except OSError as exc:
            self.is_partial |= exc.errno in (errno.ENOSPC, errno.ENOMEM)
            return None

    def _note_checkout(self, path: str) -> None:
        mark = f"{path.rstrip('/')}/{GIT}"
        # One that is just being made has no HEAD yet.
        git = git_directory(self.workspace, path) or (mark if stat.S_ISDIR(_mode(mark) or 0) else None)
        if git is not None and (number := self._watch_path(git)) is not None:
            self._watched.setdefault(number, _Watched()).mark = mark

    def _forget(self, path: str, *, with_all_below: bool) -> None:
        gone = {path}
        if with_all_below:  # One that was deleted was empty by then.
            gone |= {known for known in self._numbers if known.startswith(path + "/")}
        assert self._inotify is not None
        for known in gone & self._numbers.keys():
            number = self._numbers[known]
            self._drop(number)
            self._inotify.remove(number)

    def _drop(self, number: int) -> None:
        watched = self._watched.pop(number, None)
        if watched is not None and watched.path is not None:
            self._numbers.pop(watched.path, None)

    def _change(self, path: str, kind: Kind) -> Change:
        relative = self.workspace.relative(path)
        uri = UNSET if is_text(relative) else file_uri(path)
        return Change(displayed(relative), kind, uri)


class _Place(Struct):
    """One of the watches that there may be. `is_wanted`: is its client still there?"""

    is_wanted: Callable[[], bool]
    news: asyncio.Event = field(default_factory=asyncio.Event)
    is_over: bool = False

    def end(self) -> None:
        self.is_over = True
        self.news.set()


class Watches:
    """Hands out watches, up to `MAX_WATCHES` at the same time. Nothing runs while nothing happens."""

    def __init__(self, threads: Pool) -> None:
        self._threads = threads
        self._places: dict[TreeWatch, _Place] = {}

    async def begin(self, watch: TreeWatch, is_wanted: Callable[[], bool]) -> None:
        """From here on nothing is missed. Call `end` afterwards, also when this fails.

        Watches that nobody wants any more make room at once.
        """
        for place in self._places.values():
            if not place.is_wanted():
                place.end()
        if sum(not place.is_over for place in self._places.values()) >= MAX_WATCHES:
            raise LimitReached("too many directories are watched; close some", code="too_many_watches")
        self._places[watch] = _Place(is_wanted)
        await self._threads.run(watch.start)

    async def follow(self, watch: TreeWatch) -> AsyncGenerator[Changes, None]:
        """What happens, until the root is gone, or `stop`."""
        place, pause_s, is_root_gone = self._places[watch], GATHER_S, False
        while not (is_root_gone or place.is_over):
            if await self._is_news(watch, place):
                await asyncio.sleep(pause_s)
            changes, used_s = await self._threads.run(_next, watch)
            pause_s = pause_after(used_s, len(self._places))
            yield changes
            is_root_gone = changes.is_root_gone

    async def end(self, watch: TreeWatch) -> None:
        if self._places.pop(watch, None) is not None:
            await self._threads.run(watch.close)

    def stop(self) -> None:
        """End every `follow` within a moment."""
        for place in self._places.values():
            place.end()

    async def _is_news(self, watch: TreeWatch, place: _Place) -> bool:
        """Wait until the kernel has something to tell, or for CHECK_S."""
        place.news.clear()
        loop, descriptor = asyncio.get_running_loop(), watch.fileno()
        loop.add_reader(descriptor, place.news.set)
        try:
            async with asyncio.timeout(CHECK_S):
                return await place.news.wait()
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(descriptor)


def pause_after(used_s: float, watches: int) -> float:
    """How long each of so many watches lets changes gather when a look at them takes the processor so long."""
    return min(max(GATHER_S, used_s * watches / MAX_SHARE), MAX_PAUSE_S)


def _next(watch: TreeWatch) -> tuple[Changes, float]:
    """Also the processor time it took, in seconds."""
    began = time.thread_time()
    return watch.next(), time.thread_time() - began


def _identity(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def _mode(path: str, directory: int | None = None) -> int | None:
    try:
        return os.stat(path, dir_fd=directory, follow_symlinks=False).st_mode
    except OSError:
        return None


def _no_watches() -> Unavailable:
    return Unavailable("the system gives no more watches; close some, or raise fs.inotify.max_user_watches")
