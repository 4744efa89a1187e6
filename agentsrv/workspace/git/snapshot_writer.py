"""Takes snapshots of working trees (`snapshots.py`). Runs in a git worker that may write.

What git does not have yet becomes objects of the repository. No commit is made, and the user's index, branches and
files are not touched; `git log --all` does not show it, and `git clone` and `git push` do not take it along.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from stat import S_ISREG

import pygit2
from pygit2.enums import FileMode, RepositoryOpenFlag

from agentsrv.workspace.git.diff.changes import (
    Delta,
    WorkingTreeChanges,
    collect,
    find_tree,
    unmerged_paths,
    with_file,
)
from agentsrv.workspace.git.diff.contents import GITLINK, Contents, Unreadable, Version
from agentsrv.workspace.git.landlock import restrict_writes
from agentsrv.workspace.git.protocol import DropSnapshots, TakeSnapshot
from agentsrv.workspace.git.repositories import (
    find_root,
    git_directory,
    open_repository,
    outside,
    reading,
    require_confined,
    resolved,
)
from agentsrv.workspace.git.snapshots import SnapshotName, reference_of, references, tree_at
from agentsrv.workspace.paths import Workspace

WRITTEN = ("objects", "refs", "refs/agentsrv", "refs/agentsrv/snapshots")
"""Directories of a repository in which something is made. They may not lead elsewhere."""

KEPT_TURNS = 50
"""The newest of a session, besides its very first snapshot."""
KEPT_S = 30 * 24 * 3600
"""After so long without a turn a session's snapshots go."""

MAX_FILES = 20_000
MAX_BYTES = 256 * 1024 * 1024
MAX_SECONDS = 4.0
"""For what git does not have yet. Beyond that there is no snapshot, but the reason."""

LARGE_BINARY_BYTES = 1024 * 1024
LARGE_BYTES = 8 * 1024 * 1024
"""Of a larger file only size and time are kept."""


class Impossible(Exception):
    """There can be no snapshot. The text is for people."""


def take(workspace: Workspace, request: TakeSnapshot) -> None:
    """Raises NotFound (`not_a_repository`), Forbidden, Unprocessable."""
    root = find_root(workspace, request.path)
    common = _open_writable(workspace, root)
    reference = reference_of(request.session_id)
    with reading(root):
        shelf = tree_at(common, reference)
        builder = common.TreeBuilder() if shelf is None else common.TreeBuilder(shelf)
        name = f"{int(time.time() * 1000):013}-{request.turn_id}-{request.moment}"
        try:
            earlier = None if shelf is None else _start_of(shelf, request.turn_id)
            builder.insert(name, _tree_of_files(workspace, root, earlier), FileMode.TREE)
        except Impossible as exc:
            builder.insert(name, common.create_blob(str(exc).encode()), FileMode.BLOB)
        _prune(common, builder)
        common.references.create(reference, builder.write(), force=True)
        _purge(common)


def drop(workspace: Workspace, request: DropSnapshots) -> None:
    """Those of one turn, or all of a session. Raises what `take` raises."""
    root = find_root(workspace, request.path)
    common = _open_writable(workspace, root)
    reference = reference_of(request.session_id)
    if (shelf := tree_at(common, reference)) is None:
        return
    with reading(root):
        builder = common.TreeBuilder(shelf)
        for entry in shelf:
            if request.turn_id in (None, SnapshotName.of(entry).turn_id):
                builder.remove(str(entry.name))
        if len(builder):
            common.references.create(reference, builder.write(), force=True)
        else:
            common.references.delete(reference)


def _open_writable(workspace: Workspace, root: Path) -> pygit2.Repository:
    """The main repository. This process writes only there from now on."""
    git_dir = git_directory(root)
    require_confined(workspace, git_dir)
    for name in WRITTEN:
        path = git_dir.common / name
        if os.path.lexists(path) and resolved(path) != str(path):
            raise outside(path)
    with workspace.open_directory(str(git_dir.common)) as directory:
        restrict_writes([directory])
    with reading(root):
        return pygit2.Repository(str(git_dir.common), RepositoryOpenFlag.NO_SEARCH)


