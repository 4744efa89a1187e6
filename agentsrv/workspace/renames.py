"""Renaming as Linux can and Python cannot: without replacing anything, and by exchange.

Both are atomic. A file system without them (`is_unsupported`) has neither.
"""

from __future__ import annotations

import errno
import os

from agentsrv.linux import failure, libc

NOREPLACE = 1
EXCHANGE = 2


def rename_new(source: str, target: str, *, source_dir: int | None = None, target_dir: int) -> None:
    """Rename, unless there is something already: FileExistsError."""
    try:
        _renameat2(source, target, source_dir, target_dir, NOREPLACE)
    except OSError as exc:
        if not is_unsupported(exc):
            raise
        # Not atomic, which is the best that is left.
        if _exists(target, target_dir):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target) from None
        os.rename(source, target, src_dir_fd=source_dir, dst_dir_fd=target_dir)


def exchange(source: str, target: str, *, source_dir: int | None = None, target_dir: int) -> None:
    """Each takes the other's name. Raises OSError, see `is_unsupported`."""
    _renameat2(source, target, source_dir, target_dir, EXCHANGE)


def is_unsupported(error: OSError) -> bool:
    return error.errno in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def _renameat2(source: str, target: str, source_dir: int | None, target_dir: int, flags: int) -> None:
    here = -100  # AT_FDCWD
    names = os.fsencode(source), os.fsencode(target)
    if libc.renameat2(here if source_dir is None else source_dir, names[0], target_dir, names[1], flags):
        raise failure(target)


def _exists(name: str, directory: int) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
