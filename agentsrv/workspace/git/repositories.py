"""Git repositories in the workspace: finding them, and opening one that nobody vouches for.

Runs in a git worker (`program.py`), never in the server. A repository belongs to an agent, or came from
somewhere with `git clone`: its directories may be links, pipes, or point to another place. So what libgit2 is
going to read is looked at first, and must lie in the workspace. libgit2 itself starts no program and opens no
connection for what is done here, whatever a repository's configuration says.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import pygit2
from msgspec import Struct
from pygit2.enums import RepositoryOpenFlag

from agentsrv.errors import AgentsrvError, Forbidden, InvalidInput, NotFound, Unprocessable
from agentsrv.workspace.explain import explained
from agentsrv.workspace.git.kinds import unknown_index, unknown_kind
from agentsrv.workspace.mounts import mounts_below
from agentsrv.workspace.paths import WORKTREES, Workspace, displayed, real_path

SKIPPED = frozenset({".git", "node_modules", ".venv"})
"""Not looked into: no repository of the user's own lies in them."""

BARE = frozenset({"HEAD", "objects", "refs"})
"""What a bare repository consists of. Worktrees may lie beside these."""

MAX_REPOSITORIES = 2_000
MAX_DIRECTORIES = 200_000
MAX_DEPTH = 32
MAX_SECONDS = 6.0

MAX_POINTER_BYTES = 16 * 1024
"""A `.git` file, `commondir`, `alternates`: one path, or a few."""
MAX_GITMODULES_BYTES = 1024 * 1024
MAX_ALTERNATES = 16
MAX_SETTINGS_BYTES = 256 * 1024

GIT_DIR_FILES = ("HEAD", "index", "commondir", "gitdir", "config.worktree")
COMMON_DIR_FILES = ("config", "packed-refs")
INFO_FILES = ("exclude", "attributes")
"""Files that libgit2 opens by itself. It would wait for ever on a named pipe."""


class Repository(Struct, rename="camel", kw_only=True, frozen=True):
    """A working tree with a `.git`.

    `root` is the main working tree, for a linked worktree another one than `path`. `branch` is null with a
    detached head, `head` (a commit) before the first one. `problem` says why nothing else is known.
    """

    name: str
    path: str
    relative_path: str
    is_worktree: bool
    is_submodule: bool
    root: str
    branch: str | None
    head: str | None
    problem: str | None


class GitDirectory(Struct, frozen=True):
    """Where a working tree's repository is. In a linked worktree `common` is the main one's."""

    path: Path
    common: Path

    @property
    def is_linked(self) -> bool:
        return self.path != self.common

    @property
    def is_absorbed(self) -> bool:
        """Is it a submodule's, kept inside its superproject's `.git/modules`?"""
        parts = self.common.parts
        return any(pair == (".git", "modules") for pair in pairwise(parts))


# Opening one


def find_root(workspace: Workspace, text: str) -> Path:
    """The working tree around the directory that `text` names. Looks no higher than the base.

    Raises Forbidden, InvalidInput, NotFound (`path_not_found`, `not_a_repository`).

    Only a `.git` makes a working tree: a directory that looks like a bare repository is none, so that one
    hidden among ordinary files is never taken for the repository around it.
    """
    directory = Path(workspace.resolve(text))
    with explained(workspace.relative(str(directory))):
        if not stat.S_ISDIR(os.stat(directory).st_mode):
            raise InvalidInput(f"path: {displayed(text)} is not a directory", code="not_a_directory")
    return _root_above(workspace, directory)


def _root_above(workspace: Workspace, directory: Path) -> Path:
    inside = directory.relative_to(workspace.base)
    if ".git" not in inside.parts:
        for candidate in (directory, *directory.parents[: len(inside.parts)]):
            if os.path.lexists(candidate / ".git"):
                return candidate
    raise not_a_repository(directory)


