"""Takes the commits of a session's worktree into another branch. Runs in a git worker that may write.

All is put together in memory first; what does not fit is told and nothing has changed then. No hook, merge driver or
filter that a repository names is run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pygit2
from msgspec import Struct
from pygit2.enums import CheckoutStrategy, RepositoryOpenFlag, RepositoryState, SortMode

from agentsrv.errors import Conflict, InvalidInput, Problem
from agentsrv.workspace.git.landlock import restrict_writes
from agentsrv.workspace.git.losses import changes_in
from agentsrv.workspace.git.marks import HEADS, directories_in, head_text
from agentsrv.workspace.git.protocol import MergedWorktree, MergeWorktree
from agentsrv.workspace.git.repositories import (
    GitDirectory,
    main_tree,
    open_repository,
    own_git_directory,
    read_pointer,
    reading,
)
from agentsrv.workspace.git.shelf import writing
from agentsrv.workspace.paths import Workspace, displayed

MAX_CONFLICTS = 1_000
MAX_COMMITS = 1_000
SAFE = CheckoutStrategy.SAFE | CheckoutStrategy.DONT_OVERWRITE_IGNORED


def merge(workspace: Workspace, request: MergeWorktree) -> MergedWorktree:
    """Raises Conflict (`merge_conflicts`, `merge_blocked`, `worktree_has_changes`), InvalidInput
    (`unknown_revision`), Forbidden, Unprocessable; then nothing has changed."""
    path = Path(workspace.resolve(request.path))
    git_dir = _repository_of(workspace, path, request)
    with _confined(workspace, git_dir) as root:
        worktree = open_repository(workspace, path)
        if losses := changes_in(worktree):
            raise _has_changes(path, losses)
        with reading(path):
            theirs = worktree.head.peel(pygit2.Commit)
            source = worktree.head.shorthand
        repo = _open_main(workspace, root, git_dir)
        target = _target(repo, request.into)
        _require_free(repo, target, git_dir.common)
        with reading(root):
            ours = target.peel(pygit2.Commit)
            merger = _Merger(
                repo, ours, repo[theirs.id].peel(pygit2.Commit), request, source, target.shorthand
            )
            result = merger.result()
        if result.id != ours.id:
            _advance(repo, target, result, f"agentsrv: {request.how} {source}")
    return MergedWorktree(
        into=target.shorthand,
        branch=source,
        commit=str(result.id),
        before=str(ours.id),
        is_fast_forward=result.id == theirs.id and result.id != ours.id,
    )


def _repository_of(workspace: Workspace, path: Path, request: MergeWorktree) -> GitDirectory:
    """Where it was made: an agent may have led it elsewhere, to move a branch of others. Raises Conflict."""
    git_dir = own_git_directory(workspace, path)
    if git_dir is None or (request.made is not None and request.made.repository != str(git_dir.common)):
        raise _blocked(
            f"{displayed(str(path))} is no worktree of the repository that it was made in any more"
        )
    return git_dir


@contextmanager
def _confined(workspace: Workspace, git_dir: GitDirectory) -> Iterator[Path]:
    """The main working tree, or the bare repository. This process writes only there from now on."""
    root = main_tree(git_dir.common)
    if not workspace.contains(str(root)):
        root = git_dir.common
    with workspace.open_directory(str(root)) as tree, workspace.open_directory(str(git_dir.common)) as common:
        restrict_writes([tree, common])
    yield root


def _open_main(workspace: Workspace, root: Path, git_dir: GitDirectory) -> pygit2.Repository:
    if root != git_dir.common:
        return open_repository(workspace, root)
    with reading(root):
        return pygit2.Repository(str(root), RepositoryOpenFlag.NO_SEARCH)


def _target(repo: pygit2.Repository, into: str | None) -> pygit2.Reference:
    if into is None and repo.head_is_detached:
        raise _unknown("must be named: the repository is on no branch")
    name = repo.lookup_reference("HEAD").target if into is None else HEADS + into
    try:
        return repo.references[str(name)]
    except (KeyError, ValueError, OSError, pygit2.GitError) as exc:
        raise _unknown("is no branch of this repository") from exc


def _require_free(repo: pygit2.Repository, target: pygit2.Reference, common: Path) -> None:
    """Is nobody in the middle of something there, and no other worktree on that branch?"""
    if is_checked_out(repo, target) and repo.state() != RepositoryState.NONE:
        raise _blocked("a merge, rebase or the like is not finished in the main working tree")
    for git_dir in directories_in(common / "worktrees"):
        if head_text(git_dir) == f"ref: {target.name}":
            where = displayed(os.path.dirname(read_pointer(git_dir / "gitdir")))
            raise _blocked(f"{target.shorthand} is checked out in the worktree {where}")


def is_checked_out(repo: pygit2.Repository, target: pygit2.Reference) -> bool:
    return not repo.is_bare and repo.lookup_reference("HEAD").target == target.name


def _advance(repo: pygit2.Repository, target: pygit2.Reference, result: pygit2.Commit, message: str) -> None:
    """First the files, which is refused as a whole where something would be lost, then the branch."""
    with writing(Path(repo.path)):
        try:
            if is_checked_out(repo, target):
                repo.checkout_tree(result, strategy=SAFE)  # type: ignore[no-untyped-call]
        except pygit2.GitError as exc:
            if "conflict" not in str(exc):
                raise
            raise _blocked(
                "files that it changes have changes that are not committed, or are in its way"
            ) from exc
        target.set_target(result.id, message)


class _Merger(Struct, frozen=True):
    repo: pygit2.Repository
    ours: pygit2.Commit
    theirs: pygit2.Commit
    request: MergeWorktree
    source: str
    into: str

    def result(self) -> pygit2.Commit:
        """What the branch is to be. Raises Conflict (`merge_conflicts`)."""
        if self.ours.id == self.theirs.id or self.repo.descendant_of(self.ours.id, self.theirs.id):
            return self.ours
        if self.request.how == "rebase":
            return self._rebased()
        is_ahead = self.repo.descendant_of(self.theirs.id, self.ours.id)
        if is_ahead and self.request.how == "merge" and self.request.message is None:
            return self.theirs
        tree = self._tree(self.repo.merge_commits(self.ours, self.theirs), self.theirs)
        parents = [self.ours.id] if self.request.how == "squash" else [self.ours.id, self.theirs.id]
        return self._commit(self.request.message or self._message(), tree, parents)

    def _rebased(self) -> pygit2.Commit:
        """The commits one after the other; merges are left out, and what is there already."""
        walker = self.repo.walk(self.theirs.id, SortMode.TOPOLOGICAL | SortMode.REVERSE)
        walker.hide(self.ours.id)
        onto = self.ours
        commits = [commit for commit in walker if len(commit.parents) == 1]
        if len(commits) > MAX_COMMITS:
            raise _blocked(f"more than {MAX_COMMITS} commits are not rebased here")
        if commits and commits[0].parents[0].id == onto.id and len(commits) == self._ahead():
            return self.theirs
        for commit in commits:
            merged = self.repo.merge_trees(commit.parents[0].tree, onto.tree, commit.tree)
            tree = self._tree(merged, commit)
            if tree != onto.tree.id:
                onto = self._commit(commit.message, tree, [onto.id], author=commit.author)
        return onto

    def _ahead(self) -> int:
        ahead, behind = self.repo.ahead_behind(self.theirs.id, self.ours.id)
        return -1 if behind else ahead

    def _tree(self, merged: pygit2.Index, commit: pygit2.Commit) -> pygit2.Oid:
        paths = {entry.path for stages in merged.conflicts or () for entry in stages if entry is not None}
        if paths:
            raise _conflicts(sorted(map(displayed, paths)), commit, self.source, self.into)
        tree: pygit2.Oid = merged.write_tree(self.repo)
        return tree

    def _commit(
        self,
        message: str,
        tree: pygit2.Oid,
        parents: list[pygit2.Oid],
        author: pygit2.Signature | None = None,
    ) -> pygit2.Commit:
        committer = self._signature()
        oid = self.repo.create_commit(None, author or committer, committer, message, tree, parents)
        return self.repo[oid].peel(pygit2.Commit)

    def _signature(self) -> pygit2.Signature:
        """The user's own name; else that of who has made the last commit of these."""
        try:
            return self.repo.default_signature
        except (KeyError, OSError, pygit2.GitError):
            return pygit2.Signature(self.theirs.committer.name, self.theirs.committer.email)

    def _message(self) -> str:
        words = "Squash" if self.request.how == "squash" else "Merge"
        return f"{words} branch '{self.source}' into {self.into}\n"


def _conflicts(paths: list[str], commit: pygit2.Commit, source: str, into: str) -> Conflict:
    shown = paths[:MAX_CONFLICTS]
    return Conflict(
        f"{source} does not fit into {into}: {len(paths)} files conflict (at commit {str(commit.id)[:12]}); "
        f"nothing has changed. Have the session take {into} in first",
        code="merge_conflicts",
        problems=[Problem(path, "changed on both sides") for path in shown],
    )


def _blocked(reason: str) -> Conflict:
    return Conflict(f"it cannot be merged now: {reason}; nothing has changed", code="merge_blocked")


def _has_changes(path: Path, losses: list[str]) -> Conflict:
    return Conflict(
        f"the worktree {displayed(str(path))} has what is not committed ({'; '.join(losses)}); have it committed first",
        code="worktree_has_changes",
        problems=[Problem("worktree", loss) for loss in losses],
    )


def _unknown(message: str) -> InvalidInput:
    return InvalidInput(f"into {message}", code="unknown_revision", problems=[Problem("into", message)])
