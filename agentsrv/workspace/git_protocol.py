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
    """The first message: where the workspace is, and the limits."""

    base: str
    private: list[str]
    private_files: list[str]
    memory_bytes: int


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


Request = FindRepositories | DiffRequest


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
