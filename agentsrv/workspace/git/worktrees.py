"""Git worktrees for sessions: made, listed and removed. Runs in a git worker that may write (`program.py`).

A session's worktree is `<base>/.worktrees/<repository>/<session>`, on a branch of its own. To git it is a linked
worktree like any other. It is put together here and not by libgit2, so that at any moment of a crash it can be told
what is whole, and whose it is: a file in its git directory names session and branch, and until all is in place
another one says, in git's own way, that it is locked.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import pygit2

from agentsrv.errors import AgentsrvError, Conflict, InvalidInput, NotFound, Problem
from agentsrv.workspace.git.diff.changes import find_object, unknown_revision
from agentsrv.workspace.git.includes import copy_included
from agentsrv.workspace.git.losses import changes_in, has_changes
from agentsrv.workspace.git.marks import (
    HEADS,
    LOCKED,
    Owner,
    branches_of,
    directories_in,
    head_text,
)
from agentsrv.workspace.git.protocol import (
    DiscardWorktree,
    FoundWorktrees,
    Made,
    MadeWorktree,
    MakeWorktree,
    RemovedWorktree,
    RemoveWorktree,
    RestoreWorktree,
    Worktree,
)
from agentsrv.workspace.git.repositories import (
    describe,
    find_root,
    git_directory,
    open_repository,
    own_git_directory,
    reading,
)
from agentsrv.workspace.git.shelf import FIELD, Shelf, open_shelf, shelf_for, writing
from agentsrv.workspace.git.trash import put_away
from agentsrv.workspace.paths import WORKTREES, Workspace, displayed

MAX_WORKTREES = 2_000
STATUS_SECONDS = 6.0


# Requests


def make(workspace: Workspace, request: MakeWorktree) -> MadeWorktree:
    """Raises InvalidInput (`no_repository`, `no_commits`), Forbidden, Unprocessable (`repository_unreadable`),
    Conflict, StorageFull; then nothing is left behind."""
    cwd = Path(workspace.resolve(request.cwd, field="cwd"))
    root = _root_of(workspace, cwd)
    repo, head = _beginning_of(workspace, root, request)
    with shelf_for(workspace, git_directory(root)) as shelf:
        shelf.discard_leftovers(request.session_id, request.in_use)
        if request.branch is not None and shelf.is_in_use(request.branch):
            raise _branch_in_use(request.branch)
        name, owner = shelf.reserve(request.session_id, head, request.branch)
        branch = owner.branch if owner.is_own else None
        try:
            shelf.fill(name)
            with writing(shelf.path / name):
                copied = copy_included(repo, shelf.path / name, request.copy_patterns)
            inside = _make_inside(workspace, shelf.path / name / cwd.relative_to(root))
            (shelf.git_directory(name) / LOCKED).unlink()
        except BaseException:
            shelf.clear(name, branch)
            raise
    path = str(shelf.path / name)
    made = Made(repository=str(shelf.common), branch=branch)
    return MadeWorktree(root=str(root), path=path, cwd=inside, branch=owner.branch, made=made, copied=copied)


def restore(workspace: Workspace, request: RestoreWorktree) -> MadeWorktree:
    """Raises what `make` raises, and InvalidInput (`unknown_revision`) when its branch is gone too.

    Until all is in place it is to git what it was before: a worktree whose directory is missing, or none.
    """
    path = _place_of(workspace, request.path)
    root = _root_of(workspace, Path(request.origin_cwd))
    repo = _opened(workspace, root)
    with shelf_for(workspace, git_directory(root), path.parent) as shelf:
        is_known = shelf.knows(path.name, on=request.branch)
        new = None if is_known else _reserve_again(shelf, path.name, repo, request)
        try:
            copied = shelf.refill(path.name, lambda at: copy_included(repo, at, request.copy_patterns))
        except BaseException:
            if not is_known:
                shelf.clear(path.name, new)
            raise
        inside = _make_inside(workspace, Path(request.cwd))
        branch = head_text(shelf.git_directory(path.name)).removeprefix(f"ref: {HEADS}")
    made = None if new is None else Made(repository=str(shelf.common), branch=new)
    return MadeWorktree(root=str(root), path=str(path), cwd=inside, branch=branch, made=made, copied=copied)


def _reserve_again(shelf: Shelf, name: str, repo: pygit2.Repository, request: RestoreWorktree) -> str | None:
    """Let git know the worktree again. Returns its branch if that had to be made anew."""
    branch, head = request.branch or shelf.branch_of(name), None
    is_gone = HEADS + branch not in repo.references
    if is_gone and request.base is not None and request.branch is None:
        head = _commit_of(repo, request.base, "worktree.base")
    else:
        _commit_of(repo, HEADS + branch, "worktree.branch")
    if shelf.is_in_use(branch, but=name):
        raise _branch_in_use(branch)
    shelf.clear(name, None)
    owner = Owner(session=request.session_id, branch=branch, is_own=branch in branches_of(name))
    shelf.reserve_name(name, owner, head)
    (shelf.git_directory(name) / LOCKED).unlink()
    return None if head is None else branch


def discard(workspace: Workspace, request: DiscardWorktree) -> None:
    """Raises what `make` raises where the repository cannot be worked with (any more)."""
    root = _root_of(workspace, Path(request.cwd))
    with shelf_for(workspace, git_directory(root)) as shelf:
        shelf.discard_leftovers(request.session_id, request.in_use)


def remove(workspace: Workspace, request: RemoveWorktree) -> RemovedWorktree:
    """Raises NotFound (`worktree_not_found`), Conflict (`worktree_has_changes`) unless it is forced.

    Of one that git does not know any more only the directory is removed, and that only when forced. A branch goes
    only where it was made: an agent may have led the worktree to another repository.
    """
    path = _made_path(workspace, request.path)
    git_dir = own_git_directory(workspace, path)
    if git_dir is None or request.only_files:
        if not request.force:
            raise has_changes(
                path, ["it is no worktree to git any more, so nobody knows what has changed in it"]
            )
        with open_shelf(workspace, path.parent) as directory, writing(path):
            put_away(path.name, directory)
        return RemovedWorktree(path=str(path), branch=None)
    made = request.made
    own = made.branch if made is not None and made.repository == str(git_dir.common) else None
    with shelf_for(workspace, git_dir, path.parent) as shelf:
        branch = shelf.own_branch(path.name, own)
        if not request.force and (losses := shelf.losses(path.name, branch)):
            raise has_changes(path, losses)
        shelf.clear(path.name, branch, for_good=request.for_good)
    return RemovedWorktree(path=str(path), branch=branch)


def find_all(workspace: Workspace) -> FoundWorktrees:
    """By path; also those whose session is gone, and what is left of one that was not finished."""
    deadline = time.monotonic() + STATUS_SECONDS
    paths = sorted(islice(_all_paths(workspace), MAX_WORKTREES))
    return FoundWorktrees(worktrees=[_describe(workspace, path, deadline) for path in paths])


# Where things are


def _root_of(workspace: Workspace, cwd: Path) -> Path:
    """The working tree around `cwd`. Raises InvalidInput (`no_repository`)."""
    try:
        return find_root(workspace, str(cwd))
    except NotFound as exc:
        raise _impossible(
            f"{displayed(str(cwd))} is not in the working tree of a git repository", "no_repository"
        ) from exc


def _opened(workspace: Workspace, root: Path) -> pygit2.Repository:
    """Raises InvalidInput (`no_repository`) for a bare one."""
    try:
        return open_repository(workspace, root)
    except NotFound as exc:
        raise _impossible(
            f"the repository at {displayed(str(root))} has no working tree", "no_repository"
        ) from exc


def _beginning_of(
    workspace: Workspace, root: Path, request: MakeWorktree
) -> tuple[pygit2.Repository, pygit2.Oid]:
    """The repository, and the commit to begin with.

    Raises InvalidInput (`no_commits`, `unknown_revision`; `no_repository` for a bare one).
    """
    repo = _opened(workspace, root)
    if request.branch is not None:
        return repo, _commit_of(repo, HEADS + request.branch, "worktree.branch")
    if request.base is not None:
        return repo, _commit_of(repo, request.base, "worktree.base")
    with reading(root):
        if not repo.head_is_unborn:
            return repo, repo.head.peel(pygit2.Commit).id
    raise _impossible(f"the repository at {displayed(str(root))} has no commit yet", "no_commits")


def _commit_of(repo: pygit2.Repository, revision: str, field: str) -> pygit2.Oid:
    found = find_object(repo, revision, field)
    try:
        commit: pygit2.Commit | None = None if found is None else found.peel(pygit2.Commit)
    except (pygit2.InvalidSpecError, pygit2.GitError) as exc:
        raise unknown_revision(field) from exc
    if commit is None:
        raise unknown_revision(field)
    return commit.id


def _impossible(reason: str, code: str) -> InvalidInput:
    message = f"{reason}; leave out use_worktree, or change that first"
    return InvalidInput(f"{FIELD}: {message}", code=code, problems=[Problem(FIELD, message)])


def _make_inside(workspace: Workspace, path: Path) -> str:
    """A directory in a new worktree; it need not be in the commit."""
    with workspace.make_directories(str(path), [], field="cwd"):
        return str(path)


def _made_path(workspace: Workspace, text: str) -> Path:
    """The worktree at `text`, which leads over no link: it might be another session's by now.

    Raises NotFound (`worktree_not_found`).
    """
    path = _place_of(workspace, text)
    if not path.is_dir():
        raise _no_worktree(text)
    return path


def _place_of(workspace: Workspace, text: str) -> Path:
    """Where a worktree may be."""
    path = Path(workspace.resolve(text))
    parts = workspace.relative(str(path)).split("/")
    is_made = len(parts) == 3 and parts[0] == WORKTREES and not parts[2].startswith(".")
    if not is_made or str(path) != text:
        raise _no_worktree(text)
    return path


def _no_worktree(text: str) -> NotFound:
    return NotFound(f"{displayed(text)} is not a worktree of a session", code="worktree_not_found")


def _branch_in_use(branch: str) -> Conflict:
    return Conflict(f"another working tree is on the branch {branch}", code="branch_in_use")


def _all_paths(workspace: Workspace) -> Iterator[Path]:
    for shelf in directories_in(workspace.base / WORKTREES):
        yield from (path for path in directories_in(shelf) if not path.name.startswith("."))


def _used_at(path: Path) -> int | None:
    try:
        git_dir = git_directory(path).path
    except AgentsrvError:
        git_dir = path
    times = list[int]()
    for file in (path, git_dir / "index", git_dir / "HEAD", git_dir / "logs/HEAD"):
        with suppress(OSError):
            times.append(os.lstat(file).st_mtime_ns // 1_000_000)
    return max(times, default=None)


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
        used_at=_used_at(path),
        problem=found.problem,
    )
