"""Removing whole trees: of any depth, over no link, into no other file system, and a little at a time.

First the tree is renamed into a directory of ours beside it: to everybody else it is gone at once and as a whole.
There it is made flat: a directory that is found in another one is renamed to the top, so none is ever entered by a
path, and no depth is a problem. What another file system is mounted on cannot be renamed, and so is never touched.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import stat
from collections.abc import Generator, Iterator
from contextlib import suppress
from secrets import token_hex

PREFIX = ".agentsrv-removed-"
"""Of the name of the directory in which something is being removed."""

ENTRIES_AT_ONCE = 500


def remove_tree(name: str, directory: int) -> Generator[bool, None, None]:
    """Remove the directory `name` in the open `directory`, a part with each step.

    What may not be removed, and what is above it, is left in the directory of ours. Raises OSError: at the first
    step when nothing was touched (ENOENT, ENOTDIR, EACCES, EBUSY), later with what is left.
    """
    aside = PREFIX + token_hex(8)
    os.mkdir(aside, 0o700, dir_fd=directory)
    top = os.open(aside, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    try:
        try:
            _rename(name, directory, "0", top)
        except OSError as exc:
            os.rmdir(aside, dir_fd=directory)
            if exc.errno != errno.EXDEV:
                raise
            # Landlock before Linux 5.19 lets nothing move from one directory to another.
            shutil.rmtree(name, dir_fd=directory)
            return
        yield True
        yield from _flatten(top)
        os.rmdir(aside, dir_fd=directory)
    finally:
        os.close(top)


def _flatten(top: int) -> Generator[bool, None, None]:
    """Remove "0" and all that comes up out of it; at the end raise what the last failure was."""
    pending, trouble = ["0"], None
    names = map(str, itertools.count(1))
    while pending:
        name = pending.pop()
        try:
            if _empty(name, top, names, pending):
                os.rmdir(name, dir_fd=top)
            else:
                pending.append(name)
        except NotADirectoryError:
            os.unlink(name, dir_fd=top)  # It has been put in the place of a directory just now.
        except OSError as exc:
            trouble = exc
        yield True
    if trouble is not None:
        raise trouble


def _empty(name: str, top: int, names: Iterator[str], pending: list[str]) -> bool:
    """Take things out of a directory, those in it to the top; is it empty now?"""
    directory = _open(name, top)
    try:
        with os.scandir(directory) as entries:
            for entry in itertools.islice(entries, ENTRIES_AT_ONCE):
                if entry.is_dir(follow_symlinks=False):
                    _rename(entry.name, directory, new := next(names), top)
                    pending.append(new)
                else:
                    os.unlink(entry.name, dir_fd=directory)
            return next(entries, None) is None
    finally:
        os.close(directory)


def _open(name: str, top: int) -> int:
    """Also what its owner has taken the right to read or write from: programs like to do that to what they fill."""
    _permit(name, top)
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)


def _rename(name: str, directory: int, new: str, top: int) -> None:
    try:
        os.rename(name, new, src_dir_fd=directory, dst_dir_fd=top)
    except PermissionError:
        # A directory's own `..` changes, which takes the right to write to it.
        _permit(name, directory)
        os.rename(name, new, src_dir_fd=directory, dst_dir_fd=top)


def _permit(name: str, directory: int) -> None:
    handle = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=directory)
    try:
        found = os.fstat(handle)
        if not stat.S_ISDIR(found.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)
        if found.st_mode & stat.S_IRWXU != stat.S_IRWXU:
            with suppress(PermissionError):  # Of somebody else.
                os.chmod(f"/proc/self/fd/{handle}", stat.S_IRWXU)
    finally:
        os.close(handle)
