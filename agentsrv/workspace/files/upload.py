"""Files on their way into the workspace: staged out of sight, then put in place, all of them or none.

A delivery's files are written into a directory of its own below the state directory, where nobody else looks
and which the next start sweeps. Putting them in place is one rename each (a copy first, where the target is
another file system). What they replace is exchanged, not overwritten: so a failure can be taken back, and a
file that somebody changed in the meantime is noticed.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from secrets import token_hex

from msgspec import Struct, field

from agentsrv.errors import (
    AgentsrvError,
    Conflict,
    InvalidInput,
    LimitReached,
    PreconditionFailed,
    Problem,
    StorageFull,
    TooLarge,
)
from agentsrv.owned import Room
from agentsrv.threads import Pool
from agentsrv.workspace import renames
from agentsrv.workspace.explain import explained
from agentsrv.workspace.files.entries import FileFacts, remove_empty
from agentsrv.workspace.paths import MAX_PATH_BYTES, UTF8, Workspace, displayed

MAX_FILES = 500

MAX_DELIVERIES = 24
"""At the same time; more are refused, so that memory has a bound."""

BLOCK_BYTES = 1 << 19
"""What a delivery holds in memory: written at once, for fewer hand-overs to a thread."""

MAX_NAME_BYTES = 255


STAGED_NAME = re.compile("[0-9a-f]{16}")
"""Of a delivery, and of each file in it."""


class Staged(Struct, frozen=True):
    """A whole file that waits to be put in place."""

    path: str
    size: int


class Condition(Struct, frozen=True):
    """What must be so for a file to be written: its tag is one of `tags`, or (`is_new`) nothing is there."""

    tags: frozenset[str] | None = None
    is_new: bool = False

    def check(self, relative: str, current: os.stat_result | None) -> None:
        """Raises PreconditionFailed."""
        if self.is_new and current is not None:
            raise PreconditionFailed(f"{relative} exists already")
        if self.tags is None:
            return
        if current is None:
            raise PreconditionFailed(f"{relative} does not exist any more")
        if "*" not in self.tags and FileFacts.of(relative, current).etag not in self.tags:
            raise PreconditionFailed(f"{relative} has changed; read it again")


ALWAYS = Condition()


class Written(Struct, frozen=True):
    """A file that was put in place, as it is there."""

    facts: FileFacts
    is_new: bool


class Uploaded(Struct, frozen=True):
    """The directory as it is in the workspace, what was put below it, and how much was there already."""

    path: str
    files: list[FileFacts]
    skipped: int


class _Source(Struct, frozen=True):
    """A file to be renamed: a path below the delivery's directory, or a name in the open `directory`."""

    path: str
    directory: int | None = None

    def stat(self) -> os.stat_result:
        return os.stat(self.path, dir_fd=self.directory, follow_symlinks=False)

    def prepare(self, replaced: os.stat_result) -> None:
        """Give it the permissions of what it replaces, and bring it to the disk.

        A power cut must not leave neither the old content nor the new.
        """
        descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self.directory)
        try:
            if stat.S_ISREG(replaced.st_mode):
                os.fchmod(descriptor, stat.S_IMODE(replaced.st_mode) & 0o777)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class _Placed(Struct, frozen=True):
    """A file that was put in place. `replaced`: where the one that was there before is now.

    `is_beside`: that is a name in the same directory.
    """

    path: str
    replaced: str | None = None
    is_beside: bool = False


