"""What `.git` entries on disk tell about a directory. Nothing is opened as a repository, nothing is run."""

from __future__ import annotations

import os
import stat

from msgspec import Struct

from agentsrv.errors import AgentsrvError
from agentsrv.workspace.paths import Workspace

POINTER = b"gitdir: "
MAX_POINTER_BYTES = 4200


class Checkout(Struct, frozen=True):
    """A directory with a working tree. `is_worktree`: linked to a repository elsewhere (not a submodule)."""

    path: str
    is_worktree: bool


def is_checkout(path: str, directory: int | None = None) -> bool:
    """Is a `.git` in there that git would take: a directory with a HEAD, or a file that points to one?"""
    # Nearly always there is none, and this says so without an exception.
    if not os.access(f"{path}/.git", os.F_OK, dir_fd=directory):
        return False
    try:
        found = os.stat(f"{path}/.git", dir_fd=directory)
        if stat.S_ISDIR(found.st_mode):
            os.stat(f"{path}/.git/HEAD", dir_fd=directory, follow_symlinks=False)
            return True
        return stat.S_ISREG(found.st_mode) and _pointer(f"{path}/.git", directory) is not None
    except OSError:
        return False


def checkout_around(workspace: Workspace, path: str) -> Checkout | None:
    """The checkout that `path` is or lies in, looking up to the workspace's base."""
    base = str(workspace.base)
    while True:
        if is_checkout(path):
            pointer = _pointer(f"{path}/.git", None)
            # A submodule's points into `modules/`, a worktree's into `worktrees/`.
            is_worktree = pointer is not None and os.path.basename(os.path.dirname(pointer)) == "worktrees"
            return Checkout(path, is_worktree)
        if path == base:
            return None
        path = os.path.dirname(path)


def shown(workspace: Workspace, checkout: Checkout | None) -> str | None:
    """The root as clients see it: from the workspace on, `/` for the workspace itself."""
    return None if checkout is None else workspace.relative(checkout.path) or "/"


def git_directory(workspace: Workspace, path: str) -> str | None:
    """Where the checkout at `path` has its HEAD and index; None when that is none, or not in the workspace."""
    if not is_checkout(path):
        return None
    pointer = _pointer(f"{path}/.git", None)
    try:
        return workspace.resolve_inside(os.path.join(path, pointer or ".git"))
    except AgentsrvError:
        return None


def _pointer(path: str, directory: int | None) -> str | None:
    """Where a `.git` file points; None when it is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK, dir_fd=directory)
    except OSError:
        return None
    try:
        content = os.read(descriptor, MAX_POINTER_BYTES)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    if not content.startswith(POINTER):
        return None
    return os.fsdecode(content.removeprefix(POINTER).rstrip(b"\r\n"))
