"""Git worktrees for sessions: made, listed and removed. Runs in a git worker that may write (`worker.py`).

A session's worktree is `<base>/.worktrees/<repository>/<session>`, on a branch of its own. To git it is a linked
worktree like any other. It is put together here and not by libgit2, so that at any moment of a crash it can be told
what is whole, and whose it is: a file in its git directory names session and branch, and until all is in place
another one says, in git's own way, that it is locked.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import msgspec
import pygit2
from pygit2.enums import CheckoutStrategy, FileStatus, RepositoryOpenFlag, RepositoryState

from agentsrv.errors import AgentsrvError, Conflict, InvalidInput, NotFound, Problem
from agentsrv.workspace.disk import DENIED, FULL, explained
from agentsrv.workspace.git import (
    GitDirectory,
    describe,
    find_root,
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
from agentsrv.workspace.git_protocol import (
    DiscardWorktree,
    FoundWorktrees,
    MadeWorktree,
    MakeWorktree,
    RemovedWorktree,
    RemoveWorktree,
    Worktree,
)
from agentsrv.workspace.landlock import restrict_writes
from agentsrv.workspace.paths import WORKTREES, Workspace, displayed

OWNER = "agentsrv"
"""In a worktree's git directory: whose it is. Git leaves it alone."""
LOCKED = "locked"
"""Git's own: such a worktree is not to be pruned or removed."""
UNFINISHED = "initializing"
"""What git, too, locks a worktree with that it is making."""

REMOVED = ".removed-"
HEADS = "refs/heads/"
KEPT = (b"refs/heads/", b"refs/remotes/", b"refs/tags/")
"""References that keep a commit."""
UNTRACKED = FileStatus.WT_NEW | FileStatus.IGNORED
FIELD = "use_worktree"

WRITTEN = ("worktrees", "refs", "refs/heads", "logs", "logs/refs", "logs/refs/heads")
"""Directories of a repository in which something is made. They may not lead elsewhere."""

MAX_NAMES = 1000
RESERVE_ATTEMPTS = 10
MAX_OWNER_BYTES = 1024
MAX_SHELF_NAME = 50
MAX_WORKTREES = 2_000
MAX_COMMITS = 1_000
MAX_NAMED = 3
STATUS_SECONDS = 6.0


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    session: str
    branch: str


# Requests


def make(workspace: Workspace, request: MakeWorktree) -> MadeWorktree:
    """Raises InvalidInput (`no_repository`, `no_commits`), Forbidden, Unprocessable (`repository_unreadable`),
    Conflict, StorageFull; then nothing is left behind."""
    cwd = Path(workspace.resolve(request.cwd, field="cwd"))
    root = _root_of(workspace, cwd)
    head = _head_of(workspace, root)
    with _shelf_for(workspace, git_directory(root)) as shelf:
        shelf.discard_leftovers(request.session_id)
        name, branch = shelf.reserve(request.session_id, head)
        try:
            shelf.fill(name)
            inside = _make_inside(workspace, shelf.path / name / cwd.relative_to(root))
            (shelf.git_directory(name) / LOCKED).unlink()
        except BaseException:
            shelf.clear(name, branch)
            raise
    return MadeWorktree(root=str(root), path=str(shelf.path / name), cwd=inside, branch=branch)


def discard(workspace: Workspace, request: DiscardWorktree) -> None:
    """Raises what `make` raises where the repository cannot be worked with (any more)."""
    root = _root_of(workspace, Path(request.cwd))
    with _shelf_for(workspace, git_directory(root)) as shelf:
        shelf.discard_leftovers(request.session_id)