def open_repository(workspace: Workspace, root: Path) -> pygit2.Repository:
    """The repository of the working tree `root`.

    Raises Forbidden where any part of it lies outside of the workspace, NotFound where it has no working tree,
    Unprocessable (`repository_unreadable`) where libgit2 cannot read it.
    """
    require_confined(workspace, git_directory(root))
    with reading(root):
        repo = pygit2.Repository(str(root), RepositoryOpenFlag.NO_SEARCH)
        workdir = repo.workdir
    if workdir is None:
        raise not_a_repository(root)
    # `core.worktree` may name any directory of the machine.
    if not workspace.contains(resolved(workdir)):
        raise outside(root)
    return repo


def git_directory(root: Path) -> GitDirectory:
    """Follow `.git`, which may be a file or a link. Raises Unprocessable."""
    try:
        path = root / ".git"
        if not path.is_dir():
            pointer = read_pointer(path)
            if not pointer.startswith("gitdir: "):
                raise unreadable(root)
            path = root / pointer.removeprefix("gitdir: ")
        path = Path(resolved(path))
        common = path
        if os.path.lexists(path / "commondir"):
            common = Path(resolved(path / read_pointer(path / "commondir")))
    except (OSError, ValueError) as exc:
        raise unreadable(root) from exc
    if not (path.is_dir() and common.is_dir()):
        raise unreadable(root)
    return GitDirectory(path, common)


def own_git_directory(workspace: Workspace, path: Path) -> GitDirectory | None:
    """Where git keeps what belongs to the linked worktree at `path`; None unless both ends say so."""
    try:
        git_dir = git_directory(path)
        require_confined(workspace, git_dir)
        pointer = read_pointer(git_dir.path / "gitdir")
    except (AgentsrvError, OSError, ValueError):
        return None
    is_own = git_dir.path == git_dir.common / "worktrees" / path.name and pointer == f"{path}/.git"
    return git_dir if is_own else None


def require_confined(workspace: Workspace, git_dir: GitDirectory) -> None:
    """All that makes up a repository lies in the workspace, and what should be a file is one.

    Raises Forbidden, Unprocessable.
    """
    info = resolved(git_dir.common / "info")
    if not all(map(workspace.contains, (str(git_dir.path), str(git_dir.common), info))):
        raise outside(git_dir.path)
    for directory, names in (
        (git_dir.path, GIT_DIR_FILES),
        (git_dir.common, COMMON_DIR_FILES),
        (info, INFO_FILES),
    ):
        for name in names:
            _require_regular(workspace, f"{directory}/{name}")
    _require_confined_objects(workspace, git_dir.common / "objects")


def _require_confined_objects(workspace: Workspace, objects: Path) -> None:
    """Objects may be borrowed from other repositories, in chains; none of those may lie outside."""
    pending, seen = [Path(resolved(objects))], set[Path]()
    while pending:
        directory = pending.pop()
        if directory in seen:
            continue
        seen.add(directory)
        if not workspace.contains(str(directory)):
            raise outside(objects)
        if len(seen) > MAX_ALTERNATES:
            raise unreadable(objects)
        _require_no_links_out(workspace, directory)
        alternates = directory / "info" / "alternates"
        _require_regular(workspace, alternates)
        with suppress(FileNotFoundError):
            lines = read_pointer(alternates).splitlines()
            pending += [Path(resolved(directory / line)) for line in lines if line[:1] not in ("", "#")]


def _require_no_links_out(workspace: Workspace, objects: Path) -> None:
    """Neither a directory of objects nor a file in one may be a link to another repository."""
    pending, depth = [str(objects)], 0
    while pending and depth < 2:
        below: list[str] = []
        for directory in pending:
            with (
                suppress(FileNotFoundError, NotADirectoryError, PermissionError),
                os.scandir(directory) as found,
            ):
                for entry in found:
                    if entry.is_symlink() and not workspace.contains(resolved(entry.path)):
                        raise outside(objects)
                    below += [entry.path] * entry.is_dir()
        pending, depth = below, depth + 1


