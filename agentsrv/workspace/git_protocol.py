"""What the server and a git worker say to each other. Imported by both; knows neither libgit2 nor asyncio.

A request is its length (8 bytes, big endian) and JSON. An answer is its length, one byte that says what follows,
and that: mostly JSON that the client gets, made in the worker so that the server does not even parse it.
"""

from __future__ import annotations

from struct import Struct as Format

import msgspec

from agentsrv import errors
from agentsrv.errors import AgentsrvError, Problem

LENGTH = Format(">Q")
ANSWER = Format(">QB")
OK, FAILED, BROKEN = 0, 1, 2
"""A part of the answer; an error for the client; a traceback for the log."""
READY = b"\x00"
"""What a worker says first."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The first message: where the workspace is, and the limits. Few workers may write files."""

    base: str
    private: list[str]
    private_files: list[str]
    memory_bytes: int
    may_write: bool


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


class FindWorktrees(msgspec.Struct, frozen=True, tag="worktrees"):
    """All worktrees that were made for sessions."""


class MakeWorktree(msgspec.Struct, frozen=True, kw_only=True, tag="make_worktree"):
    """A worktree of the repository around `cwd`, on a new branch, for one session. Answered by MadeWorktree.

    What an attempt for the same session has left behind goes first, if nothing is lost with it.
    """

    cwd: str
    session_id: str


class DiscardWorktree(msgspec.Struct, frozen=True, kw_only=True, tag="discard_worktree"):
    """Undo a MakeWorktree, finished or not, if nothing is lost with it."""

    cwd: str
    session_id: str


class RemoveWorktree(msgspec.Struct, frozen=True, kw_only=True, tag="remove_worktree"):
    """Remove the worktree at `path` and its branch; only with `force` if something is lost with them."""

    path: str
    force: bool = False


WriteRequest = MakeWorktree | DiscardWorktree | RemoveWorktree
Request = FindRepositories | FindWorktrees | DiffRequest | WriteRequest


class MadeWorktree(msgspec.Struct, frozen=True, kw_only=True):
    """`cwd` is where in the worktree the session works: the same subdirectory as before, below `root`."""

    root: str
    path: str
    cwd: str
    branch: str


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
