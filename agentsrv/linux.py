"""What Linux offers and Python's standard library does not: the only place that knows ctypes.

Standard library only, and cheap to import: runners and workers use it too.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

PR_SET_PDEATHSIG = 1
PR_GET_DUMPABLE = 3
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4
"""Of linux/prctl.h."""

CAPABILITY_HEADER = struct.pack("=Ii", 0x20080522, 0)
"""Version 3, this thread. (linux/capability.h)"""
CAPABILITY_BYTES = 24
SETGROUPS = {"x86_64": 116, "aarch64": 159}
"""The system call's number by `uname -m`."""

FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02

LIBC_SIGNALS = (32, 33)
"""glibc keeps them for itself: its own sigaction() refuses them."""
RT_SIGACTION = {"x86_64": 13, "aarch64": 134}
"""The system call's number by `uname -m`. (Linux, asm/unistd.h.)"""

STATFS_BYTES = 256
"""Room for a struct statfs, which has 120 bytes; its first word is the type."""

libc = ctypes.CDLL(None, use_errno=True)


def failure(path: str | os.PathLike[str] | None = None) -> OSError:
    """What the last call through `libc` has failed with."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), *([] if path is None else [os.fspath(path)]))


# ---- this process


def die_with_parent() -> None:
    """Be killed when the thread that has forked us ends. It may have ended before: ask getppid() afterwards."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def set_name(name: str) -> None:
    """What `ps` and `top` show; 15 bytes of it."""
    libc.prctl(PR_SET_NAME, name.encode(), 0, 0, 0)


def adopt_orphans() -> None:
    """Be the parent of every descendant whose own parent ends (a subreaper)."""
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def gain_no_privileges() -> None:
    """From here on no exec gives more rights than this process has."""
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def forbid_inspection() -> None:
    """Only root may look into this process's memory or /proc; no core dump. An exec undoes it."""
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def may_be_inspected() -> bool:
    return bool(libc.prctl(PR_GET_DUMPABLE, 0, 0, 0, 0))


def reset_libc_signals() -> None:
    """Glibc's own too: its posix_spawn(), with which GNU make starts programs, leaves them ignored."""
    number = RT_SIGACTION.get(os.uname().machine)
    for each in LIBC_SIGNALS if number else ():
        libc.syscall(number, each, bytes(32), None, 8)  # All zero is the default, on both.


# ---- who this process is


def capabilities() -> int:
    """What this thread may do beyond others: bit n is capability n (its effective set)."""
    with open("/proc/thread-self/status", "rb") as status:
        return next((int(line.split()[1], 16) for line in status if line.startswith(b"CapEff:")), 0)


def become(uid: int, gid: int, groups: Sequence[int]) -> None:
    """Be another user for good, with no rights beyond. For a process with one thread. Raises OSError."""
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    # Where the server is not root, it has them in sets that the change of user leaves as they are.
    libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    libc.capset(CAPABILITY_HEADER, bytes(CAPABILITY_BYTES))


@contextmanager
def files_as(uid: int, gid: int, groups: Sequence[int]) -> Iterator[None]:
    """In this block this thread, alone, uses files, and looks into processes, with the rights of another user.

    Raises OSError: this process has not the right to.
    """
    before = libc.setfsuid(-1), libc.setfsgid(-1), os.getgroups()
    _use_files_as(uid, gid, groups)
    try:
        yield
    finally:
        _use_files_as(*before)


def _use_files_as(uid: int, gid: int, groups: Sequence[int]) -> None:
    # Not through libc's setgroups(), which speaks for all threads.
    number = SETGROUPS.get(os.uname().machine)
    if number and libc.syscall(number, len(groups), (ctypes.c_uint32 * len(groups))(*groups)) != 0:
        raise failure()
    libc.setfsgid(gid)
    libc.setfsuid(uid)
    if (libc.setfsgid(-1), libc.setfsuid(-1)) != (gid, uid):
        raise PermissionError(errno.EPERM, f"may not use files as user {uid}")


def keep_privileges() -> None:
    """From here on no program that is started inherits capabilities from this process."""
    libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)


@contextmanager
def passing_on(capabilities: Iterable[int]) -> Iterator[None]:
    """What is started in this block has these capabilities, as far as this process may pass them on."""
    for each in capabilities:
        libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, each, 0, 0)
    try:
        yield
    finally:
        keep_privileges()


# ---- files


def file_system_type(path: str | os.PathLike[str]) -> int:
    """What kind of file system holds `path`, as in linux/magic.h; 0 when the kernel does not say."""
    buffer = ctypes.create_string_buffer(STATFS_BYTES)
    if libc.statfs(os.fsencode(path), buffer) != 0:
        return 0
    return int.from_bytes(buffer.raw[: ctypes.sizeof(ctypes.c_long)], "little") & 0xFFFFFFFF


def punch_hole(descriptor: int, start: int, end: int) -> bool:
    """Give the whole blocks between two offsets back to the disk. False where the file system cannot."""
    mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    return bool(libc.fallocate(descriptor, mode, ctypes.c_long(start), ctypes.c_long(end - start)) == 0)


# ---- memory


def read_memory(address: int, size: int) -> bytes:
    return ctypes.string_at(address, size)


def clear_memory(address: int, size: int) -> None:
    ctypes.memset(address, 0, size)
