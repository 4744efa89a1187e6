"""What lies in a working tree and is not in the index, told apart from what git ignores."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path

import pygit2
from msgspec import Struct, field
from pygit2.enums import ConfigLevel
from pygit2.ffi import C

from agentsrv.errors import AgentsrvError
from agentsrv.workspace.git.attributes import is_set, read_rules
from agentsrv.workspace.git.diff.contents import GITLINK, Unreadable, WorkingTree, common_directory
from agentsrv.workspace.git.ignore import Patterns, require_few
from agentsrv.workspace.git.repositories import git_directory
from agentsrv.workspace.paths import displayed, is_git_directory

GIT = b".git"
GITIGNORE = b".gitignore"

INTENT_TO_ADD, SKIP_WORKTREE = 1 << 13, 1 << 14


class Tracked(Struct):
    """The paths of an index: files, submodules, and the directories that either lie in."""

    files: set[bytes] = field(default_factory=set)
    submodules: set[bytes] = field(default_factory=set)
    directories: set[bytes] = field(default_factory=set)

    @classmethod
    def of(cls, index: pygit2.Index, *, ignore_case: bool) -> Tracked:
        tracked = cls()
        for entry in index:
            path = os.fsencode(entry.path)
            path = path.lower() if ignore_case else path
            (tracked.submodules if entry.mode == GITLINK else tracked.files).add(path)
            above = path.rpartition(b"/")[0]
            while above and above not in tracked.directories:
                tracked.directories.add(above)
                above = above.rpartition(b"/")[0]
        return tracked


Rules = Sequence[Patterns]
"""Those nearer to a path come last, and first when it is decided."""

ALL: Rules = (Patterns(b"*"),)
"""In an ignored directory nothing can be taken out again."""


class Kind(Enum):
    """What becomes of something in a directory."""

    TRACKED = auto()
    ENTERED = auto()
    IGNORED = auto()
    UNTRACKED = auto()


class Untracked:
    """Goes through a working tree. `deadline` is on the monotonic clock."""

    def __init__(self, repo: pygit2.Repository, tree: WorkingTree, deadline: float) -> None:
        self.is_truncated = False
        """After `paths`: was there no time for all?"""
        self._repo = repo
        self._root = Path(repo.workdir)
        self._tree = tree
        self._deadline = deadline
        self._ignore_case = is_set(repo, "core.ignorecase")
        self._tracked = Tracked.of(repo.index, ignore_case=self._ignore_case)
        self._standard = self._standard_rules(repo)

    def paths(self, *, with_ignored: bool = False) -> Iterator[bytes]:
        """Files and links; a repository in a directory of its own as that directory, with a slash at its end.

        `with_ignored` also what is ignored, a directory as a whole, with a slash.
        """
        pending: list[tuple[bytes, Rules]] = [(b"", self._standard)]
        while pending:
            if time.monotonic() > self._deadline:
                self.is_truncated = True
                return
            directory, rules = pending.pop()
            rules = self._rules_in(directory, rules)
            for name, mode in self._tree.entries(directory.rstrip(b"/")):
                path = directory + name
                kind = self._kind(path, mode, rules)
                if kind is Kind.ENTERED:
                    pending.append((path + b"/", rules))
                elif kind is Kind.IGNORED and self._known(path) in self._tracked.directories:
                    pending += [(path + b"/", ALL)] * with_ignored
                elif kind is Kind.UNTRACKED or (kind is Kind.IGNORED and with_ignored):
                    yield path + b"/" if stat.S_ISDIR(mode) else path

    def _kind(self, path: bytes, mode: int, rules: Rules) -> Kind:
        known, is_directory = self._known(path), stat.S_ISDIR(mode)
        tracked = self._tracked.submodules if is_directory else self._tracked.files
        if known.rpartition(b"/")[2] == GIT or known in tracked:
            return Kind.TRACKED
        if not (is_directory or stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            return Kind.TRACKED  # Git does not know other things.
        if self._is_ignored(path, rules, is_directory=is_directory):
            return Kind.IGNORED
        if not is_directory:
            return Kind.UNTRACKED
        is_nested = known not in self._tracked.directories and is_repository(self._root / os.fsdecode(path))
        return Kind.UNTRACKED if is_nested else Kind.ENTERED

    def _known(self, path: bytes) -> bytes:
        return path.lower() if self._ignore_case else path

    def _is_ignored(self, path: bytes, rules: Rules, *, is_directory: bool) -> bool:
        if rules is ALL:
            return True
        for patterns in reversed(rules):
            if (decision := patterns.decide(path, is_directory=is_directory)) is not None:
                return decision
        return False

    def _rules_in(self, directory: bytes, above: Rules) -> Rules:
        """With the directory's own: those nearer to a path come first."""
        name = directory + GITIGNORE
        patterns = self._patterns(self._read(name), directory, displayed(os.fsdecode(name)))
        return (*above, patterns) if patterns and above is not ALL else above

    def _read(self, path: bytes) -> bytes:
        """A file of patterns; one that a sparse checkout has left out is read from the index, as git does."""
        with suppress(Unreadable):
            return self._tree.read(path, stat.S_IFREG)
        if self._known(path) not in self._tracked.files or not is_skipped(self._repo, path):
            return b""
        try:
            return bytes(self._repo.odb.read(self._repo.index[os.fsdecode(path)].id)[1])
        except (pygit2.GitError, KeyError, ValueError, OSError):
            return b""

    def _standard_rules(self, repo: pygit2.Repository) -> Rules:
        """The user's own, then those of the repository alone."""
        files = (user_excludes(repo), Path(common_directory(repo), "info", "exclude"))
        return tuple(self._patterns(read_rules(file), b"", displayed(str(file))) for file in files if file)

    def _patterns(self, content: bytes, base: bytes, name: str) -> Patterns:
        return Patterns(require_few(content, name), base, ignore_case=self._ignore_case)


def index_flags(repo: pygit2.Repository, path: bytes) -> int:
    """The extended flags of an index entry. pygit2 has no name for them, but for what they lie in."""
    entry = C.git_index_get_bypath(repo.index._index, path, 0)
    return int(entry.flags_extended) if entry else 0


def index_size(repo: pygit2.Repository, path: bytes) -> int | None:
    """The size that a file had when it was put into the index, or taken out of it."""
    entry = C.git_index_get_bypath(repo.index._index, path, 0)
    return int(entry.file_size) if entry else None


def is_skipped(repo: pygit2.Repository, path: bytes) -> bool:
    """Is it left out of the working tree, as by a sparse checkout?"""
    return bool(index_flags(repo, path) & SKIP_WORKTREE)


def user_excludes(repo: pygit2.Repository) -> Path | None:
    """`core.excludesFile`, else git's own place for it."""
    home = pygit2.settings.search_path[ConfigLevel.GLOBAL]
    config_home = pygit2.settings.search_path[ConfigLevel.XDG]
    try:
        named = str(repo.config["core.excludesfile"])
    except (KeyError, ValueError, OSError, pygit2.GitError):
        return Path(config_home, "ignore") if config_home else None
    if named.startswith("~/"):
        return Path(home, named[2:]) if home else None
    # A relative path begins where git works: at the root of the working tree.
    return Path(repo.workdir, named) if named else None


def is_repository(path: Path) -> bool:
    """Has the directory a `.git` that git would take?"""
    if not os.path.lexists(path / ".git"):
        return False
    try:
        return is_git_directory(str(git_directory(path).common))
    except AgentsrvError:
        return False
