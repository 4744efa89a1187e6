"""What a runner has written down in its directory: who it is, and how its agent has ended."""

from __future__ import annotations

import errno
import functools
import os
import stat
import time
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from msgspec import Struct

MAX_RECORD_BYTES = 1024 * 1024
"""Of what a runner says or writes down at once. The tail of stderr is most of it."""

Pid = Annotated[int, msgspec.Meta(gt=0)]
T = TypeVar("T")
SPOILED = frozenset(
    {
        errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENXIO,
        errno.ECONNREFUSED, errno.EAGAIN, errno.EPROTOTYPE,
    }
)  # fmt: skip
"""What a runner's directory is to blame for when it cannot be opened or called. Not: no descriptor, no memory."""


class AgentExit(Struct, frozen=True):
    """How an agent ended. Its tree is gone too, but for `survivors` (of another user, stuck in the kernel).

    `reason` is why: `exited` (by itself, or by a signal from elsewhere), `killed` (asked for), `quota`,
    `orphaned` (no server for too long), `exec_failed` (stderr_tail says why), `runner_lost` (the runner died;
    `code` and `signal` are not known), `replaced` (another connection has taken the runner over: the agent
    lives, this handle does not).
    """

    code: int | None
    signal: int | None
    reason: str
    stderr_tail: str = ""
    survivors: int = 0

    @staticmethod
    def decode(record: bytes) -> AgentExit:
        """Raises ValueError."""
        fields = parse(record, _ExitRecord)
        return AgentExit(fields.code, fields.signal, fields.reason, fields.stderr_tail, fields.survivors)


class _ExitRecord(msgspec.Struct):
    reason: str
    code: int | None = None
    signal: int | None = None
    stderr_tail: str = ""
    survivors: int = 0


class RunnerMeta(Struct, frozen=True):
    """Who a runner is, or was: written when its agent has started."""

    pid: int
    runner_pid: int
    boot_id: str


def read_meta(directory: Path) -> RunnerMeta | None:
    """None when no agent has ever started there, or the power failed just then. Blocking."""
    try:
        return parse(read_record(directory / "meta"), RunnerMeta)
    except ValueError:
        return None


def parse(data: bytes, kind: type[T]) -> T:
    """JSON that a runner wrote, or an agent in its place. Raises ValueError."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise ValueError(f"not a {kind.__name__}") from exc


def read_record(path: Path) -> bytes:
    """A small file in the directory of a runner. Raises ValueError when there is none, or something else. Blocking."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as exc:
        if exc.errno in SPOILED:
            raise ValueError(f"{path} is no record: {exc.strerror}") from exc
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(f"{path} is no file")
        return os.read(descriptor, MAX_RECORD_BYTES)
    finally:
        os.close(descriptor)


def has_begun(directory: Path) -> bool:
    """Has a runner ever opened its agent's spool there, or said how the agent ended? Blocking."""
    return any(os.path.lexists(directory / name) for name in ("out", "meta", "exit"))


def booted_at() -> float:
    """When this machine started, in ms since 1970."""
    return (time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)) * 1000


@functools.cache
def boot_id() -> str:
    """The kernel's name for the time since the machine started; empty when it does not say.

    A `meta` with another one belongs to an agent that is dead.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
