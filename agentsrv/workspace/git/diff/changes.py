"""Which paths differ between two ends of a comparison: what `git diff --raw -M90%` would list.

libgit2 compares trees, the index and the working tree. That a file is staged *and* changed on disk, is both
deleted and untracked, is a submodule or in conflict, is put together here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from itertools import islice
from mmap import ACCESS_READ, mmap
from pathlib import Path
from stat import S_IFMT, S_ISLNK, S_ISREG
from urllib.parse import unquote_to_bytes

import pygit2
from msgspec import Struct
from msgspec.structs import replace
from pygit2.enums import DeltaStatus, DiffOption

from agentsrv.errors import AgentsrvError, InvalidInput, Problem
from agentsrv.workspace.git.attributes import is_set
from agentsrv.workspace.git.diff.contents import (
    GITLINK,
    Contents,
    Version,
    WorkingTree,
)
from agentsrv.workspace.git.diff.ignored_submodules import ignored_submodules
from agentsrv.workspace.git.protocol import DiffRequest
from agentsrv.workspace.git.repositories import open_repository, reading
from agentsrv.workspace.git.snapshots import find_snapshot, is_snapshot
from agentsrv.workspace.git.untracked import INTENT_TO_ADD, Untracked, index_flags, is_skipped
from agentsrv.workspace.paths import Workspace

MAX_CHANGES = 50_000
"""Of so many paths the diff is made; the rest is not looked at."""

EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
"""Known to libgit2 without being stored."""

EMPTY_BLOB = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"

REVISION = re.compile(r"[^\x00-\x20\x7f:?*\[\\]{1,1024}")

TREES = DiffOption.INCLUDE_TYPECHANGE
WORKING_TREE = TREES | DiffOption.IGNORE_SUBMODULES


class Delta(Struct, frozen=True):
    """One path, before and after. `score` (of 60,000) is there when it was renamed or copied."""

    old: Version | None
    new: Version | None
    score: int | None = None
    is_conflicted: bool = False
    is_copy: bool = False

    @property
    def path(self) -> bytes:
        entry = self.new or self.old
        assert entry is not None
        return entry.path

    @property
    def is_typechange(self) -> bool:
        return (
            self.old is not None and self.new is not None and S_IFMT(self.old.mode) != S_IFMT(self.new.mode)
        )

    @property
    def is_untouched(self) -> bool:
        """Has nothing but perhaps the content changed?"""
        if self.old is None or self.new is None or self.score is not None or self.is_conflicted:
            return False
        return self.old.mode == self.new.mode

    @property
    def status(self) -> str:
        if self.old is None:
            return "added"
        if self.new is None:
            return "deleted"
        if self.score is not None:
            return "copied" if self.is_copy else "renamed"
        return "typechange" if self.is_typechange else "modified"


# What is compared


class Ends(Struct, frozen=True):
    """The two ends of a comparison. `head` is None for the index and the working tree."""

    base: pygit2.Tree
    base_id: str | None
    head: pygit2.Tree | None
    head_id: str | None
    is_staged: bool = False
    is_since_snapshot: bool = False
    """The base has what was untracked then."""

    @property
    def is_on_disk(self) -> bool:
        return self.head is None and not self.is_staged


def find_ends(repo: pygit2.Repository, request: DiffRequest) -> Ends:
    """Revisions become objects here and are text no longer. Raises InvalidInput."""
    if request.staged and request.head is not None:
        raise invalid("staged", "compares with the index; leave head out")
    base, head = find_object(repo, request.base, "base"), None
    if request.head is not None:
        head = find_object(repo, request.head, "head")
    if request.merge_base:
        base = find_merge_base(repo, base, head or find_object(repo, None, "head"))
    # A turn that has not ended is compared as it is on disk.
    is_on_disk = request.head is None or (head is None and is_snapshot(request.head))
    head_tree = None if is_on_disk else find_tree(repo, head, "head")
    return Ends(
        find_tree(repo, base, "base"),
        named(base),
        head_tree,
        named(head),
        is_staged=request.staged,
        is_since_snapshot=is_snapshot(request.base),
    )


def find_object(repo: pygit2.Repository, revision: str | None, field: str) -> pygit2.Object | None:
    """What a revision names; None for a HEAD that has no commit yet, and the end of a turn that runs."""
    if revision is not None and is_snapshot(revision):
        return find_snapshot(repo, revision, is_end=field == "head")
    if revision in (None, "HEAD") and repo.head_is_unborn:
        return None
    text = revision or "HEAD"
    # Neither in the names of references nor in what may follow them. The rest of the syntax of revisions
    # searches the history by regular expression, or names files.
    if text.startswith("-") or not REVISION.fullmatch(text) or ".." in text or "{/" in text:
        raise unknown_revision(field)
    try:
        return repo.revparse_single(text)
    except (pygit2.GitError, KeyError, ValueError, OSError) as exc:
        raise unknown_revision(field) from exc


def find_tree(repo: pygit2.Repository, found: pygit2.Object | None, field: str) -> pygit2.Tree:
    if found is None:
        return repo[EMPTY_TREE].peel(pygit2.Tree)
    try:
        return found.peel(pygit2.Tree)
    except pygit2.InvalidSpecError as exc:
        raise unknown_revision(field) from exc


def find_merge_base(
    repo: pygit2.Repository, base: pygit2.Object | None, head: pygit2.Object | None
) -> pygit2.Object:
    try:
        commits = [found.peel(pygit2.Commit).id for found in (base, head) if found is not None]
        found = repo.merge_base(*commits) if len(commits) == 2 else None
    except pygit2.InvalidSpecError as exc:
        raise unknown_revision("base") from exc
    if found is None:
        raise invalid("merge_base", "the two have no commit in common")
    return repo[found]


def named(found: pygit2.Object | None) -> str | None:
    return None if found is None else str(found.id)


def unknown_revision(field: str) -> InvalidInput:
    message = "is no branch, tag or commit of this repository"
    return InvalidInput(f"{field} {message}", code="unknown_revision", problems=[Problem(field, message)])


def invalid(field: str, message: str) -> InvalidInput:
    return InvalidInput(f"{field}: {message}", problems=[Problem(field, message)])


# Which paths


def wanted_paths(root: Path, paths: Sequence[str]) -> frozenset[bytes]:
    """The `paths` of a request, from the root of the repository on; no pattern has a meaning in them."""
    found = set()
    for text in paths:
        path = unquote_to_bytes(text[7:]) if text.startswith("file://") else text.encode()
        path = os.path.normpath(path)
        if path.startswith(b"/"):
            path = os.path.relpath(path, os.fsencode(root))
        if path.startswith(b"../") or path == b".." or b"\0" in path:
            raise invalid("paths", "must name files or directories of the repository, from its root on")
        found.add(path)
    return frozenset(found)


def is_wanted(path: bytes, wanted: Container[bytes]) -> bool:
    """Is it, or a folder that it is in, one of those? `.` is the root."""
    while path and path not in wanted:
        path = path.rpartition(b"/")[0]
    return bool(path) or b"." in wanted


# What differs


def find_changes(
    workspace: Workspace,
    root: Path,
    repo: pygit2.Repository,
    request: DiffRequest,
    ends: Ends,
    contents: Contents,
    deadline: float,
) -> tuple[list[Delta], bool]:
    """The paths that differ, by path, renames not yet looked for, and whether a limit has cut them short.

    Files on disk may turn out to be equal.
    """
    is_truncated = False
    if ends.head is not None:
        found = collect(ends.base.diff_to_tree(ends.head, TREES))
    else:
        found = collect(ends.base.diff_to_index(repo.index, TREES))
        unmerged = unmerged_paths(repo)
        if request.staged:
            found = {path: change for path, change in found.items() if not is_announced(repo, change)}
            for path, stage in unmerged.items():
                old = entry_in(ends.base, path)
                found[path] = Delta(old, old or stage, is_conflicted=True)
        else:
            in_tree = WorkingTreeChanges(workspace, root, repo, contents.tree, ends.base, deadline)
            found, is_truncated = in_tree.over(found, unmerged), in_tree.is_truncated
            if ends.is_since_snapshot:
                found = {path: with_file(change, contents.tree) for path, change in found.items()}
    changes = _without_ignored([found[path] for path in sorted(found)], repo, contents.tree)
    return changes, is_truncated or len(found) >= MAX_CHANGES


def _without_ignored(changes: list[Delta], repo: pygit2.Repository, tree: WorkingTree) -> list[Delta]:
    """Without the submodules, or their `-dirty`, that are not to count."""
    if not any(
        side is not None and side.mode == GITLINK for change in changes for side in (change.old, change.new)
    ):
        return changes
    ignored = ignored_submodules(repo, tree)
    counting = (_counting(change, ignored.get(change.path, ignored[b""])) for change in changes)
    return [change for change in counting if change is not None]


def _counting(change: Delta, ignore: str) -> Delta | None:
    sides = [side for side in (change.old, change.new) if side is not None]
    if any(side.mode != GITLINK for side in sides) or ignore not in ("all", "dirty"):
        return change
    if ignore == "all":
        return None
    clean = [replace(side, content=(side.content or b"").replace(b"-dirty\n", b"\n")) for side in sides]
    if len(clean) == 2 and clean[0].content == clean[1].content:
        return None
    return replace(change, new=clean[-1]) if change.new is not None else change


def collect(diff: pygit2.Diff) -> dict[bytes, Delta]:
    found: dict[bytes, Delta] = {}
    for delta in islice(diff.deltas, MAX_CHANGES):
        if delta.status == DeltaStatus.CONFLICTED:
            continue  # It may have no name, and be there several times.
        old, new = entry_of(delta.old_file), entry_of(delta.new_file)
        path = delta.new_file.raw_path or delta.old_file.raw_path
        if path in found:
            # libgit2 says "deleted" and "added" for some changes of type.
            found[path] = Delta(found[path].old or old, found[path].new or new)
        else:
            found[path] = Delta(old, new)
    return found


def entry_of(file: pygit2.DiffFile) -> Version | None:
    mode = int(file.mode)
    if mode == 0:
        return None
    return gitlink(file.raw_path, file.id) if mode == GITLINK else Version(file.raw_path, mode, file.id)


def gitlink(path: bytes, commit: pygit2.Oid, *, is_dirty: bool = False, is_on_disk: bool = False) -> Version:
    """A submodule: git shows its commit as if it were a file's only line."""
    line = f"Subproject commit {commit}{'-dirty' if is_dirty else ''}\n"
    return Version(path, GITLINK, None if is_on_disk else commit, line.encode())


