"""Which paths differ between two ends of a comparison: what `git diff --raw -M90%` would list.

libgit2 compares trees, the index and the working tree. That a file is staged *and* changed on disk, is both
deleted and untracked, is a submodule or in conflict, is put together here.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from mmap import ACCESS_READ, mmap
from pathlib import Path
from stat import S_IFMT, S_ISDIR, S_ISLNK, S_ISREG
from urllib.parse import unquote_to_bytes

import pygit2
from pygit2.enums import DeltaStatus, DiffOption
from pygit2.ffi import C

from agentsrv.errors import AgentsrvError, InvalidInput, Problem
from agentsrv.workspace.diff_contents import (
    GITLINK,
    MAX_CONTENT_BYTES,
    Contents,
    Entry,
    Unreadable,
    WorkingTree,
    git_hash,
)
from agentsrv.workspace.diff_renames import find_renames
from agentsrv.workspace.git import open_repository, reading
from agentsrv.workspace.git_protocol import DiffRequest
from agentsrv.workspace.paths import Workspace

MAX_CHANGES = 50_000
"""Of so many paths the diff is made; the rest is not looked at."""

EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
"""Known to libgit2 without being stored."""

EMPTY_BLOB = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"

LARGE_BYTES = 8 * 1024 * 1024
"""A file that was added and is larger is not searched for similarities, only for being a deleted one."""
MAX_KEPT_BYTES = 64 * 1024 * 1024

INTENT_TO_ADD, SKIP_WORKTREE = 1 << 13, 1 << 14

REVISION = re.compile(r"[^\x00-\x20\x7f:?*\[\\]{1,1024}")

TREES = DiffOption.INCLUDE_TYPECHANGE
WORKING_TREE = (
    TREES | DiffOption.IGNORE_SUBMODULES | DiffOption.INCLUDE_UNTRACKED | DiffOption.RECURSE_UNTRACKED_DIRS
)


@dataclass(frozen=True, slots=True)
class Change:
    """One path, before and after. `score` (of 60,000) is there when it was renamed or copied."""

    old: Entry | None
    new: Entry | None
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


@dataclass(frozen=True, slots=True)
class Ends:
    """The two ends of a comparison. `head` is None for the index and the working tree."""

    base: pygit2.Tree
    base_id: str | None
    head: pygit2.Tree | None
    head_id: str | None


def find_ends(repo: pygit2.Repository, request: DiffRequest) -> Ends:
    """Revisions become objects here and are text no longer. Raises InvalidInput."""
    if request.staged and request.head is not None:
        raise invalid("staged", "compares with the index; leave head out")
    base, head = find_object(repo, request.base, "base"), None
    if request.head is not None:
        head = find_object(repo, request.head, "head")
    if request.merge_base:
        base = find_merge_base(repo, base, head or find_object(repo, None, "head"))
    head_tree = None if request.head is None else find_tree(repo, head, "head")
    return Ends(find_tree(repo, base, "base"), named(base), head_tree, named(head))


def find_object(repo: pygit2.Repository, revision: str | None, field: str) -> pygit2.Object | None:
    """What a revision names; None for a HEAD that has no commit yet."""
    if revision in (None, "HEAD") and repo.head_is_unborn:
        return None
    text = revision or "HEAD"
    # Neither in the names of references nor in what may follow them. The rest of the syntax of revisions
    # searches the history by regular expression, or names files.
    if text.startswith("-") or not REVISION.fullmatch(text) or ".." in text or "{/" in text:
        raise unknown_revision(field)
    try:
        return repo.revparse_single(text)
    except (pygit2.GitError, KeyError, ValueError) as exc:
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
) -> list[Change]:
    """The paths that differ, by path, renames not yet looked for. Files on disk may turn out to be equal."""
    if ends.head is not None:
        found = collect(ends.base.diff_to_tree(ends.head, TREES))
    else:
        found = collect(ends.base.diff_to_index(repo.index, TREES))
        if request.staged:
            found = {path: change for path, change in found.items() if not is_announced(repo, change)}
        else:
            found = WorkingTreeChanges(workspace, root, repo, contents.tree, ends.base).over(found)
    return [found[path] for path in sorted(found)]


def collect(diff: pygit2.Diff) -> dict[bytes, Change]:
    found: dict[bytes, Change] = {}
    for delta in islice(diff.deltas, MAX_CHANGES):
        old, new = entry_of(delta.old_file), entry_of(delta.new_file)
        path = delta.new_file.raw_path or delta.old_file.raw_path
        if delta.status == DeltaStatus.CONFLICTED:
            found[path] = Change(old, old, is_conflicted=True)
        elif path in found:
            # libgit2 says "deleted" and "added" for some changes of type.
            found[path] = Change(found[path].old or old, found[path].new or new)
        else:
            found[path] = Change(old, new)
    return found


def entry_of(file: pygit2.DiffFile) -> Entry | None:
    mode = int(file.mode)
    if mode == 0:
        return None
    return gitlink(file.raw_path, file.id) if mode == GITLINK else Entry(file.raw_path, mode, file.id)


def gitlink(path: bytes, commit: pygit2.Oid, *, is_dirty: bool = False, is_on_disk: bool = False) -> Entry:
    """A submodule: git shows its commit as if it were a file's only line."""
    line = f"Subproject commit {commit}{'-dirty' if is_dirty else ''}\n"
    return Entry(path, GITLINK, None if is_on_disk else commit, line.encode())


