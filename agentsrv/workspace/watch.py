"""What changes in a directory and below, as it happens, so that clients need not ask again and again.

The kernel is asked through `watchfiles`, directory by directory: its own recursion would follow links out of
the workspace and spend watches on folders like `node_modules`. New directories are added as they appear.
"""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from msgspec import UNSET, Struct, UnsetType

from agentsrv.errors import LimitReached, Unavailable
from agentsrv.workspace.checkouts import git_directory
from agentsrv.workspace.disk import Disk
from agentsrv.workspace.paths import Workspace, displayed, file_uri, is_text
from agentsrv.workspace.walk import GIT, IGNORED, Walk

if TYPE_CHECKING:
    from watchfiles._rust_notify import RustNotify

MAX_WATCHES = 16
"""At the same time; each one has a thread."""

MAX_DIRECTORIES = 8192
"""Of one watch. The kernel has so many for a whole user, often 65,536 or more."""

MAX_CHANGES = 500
"""In one message; with more it is better to look again."""

DEBOUNCE_MS = 300
"""Changes that follow each other are told together, after this time at the latest."""
STEP_MS = 50
"""So long nothing new: then they are told."""
WAIT_MS = 1000

GIT_STATE = frozenset({"HEAD", "index", "packed-refs", "FETCH_HEAD"})
"""Files of a git directory that say: branch, commit or index are others now."""

ADDED, MODIFIED, DELETED = 1, 2, 3
"""As `watchfiles` has them."""

Kind = Literal["added", "modified", "deleted"]
KINDS: dict[int, Kind] = {ADDED: "added", MODIFIED: "modified", DELETED: "deleted"}

RETRIES = 5


