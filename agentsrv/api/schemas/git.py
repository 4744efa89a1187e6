"""Repositories, worktrees and differences."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from agentsrv.api.schemas.kinds import FilePathText, PathOrEmptyText, PathText, RevisionText
from agentsrv.workspace.git.protocol import MergeHow, Submodules, Whitespace


class DiffQuery(Struct, kw_only=True):
    path: PathOrEmptyText = ""
    base: RevisionText = ""
    head: RevisionText = ""
    staged: bool = False
    context: Annotated[int, Meta(ge=0, le=1000)] = 3
    merge_base: bool = False
    # May come several times.
    paths: Annotated[list[PathText], Meta(max_length=1000)] = []
    summary: bool = False
    copies: bool = False
    ignore_whitespace: Whitespace = "none"
    ignore_blank_lines: bool = False
    submodules: Submodules = "commit"


class RemoveWorktreeQuery(Struct, kw_only=True):
    path: FilePathText
    force: bool = False


class RepositoryView(Struct, kw_only=True, rename="camel"):
    """A working tree with a `.git`; `problem` says why nothing else is known of one that cannot be read.

    `root` is the main working tree, for a linked worktree another one than `path`. `branch` is null with a
    detached head; `head` is a commit, null before the first one.
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


class RepositoryList(Struct, kw_only=True):
    repositories: list[RepositoryView]
    count: int
    truncated: bool
    timestamp: str


class WorktreeView(Struct, kw_only=True, rename="camel"):
    """A git worktree that was made for a session; `session_id` is null when that is gone.

    `is_dirty`: it has something that is not committed; null when that could not be found out. `problem` says why
    nothing else is known of one that cannot be read.
    """

    path: str
    relative_path: str
    root: str
    branch: str | None
    head: str | None
    session_id: str | None
    is_dirty: bool | None
    last_used_at: str | None
    problem: str | None


class WorktreeList(Struct, kw_only=True):
    worktrees: list[WorktreeView]
    count: int
    timestamp: str


class WorktreeRemoved(Struct, kw_only=True):
    """`branch` went with it; null when it is kept, for somebody else uses it or it was another one."""

    path: str
    branch: str | None
    timestamp: str
    deleted: bool = True


class CleanUpWorktrees(Struct, kw_only=True, rename="camel"):
    older_than_days: Annotated[float, Meta(ge=0, le=36_500)] = 30
    force: bool = False
    dry_run: bool = False


class CleanedWorktree(Struct, kw_only=True, rename="camel"):
    """`reason` says why one was kept."""

    path: str
    branch: str | None
    reason: str | None


class WorktreesCleaned(Struct, kw_only=True, rename="camel"):
    removed: list[CleanedWorktree]
    kept: list[CleanedWorktree]
    dry_run: bool
    timestamp: str


class Merge(Struct, kw_only=True):
    into: Annotated[RevisionText, Meta(min_length=1)] | UnsetType = UNSET
    how: MergeHow = "merge"
    message: Annotated[str, Meta(min_length=1, max_length=100_000)] | UnsetType = UNSET


class Merged(Struct, kw_only=True, rename="camel"):
    """`merged` is false when `into` had it all; `commit` is where `into` is now, `before` where it was."""

    merged: bool
    into: str
    branch: str
    how: MergeHow
    commit: str
    before: str
    fast_forward: bool
    timestamp: str


class DiffLineView(Struct, kw_only=True, rename="camel"):
    """A line without its end. `content_base64` has the exact bytes of one that is not UTF-8."""

    type: Literal["context", "add", "del"]
    content: str
    content_base64: str | UnsetType = UNSET
    old_line: int | None
    new_line: int | None


class DiffHunkView(Struct, kw_only=True, rename="camel"):
    old_start: int
    old_lines: int
    new_start: int
    new_lines: int
    lines: list[DiffLineView]


class DiffFileView(Struct, kw_only=True, rename="camel"):
    """One path. `similarity` is a percentage, of renamed files; the URIs are there for names that are not UTF-8.

    `truncated`: over a limit, so there are no hunks. `unreadable`: the content could not be had.
    """

    old_path: str | None
    old_uri: str | UnsetType = UNSET
    old_mode: str | None
    new_path: str | None
    new_uri: str | UnsetType = UNSET
    new_mode: str | None
    status: Literal["modified", "added", "deleted", "renamed", "copied", "typechange"]
    additions: int
    deletions: int
    similarity: int | None
    binary: bool
    conflicted: bool
    truncated: bool
    unreadable: bool
    invalid_utf8: bool
    hunks: list[DiffHunkView]


class DiffView(Struct, kw_only=True, rename="camel"):
    """`head` is null for the working tree and the index; the ids are those of commits."""

    repo_path: str
    relative_path: str
    base: str
    head: str | None
    base_id: str | None
    head_id: str | None
    files: list[DiffFileView]
    truncated: bool
    timestamp: str
