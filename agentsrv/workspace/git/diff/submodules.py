"""What has changed inside submodules: each is a repository of its own, compared as the one around it is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pygit2
from msgspec import Struct

from agentsrv.errors import AgentsrvError
from agentsrv.workspace.git.diff.changes import Delta, Ends, find_tree, gitlinks
from agentsrv.workspace.git.diff.contents import GITLINK, Version
from agentsrv.workspace.git.repositories import open_repository, reading
from agentsrv.workspace.paths import Workspace

MAX_DEPTH = 16


class Part(Struct, frozen=True):
    """A repository of a diff: the one that was asked for, or a submodule, which lies at `prefix` in it."""

    root: Path
    prefix: bytes
    repo: pygit2.Repository
    ends: Ends
    depth: int = 0


def submodules_of(workspace: Workspace, part: Part, changes: Iterable[Delta]) -> list[Part]:
    """Those that can be looked into: checked out, and with the commits that are compared."""
    found = {change.path: change for change in changes if _is_submodule(change)}
    if part.ends.is_on_disk:
        for path, commit in gitlinks(part.repo):
            same = Version(path, GITLINK, commit)
            found.setdefault(path, Delta(same, Version(path, GITLINK)))
    if part.depth >= MAX_DEPTH:
        return []
    return [inner for change in found.values() for inner in _open(workspace, part, change)]


def _is_submodule(change: Delta) -> bool:
    return any(side is not None and side.mode == GITLINK for side in (change.old, change.new))


def _open(workspace: Workspace, part: Part, change: Delta) -> Iterator[Part]:
    root = part.root / os.fsdecode(change.path)
    if not os.path.lexists(root / ".git"):
        return
    with suppress(AgentsrvError):
        repo = open_repository(workspace, root)
        with reading(root):
            base, new = _tree(repo, change.old), change.new
            is_on_disk = new is not None and new.mode == GITLINK and new.id is None
            head = None if is_on_disk else _tree(repo, new)
        yield Part(root, part.prefix + change.path + b"/", repo, Ends(base, None, head, None), part.depth + 1)


def _tree(repo: pygit2.Repository, entry: Version | None) -> pygit2.Tree:
    """Nothing, where there is no submodule. Raises KeyError when it has not got that commit."""
    commit = None if entry is None or entry.mode != GITLINK else entry.id
    return find_tree(repo, None if commit is None else repo[commit], "base")