class Change(Struct, rename="camel", order=True, frozen=True):
    """One path that is another now. `.git` stands for the state of a repository: branch, commit, index."""

    path: str
    change: Kind
    uri: str | UnsetType = UNSET


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened since the last one; `is_overflow`: too much or unknown, look at everything again."""

    changes: list[Change]
    is_overflow: bool = False
    is_root_gone: bool = False


@dataclass(slots=True, eq=False)
class TreeWatch:
    """One client's watch. Every method blocks and belongs to one thread, except `stop`."""

    workspace: Workspace
    root: str
    walk_from: Callable[[str], Walk]
    max_directories: int = MAX_DIRECTORIES
    max_changes: int = MAX_CHANGES
    is_partial: bool = False
    """Are there more directories than a watch may have?"""
    directories: set[str] = field(default_factory=set)
    _git: dict[str, str] = field(default_factory=dict)
    """Git directory -> the `.git` of the checkout that it belongs to."""
    _notify: RustNotify | None = None
    _stopped: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Raises Unavailable when the kernel gives no more watches."""
        self._add([self.root])
        self._renew()

    def stop(self) -> None:
        self._stopped.set()

    def close(self) -> None:
        if self._notify is not None:
            self._notify.close()

    def next(self) -> Changes | None:
        """The next changes; none after a while without; None after `stop`."""
        from watchfiles._rust_notify import WatchfilesRustInternalError

        assert self._notify is not None
        try:
            found = self._notify.watch(DEBOUNCE_MS, STEP_MS, WAIT_MS, self._stopped)
        except WatchfilesRustInternalError:
            # A name that is not UTF-8, or the kernel's queue ran over.
            self._renew()
            return Changes([], is_overflow=True)
        if isinstance(found, str):
            return None if found == "stop" else self._told(set())
        return self._told(found)

    def _told(self, found: set[tuple[int, str]]) -> Changes:
        if not os.path.isdir(self.root):
            return Changes([], is_root_gone=True)
        seen = {(kind, shown) for kind, path in found if (shown := self._shown(path)) is not None}
        for kind, path in seen:
            if kind == DELETED:
                self._forget(path)
        if appeared := [path for kind, path in seen if kind == ADDED and self._is_new_directory(path)]:
            seen |= {(ADDED, path) for path in self._add(appeared)}
            self._renew()
        if len(seen) > self.max_changes:
            return Changes([], is_overflow=True)
        return Changes(sorted(self._change(kind, path) for kind, path in seen))

    def _shown(self, path: str) -> str | None:
        """The path to tell of; None when nobody wants to know."""
        parent, name = os.path.split(path)
        if (mark := self._git.get(parent)) is not None:
            return mark if name in GIT_STATE else None
        return None if self.workspace.is_private(path) else path

    def _is_new_directory(self, path: str) -> bool:
        """Also true of a `.git`: its directory is looked at again, and is a checkout now."""
        name = os.path.basename(path)
        if path in self.directories or (name in IGNORED and name != GIT):
            return False
        return name == GIT or (os.path.isdir(path) and not os.path.islink(path))

    def _add(self, roots: Iterable[str]) -> list[str]:
        """Watch these and all below; what is in them already."""
        inside: list[str] = []
        for root in roots:
            if os.path.basename(root) == GIT:
                self._note_checkout(os.path.dirname(root))
                continue
            for directory in self.walk_from(root):
                if len(self.directories) >= self.max_directories:
                    self.is_partial = True
                    return inside
                self.directories.add(directory.path)
                self._note_checkout(directory.path)
                names = (directory.folders, directory.files, directory.links)
                inside += [f"{directory.path}/{name}" for group in names for name in group]
        return inside

    def _note_checkout(self, path: str) -> None:
        if (git := git_directory(self.workspace, path)) is not None:
            self._git[git] = f"{path}/{GIT}"

    def _forget(self, path: str) -> None:
        if path in self.directories:
            gone = {known for known in self.directories if known == path or known.startswith(path + "/")}
            self.directories -= gone
            self._git = {git: mark for git, mark in self._git.items() if os.path.dirname(mark) not in gone}

    def _renew(self) -> None:
        """Watch what stands in `directories` now. The old watch ends when the new one has begun."""
        from watchfiles._rust_notify import RustNotify, WatchfilesRustInternalError

        old = self._notify
        for _ in range(RETRIES):
            self.directories = {path for path in self.directories if os.path.isdir(path)}
            self._git = {git: mark for git, mark in self._git.items() if os.path.isdir(git)}
            try:
                self._notify = RustNotify([*self.directories, *self._git], False, False, 0, False, True)
                break
            except FileNotFoundError:
                continue  # One of them went away just now.
            except (OSError, WatchfilesRustInternalError) as exc:
                raise Unavailable("the system gives no more watches; close some") from exc
        else:
            raise Unavailable("directories come and go too fast to be watched; try again")
        if old is not None:
            old.close()

    def _change(self, kind: int, path: str) -> Change:
        relative = self.workspace.relative(path)
        uri = UNSET if is_text(relative) else file_uri(path)
        return Change(displayed(relative), KINDS[kind], uri)


class Watches:
    """Hands out watches, each with its thread, up to `MAX_WATCHES` at the same time."""

    def __init__(self) -> None:
        self._threads = Disk(MAX_WATCHES, "watch")
        self._open: set[TreeWatch] = set()

    async def begin(self, watch: TreeWatch) -> None:
        """From here on nothing is missed. Call `end` afterwards, also when this fails."""
        if len(self._open) >= MAX_WATCHES:
            raise LimitReached("too many directories are watched; close some", code="too_many_watches")
        self._open.add(watch)
        await self._threads.run(watch.start)

    async def follow(self, watch: TreeWatch) -> AsyncGenerator[Changes, None]:
        """What happens, until the root is gone, `end`, or `stop`; empty changes as a sign of life."""
        while (changes := await self._threads.run(watch.next)) is not None:
            yield changes
            if changes.is_root_gone:
                return

    async def end(self, watch: TreeWatch) -> None:
        if watch in self._open:
            watch.stop()
            await self._threads.run(watch.close)
            self._open.discard(watch)

    def stop(self) -> None:
        """End every `follow` within a moment."""
        for watch in self._open:
            watch.stop()

    def close(self) -> None:
        self.stop()
        self._threads.close()