def _start_of(shelf: pygit2.Tree, turn_id: str) -> pygit2.Tree | None:
    for entry in shelf:
        name = SnapshotName.of(entry)
        if name.turn_id == turn_id and name.moment == "start" and isinstance(entry, pygit2.Tree):
            return entry
    return None


def _prune(repo: pygit2.Repository, builder: pygit2.TreeBuilder) -> None:
    names = [str(entry.name) for entry in repo[builder.write()].peel(pygit2.Tree)]
    for name in names[1 : -2 * KEPT_TURNS]:
        builder.remove(name)


def _purge(repo: pygit2.Repository) -> None:
    """Of sessions that had no turn here for long."""
    oldest = (time.time() - KEPT_S) * 1000
    for reference in references(repo):
        stamps = [SnapshotName.of(entry).stamp for entry in tree_at(repo, reference) or ()]
        if stamps and stamps[-1].isdigit() and int(stamps[-1]) < oldest:
            repo.references.delete(reference)


# The tree of all files


def _tree_of_files(workspace: Workspace, root: Path, earlier: pygit2.Tree | None) -> pygit2.Oid:
    """What is in `earlier` is in it too, if it is still there, though git may ignore it by now. Raises Impossible."""
    repo = open_repository(workspace, root)
    deadline = time.monotonic() + MAX_SECONDS
    with closing(Contents(repo)) as contents:
        changes = WorkingTreeChanges(
            workspace, root, repo, contents.tree, find_tree(repo, None, "base"), deadline
        )
        unmerged = unmerged_paths(repo)
        found = changes.over({}, unmerged)
        if changes.is_truncated or len(found) > MAX_FILES:
            raise Impossible(
                f"more than {MAX_FILES} files are changed or untracked, or looking at all takes too long"
            )
        writer = _Writer(repo, contents, deadline)
        for path in unmerged:
            del repo.index.conflicts[os.fsdecode(path)]
        writer.put(found.values())
        tree: pygit2.Oid = repo.index.write_tree()
        if earlier is not None:
            gone = collect(earlier.diff_to_tree(repo[tree].peel(pygit2.Tree))).values()
            there = [with_file(change, contents.tree) for change in gone if change.new is None]
            writer.put([change for change in there if change.new is not None])
            tree = repo.index.write_tree()
    return tree


class _Writer:
    """Puts what is on disk into the index in memory, and into objects. The index on disk stays as it is."""

    def __init__(self, repo: pygit2.Repository, contents: Contents, deadline: float) -> None:
        self._repo = repo
        self._contents = contents
        self._deadline = deadline
        self._bytes = 0

    def put(self, changes: Collection[Delta]) -> None:
        """Raises Impossible."""
        for change in changes:
            if change.new is None:
                self._repo.index.remove(os.fsdecode(change.path))
        for change in changes:
            if change.new is not None:
                self._add(change.new)

    def _add(self, new: Version) -> None:
        try:
            oid = self._stored(new)
        except Unreadable:
            return
        path = os.fsdecode(new.path)
        self._repo.index.add(pygit2.IndexEntry(path, oid, FileMode(new.mode)))

    def _stored(self, new: Version) -> pygit2.Oid:
        if new.mode == GITLINK and new.content is not None:
            return pygit2.Oid(hex=new.content.split()[2].decode().removesuffix("-dirty"))
        content = self._content(new)
        self._bytes += len(content)
        if self._bytes > MAX_BYTES:
            raise Impossible(f"more than {MAX_BYTES >> 20} MiB are changed or untracked")
        if time.monotonic() > self._deadline:
            raise Impossible(f"reading what is changed or untracked takes more than {MAX_SECONDS:g} s")
        return self._repo.create_blob(content)

    def _content(self, new: Version) -> bytes:
        size = self._contents.size(new)
        is_large = size > LARGE_BYTES or (size > LARGE_BINARY_BYTES and self._contents.begins_binary(new))
        is_kept = not (is_large and S_ISREG(new.mode))
        return self._contents.read(new) if is_kept else self._contents.stand_in(new)
