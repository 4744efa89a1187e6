"""The processes below a runner: finds and signals them."""

from __future__ import annotations

import os
import signal
import socket
import struct
from collections.abc import Callable, Iterator

PEER_CREDENTIALS = struct.Struct("3i")
"""Of the other end of a Unix socket: pid, user, group."""


def children(pid: int) -> list[int]:
    """The direct children of `pid`, of whichever of its threads. Needs CONFIG_PROC_CHILDREN."""
    found: list[int] = []
    tasks = f"/proc/{pid}/task"
    try:
        for task in os.listdir(tasks):
            with open(f"{tasks}/{task}/children", "rb") as file:
                found += map(int, file.read().split())
    except (FileNotFoundError, ProcessLookupError):
        pass  # It ended meanwhile: its children are this runner's now, and the next pass finds them.
    except PermissionError:
        pass  # /proc hides what cannot be looked into (`hidepid=1`). Its children are found when it is dead.
    return found


def parents() -> Iterator[tuple[int, int]]:
    """(pid, parent) of every process: the slow way, for kernels without CONFIG_PROC_CHILDREN."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    # The name in parentheses may itself hold spaces and parentheses.
                    yield int(name), int(file.read().rpartition(b")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue


def children_by_scan() -> Callable[[int], list[int]]:
    by_parent: dict[int, list[int]] = {}
    for pid, parent in parents():
        by_parent.setdefault(parent, []).append(pid)
    return lambda pid: by_parent.get(pid, [])


HAS_PROC_CHILDREN = os.path.exists("/proc/thread-self/children")


def descendants(pid: int) -> list[int]:
    """Every process below `pid`, parents before children. One that is being born may be missing."""
    children_of = children if HAS_PROC_CHILDREN else children_by_scan()
    found = children_of(pid)
    for each in found:  # Grows while it is walked: breadth first.
        found += children_of(each)
    return found


def peer_pid(connection: socket.socket) -> int:
    """The process at the other end of a Unix socket: the one that listens there, or that has connected."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER_CREDENTIALS.size)
    pid: int = PEER_CREDENTIALS.unpack(credentials)[0]
    return pid


def is_own(caller: socket.socket) -> bool:
    """Did a descendant connect, which could take itself out of its server's hands, or somebody who is gone?"""
    pid = peer_pid(caller)
    # 0 is a process that this one cannot see: not below it, in any case.
    return pid in descendants(os.getpid()) or not (pid == 0 or exists(pid))


def exists(pid: int) -> bool:
    """Not by /proc, which may hide a server that cannot be looked into (`hidepid`, systemd's ProtectProc)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # Another user's.
    return True


def signal_descendants(signals: tuple[signal.Signals, ...]) -> int:
    """Send `signals` to everything below this process; return how many processes there were."""
    found = descendants(os.getpid())
    for pid in found:
        for each in signals:
            try:
                os.kill(pid, each)
            except (ProcessLookupError, PermissionError):
                break
    return len(found)