class WorkingTreeChanges:
    """From "tree to index" to "tree to working tree"."""

    def __init__(
        self,
        workspace: Workspace,
        root: Path,
        repo: pygit2.Repository,
        tree: WorkingTree,
        base: pygit2.Tree,
        deadline: float,
    ) -> None:
        self.is_truncated = False
        """After `over`: was there no time to look everywhere?"""
        self._deadline = deadline
        self._workspace = workspace
        self._root = root
        self._repo = repo
        self._tree = tree
        self._base = base
        self._is_executable_told = is_set(repo, "core.filemode", default=True)

    def over(self, staged: dict[bytes, Delta], unmerged: Mapping[bytes, Version]) -> dict[bytes, Delta]:
        """`staged` with what is on disk in the place of what is in the index."""
        unstaged = self._unstaged()
        found = dict[bytes, Delta]()
        for path in (staged.keys() | unstaged.keys()) - unmerged.keys():
            below, above = staged.get(path), unstaged.get(path)
            if above is None:
                assert below is not None
                change = below
            else:
                change = Delta(below.old if below else above.old, above.new)
            if not is_same(change):
                found[path] = change
        for path, stage in unmerged.items():
            old, new = entry_in(self._base, path), self._on_disk(path)
            found[path] = Delta(old if old or new else stage, new, is_conflicted=True)
        return found

    def _unstaged(self) -> dict[bytes, Delta]:
        found: dict[bytes, Delta] = {}
        for path, change in collect(self._repo.index.diff_to_workdir(WORKING_TREE)).items():
            if change.new is not None:
                found[path] = Delta(change.old, Version(path, change.new.mode))
            elif not is_skipped(self._repo, path):
                found[path] = change
        for version in missing_by_case(self._repo, self._tree):
            found[version.path] = Delta(version, None)
        for path, commit in gitlinks(self._repo):
            new = self._submodule(path, commit)
            found.pop(path, None)
            if new is None or new.content != gitlink(path, commit).content:
                found[path] = Delta(gitlink(path, commit), new)
        self._add_untracked(found)
        return found

    def _add_untracked(self, found: dict[bytes, Delta]) -> None:
        """Behind what is tracked, within the limits."""
        untracked = Untracked(self._repo, self._tree, self._deadline)
        for path in islice(untracked.paths(), max(MAX_CHANGES - len(found), 0)):
            name = path.removesuffix(b"/")
            # A repository in the working tree that is no submodule yet: `git add` would make one of it.
            new = self._on_disk(path) if name == path else self._submodule(name, None)
            if new is not None:
                replaced = found.get(name)  # A file by a repository, or the other way round.
                found[name] = Delta(None if replaced is None else replaced.old, new)
        self.is_truncated = untracked.is_truncated

    def _submodule(self, path: bytes, commit: pygit2.Oid | None) -> Version | None:
        """What is in the place of a submodule; `commit` is what the index has, which stands for unknown."""
        if not self._tree.is_directory(path):
            return self._on_disk(path)
        root = self._root / os.fsdecode(path)
        unknown = None if commit is None else gitlink(path, commit)
        if not os.path.lexists(root / ".git"):
            return unknown
        try:
            repo = open_repository(self._workspace, root)
            with reading(root):
                head = repo.head.peel(pygit2.Commit).id
                return gitlink(path, head, is_dirty=commit is not None and is_dirty(repo), is_on_disk=True)
        except AgentsrvError:
            return unknown

    def _on_disk(self, path: bytes) -> Version | None:
        """A file or a link; git does not know other things."""
        mode = self._tree.mode(path)
        if mode is None or not (S_ISREG(mode) or S_ISLNK(mode)):
            return None
        return Version(path, git_mode(mode, is_executable_told=self._is_executable_told))


