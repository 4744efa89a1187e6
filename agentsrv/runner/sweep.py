"""Finds and kills what a dead runner has left: every process that carries its cookie."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection
from pathlib import Path

from agentsrv.linux import files_as
from agentsrv.model import RunnerId
from agentsrv.runner.child.frames import COOKIE
from agentsrv.runner.records import AgentExit, read_record

SWEEP_LIMIT_S = 2.0
SWEEP_AGAIN_S = 0.005
EMPTY_PASSES = 5
PROC = Path("/proc")
KERNEL_THREAD = 0x00200000
"""PF_KTHREAD among the flags in /proc/<pid>/stat."""


def clean_up_after(directory: Path) -> AgentExit:
    """What a dead runner has recorded; without a record, kill what it left. Blocking."""
    try:
        return AgentExit.decode(read_record(directory / "exit"))
    except ValueError:  # There is none, or it was cut short by a power failure.
        survivors = sweep([RunnerId(directory.name)])
        return AgentExit(None, None, "runner_lost", survivors=survivors)


def sweep(runner_ids: Collection[RunnerId]) -> int:
    """Kill every process that carries the cookie of one of `runner_ids`; return how many did not die.

    Blocking. Several passes in a row must see that nothing is left: behind the back of one a process may be born
    whose parent then ends, and so on.
    """
    cookies = tuple(os.fsencode(f"{COOKIE}={runner_id}") for runner_id in runner_ids)
    gives_up_at = time.monotonic() + SWEEP_LIMIT_S
    found, empty_passes = 0, 0
    while empty_passes < EMPTY_PASSES and time.monotonic() < gives_up_at:
        marked, is_sure = look_for(cookies)
        found, empty_passes = len(marked), empty_passes + 1 if is_sure and not marked else 0
        for pid in marked:
            kill_process(pid)
        time.sleep(SWEEP_AGAIN_S)
    return found


def kill_all(rooms: Collection[Path]) -> None:
    """Kill all runners whose directories are in these rooms, and all that they have started. Blocking."""
    names = [name for room in rooms if room.is_dir() for name in os.listdir(room)]
    if names:
        sweep([RunnerId(name) for name in names])


def kill_process(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def look_for(cookies: Collection[bytes]) -> tuple[list[int], bool]:
    """Processes whose environment holds one of `cookies`; and could the environments of all be seen?

    The dead (zombies) have none.
    """
    found, is_sure = [], True
    for name in os.listdir(PROC):
        if name.isdigit():
            with contextlib.suppress(OSError):
                environment = environment_of(PROC / name)
                if environment is None:
                    is_sure = False
                elif not set(cookies).isdisjoint(environment.split(b"\0")):
                    found.append(int(name))
    return found, is_sure


def read_environ(process: Path) -> bytes:
    """As its own user where the server may become that one: it need not be allowed to look into others."""
    try:
        return (process / "environ").read_bytes()
    except PermissionError:
        owner = process.stat()
        with files_as(owner.st_uid, owner.st_gid, (owner.st_gid,)):
            return (process / "environ").read_bytes()


def environment_of(process: Path) -> bytes | None:
    """None in the middle of an exec, when a process has neither environment nor arguments.

    Kernel threads and the dead never have them.
    """
    if environment := read_environ(process):
        return environment
    if (process / "cmdline").read_bytes():
        return read_environ(process)  # It may have had none because of an exec that is over now.
    state, _, _, _, _, _, flags, *_ = (process / "stat").read_text().rpartition(") ")[2].split()
    return b"" if state in "ZX" or int(flags) & KERNEL_THREAD else None