def remove(workspace: Workspace, request: RemoveWorktree) -> RemovedWorktree:
    """Raises NotFound (`worktree_not_found`), Conflict (`worktree_has_changes`) unless it is forced.

    Of one that git does not know any more only the directory is removed, and that only when forced.
    """
    path = _made_path(workspace, request.path)
    git_dir = _own_git_directory(workspace, path)
    if git_dir is None:
        if not request.force:
            raise _has_changes(
                path, ["it is no worktree to git any more, so nobody knows what has changed in it"]
            )
        with _open_shelf(workspace, path.parent) as directory, _writing(path):
            _remove_tree(path.name, directory)
        return RemovedWorktree(path=str(path), branch=None)
    owner = _owner_of(git_dir.path)
    with _shelf_for(workspace, git_dir, path.parent) as shelf:
        if not request.force and (losses := shelf.losses(path.name, owner)):
            raise _has_changes(path, losses)
        branch = None if owner is None else shelf.own_branch(path.name, owner)
        shelf.clear(path.name, branch)
    return RemovedWorktree(path=str(path), branch=branch)


def find_all(workspace: Workspace) -> FoundWorktrees:
    """By path; also those whose session is gone, and what is left of one that was not finished."""
    deadline = time.monotonic() + STATUS_SECONDS
    paths = sorted(islice(_all_paths(workspace), MAX_WORKTREES))
    return FoundWorktrees(worktrees=[_describe(workspace, path, deadline) for path in paths])


# The worktrees of one repository


@dataclass(frozen=True, slots=True)
class Shelf:
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
        prefix = "session-" if f"{HEADS}session".encode() in references else "session/"
        start = _ref_safe(session_id)
        for name in (start, *(f"{start}-{number}" for number in range(2, MAX_NAMES))):
            wanted = f"{HEADS}{prefix}{name}".encode()
            is_taken = any(known == wanted or known.startswith(wanted + b"/") for known in references)
            if not (
                is_taken or os.path.lexists(self.path / name) or os.path.lexists(self.git_directory(name))
            ):
                return name, prefix + name
        raise Conflict(f"all names for a worktree of session {session_id} are taken", code="exists")

    def reserve(self, session_id: str, head: pygit2.Oid) -> tuple[str, str]:
        """Make the git directory of a worktree, locked, and its branch; returns their names. Raises Conflict."""
        for _ in range(RESERVE_ATTEMPTS):
            name, branch = self.free_name(session_id)
            # Another worker may have been faster at that name, or have taken the directory of all away.
            with suppress(Conflict, NotFound):
                self._reserve(name, head, Owner(session=session_id, branch=branch))
                return name, branch
        raise Conflict(f"no name for a worktree of session {session_id} stays free; try again", code="exists")

    def _reserve(self, name: str, head: pygit2.Oid, owner: Owner) -> None:
        git_dir = self.git_directory(name)
        with _writing(git_dir):
            git_dir.parent.mkdir(exist_ok=True)
            git_dir.mkdir()
            try:
                _write(git_dir / LOCKED, UNFINISHED)
                _write(git_dir / OWNER, msgspec.json.encode(owner).decode())
                _write(git_dir / "commondir", "../..")
                _write(git_dir / "gitdir", f"{self.path / name}/.git")
                _write(git_dir / "HEAD", f"ref: {HEADS}{owner.branch}")
                self.repo.references.create(HEADS + owner.branch, head)
            except BaseException:
                shutil.rmtree(git_dir)
                raise

    def fill(self, name: str) -> None:
        """Make the directory of a reserved worktree, with all its files."""
        path = self.path / name
        with _writing(path):
            os.mkdir(name, dir_fd=self.directory)
            _write(path / ".git", f"gitdir: {self.git_directory(name)}")
            self._open(name).checkout_head(strategy=CheckoutStrategy.FORCE)  # type: ignore[no-untyped-call]

    def discard_leftovers(self, session_id: str) -> None:
        """Clear what was made for this session before and never used, or only in part."""
        for git_dir in _entries(self.common / "worktrees"):
            owner = _owner_of(git_dir)
            if owner is None or owner.session != session_id or not self._is_ours(git_dir):
                continue
            if _is_unfinished(git_dir) or not self.losses(git_dir.name, owner, with_ignored=True):
                self.clear(git_dir.name, self.own_branch(git_dir.name, owner))

    def losses(self, name: str, owner: Owner | None, *, with_ignored: bool = False) -> list[str]:
        """What would be lost with the worktree and its branch, in words for people."""
        git_dir, losses = self.git_directory(name), list[str]()
        tips = [] if owner is None else [HEADS + owner.branch]
        try:
            if os.path.lexists(self.path / name):
                worktree = self._open(name)
                losses += changes_in(worktree, with_ignored=with_ignored)
                with reading(self.path / name):
                    tips += [str(worktree.head.target)] if worktree.head_is_detached else []
            with reading(self.path / name):
                losses += _commits_only_on(self.repo, tips)
        except AgentsrvError as exc:
            losses.append(exc.message)
        if os.path.lexists(git_dir / LOCKED):
            losses.append(
                "it is not finished" if _is_unfinished(git_dir) else "it is locked (git worktree unlock)"
            )
        if _entries(git_dir / "modules"):
            losses.append("it has submodules of its own")
        return losses

    def own_branch(self, name: str, owner: Owner) -> str | None:
        """The branch that was made for it, when it still is there and nobody else uses it."""
        others = [self.common, *_entries(self.common / "worktrees")]
        heads = {_head_text(git_dir) for git_dir in others if git_dir != self.git_directory(name)}
        reference = HEADS + owner.branch
        is_own = reference in self.repo.references and f"ref: {reference}" not in heads
        return owner.branch if is_own else None

    def clear(self, name: str, branch: str | None) -> None:
        """Remove a worktree and `branch`, each as far as it is there.

        The directory goes first, at once, and what says whose it is last: what a crash leaves in between is
        found again.
        """
        rubbish = f"{REMOVED}{uuid.uuid4().hex}"
        with _writing(self.path / name):
            with suppress(FileNotFoundError):
                os.rename(name, rubbish, src_dir_fd=self.directory, dst_dir_fd=self.directory)
            if branch is not None:
                with suppress(KeyError):
                    self.repo.references.delete(HEADS + branch)
            with suppress(FileNotFoundError):
                shutil.rmtree(self.git_directory(name))
            with suppress(OSError):
                self.git_directory(name).parent.rmdir()  # The last one takes it along, as with git.
            _remove_tree(rubbish, self.directory)

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
            return _is_unfinished(git_dir)