def missing_by_case(repo: pygit2.Repository, tree: WorkingTree) -> Iterator[Version]:
    """With `core.ignorecase` libgit2 takes `foo` for `Foo`; git looks whether there is a `Foo`."""
    if not is_set(repo, "core.ignorecase"):
        return
    for entry in repo.index:
        path = os.fsencode(entry.path)
        if entry.mode == GITLINK or tree.mode(path) is not None:
            continue
        if not is_skipped(repo, path):
            yield Version(path, int(entry.mode), entry.id)


def unmerged_paths(repo: pygit2.Repository) -> dict[bytes, Version]:
    """What a merge, rebase, cherry-pick or stash could not put together, each with one of its stages."""
    found: dict[bytes, Version] = {}
    for stages in repo.index.conflicts or ():
        ancestor, ours, theirs = stages
        for entry in (ours, theirs, ancestor):
            if entry is not None:
                path = os.fsencode(entry.path)
                found.setdefault(path, Version(path, int(entry.mode), entry.id))
    return found


def with_file(change: Delta, tree: WorkingTree) -> Delta:
    """What git does not see any more, for it is ignored by now, may still be there."""
    mode = tree.mode(change.path) if change.new is None else None
    if mode is None or not (S_ISREG(mode) or S_ISLNK(mode)):
        return change
    return Delta(change.old, Version(change.path, git_mode(mode)))


