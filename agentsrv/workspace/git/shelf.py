"""The worktrees of one repository: made and taken away. Runs in a git worker that may write."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import pygit2
from msgspec import Struct
from pygit2.enums import CheckoutStrategy, RepositoryOpenFlag

from agentsrv.errors import AgentsrvError, Conflict, NotFound
from agentsrv.workspace.explain import DENIED, FULL, explained
from agentsrv.workspace.git import trash
from agentsrv.workspace.git.landlock import restrict_writes
from agentsrv.workspace.git.losses import changes_in, commits_only_on
from agentsrv.workspace.git.marks import (
    HEADS,
    LOCKED,
    OWNER,
    UNFINISHED,
    Owner,
    branches_of,
    directories_in,
    head_text,
    is_unfinished,
    owner_of,
    ref_safe,
)
from agentsrv.workspace.git.repositories import (
    GitDirectory,
    git_directory,
    main_tree,
    open_repository,
    outside,
    read_pointer,
    reading,
    require_confined,
    resolved,
    unreadable,
)
from agentsrv.workspace.mounts import mounts_below
from agentsrv.workspace.paths import WORKTREES, Workspace, displayed
from agentsrv.workspace.removal import remove_tree

FIELD = "use_worktree"

WRITTEN = (
    *("worktrees", "refs", "refs/heads", "refs/agentsrv", "refs/agentsrv/removed"),
    *("logs", "logs/refs", "logs/refs/heads", "logs/refs/agentsrv", "logs/refs/agentsrv/removed"),
)
"""Directories of a repository in which something is made. They may not lead elsewhere."""

MAX_NAMES = 1000
RESERVE_ATTEMPTS = 10
MAX_SHELF_NAME = 50


class Shelf(Struct, frozen=True):
    """Where they stand: the open `directory` at `path`.

    `repo` is the main repository. Through a linked worktree libgit2 1.9 makes branches over existing ones.
    """

    workspace: Workspace
    path: Path
    directory: int
    common: Path
    repo: pygit2.Repository

    def git_directory(self, name: str) -> Path:
        return self.common / "worktrees" / name

    def free_name(self, session_id: str) -> tuple[str, str]:
        """A name for the worktree, and its branch; nothing of theirs is there yet. Raises Conflict."""
        references = self.repo.raw_listall_references()
        # Where somebody has a branch `session`, none can be below it.
        which = f"{HEADS}session".encode() in references
        start = ref_safe(session_id)
        for name in (start, *(f"{start}-{number}" for number in range(2, MAX_NAMES))):
            branch = branches_of(name)[which]
            wanted = f"{HEADS}{branch}".encode()
            is_taken = any(known == wanted or known.startswith(wanted + b"/") for known in references)
            if not (
                is_taken or os.path.lexists(self.path / name) or os.path.lexists(self.git_directory(name))
            ):
                return name, branch
        raise Conflict(f"all names for a worktree of session {session_id} are taken", code="exists")

    def reserve(self, session_id: str, head: pygit2.Oid, branch: str | None = None) -> tuple[str, Owner]:
        """Make the git directory of a worktree, locked, and its branch unless it is to be on one that there is.

        Returns its name, and whose it is. Raises Conflict.
        """
        for _ in range(RESERVE_ATTEMPTS):
            name, own = self.free_name(session_id)
            owner = Owner(session=session_id, branch=branch or own, is_own=branch is None)
            # Another worker may have been faster at that name, or have taken the directory of all away.
            with suppress(Conflict, NotFound):
                self.reserve_name(name, owner, head if owner.is_own else None)
                return name, owner
        raise Conflict(f"no name for a worktree of session {session_id} stays free; try again", code="exists")

    def reserve_name(self, name: str, owner: Owner, head: pygit2.Oid | None) -> None:
        """The same with this name; its branch is made at `head`, or is there. Raises Conflict, NotFound."""
        git_dir = self.git_directory(name)
        with writing(git_dir):
            git_dir.parent.mkdir(exist_ok=True)
            git_dir.mkdir()
            try:
                write_line(git_dir / LOCKED, UNFINISHED)
                write_line(git_dir / OWNER, msgspec.json.encode(owner).decode())
                write_line(git_dir / "commondir", "../..")
                write_line(git_dir / "gitdir", f"{self.path / name}/.git")
                write_line(git_dir / "HEAD", f"ref: {HEADS}{owner.branch}")
                if head is not None:
                    self.repo.references.create(HEADS + owner.branch, head)
            except BaseException:
                shutil.rmtree(git_dir)
                raise

    def fill(self, name: str) -> None:
        """Make the directory of a reserved worktree, with all its files."""
        path = self.path / name
        with writing(path):
            os.mkdir(name, dir_fd=self.directory)
            write_line(path / ".git", f"gitdir: {self.git_directory(name)}")
            self._open(name).checkout_head(strategy=CheckoutStrategy.FORCE)  # type: ignore[no-untyped-call]

    def knows(self, name: str, *, on: str | None) -> bool:
        """Does git still know a worktree whose directory is gone, on the branch `on` or, for None, on what it was?

        Raises Conflict where that name belongs to a worktree somewhere else.
        """
        git_dir = self.git_directory(name)
        if not os.path.lexists(git_dir):
            return False
        if not self._is_ours(git_dir):
            raise Conflict(f"the repository has another worktree {displayed(name)}", code="exists")
        head = head_text(git_dir).removeprefix("ref: ")
        if not head.startswith(HEADS):
            return on is None
        return head in self.repo.references and on in (None, head.removeprefix(HEADS))

    def branch_of(self, name: str) -> str:
        """What the branch of such a worktree is called, which may be gone."""
        known = [branch for branch in branches_of(name) if HEADS + branch in self.repo.references]
        return known[0] if known else branches_of(name)[0]

    def refill(self, name: str, copy: Callable[[Path], list[str]]) -> list[str]:
        """Make the directory of a worktree again, all at once; returns what `copy` has put into it."""
        hidden = f".new-{name}"
        with writing(self.path / name):
            with suppress(FileNotFoundError):
                exhaust(remove_tree(hidden, self.directory))
            os.mkdir(hidden, dir_fd=self.directory)
            try:
                copied = self._fill_at(self.path / hidden, name, copy)
            except BaseException:
                exhaust(remove_tree(hidden, self.directory))
                raise
            os.rename(hidden, name, src_dir_fd=self.directory, dst_dir_fd=self.directory)
        return copied

    def _fill_at(self, path: Path, name: str, copy: Callable[[Path], list[str]]) -> list[str]:
        write_line(path / ".git", f"gitdir: {self.git_directory(name)}")
        repo, strategy = open_repository(self.workspace, path), CheckoutStrategy.FORCE
        repo.checkout_head(strategy=strategy, directory=str(path))  # type: ignore[no-untyped-call]
        return copy(path)

    def discard_leftovers(self, session_id: str, in_use: list[str]) -> None:
        """Clear what was made for this session before and never used, or only in part. The database knows nothing of
        it but what is `in_use`; so its branch goes only while that has no commit of its own."""
        for git_dir in directories_in(self.common / "worktrees"):
            name, owner = git_dir.name, owner_of(git_dir)
            if owner is None or owner.session != session_id or not self._is_ours(git_dir):
                continue
            if str(self.path / name) in in_use:
                continue
            branch = self.own_branch(name, owner.branch if owner.is_own else None)
            if is_unfinished(git_dir) or not self.losses(name, branch, with_ignored=True):
                with writing(self.path / name):
                    is_kept = branch is not None and commits_only_on(self.repo, [HEADS + branch])
                self.clear(name, None if is_kept else branch)

    def losses(self, name: str, branch: str | None, *, with_ignored: bool = False) -> list[str]:
        """What would be lost with the worktree and `branch`, in words for people."""
        git_dir, losses = self.git_directory(name), list[str]()
        tips = [] if branch is None else [HEADS + branch]
        try:
            if os.path.lexists(self.path / name):
                worktree = self._open(name)
                losses += changes_in(worktree, with_ignored=with_ignored)
                with reading(self.path / name):
                    tips += [str(worktree.head.target)] if worktree.head_is_detached else []
            with reading(self.path / name):
                losses += commits_only_on(self.repo, tips)
        except AgentsrvError as exc:
            losses.append(exc.message)
        if os.path.lexists(git_dir / LOCKED):
            losses.append(
                "it is not finished" if is_unfinished(git_dir) else "it is locked (git worktree unlock)"
            )
        if directories_in(git_dir / "modules"):
            losses.append("it has submodules of its own")
        return losses

    def own_branch(self, name: str, branch: str | None) -> str | None:
        """The branch that was made for it, when it still is there and nobody else uses it."""
        is_there = branch is not None and HEADS + branch in self.repo.references
        return branch if branch is not None and is_there and not self.is_in_use(branch, but=name) else None

    def is_in_use(self, branch: str, *, but: str | None = None) -> bool:
        """Is a working tree on it, other than that of the worktree `but`?"""
        others = [self.common, *directories_in(self.common / "worktrees")]
        ours = None if but is None else self.git_directory(but)
        return any(head_text(git_dir) == f"ref: {HEADS}{branch}" for git_dir in others if git_dir != ours)

    def clear(self, name: str, branch: str | None, *, for_good: bool = True) -> None:
        """Remove a worktree and `branch`, each as far as it is there; unless `for_good` into the trash.

        The directory goes first, at once, and what says whose it is last: what a crash leaves in between is
        found again. Raises Conflict (`in_use`) when another file system is mounted in it.
        """
        if mounts_below(str(self.path / name)):
            raise Conflict(f"another file system is mounted in {displayed(name)}", code="in_use")
        with writing(self.path / name):
            with suppress(FileNotFoundError):
                if for_good:
                    exhaust(remove_tree(name, self.directory))
                else:
                    trash.put_away(name, self.directory)
            if branch is not None:
                if not for_good:
                    trash.keep_commit(self.repo, branch, name)
                with suppress(KeyError):
                    self.repo.references.delete(HEADS + branch)
            with suppress(FileNotFoundError):
                shutil.rmtree(self.git_directory(name))
            with suppress(OSError):
                self.git_directory(name).parent.rmdir()  # The last one takes it along, as with git.
            trash.purge_references(self.repo)

    def _open(self, name: str) -> pygit2.Repository:
        """A worktree as a repository. Raises Unprocessable, also when it belongs to another one now."""
        path = self.path / name
        worktree = open_repository(self.workspace, path)
        is_at_path = resolved(worktree.workdir) == str(path)
        if not is_at_path or git_directory(path).path != self.git_directory(name):
            raise unreadable(path)
        return worktree

    def _is_ours(self, git_dir: Path) -> bool:
        """Does a worktree of this shelf belong to it, or did it not come that far?"""
        try:
            return read_pointer(git_dir / "gitdir") == f"{self.path / git_dir.name}/.git"
        except (OSError, ValueError):
            return is_unfinished(git_dir)


@contextmanager
def shelf_for(workspace: Workspace, git_dir: GitDirectory, path: Path | None = None) -> Iterator[Shelf]:
    """The shelf of a repository, by default where new ones are. This process writes only there from now on."""
    require_confined(workspace, git_dir)
    common = git_dir.common
    for name in WRITTEN:
        if os.path.lexists(common / name) and resolved(common / name) != str(common / name):
            raise outside(common / name)
    path = path or workspace.base / WORKTREES / shelf_name(common)
    with reading(common):
        repo = pygit2.Repository(str(common), RepositoryOpenFlag.NO_SEARCH)
    with open_shelf(workspace, path) as directory, workspace.open_directory(str(common)) as repository:
        above = os.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
        try:
            restrict_writes((above, repository))
        finally:
            os.close(above)
        yield Shelf(workspace, path, directory, common, repo)


@contextmanager
def open_shelf(workspace: Workspace, path: Path) -> Iterator[int]:
    """The directory at `path`, two levels below the base; made when missing, removed when empty at the end."""
    with workspace.make_directories(str(path.parent), [], field=FIELD) as above:
        # Shared with other workers: only the last one may take an empty shelf away.
        fcntl.flock(above, fcntl.LOCK_SH)
        with explained(workspace.relative(str(path)), FIELD):
            with suppress(FileExistsError):
                # The base may lie in a repository, to which these are no changes.
                write_line(".gitignore", "*", above)
            with suppress(FileExistsError):
                os.mkdir(path.name, dir_fd=above)
            directory = os.open(path.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
        try:
            yield directory
        finally:
            with suppress(OSError, AgentsrvError):
                fcntl.flock(above, fcntl.LOCK_EX | fcntl.LOCK_NB)
                trash.purge(directory)
                os.rmdir(path.name, dir_fd=above)
            os.close(directory)


def shelf_name(common: Path) -> str:
    """The repository's, in a form that every file system and every log takes."""
    name = displayed(main_tree(common).name).replace("\n", " ")
    return name.lstrip(".")[:MAX_SHELF_NAME] or "repository"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around changes: what the disk refuses, to us or to libgit2, and what libgit2 cannot read."""
    try:
        yield
    except pygit2.AlreadyExistsError as exc:
        raise Conflict(f"something is at {displayed(str(path))} already; try again", code="exists") from exc
    except (pygit2.GitError, KeyError, ValueError, OSError) as exc:
        number = exc.errno if isinstance(exc, OSError) else None
        # libgit2 has words only.
        for known in () if number else (*FULL, *DENIED):
            number = known if os.strerror(known) in str(exc) else number
        if number is None:
            raise unreadable(path) from exc
        with explained(displayed(str(path)), FIELD):
            raise OSError(number, os.strerror(number)) from exc


def write_line(path: Path | str, line: str, directory: int | None = None) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o666, dir_fd=directory)
    with open(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(line + "\n")


def exhaust(steps: Iterable[object]) -> None:
    for _ in steps:
        """All that matters is what each step does."""