class WorkingTreeChanges:
    """From "tree to index" to "tree to working tree"."""

    def __init__(
        self, workspace: Workspace, root: Path, repo: pygit2.Repository, tree: WorkingTree, base: pygit2.Tree
    ) -> None:
        self._workspace = workspace
        self._root = root
        self._repo = repo
        self._tree = tree
        self._base = base

    def over(self, staged: dict[bytes, Change]) -> dict[bytes, Change]:
        """`staged` with what is on disk in the place of what is in the index."""
        unstaged = self._unstaged()
        found = dict[bytes, Change]()
        for path in staged.keys() | unstaged.keys():
            below, above = staged.get(path), unstaged.get(path)
            if above is None:
                assert below is not None
                change = below
            elif above.is_conflicted:
                change = self._conflicted(path)
            else:
                change = Change(below.old if below else above.old, above.new)
            if change.is_conflicted or not is_same(change):
                found[path] = change
        return found

    def _unstaged(self) -> dict[bytes, Change]:
        found: dict[bytes, Change] = {}
        for path, change in collect(self._repo.index.diff_to_workdir(WORKING_TREE)).items():
            if change.new is not None and S_ISDIR(change.new.mode):
                self._add_nested(path.removesuffix(b"/"), found)
            elif change.new is not None:
                found[path] = Change(
                    change.old, Entry(path, change.new.mode), is_conflicted=change.is_conflicted
                )
            elif not index_flags(self._repo, path) & SKIP_WORKTREE:
                found[path] = change
        for path, commit in gitlinks(self._repo):
            new = self._submodule(path, commit)
            found.pop(path, None)
            if new is None or new.content != gitlink(path, commit).content:
                found[path] = Change(gitlink(path, commit), new)
        return found

    def _add_nested(self, path: bytes, found: dict[bytes, Change]) -> None:
        """A repository in the working tree that is no submodule yet: `git add` would make one of it."""
        if (new := self._submodule(path, None)) is not None:
            found[path] = Change(None, new)

    def _submodule(self, path: bytes, commit: pygit2.Oid | None) -> Entry | None:
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

    def _conflicted(self, path: bytes) -> Change:
        try:
            found = self._base[os.fsdecode(path)]
            old = Entry(path, int(found.filemode), found.id)
        except KeyError:
            old = None
        return Change(old, self._on_disk(path), is_conflicted=True)

    def _on_disk(self, path: bytes) -> Entry | None:
        """A file or a link; git does not know other things."""
        mode = self._tree.mode(path)
        return Entry(path, git_mode(mode)) if mode is not None and (S_ISREG(mode) or S_ISLNK(mode)) else None


def is_same(change: Change) -> bool:
    old, new = change.old, change.new
    if old is None or new is None:
        return old is new
    return old.mode == new.mode and new.id is not None and old.id == new.id


def is_dirty(repo: pygit2.Repository) -> bool:
    """Has a submodule changes to tracked files? What it has inside itself is not looked at."""
    staged = repo.head.peel(pygit2.Tree).diff_to_index(repo.index)
    unstaged = repo.index.diff_to_workdir(DiffOption.IGNORE_SUBMODULES)
    return len(staged) + len(unstaged) > 0


