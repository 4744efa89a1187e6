"""What would be lost with a worktree and its branch, in words for people. Runs in a git worker."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path

import pygit2
from pygit2.enums import FileStatus, RepositoryState

from agentsrv.errors import Conflict, Problem
from agentsrv.workspace.git.attributes import is_set
from agentsrv.workspace.git.diff.changes import git_mode, missing_by_case
from agentsrv.workspace.git.diff.contents import (
    GITLINK,
    Contents,
    TooLarge,
    Unreadable,
    Version,
    git_hash,
)
from agentsrv.workspace.git.repositories import reading
from agentsrv.workspace.git.untracked import Untracked, index_size, is_skipped
from agentsrv.workspace.paths import displayed

KEPT = (b"refs/heads/", b"refs/remotes/", b"refs/tags/")
"""References that keep a commit."""

MAX_COMMITS = 1_000
MAX_NAMED = 3
MAX_NEW = 1_000
STATUS_SECONDS = 6.0


def changes_in(worktree: pygit2.Repository, *, with_ignored: bool = False) -> list[str]:
    """What is not committed. Raises Unprocessable."""
    deadline = time.monotonic() + STATUS_SECONDS
    with reading(Path(worktree.path)), closing(Contents(worktree)) as contents:
        changed = sorted(_changed(worktree, contents))
        untracked = Untracked(worktree, contents.tree, deadline)
        new = [os.fsdecode(path) for path in islice(untracked.paths(with_ignored=with_ignored), MAX_NEW)]
        is_busy = worktree.state() != RepositoryState.NONE
    losses = [f"{len(changed)} changed: {_some(changed)}"] if changed else []
    losses += [f"{len(new)} untracked: {_some(sorted(new))}"] if new else []
    losses += ["it is too large to be looked through"] if untracked.is_truncated else []
    return losses + (["a merge, rebase or the like is not finished"] if is_busy else [])


def _changed(worktree: pygit2.Repository, contents: Contents) -> Iterator[str]:
    """What git tracks and has changed, in the index or on disk: libgit2 finds it, and here what git sees otherwise is
    judged anew.
    """
    for path, status in worktree.status(untracked_files="no").items():
        is_left_out = status == FileStatus.WT_DELETED and is_skipped(worktree, os.fsencode(path))
        is_touched = status == FileStatus.WT_MODIFIED and _is_as_in_index(worktree, path, contents)
        if not (is_left_out or is_touched):
            yield path
    yield from (os.fsdecode(version.path) for version in missing_by_case(worktree, contents.tree))


def _is_as_in_index(worktree: pygit2.Repository, path: str, contents: Contents) -> bool:
    """Is a touched file as it was? libgit2 knows nothing of Git LFS, and few encodings."""
    entry, mode = worktree.index[path], contents.tree.mode(os.fsencode(path)) or 0
    is_executable_told = is_set(worktree, "core.filemode", default=True)
    if entry.mode == GITLINK or git_mode(mode, is_executable_told=is_executable_told) != entry.mode:
        return False
    on_disk = Version(os.fsencode(path), int(entry.mode))
    with suppress(Unreadable, TooLarge):
        # Git itself takes another size for a change; what git-lfs has put there it knows by its size.
        is_looked_into = contents.is_lfs(on_disk) or contents.size(on_disk) == index_size(
            worktree, on_disk.path
        )
        return is_looked_into and git_hash(contents.read(on_disk)) == entry.id.raw
    return False


def commits_only_on(repo: pygit2.Repository, tips: list[str]) -> list[str]:
    """Commits that no branch, tag or remote but `tips` (references or ids) has."""
    walker = repo.walk(None)
    for tip in tips:
        reference = repo.references.get(tip) if tip.startswith("refs/") else None
        if reference is not None:
            walker.push(reference.peel(pygit2.Commit).id)
        elif not tip.startswith("refs/"):
            walker.push(tip)
    for name in repo.raw_listall_references():
        if name.startswith(KEPT) and os.fsdecode(name) not in tips:
            with suppress(pygit2.GitError, KeyError, ValueError, OSError):  # Points to a file, or to nothing.
                walker.hide(repo.lookup_reference(os.fsdecode(name)).peel(pygit2.Commit).id)
    if repo.head_is_detached:
        walker.hide(repo.head.target)
    number = sum(1 for _ in islice(walker, MAX_COMMITS))
    return [f"commits on no other branch: {number}"] if number else []


def has_changes(path: Path, losses: list[str]) -> Conflict:
    return Conflict(
        f"the worktree {displayed(str(path))} has what would be lost with it ({'; '.join(losses)}); "
        "commit it and merge the branch, or use force=true",
        code="worktree_has_changes",
        problems=[Problem("worktree", loss) for loss in losses],
    )


def _some(paths: list[str]) -> str:
    return ", ".join(map(displayed, paths[:MAX_NAMED])) + (", ..." if len(paths) > MAX_NAMED else "")
