"""The agent's process, from the fork to its exec, and what it gets as its terminal."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import struct
import termios
from typing import Any, NoReturn

from agentsrv import linux


class StartFailed(Exception):
    """The agent could not be started. `about`: `cwd`, `program`, `disk` (full) or `runner`."""

    def __init__(self, about: str, message: str) -> None:
        super().__init__(message)
        self.about = about
        self.message = message


IGNORED_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ)
"""Ignored by runners. Only ignoring survives an exec (handlers do not), so the agent resets these."""


def reset_signals() -> None:
    """Put every signal back to its default: what is ignored here would be ignored by every agent."""
    for each in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(each, signal.SIG_DFL)
    linux.reset_libc_signals()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def exec_agent(
    spec: dict[str, Any], runner_pid: int, umask: int, stdio: tuple[int, int, int], failed: int
) -> NoReturn:
    """In the forked child: become the agent, or write `about errno` to `failed` and end.

    With a PTY, `stdio` is its slave, which becomes the controlling terminal. All other descriptors are closed
    by the exec itself (CLOEXEC).
    """
    about = "runner"
    try:
        die_with(runner_pid)
        os.setsid()  # An agent that signals its own process group must not hit the runner.
        for each in IGNORED_SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        for target, source in enumerate(stdio):
            os.dup2(source, target)
        if spec.get("pty"):
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        about = "user"
        if user := spec.get("user"):
            linux.become(user["uid"], user["gid"], user["groups"])
            die_with(runner_pid)  # Again: the change of user has undone it.
        os.umask(umask)
        about = "cwd"
        os.chdir(spec["cwd"])
        about = "program"
        program, *arguments = spec["argv"]
        os.execve(program, [spec.get("name") or program, *arguments], spec["env"])
    except Exception as exc:
        # What is not an OSError is a NUL, or a name of a variable with "=", where there may be none.
        code = exc.errno if isinstance(exc, OSError) else errno.EINVAL
        os.write(failed, f"{about} {code}".encode())
    finally:
        os._exit(127)


def die_with(runner_pid: int) -> None:
    linux.die_with_parent()
    if os.getppid() != runner_pid:
        os._exit(127)  # The runner died before the line above could notice.


def explain(about: str, code: int, spec: dict[str, Any]) -> StartFailed:
    """Say what was wrong, with which path."""
    program = spec["argv"][0]
    reason = os.strerror(code)
    if about == "user":
        return StartFailed("runner", f"cannot become the user of AGENT_USER: {reason}")
    if about == "cwd":
        return StartFailed(about, f"cannot enter the working directory {spec['cwd']}: {reason}")
    if about == "program" and code == errno.ENOENT and os.path.exists(program):
        return StartFailed(about, f"cannot run {program}: the interpreter it names does not exist")
    if about == "program":
        return StartFailed(about, f"cannot run {program}: {reason}")
    return StartFailed(about, f"cannot prepare the agent's process: {reason}")


IUTF8 = 0o040000
"""The line discipline erases whole characters, not bytes. (The termios module names it from 3.13 on.)"""


def open_pty(cols: int, rows: int) -> tuple[int, int]:
    """A new pseudo-terminal of this size: (master, slave). The master does not block."""
    master, slave = os.openpty()
    os.set_blocking(master, False)
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", rows, cols, 0, 0))
    modes = termios.tcgetattr(slave)
    modes[0] |= IUTF8
    termios.tcsetattr(slave, termios.TCSANOW, modes)
    return master, slave