@contextmanager
def _shelf_for(workspace: Workspace, git_dir: GitDirectory, path: Path | None = None) -> Iterator[Shelf]:
    """The shelf of a repository, by default where new ones are. This process writes only there from now on."""
    require_confined(workspace, git_dir)
    common = git_dir.common
    for name in WRITTEN:
        if os.path.lexists(common / name) and resolved(common / name) != str(common / name):
            raise outside(common / name)
    path = path or workspace.base / WORKTREES / _shelf_name(common)
    with reading(common):
        repo = pygit2.Repository(str(common), RepositoryOpenFlag.NO_SEARCH)
    with _open_shelf(workspace, path) as directory, workspace.open_directory(str(common)) as repository:
        above = os.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
        try:
            restrict_writes((above, repository))
        finally:
            os.close(above)
        yield Shelf(workspace, path, directory, common, repo)


@contextmanager
def _open_shelf(workspace: Workspace, path: Path) -> Iterator[int]:
    """The directory at `path`, two levels below the base; made when missing, removed when empty at the end."""
    with workspace.make_directories(str(path.parent), [], field=FIELD) as above:
        # Shared with other workers: only the last one may take an empty shelf away.
        fcntl.flock(above, fcntl.LOCK_SH)
        with explained(workspace.relative(str(path)), FIELD):
            with suppress(FileExistsError):
                # The base may lie in a repository, to which these are no changes.
                _write(".gitignore", "*", above)
            with suppress(FileExistsError):
                os.mkdir(path.name, dir_fd=above)
            directory = os.open(path.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
        try:
            yield directory
        finally:
            with suppress(OSError, AgentsrvError):
                fcntl.flock(above, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for entry in os.listdir(directory):
                    if entry.startswith(REMOVED):  # What somebody was removing who was killed.
                        _remove_tree(entry, directory)
                os.rmdir(path.name, dir_fd=above)
            os.close(directory)


# Where things are


def _root_of(workspace: Workspace, cwd: Path) -> Path:
    """The working tree around `cwd`. Raises InvalidInput (`no_repository`)."""
    try:
        return find_root(workspace, str(cwd))
    except NotFound as exc:
        raise _impossible(
            f"{displayed(str(cwd))} is not in the working tree of a git repository", "no_repository"
        ) from exc


def _head_of(workspace: Workspace, root: Path) -> pygit2.Oid:
    """The commit to begin with. Raises InvalidInput (`no_commits`; `no_repository` for a bare one)."""
    try:
        repo = open_repository(workspace, root)
    except NotFound as exc:
        raise _impossible(
            f"the repository at {displayed(str(root))} has no working tree", "no_repository"
        ) from exc
    with reading(root):
        if not repo.head_is_unborn:
            return repo.head.peel(pygit2.Commit).id
    raise _impossible(f"the repository at {displayed(str(root))} has no commit yet", "no_commits")


def _impossible(reason: str, code: str) -> InvalidInput:
    message = f"{reason}; leave out use_worktree, or change that first"
    return InvalidInput(f"{FIELD}: {message}", code=code, problems=[Problem(FIELD, message)])


def _make_inside(workspace: Workspace, path: Path) -> str:
    """A directory in a new worktree; it need not be in the commit."""
    with workspace.make_directories(str(path), [], field="cwd"):
        return str(path)


def _shelf_name(common: Path) -> str:
    """The repository's, in a form that every file system and every log takes."""
    name = displayed(main_tree(common).name).replace("\n", " ")
    return name.lstrip(".")[:MAX_SHELF_NAME] or "repository"


def _ref_safe(session_id: str) -> str:
    """The id as part of a branch's name, where no two dots, dot or `.lock` at the end may be."""
    return re.sub(r"\.(?=\.|$|lock$)", "_", session_id)


def _made_path(workspace: Workspace, text: str) -> Path:
    """The worktree at `text`, which leads over no link: it might be another session's by now.

    Raises NotFound (`worktree_not_found`).
    """
    path = Path(workspace.resolve(text))
    parts = workspace.relative(str(path)).split("/")
    is_made = len(parts) == 3 and parts[0] == WORKTREES and not parts[2].startswith(".")
    if not is_made or str(path) != text or not path.is_dir():
        raise NotFound(f"{displayed(text)} is not a worktree of a session", code="worktree_not_found")
    return path


def _all_paths(workspace: Workspace) -> Iterator[Path]:
    for shelf in _entries(workspace.base / WORKTREES):
        yield from (path for path in _entries(shelf) if not path.name.startswith("."))


def _entries(path: Path) -> list[Path]:
    """The directories in a directory, links left out; none when it cannot be read."""
    try:
        with os.scandir(path) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _own_git_directory(workspace: Workspace, path: Path) -> GitDirectory | None:
    """Where git keeps what belongs to this worktree; None unless both ends say so."""
    try:
        git_dir = git_directory(path)
        require_confined(workspace, git_dir)
        pointer = read_pointer(git_dir.path / "gitdir")
    except (AgentsrvError, OSError, ValueError):
        return None
    is_own = git_dir.path == git_dir.common / "worktrees" / path.name and pointer == f"{path}/.git"
    return git_dir if is_own else None


def _owner_of(git_dir: Path) -> Owner | None:
    """None for a worktree that was not made here, or where somebody has changed what stands there."""
    try:
        owner = msgspec.json.decode(read_pointer(git_dir / OWNER, MAX_OWNER_BYTES), type=Owner)
        is_possible = pygit2.reference_is_valid_name(HEADS + owner.branch)
    except (OSError, ValueError, RecursionError):
        return None
    return owner if is_possible and owner.branch.startswith(("session/", "session-")) else None


def _is_unfinished(git_dir: Path) -> bool:
    try:
        return read_pointer(git_dir / LOCKED) == UNFINISHED
    except (OSError, ValueError):
        return False


def _head_text(git_dir: Path) -> str:
    try:
        return read_pointer(git_dir / "HEAD")
    except (OSError, ValueError):
        return ""


# What would be lost


def changes_in(worktree: pygit2.Repository, *, with_ignored: bool = False) -> list[str]:
    """What is not committed. Raises Unprocessable."""
    with reading(Path(worktree.path)):
        status = worktree.status(untracked_files="normal", ignored=with_ignored)
        is_busy = worktree.state() != RepositoryState.NONE
    new = sorted(path for path, flags in status.items() if flags & UNTRACKED)
    changed = sorted(status.keys() - set(new))
    losses = [f"{len(changed)} changed: {_some(changed)}"] if changed else []
    losses += [f"{len(new)} untracked: {_some(new)}"] if new else []
    return losses + (["a merge, rebase or the like is not finished"] if is_busy else [])


def _commits_only_on(repo: pygit2.Repository, tips: list[str]) -> list[str]:
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
            with suppress(pygit2.GitError, KeyError, ValueError):  # Points to a file, or to nothing.
                walker.hide(repo.lookup_reference(os.fsdecode(name)).peel(pygit2.Commit).id)
    if repo.head_is_detached:
        walker.hide(repo.head.target)
    number = sum(1 for _ in islice(walker, MAX_COMMITS))
    return [f"commits on no other branch: {number}"] if number else []


def _has_changes(path: Path, losses: list[str]) -> Conflict:
    return Conflict(
        f"the worktree {displayed(str(path))} has what would be lost with it ({'; '.join(losses)}); "
        "commit it and merge the branch, or use force=true",
        code="worktree_has_changes",
        problems=[Problem("worktree", loss) for loss in losses],
    )


def _some(paths: list[str]) -> str:
    return ", ".join(map(displayed, paths[:MAX_NAMED])) + (", ..." if len(paths) > MAX_NAMED else "")


def _describe(workspace: Workspace, path: Path, deadline: float) -> Worktree:
    found, is_dirty = describe(workspace, path), None
    if found.problem is None and time.monotonic() < deadline:
        with suppress(AgentsrvError):
            is_dirty = bool(changes_in(open_repository(workspace, path)))
    return Worktree(
        path=found.path,
        relative_path=found.relative_path,
        root=found.root,
        branch=found.branch,
        head=found.head,
        is_dirty=is_dirty,
        problem=found.problem,
    )


# Writing


@contextmanager
def _writing(path: Path) -> Iterator[None]:
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


def _write(path: Path | str, line: str, directory: int | None = None) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o666, dir_fd=directory)
    with open(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(line + "\n")


def _remove_tree(name: str, directory: int) -> None:
    """Also what its owner may not write to. Nothing need be there."""
    try:
        try:
            shutil.rmtree(name, dir_fd=directory)
        except PermissionError:
            _permit(name, directory)
            shutil.rmtree(name, dir_fd=directory)
    except FileNotFoundError:
        return
    except RecursionError as exc:
        raise Conflict("directories are nested too deeply to be removed here", code="not_empty") from exc


def _permit(name: str, directory: int) -> None:
    """Programs like to take the right to write away from folders that they fill."""
    for _, folders, _, inner in os.fwalk(name, dir_fd=directory):
        for folder in folders:
            with suppress(NotADirectoryError):  # A link to one.
                handle = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=inner)
                try:
                    os.chmod(f"/proc/self/fd/{handle}", stat.S_IRWXU)
                finally:
                    os.close(handle)
