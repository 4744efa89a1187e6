"""Single files and directories: read, make, move, remove. Blocking functions, for threads."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Generator
from contextlib import suppress
from typing import Self

from msgspec import Struct

from agentsrv.errors import AgentsrvError, Conflict, InvalidInput
from agentsrv.workspace import renames
from agentsrv.workspace.explain import explained
from agentsrv.workspace.mounts import mounts_below
from agentsrv.workspace.paths import Workspace
from agentsrv.workspace.removal import remove_tree

CLOCK_TICK_S = 0.02
"""A file's times come from a clock that ticks every 1 to 10 ms: two changes within a tick look like one."""


class FileFacts(Struct, frozen=True):
    """What a file is now. `etag` is another one after every change."""

    path: str
    """From the workspace on."""
    size: int
    modified_ns: int
    etag: str

    @classmethod
    def of(cls, path: str, found: os.stat_result) -> Self:
        parts = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        return cls(
            path, found.st_size, found.st_mtime_ns, '"' + "-".join(f"{part:x}" for part in parts) + '"'
        )


class OpenFile(Struct, frozen=True):
    """A file that is being read. Close it."""

    descriptor: int
    name: str
    facts: FileFacts

    def read(self, start: int, size: int) -> bytes:
        return os.pread(self.descriptor, size, start)

    def close(self) -> None:
        os.close(self.descriptor)


def open_file(workspace: Workspace, text: str) -> OpenFile:
    """Raises NotFound, InvalidInput (`not_a_file`), Forbidden."""
    path = workspace.resolve(text)
    descriptor = workspace.open_file(path)
    found = os.fstat(descriptor)
    age_s = time.time() - found.st_ctime
    if 0 <= age_s < CLOCK_TICK_S:
        # A change in this very tick would leave the tag as it is. Let the clock go on first.
        time.sleep(CLOCK_TICK_S - age_s)
        found = os.fstat(descriptor)
    return OpenFile(descriptor, os.path.basename(path), FileFacts.of(workspace.relative(path), found))


def make_directory(workspace: Workspace, text: str, *, parents: bool) -> str:
    """Its path in the workspace. Raises Conflict (`exists`), NotFound for a parent, unless `parents`."""
    if parents:
        return _make_with_parents(workspace, text)
    with workspace.open_place(text) as place, explained(workspace.relative(place.path)):
        os.mkdir(place.name, dir_fd=place.directory)
    return workspace.relative(place.path)


def _make_with_parents(workspace: Workspace, text: str) -> str:
    path, made = workspace.resolve(text), list[str]()
    try:
        with workspace.make_directories(path, made):
            pass
    except BaseException:
        remove_empty(workspace, made)
        raise
    if path not in made:
        raise Conflict(f"{workspace.relative(path) or 'the workspace'} exists already", code="exists")
    return workspace.relative(path)


def remove_empty(workspace: Workspace, made: list[str]) -> None:
    """Take back directories that were just made, innermost first. What is in use meanwhile stays."""
    for path in reversed(made):
        parent, name = os.path.split(path)
        with suppress(OSError, AgentsrvError), workspace.open_directory(parent) as directory:
            os.rmdir(name, dir_fd=directory)


def delete(workspace: Workspace, text: str, *, recursive: bool) -> Generator[str, None, None]:
    """Remove a file, a link (not what it leads to) or a directory; a full one only when `recursive`, in steps.

    Each step gives the path that it had, the first one when it is gone from there. Raises NotFound, Conflict
    (`not_empty`; `in_use` where another file system is mounted below), Forbidden.
    """
    with workspace.open_place(text) as place:
        relative = workspace.relative(place.path)
        workspace.require_removable(place.path)
        with explained(relative):
            found = os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode):
                os.unlink(place.name, dir_fd=place.directory)
            elif recursive:
                if mounts_below(place.path):
                    raise Conflict(f"another file system is mounted below {relative}", code="in_use")
                for _ in remove_tree(place.name, place.directory):
                    yield relative
            else:
                os.rmdir(place.name, dir_fd=place.directory)
    yield relative


def move(workspace: Workspace, source: str, target: str, *, overwrite: bool) -> tuple[str, str]:
    """Give a file, link or directory another path; both paths, from the workspace on.

    `target` is the new path itself, not a directory to put it into. A file or an empty directory there is
    replaced when `overwrite`, else it is a Conflict (`exists`).
    """
    with (
        workspace.open_place(source, field="from") as old,
        workspace.open_place(target, field="to") as new,
    ):
        workspace.require_removable(old.path)
        workspace.require_removable(new.path)
        if new.path.startswith(old.path + "/"):
            raise InvalidInput("to: lies in what is moved")
        with explained(workspace.relative(old.path), "from"):
            os.stat(old.name, dir_fd=old.directory, follow_symlinks=False)
        with explained(workspace.relative(new.path), "to"):
            if overwrite:
                os.rename(old.name, new.name, src_dir_fd=old.directory, dst_dir_fd=new.directory)
            else:
                renames.rename_new(old.name, new.name, source_dir=old.directory, target_dir=new.directory)
    return workspace.relative(old.path), workspace.relative(new.path)
