"""What stands in the git directory of a session's worktree: whose it is, and whether it is whole."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec
import pygit2

from agentsrv.workspace.git.repositories import read_pointer

OWNER = "agentsrv"
"""In a worktree's git directory: whose it is. Git leaves it alone."""
LOCKED = "locked"
"""Git's own: such a worktree is not to be pruned or removed."""
UNFINISHED = "initializing"
"""What git, too, locks a worktree with that it is making."""

HEADS = "refs/heads/"
MAX_OWNER_BYTES = 1024


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """`is_own`: the branch was made for the session, and goes with it."""

    session: str
    branch: str
    is_own: bool = True


def branches_of(name: str) -> tuple[str, str]:
    """What the branch of the worktree `name` may be called: two worktrees of a repository never share one.

    Where somebody has a branch `session`, none can be below it.
    """
    return f"session/{name}", f"session-{name}"


def ref_safe(session_id: str) -> str:
    """The id as part of a branch's name, where no two dots, dot or `.lock` at the end may be."""
    return re.sub(r"\.(?=\.|$|lock$)", "_", session_id)


def owner_of(git_dir: Path) -> Owner | None:
    """None for a worktree that was not made here, or where somebody has changed what stands there.

    An agent may write to it: so it serves to find what an attempt has left, as far as the worktree's name says the
    same. Which branch goes with a worktree that was used says the database.
    """
    try:
        owner = msgspec.json.decode(read_pointer(git_dir / OWNER, MAX_OWNER_BYTES), type=Owner)
        is_possible = pygit2.reference_is_valid_name(HEADS + owner.branch)
    except (OSError, ValueError, RecursionError):
        return None
    start = ref_safe(owner.session)
    is_of_session = re.fullmatch(re.escape(start) + r"(-\d+)?", git_dir.name) is not None
    is_known = owner.branch in branches_of(git_dir.name) or not owner.is_own
    return owner if is_possible and is_of_session and is_known else None


def is_unfinished(git_dir: Path) -> bool:
    try:
        return read_pointer(git_dir / LOCKED) == UNFINISHED
    except (OSError, ValueError):
        return False


def head_text(git_dir: Path) -> str:
    try:
        return read_pointer(git_dir / "HEAD")
    except (OSError, ValueError):
        return ""


def directories_in(path: Path) -> list[Path]:
    """Links left out; none when it cannot be read."""
    try:
        with os.scandir(path) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
