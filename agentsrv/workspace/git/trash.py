"""Where removed worktrees are for some days: nobody loses work because a client was wrong. Runs in a git worker.

A worktree's files stay beside the others, as `<base>/.worktrees/<repository>/.trash-<seconds since 1970>-<name>`, and
the commit that its branch had is kept by a reference below `refs/agentsrv/removed/` in the repository.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

import pygit2

from agentsrv.workspace import renames
from agentsrv.workspace.removal import PREFIX, remove_tree

TRASH = ".trash-"
KEPT_S = 7 * 24 * 3600
REFERENCES = "refs/agentsrv/removed/"
PURGE_SECONDS = 5.0


def put_away(name: str, shelf: int) -> None:
    """Move the worktree `name` in the open directory `shelf` out of sight. Raises OSError."""
    for number in range(100):
        suffix = f"-{number}" if number else ""
        with suppress(FileExistsError):
            renames.rename_new(
                name, f"{TRASH}{int(time.time())}-{name}{suffix}", source_dir=shelf, target_dir=shelf
            )
            return


def keep_commit(repo: pygit2.Repository, branch: str, name: str) -> None:
    """Let nothing collect the commit of a branch that is about to go."""
    with suppress(KeyError, ValueError, OSError, pygit2.GitError):
        commit = repo.references[f"refs/heads/{branch}"].peel(pygit2.Commit).id
        repo.references.create(f"{REFERENCES}{int(time.time())}-{name}", commit, force=True)


def purge(shelf: int) -> None:
    """Remove for good what has been there long enough, and go on with what was being removed."""
    deadline = time.monotonic() + PURGE_SECONDS
    for name in os.listdir(shelf):
        is_due = name.startswith(TRASH) and _is_old(name.removeprefix(TRASH))
        if is_due or name.startswith(PREFIX):
            with suppress(OSError):
                for _ in remove_tree(name, shelf):
                    if time.monotonic() > deadline:
                        return


def purge_references(repo: pygit2.Repository) -> None:
    for raw in repo.raw_listall_references():
        name = os.fsdecode(raw)
        if name.startswith(REFERENCES) and _is_old(name.removeprefix(REFERENCES)):
            with suppress(KeyError, pygit2.GitError, OSError):
                repo.references.delete(name)


def _is_old(name: str) -> bool:
    stamp = name.partition("-")[0]
    return stamp.isdigit() and int(stamp) < time.time() - KEPT_S
