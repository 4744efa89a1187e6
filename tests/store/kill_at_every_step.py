"""Run a migration that is killed at its first step, then one at its second, and so on until one is through.

    python -m tests.store.kill_at_every_step DIRECTORY [TEMPLATE]

Each runs in a process of its own on DIRECTORY/<number>/db (a copy of the database TEMPLATE, or nothing).
A step is an SQL statement or a system call that changes files, as the interpreter's audit events tell;
the process kills itself with SIGKILL right before it.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import yoyo  # type: ignore[import-untyped]  # noqa: F401  (imported once here and not in every child)

from agentsrv.store.migrate import migrate

FILE_EVENTS = {"os.mkdir", "os.rename", "os.remove", "fcntl.flock"}


def kill_at(step: int) -> None:
    """Have this process killed right before its step number `step`, from 0."""
    remaining = count(step, -1)
    connect: Callable[..., sqlite3.Connection] = sqlite3.connect

    def tick(_: str) -> None:
        if next(remaining) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch_files(event: str, args: tuple[Any, ...]) -> None:
        if event in FILE_EVENTS or (event == "open" and args[2] & os.O_CREAT):
            tick(event)

    def watch_statements(*args: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*args, **options)
        connection.set_trace_callback(tick)
        return connection

    sys.addaudithook(watch_files)
    # The audit event of a connection comes before the connection can be traced.
    sqlite3.connect = watch_statements  # type: ignore[assignment]


def run(directory: Path, template: Path | None, step: int) -> bool:
    """Is the migration through before it comes to `step`?"""
    path = directory / str(step) / "db"
    if template is not None:
        path.parent.mkdir()
        shutil.copyfile(template, path)
    child = os.fork()
    if child == 0:
        kill_at(step)
        migrate(path)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        sys.exit(f"step {step}: the migration failed")
    return os.WIFEXITED(status)


def main(directory: str, template: str | None = None) -> None:
    for step in count():
        if run(Path(directory), None if template is None else Path(template), step):
            break


if __name__ == "__main__":
    main(*sys.argv[1:])