def entry_in(tree: pygit2.Tree, path: bytes) -> Version | None:
    try:
        found = tree[os.fsdecode(path)]
    except KeyError:
        return None
    return Version(path, int(found.filemode), found.id)


def is_same(change: Delta) -> bool:
    old, new = change.old, change.new
    if old is None or new is None:
        return old is new
    return old.mode == new.mode and new.id is not None and old.id == new.id


def is_dirty(repo: pygit2.Repository) -> bool:
    """Has a submodule changes to tracked files? What it has inside itself is not looked at."""
    staged = repo.head.peel(pygit2.Tree).diff_to_index(repo.index)
    unstaged = repo.index.diff_to_workdir(DiffOption.IGNORE_SUBMODULES)
    return len(staged) + len(unstaged) > 0


def is_announced(repo: pygit2.Repository, change: Delta) -> bool:
    """`git add --intent-to-add`: the path is in the index, and git acts as if it were not."""
    is_empty = change.old is None and change.new is not None and str(change.new.id) == EMPTY_BLOB
    return is_empty and bool(index_flags(repo, change.path) & INTENT_TO_ADD)


def git_mode(mode: int, *, is_executable_told: bool = True) -> int:
    """The mode that git has for what `lstat` shows; by `core.fileMode` a file system cannot tell what is executable."""
    if S_ISLNK(mode):
        return 0o120000
    return 0o100755 if mode & 0o100 and is_executable_told else 0o100644


def gitlinks(repo: pygit2.Repository) -> Iterator[tuple[bytes, pygit2.Oid]]:
    """The submodules in the index."""
    path = os.path.join(repo.path or "", "index")
    try:
        with open(path, "rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            # Looking at each entry from Python is slow; an index without these bytes has none to look for.
            has_some = data.find(GITLINK.to_bytes(4, "big")) >= 0
    except (OSError, ValueError):  # No index yet, or an empty one.
        return
    if has_some:
        yield from ((os.fsencode(entry.path), entry.id) for entry in repo.index if entry.mode == GITLINK)
