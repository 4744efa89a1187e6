"""What the server and a git worker say to each other. Imported by both; knows neither libgit2 nor asyncio.

A request is its length (8 bytes, big endian) and JSON. An answer is its length, one byte that says what follows,
and that: mostly JSON that the client gets, made in the worker so that the server does not even parse it.
"""

from __future__ import annotations

from struct import Struct as Format
from typing import Literal

import msgspec

from agentsrv import errors
from agentsrv.errors import AgentsrvError, Problem

LENGTH = Format(">Q")
ANSWER = Format(">QB")
OK, FAILED, BROKEN = 0, 1, 2
"""A part of the answer; an error for the client; a traceback for the log."""
READY = b"\x00"
"""What a worker says first."""


Whitespace = Literal["none", "eol", "change", "all"]
Submodules = Literal["commit", "contents"]
MergeHow = Literal["merge", "squash", "rebase"]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The first message: where the workspace is, and the limits. Few workers may write files."""

    base: str
    private: list[str]
    private_files: list[str]
    memory_bytes: int
    may_write: bool
    is_forking: bool = False
    """Each request is served by a child, which ends with it."""
    home: str | None = None
    """Whose own settings count: `.gitconfig` there, and what is in `config_home`."""
    config_home: str | None = None
    user: tuple[int, int, tuple[int, ...]] | None = None
    """uid, gid, groups of whom the worker works as, when it is another one than the server's."""


class FindRepositories(msgspec.Struct, frozen=True, tag="repositories"):
    """All repositories of the workspace."""


class DiffRequest(msgspec.Struct, frozen=True, kw_only=True, tag="diff"):
    """One diff. `base` None is HEAD; `head` None is the working tree, or with `staged` the index."""

    path: str
    base: str | None = None
    head: str | None = None
    staged: bool = False
    context: int = 3
    merge_base: bool = False
    paths: list[str] = []
    summary: bool = False
    copies: bool = False
    ignore_whitespace: Whitespace = "none"
    ignore_blank_lines: bool = False
    submodules: Submodules = "commit"


class FindWorktrees(msgspec.Struct, frozen=True, tag="worktrees"):
    """All worktrees that were made for sessions."""


class MakeWorktree(msgspec.Struct, frozen=True, kw_only=True, tag="make_worktree"):
    """A worktree of the repository around `cwd`, on a new branch, for one session. Answered by MadeWorktree.

    What an attempt for the same session has left behind goes first, if nothing is lost with it.
    """

    cwd: str
    session_id: str
    base: str | None = None
    """The revision that the new branch begins at; None is HEAD."""
    branch: str | None = None
    """A branch that there is, instead of a new one."""
    copy_patterns: list[str] = []
    """Of files that are not in git and are to be there; besides those that `.worktreeinclude` names."""
    in_use: list[str] = []
    """Worktrees that sessions work in: no attempt has left those."""


class RestoreWorktree(msgspec.Struct, frozen=True, kw_only=True, tag="restore_worktree"):
    """The worktree at `path` again, whose directory is gone. Answered by MadeWorktree.

    It comes back as git still knows it, or else on its branch; on `branch` when that is given, or on a new one that
    begins at `base`.
    """

    path: str
    cwd: str
    """Where the session works in it."""
    origin_cwd: str
    """In the repository that it belongs to."""
    session_id: str
    base: str | None = None
    branch: str | None = None
    copy_patterns: list[str] = []


class DiscardWorktree(msgspec.Struct, frozen=True, kw_only=True, tag="discard_worktree"):
    """Undo a MakeWorktree, finished or not, if nothing is lost with it."""

    cwd: str
    session_id: str
    in_use: list[str] = []


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What the database knows of a worktree: the repository that it was made in (its common git directory), and the
    branch that was made for it, or None when it was put on one that there was.

    What stands in the worktree and its git directory says the same, but agents can write to that.
    """

    repository: str
    branch: str | None


class RemoveWorktree(msgspec.Struct, frozen=True, kw_only=True, tag="remove_worktree"):
    """Remove the worktree at `path` and the branch that was `made` for it; only with `force` if something is lost.

    Both are kept in the trash for some days, unless `for_good`. `only_files`: to git it is one whose directory is gone.
    """

    path: str
    made: Made | None = None
    force: bool = False
    for_good: bool = False
    only_files: bool = False


class MergeWorktree(msgspec.Struct, frozen=True, kw_only=True, tag="merge_worktree"):
    """Take the commits of the worktree at `path` into a branch; None is the one that its repository is on."""

    path: str
    made: Made | None = None
    into: str | None = None
    how: MergeHow = "merge"
    message: str | None = None


class TakeSnapshot(msgspec.Struct, frozen=True, kw_only=True, tag="take_snapshot"):
    """What the working tree around `path` holds, as a turn of a session begins or ends."""

    path: str
    session_id: str
    turn_id: str
    moment: Literal["start", "end"]


class DropSnapshots(msgspec.Struct, frozen=True, kw_only=True, tag="drop_snapshots"):
    """Forget those of one turn, or all of a session."""

    path: str
    session_id: str
    turn_id: str | None = None


WriteRequest = (
    MakeWorktree
    | RestoreWorktree
    | DiscardWorktree
    | RemoveWorktree
    | MergeWorktree
    | TakeSnapshot
    | DropSnapshots
)
Request = FindRepositories | FindWorktrees | DiffRequest | WriteRequest


class MadeWorktree(msgspec.Struct, frozen=True, kw_only=True):
    """`cwd` is where in the worktree the session works: the same subdirectory as before, below `root`. It is on
    `branch`. `made` None: it was there before, and so was its branch.
    """

    root: str
    path: str
    cwd: str
    branch: str
    made: Made | None
    copied: list[str] = []


class MergedWorktree(msgspec.Struct, frozen=True, kw_only=True):
    """`commit` is what the branch `into` has now; `before`, the same when there was nothing to merge."""

    into: str
    branch: str
    commit: str
    before: str
    is_fast_forward: bool


class RemovedWorktree(msgspec.Struct, frozen=True, kw_only=True):
    """`branch` was removed too; None: there was none left, or it was not the worktree's own."""

    path: str
    branch: str | None


class Worktree(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    """A worktree that was made for a session. `is_dirty` None: there was no time to look, or no way.

    `problem` says why nothing else is known of it.
    """

    path: str
    relative_path: str
    root: str
    branch: str | None
    head: str | None
    is_dirty: bool | None
    used_at: int | None
    """Milliseconds since 1970 when something was last done with git in it, or a file made or removed at its top."""
    problem: str | None


class FoundWorktrees(msgspec.Struct, frozen=True, kw_only=True):
    worktrees: list[Worktree]


class _Failure(msgspec.Struct):
    kind: str
    message: str
    code: str
    problems: list[tuple[str, str]]


def encode_error(error: AgentsrvError) -> bytes:
    problems = [(problem.path, problem.message) for problem in error.problems]
    return msgspec.json.encode(_Failure(type(error).__name__, error.message, error.code, problems))


def decode_error(data: bytes) -> AgentsrvError:
    failure = msgspec.json.decode(data, type=_Failure)
    kind: type[AgentsrvError] = getattr(errors, failure.kind)
    problems = [Problem(path, message) for path, message in failure.problems]
    return kind(failure.message, code=failure.code, problems=problems)