class Delivery(Struct):
    """The files of one request; `max_bytes` is for all of them together."""

    directory: str
    room: Room
    disk: Pool
    workspace: Workspace
    max_bytes: int
    received: int = 0
    staged: list[Staged] = field(default_factory=list)
    """What was added, in order."""
    _placed: list[_Placed] = field(default_factory=list)
    _made: list[str] = field(default_factory=list)
    _strays: list[tuple[str, str]] = field(default_factory=list)
    """Copies outside of `directory`: where, and the name."""

    async def add(self, chunks: AsyncIterator[bytes]) -> Staged:
        """Write one file as its bytes come. Raises TooLarge, StorageFull."""
        path = f"{self.directory}/{token_hex(8)}"
        before = self.received
        descriptor: int | None = None
        try:
            async for block in in_blocks(chunks):
                self.received += len(block)
                if self.received > self.max_bytes:
                    raise TooLarge(f"this is more than {self.max_bytes} bytes; send less at once")
                # Not around the loop: an OSError of the network is another matter.
                with explained("the upload"):
                    if descriptor is None:
                        descriptor = await self.disk.run(create, path, block)
                    else:
                        await self.disk.run(write_all, descriptor, block)
        finally:
            if descriptor is not None:
                os.close(descriptor)
        staged = Staged(path, self.received - before)
        self.staged.append(staged)
        return staged

    def place_all(self, target: str, names: Sequence[str], *, overwrite: bool) -> Uploaded:
        """Put each file at its name (a relative path) below the directory `target`. Blocking.

        The names are `upload_paths`. Without `overwrite` a file that is there stays and is counted as skipped.
        """
        directory = self.workspace.resolve(target, field="targetPath")
        condition = ALWAYS if overwrite else Condition(is_new=True)
        files: list[FileFacts] = []
        skipped = 0
        for staged, name in zip(self.staged, names, strict=True):
            path = self.workspace.resolve_inside(os.path.join(directory, name), field="relativePaths")
            try:
                files.append(self.place(staged, path, condition).facts)
            except PreconditionFailed:
                if overwrite:
                    raise
                skipped += 1
        return Uploaded(self.workspace.relative(directory), files, skipped)

    def place(self, staged: Staged, path: str, condition: Condition = ALWAYS) -> Written:
        """Put a file at a resolved path, in place of a file or link that is there. Blocking.

        Raises PreconditionFailed, Conflict (something else is there), Forbidden.
        """
        parent, name = os.path.split(path)
        relative = self.workspace.relative(path)
        self.workspace.require_writable(path)
        with self.workspace.make_directories(parent, self._made) as directory, explained(relative):
            current = _current(name, directory, relative)
            condition.check(relative, current)
            try:
                self._put(_Source(staged.path), directory, path, current)
            except OSError as exc:
                if exc.errno != errno.EXDEV:
                    raise
                self._put(self._copy_beside(staged.path, directory, parent), directory, path, current)
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            return Written(FileFacts.of(relative, found), is_new=current is None)

    def take_back(self) -> None:
        """Undo every `place`, the last one first. Blocking."""
        for placed in reversed(self._placed):
            parent, name = os.path.split(placed.path)
            with suppress(OSError, AgentsrvError), self.workspace.open_directory(parent) as directory:
                if placed.replaced is None:
                    os.unlink(name, dir_fd=directory)
                else:
                    beside = directory if placed.is_beside else None
                    renames.exchange(placed.replaced, name, source_dir=beside, target_dir=directory)
        remove_empty(self.workspace, self._made)

    def clean_up(self) -> None:
        """Remove what is staged and what was replaced. Blocking."""
        self.room.remove(os.path.basename(self.directory))
        for parent, name in self._strays:
            with suppress(OSError, AgentsrvError), self.workspace.open_directory(parent) as directory:
                os.unlink(name, dir_fd=directory)

    def _put(self, source: _Source, directory: int, path: str, current: os.stat_result | None) -> None:
        name = os.path.basename(path)
        if current is None:
            renames.rename_new(source.path, name, source_dir=source.directory, target_dir=directory)
            self._placed.append(_Placed(path))
            return
        source.prepare(current)
        try:
            renames.exchange(source.path, name, source_dir=source.directory, target_dir=directory)
        except OSError as exc:
            if not renames.is_unsupported(exc):
                raise
            # Nothing to go back to then: it stays replaced when a later one fails.
            os.rename(source.path, name, src_dir_fd=source.directory, dst_dir_fd=directory)
            return
        self._placed.append(_Placed(path, source.path, is_beside=source.directory is not None))
        replaced = source.stat()
        if (replaced.st_ino, replaced.st_mtime_ns) != (current.st_ino, current.st_mtime_ns):
            raise PreconditionFailed(f"{self.workspace.relative(path)} was changed just now; read it again")

    def _copy_beside(self, staged: str, directory: int, parent: str) -> _Source:
        """For a target on another file system than the stage: a rename cannot cross over."""
        name = f".agentsrv-{token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with (
            open(staged, "rb") as source,
            os.fdopen(os.open(name, flags, 0o666, dir_fd=directory), "wb") as copy,
        ):
            self._strays.append((parent, name))
            shutil.copyfileobj(source, copy, BLOCK_BYTES)
        return _Source(name, directory)


