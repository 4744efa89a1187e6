"""What would be lost with a worktree and its branch, in words for people. Runs in a git worker."""

from __future__ import annotations

import os
import time
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path

import pygit2
from pygit2.enums import RepositoryState

from agentsrv.errors import Conflict, Problem
from agentsrv.workspace.git.diff.contents import WorkingTree
from agentsrv.workspace.git.repositories import reading
from agentsrv.workspace.git.untracked import Untracked
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
    with reading(Path(worktree.path)), closing(WorkingTree(worktree.workdir)) as tree:
        changed = sorted(worktree.status(untracked_files="no"))
        untracked = Untracked(worktree, tree, deadline)
        new = [os.fsdecode(path) for path in islice(untracked.paths(with_ignored=with_ignored), MAX_NEW)]
        is_busy = worktree.state() != RepositoryState.NONE
    losses = [f"{len(changed)} changed: {_some(changed)}"] if changed else []
    losses += [f"{len(new)} untracked: {_some(sorted(new))}"] if new else []
    losses += ["it is too large to be looked through"] if untracked.is_truncated else []
    return losses + (["a merge, rebase or the like is not finished"] if is_busy else [])


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