def is_announced(repo: pygit2.Repository, change: Change) -> bool:
    """`git add --intent-to-add`: the path is in the index, and git acts as if it were not."""
    is_empty = change.old is None and change.new is not None and str(change.new.id) == EMPTY_BLOB
    return is_empty and bool(index_flags(repo, change.path) & INTENT_TO_ADD)


def index_flags(repo: pygit2.Repository, path: bytes) -> int:
    """The extended flags of an index entry. pygit2 has no name for them, but for what they lie in."""
    entry = C.git_index_get_bypath(repo.index._index, path, 0)
    return int(entry.flags_extended) if entry else 0


def git_mode(mode: int) -> int:
    """The mode that git has for what `lstat` shows."""
    if S_ISLNK(mode):
        return 0o120000
    return 0o100755 if mode & 0o100 else 0o100644


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


# Renames


class _Reader:
    """Reads what `diff_renames` looks at, mostly more than once, and keeps a part of it."""

    def __init__(self, contents: Contents, sizes: Container[int]) -> None:
        self.contents = contents
        self._sizes = sizes
        self._kept: dict[bytes, bytes] = {}
        self._kept_bytes = 0

    def read(self, entry: Entry) -> bytes | None:
        """None for what cannot be read, and for what is large and cannot be equal to a deleted file."""
        if (content := self._kept.get(entry.path)) is not None:
            return content
        try:
            size = self.contents.size(entry)
            if size > MAX_CONTENT_BYTES or (size > LARGE_BYTES and size not in self._sizes):
                return None
            content = self.contents.read(entry)
        except Unreadable:
            return None
        if self._kept_bytes + len(content) > MAX_KEPT_BYTES:
            self._kept.clear()
            self._kept_bytes = 0
        self._kept[entry.path] = content
        self._kept_bytes += len(content)
        return content


class _Side:
    """An entry as `diff_renames` looks at it. What is not read resembles nothing."""

    def __init__(self, entry: Entry, reader: _Reader) -> None:
        self.path = entry.path
        self.mode = entry.mode
        self._entry = entry
        self._reader = reader

    def size(self) -> int:
        # What is on disk may have other line ends than what would be stored.
        if self._entry.id is None:
            return len(self.read() or b"")
        try:
            return self._reader.contents.size(self._entry)
        except Unreadable:
            return 0

    def key(self) -> bytes | None:
        if self._entry.id is not None:
            return bytes(self._entry.id.raw)
        content = self.read()
        return None if content is None else git_hash(content)

    def is_binary(self) -> bool:
        return self._reader.contents.is_binary(self._entry, self.read() or b"")

    def read(self) -> bytes | None:
        return self._reader.read(self._entry)


def sizes_of(entries: Sequence[Entry], contents: Contents) -> set[int]:
    found = set()
    for entry in entries:
        with suppress(Unreadable):
            found.add(contents.size(entry))
    return found


def with_renames(changes: list[Change], contents: Contents, *, copies: bool) -> list[Change]:
    """`changes` with deleted and added files that belong together made one; with `copies` also changed ones."""
    old = [
        (change.old, change.new is not None)
        for change in changes
        if change.old is not None and (copies or change.new is None)
    ]
    come = [change.new for change in changes if change.old is None and change.new is not None]
    if not old or not come:
        return changes
    sources = [entry for entry, _ in old]
    kept = {index for index, (_, is_kept) in enumerate(old) if is_kept}
    reader = _Reader(contents, sizes_of(sources, contents))
    pairs = find_renames(
        [_Side(entry, reader) for entry in sources],
        [_Side(entry, reader) for entry in come],
        kept if copies else None,
    )
    # The last one to use a source that is gone has its name changed, those before it are copies.
    uses = Counter(index for index, _ in pairs.values())
    uses.update(kept)
    gone = {sources[index].path for index in uses.keys() - kept}
    by_path = {come[index].path: pair for index, pair in pairs.items()}
    found = []
    for change in changes:
        if change.old is None and change.path in by_path:
            index, score = by_path[change.path]
            uses[index] -= 1
            found.append(replace(change, old=sources[index], score=score, is_copy=uses[index] > 0))
        elif change.new is not None or change.path not in gone:
            found.append(change)
    return found