def _require_regular(workspace: Workspace, path: Path | str) -> None:
    """A file inside the workspace, or nothing at all. Its directory has been looked at already."""
    try:
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            if not workspace.contains(resolved(path)):
                raise outside(path)
            mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as exc:
        raise unreadable(path) from exc
    if not stat.S_ISREG(mode):
        raise unreadable(path)


def resolved(path: Path | str) -> str:
    """The path without links. Raises Unprocessable where there are too many."""
    try:
        return real_path(path)
    except OSError as exc:
        raise unreadable(path) from exc


def read_pointer(path: Path, max_bytes: int = MAX_POINTER_BYTES) -> str:
    """The text of a small regular file. Raises OSError, ValueError (too large, or holds a NUL)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("not a regular file")
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes or b"\0" in content:
        raise ValueError("not a path")
    return os.fsdecode(content).strip("\r\n")


@contextmanager
def reading(root: Path) -> Iterator[None]:
    """Around calls of libgit2: whatever it cannot read becomes Unprocessable (`repository_unreadable`)."""
    try:
        yield
    except (pygit2.GitError, KeyError, ValueError, OSError) as exc:
        raise _why(root) from exc


def _why(root: Path) -> Unprocessable:
    """Why libgit2 cannot read it: it is of a kind that it does not know, or damaged."""
    with suppress(AgentsrvError, OSError, ValueError):
        git_dir = git_directory(root)
        settings = read_pointer(git_dir.common / "config", MAX_SETTINGS_BYTES)
        return unknown_kind(root, settings) or unknown_index(root, git_dir.path) or unreadable(root)
    return unreadable(root)


def not_a_repository(path: Path) -> NotFound:
    return NotFound(
        f"{displayed(str(path))} is not in the working tree of a git repository", code="not_a_repository"
    )


def outside(path: Path | str) -> Forbidden:
    return Forbidden(
        f"the repository at {displayed(str(path))} keeps a part of itself outside of the workspace",
        code="outside_workspace",
    )


def unreadable(path: Path | str) -> Unprocessable:
    # What libgit2 says stays here: its words may quote files that nobody asked for.
    return Unprocessable(
        f"the repository at {displayed(str(path))} is damaged, or of a kind that cannot be read; `git fsck` tells more",
        code="repository_unreadable",
    )


# Finding all


def discover(workspace: Workspace) -> tuple[list[Repository], bool]:
    """The repositories and linked worktrees of the workspace, and whether a limit cut the search short.

    Roots come first, then worktrees, each by path. Links are not followed, other file systems not entered.
    """
    scan = _Scan(workspace)
    found: dict[str, Repository] = {}
    for directory in scan.working_trees():
        found[directory] = describe(workspace, Path(directory))
    for path in _linked_elsewhere(workspace, list(found.values())):
        if str(path) not in found:
            found[str(path)] = describe(workspace, path)
    ordered = sorted(found.values(), key=lambda item: (item.is_worktree, item.root, item.path))
    return ordered[:MAX_REPOSITORIES], scan.is_cut or len(ordered) > MAX_REPOSITORIES


class _Scan:
    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        base = f"{workspace.base}/"
        self._worktrees = f"{base}{WORKTREES}"
        self._mounts = mounts_below(str(workspace.base))
        self.is_cut = False

    def working_trees(self) -> Iterator[str]:
        """Directories that hold a `.git`, anywhere below the base."""
        deadline = time.monotonic() + MAX_SECONDS
        pending = [(str(self._workspace.base), 0)]
        visited = found = 0
        while pending:
            directory, depth = pending.pop()
            visited += 1
            if visited > MAX_DIRECTORIES or found > MAX_REPOSITORIES or time.monotonic() > deadline:
                self.is_cut = True
                return
            has_git, names = _look_into(directory)
            if has_git:
                found += 1
                yield directory
            if os.path.dirname(os.path.dirname(directory)) == self._worktrees:
                continue  # A session's. Looking through all of these takes as long as through all repositories.
            if names and depth >= MAX_DEPTH:
                self.is_cut = True
            elif names:
                pending += [(path, depth + 1) for path in self._enterable(directory, names)]

    def _enterable(self, directory: str, names: list[str]) -> list[str]:
        prefix = directory.rstrip("/") + "/"
        paths = [prefix + name for name in names]
        if self._mounts or self._workspace.may_hold_private(directory):
            paths = [
                path for path in paths if path not in self._mounts and not self._workspace.is_private(path)
            ]
        return paths


def _look_into(directory: str) -> tuple[bool, list[str]]:
    """Is there a `.git`, and which folders to look into. An unreadable directory has neither."""
    has_git, folders, bare = False, [], 0
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                name = entry.name
                has_git |= name == ".git"
                bare += name in BARE
                if entry.is_dir(follow_symlinks=False) and name not in SKIPPED:
                    folders.append(name)
    except OSError:
        return False, []
    return has_git, folders if bare < len(BARE) else [name for name in folders if name not in BARE]


def describe(workspace: Workspace, path: Path) -> Repository:
    """What there is to know about the working tree `path`, which may be broken."""
    git_dir, branch, head, problem = None, None, None, None
    try:
        git_dir = git_directory(path)
        branch, head = _head(open_repository(workspace, path), path)
        if (unknown := unknown_index(path, git_dir.path)) is not None:
            problem = unknown.message
    except NotFound:
        problem = "it has no working tree"
    except AgentsrvError as exc:
        problem = exc.message
    is_linked = git_dir is not None and git_dir.is_linked
    root = main_tree(git_dir.common) if git_dir is not None and is_linked else path
    return Repository(
        name=displayed(path.name),
        path=displayed(str(path)),
        relative_path=displayed(str(path.relative_to(workspace.base))),
        is_worktree=is_linked,
        is_submodule=git_dir is not None and (git_dir.is_absorbed or _is_listed_submodule(workspace, path)),
        root=displayed(str(root)),
        branch=branch,
        head=head,
        problem=problem,
    )


def _head(repo: pygit2.Repository, root: Path) -> tuple[str | None, str | None]:
    """The branch, null when detached, and the commit, null before the first one."""
    with reading(root):
        target = repo.lookup_reference("HEAD").target
        branch = target.removeprefix("refs/heads/") if isinstance(target, str) else None
        commit = None if repo.head_is_unborn else str(repo.head.target)
    return None if branch is None else displayed(branch), commit


def main_tree(common: Path) -> Path:
    """The main working tree of a repository; a bare one has none, and stands for itself."""
    return common.parent if common.name == ".git" else common


def _is_listed_submodule(workspace: Workspace, path: Path) -> bool:
    """Is `path` in the `.gitmodules` of the working tree around it? Such a submodule has a `.git` of its own."""
    if path == workspace.base:
        return False
    try:
        around = _root_above(workspace, path.parent)
        listed = read_pointer(around / ".gitmodules", MAX_GITMODULES_BYTES)
    except (AgentsrvError, OSError, ValueError):
        return False
    settings = (line.partition("=") for line in listed.split("\n"))
    paths = {value.strip() for key, _, value in settings if key.strip() == "path"}
    return str(path.relative_to(around)) in paths


def _linked_elsewhere(workspace: Workspace, found: list[Repository]) -> Iterator[Path]:
    """Worktrees of the repositories found that lie in the workspace, where the scan may not have looked."""
    for repository in found:
        if repository.problem is not None or repository.is_worktree:
            continue
        with (
            suppress(OSError, AgentsrvError),
            os.scandir(Path(repository.path) / ".git" / "worktrees") as entries,
        ):
            for entry in entries:
                with suppress(OSError, ValueError, AgentsrvError):
                    path = Path(read_pointer(Path(entry.path) / "gitdir"))
                    path = Path(resolved(Path(entry.path) / path)).parent
                    if workspace.contains(str(path)) and os.path.lexists(path / ".git"):
                        yield path