class Uploads:
    """Hands out deliveries. `directory` is the server's own; `prepare` makes it and empties it."""

    def __init__(self, directory: Path, workspace: Workspace, disk: Pool, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._room = Room(directory, STAGED_NAME, STAGED_NAME, user=workspace.user)
        self._workspace = workspace
        self._disk = disk
        self._running = 0

    def prepare(self) -> None:
        """Remove what an earlier server left behind. Blocking."""
        self._room.prepare()
        for delivery in self._room.members():
            self._room.remove(delivery.name)

    def check_target(self, text: str, condition: Condition) -> str:
        """The resolved path of a file to be written: may it be? Asked before its content is taken in."""
        path = self._workspace.resolve(text)
        self._workspace.require_writable(path)
        relative = self._workspace.relative(path)
        if not relative:
            raise InvalidInput("path: this is the workspace itself", code="not_a_file")
        with explained(relative):
            try:
                current = os.lstat(path)
            except FileNotFoundError:
                current = None
        if current is not None and not stat.S_ISREG(current.st_mode):
            raise InvalidInput(f"path: {relative} is not a file", code="not_a_file")
        condition.check(relative, current)
        return path

    @asynccontextmanager
    async def delivery(self, expected_bytes: int = 0) -> AsyncIterator[Delivery]:
        """All that was put in place is taken back when the block fails. Raises LimitReached, StorageFull."""
        if expected_bytes > self.max_bytes:
            raise TooLarge(f"this is more than {self.max_bytes} bytes; send less at once")
        if self._running >= MAX_DELIVERIES:
            raise LimitReached("too many uploads at once; wait for some to end", code="too_many_uploads")
        self._running += 1
        delivery = Delivery("", self._room, self._disk, self._workspace, self.max_bytes)
        try:
            with explained("the upload"):
                delivery.directory = await self._disk.run(self._stage, expected_bytes)
            yield delivery
        except BaseException:
            await self._disk.run_anyway(delivery.take_back)
            raise
        finally:
            self._running -= 1
            await self._disk.run_anyway(delivery.clean_up)

    def _stage(self, expected_bytes: int) -> str:
        path = self._room.path / token_hex(8)
        path.mkdir(mode=0o700)
        found = os.statvfs(path)
        if found.f_bavail * found.f_frsize < expected_bytes:
            path.rmdir()
            raise StorageFull("there is not that much room on the disk")
        return str(path)


def upload_paths(names: Sequence[str], field: str) -> list[str]:
    """Relative paths for files, in the normal form. Raises InvalidInput with all that cannot be used."""
    paths = [_normal(name) for name in names]
    problems = [
        Problem(f"{field}.{index}", "must be a relative path of usable names, without ..")
        for index, path in enumerate(paths)
        if path is None
    ]
    problems += [
        Problem(field, f"{displayed(path)} is there {count} times")
        for path, count in Counter(path for path in paths if path is not None).items()
        if count > 1
    ]
    if problems:
        raise InvalidInput(f"{problems[0].path}: {problems[0].message}", problems=problems)
    return [path for path in paths if path is not None]


def _normal(name: str) -> str | None:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    is_usable = (
        bool(parts)
        and not name.startswith("/")
        and not name.endswith("/")
        and ".." not in parts
        and "\0" not in name
        and len(name.encode(*UTF8)) <= MAX_PATH_BYTES
        and all(len(part.encode(*UTF8)) <= MAX_NAME_BYTES for part in parts)
    )
    return "/".join(parts) if is_usable else None


def _current(name: str, directory: int, relative: str) -> os.stat_result | None:
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)):
        raise Conflict(f"{relative} exists and is not a file", code="exists")
    return found


async def in_blocks(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytearray]:
    """The same bytes in larger pieces; of nothing, one empty piece."""
    block = bytearray()
    async for chunk in chunks:
        if len(block) >= BLOCK_BYTES:
            yield block
            block = bytearray()
        block += chunk
    yield block


def create(path: str, data: bytearray) -> int:
    """Make a file that begins with `data`; its descriptor."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    try:
        write_all(descriptor, data)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def write_all(descriptor: int, data: bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
