"""A runner: owns one agent from its start to the death of its last descendant."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any

from agentsrv import linux
from agentsrv.runner.child.frames import (
    EXIT,
    FAILED,
    KILL,
    LINGER,
    MESSAGE,
    NUMBER,
    READY,
    STDERR,
    TAIL,
)
from agentsrv.runner.child.link import FramesIn, Link
from agentsrv.runner.child.loop import Loop
from agentsrv.runner.child.pipes import Stderr, Stdin
from agentsrv.runner.child.start import IGNORED_SIGNALS, StartFailed, exec_agent, explain, open_pty
from agentsrv.runner.child.tree import signal_descendants

LEFTOVER_GRACE_S = 1.0
"""What an agent that ended by itself leaves running gets this long between TERM and KILL."""
KILL_LIMIT_S = 1.5
"""How long KILL is repeated. What is still there is beyond us (another user's, or stuck in the kernel)."""
KILL_AGAIN_S = 0.02
SPOOL_CHECK_S = 0.1
SPOOL_CHECK_IDLE_S = 3.0
FASTEST_WRITER_BYTES_S = 2e9


class Runner:
    """One thread, one loop.

    It is constructed in the spare, before there is any work, so that a request pays only for what needs its
    spec. `umask` is the agent's. `release` is called when the zygote may fork the next spare.
    """

    def __init__(self, umask: int, release: Callable[[], None]) -> None:
        self._umask = umask
        self._release = release
        os.setsid()
        linux.set_name("agentsrv-runner")
        # Orphans of the agent become our children: the tree is dead when we have no children.
        linux.adopt_orphans()
        # What a request uses first is touched now: right after a fork its pages cost 0.2 ms.
        json.loads(json.dumps({"argv": ["agent"], "grace_s": 1.0}))
        self._loop = Loop()
        for each in IGNORED_SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        self._loop.catch((signal.SIGCHLD, signal.SIGTERM), self._on_signal)
        self._stdin = Stdin(self._loop)
        self._stderr = Stderr(self._loop)
        self._link = Link(self._loop, self._obey, self._link_changed)

        self._spool = self._master = -1
        self._pid = 0
        self._status: int | None = None
        self._reason: str | None = None
        self._is_finished = False
        self._survivors = 0
        self._spool_bytes = -1
        self._orphan_at = self._look_at = self._kill_at = self._give_up_at = math.inf

    def run(self, server: socket.socket) -> None:
        """Start the agent that the spec on `server` asks for and stay until its tree is gone."""
        self._link.take(server)
        frames = self._link.first_frames()
        if not frames:
            return  # The server died while it asked.
        self._spec: dict[str, Any] = json.loads(frames[0][1])
        self._grace_s: float = self._spec["grace_s"]
        self._linger_s: float = self._spec["orphan_s"]
        try:
            self._start_agent()
        except StartFailed as exc:
            self._refuse(exc)
            return
        self._greet()
        try:
            self._serve(frames[1:])
        except BaseException:
            # The agent dies with us (PDEATHSIG) and the server notices; this file is for who asks why.
            with open("crash", "w") as file:
                traceback.print_exc(file=file)

    def _serve(self, frames: FramesIn) -> None:
        self._write_meta()
        self._link.watch()
        self._stderr.watch()
        self._obey(frames)
        while not self._is_finished:
            self._turn()
        self._finish()

    def _turn(self) -> None:
        """Wait for the next thing to do, and do it."""
        now = self._loop.turn(min(self._orphan_at, self._look_at, self._kill_at))
        if now >= self._orphan_at:
            self._end("orphaned", self._grace_s)
        if now >= self._look_at:
            self._check_spool(now)
        if now >= self._kill_at:
            self._kill_tree(now)

    def _on_signal(self, numbers: bytes) -> None:
        if signal.SIGTERM in numbers:
            self._end("killed", self._grace_s)
        self._reap()
        if self._give_up_at != math.inf:
            self._kill_at = 0.0  # The dead may have left orphans behind that the last pass did not meet.

    # ---- the start

    def _start_agent(self) -> None:
        """Enter the directory, start the agent, listen. Raises StartFailed."""
        try:
            # From here on we live in our directory, so that a long path does not matter to bind(). Where it is
            # gone, this runner comes so late that its agent was given up: nobody would ever look after it.
            os.chdir(self._spec["directory"])
            stdio = self._open_stdio()
            if opening := self._spec.pop("opening"):  # It may hold a secret, which nobody else needs.
                self._stdin.write(memoryview(opening.encode()))  # The agent finds it when it first looks.
            failed = self._fork(stdio)
            self._release()  # Not earlier: the two forks would compete for the processor.
            self._link.listen("sock")
            problem = os.read(failed, 64)  # Ends when the exec closes the other end.
            os.close(failed)
        except OSError as exc:
            about = "disk" if exc.errno in (errno.ENOSPC, errno.EDQUOT) else "runner"
            message = f"cannot set up the runner in {self._spec['directory']}: {exc}"
            raise StartFailed(about, message) from exc
        if problem:
            about, code = problem.decode().split()
            raise explain(about, int(code), self._spec)
        if self._spool >= 0:
            self._check_spool(time.monotonic())

    def _open_stdio(self) -> tuple[int, int, int]:
        """What the agent gets as stdin, stdout and stderr: a pipe, the spool and a pipe; or a terminal.

        The server reads and writes the terminal. The copy of the master that stays here is for the next one.
        """
        if size := self._spec.get("pty"):
            self._master, slave = open_pty(**size)
            self._give(slave)
            return slave, slave, slave
        self._give(self._stdin.agents_end)
        self._give(self._stderr.agents_end)
        self._spool = os.open("out", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        return self._stdin.agents_end, self._spool, self._stderr.agents_end

    def _give(self, fd: int) -> None:
        """Make a device the agent's: it may open it again (`/dev/stderr`, `tty`), when it is another user."""
        if user := self._spec.get("user"):
            os.fchown(fd, user["uid"], user["gid"])

    def _fork(self, stdio: tuple[int, int, int]) -> int:
        """Fork the agent; a descriptor that says why its program does not run, or ends."""
        failed, failed_end = os.pipe()
        runner_pid = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            exec_agent(self._spec, runner_pid, self._umask, stdio, failed_end)
        os.close(failed_end)
        os.close(self._stdin.agents_end)
        os.close(self._stderr.agents_end)
        if self._master >= 0:
            os.close(stdio[0])  # The master then tells when the last process has closed the terminal.
        return failed

    def _refuse(self, exc: StartFailed) -> None:
        message = os.fsencode(exc.message).decode(errors="replace")  # It may name a path that is not UTF-8.
        self._write_record({"reason": "exec_failed", "stderr_tail": message})
        self._link.tell(FAILED, json.dumps({"about": exc.about, "message": message}).encode())

    def _write_meta(self) -> None:
        meta = {"pid": self._pid, "runner_pid": os.getpid(), "boot_id": self._spec["boot_id"]}
        self._write_file("meta", json.dumps(meta).encode())

    # ---- the server

    def _greet(self) -> None:
        greeting = json.dumps({"pid": self._pid, "runner_pid": os.getpid()}).encode()
        self._link.tell(READY, greeting, () if self._master < 0 else (self._master,))

    def _link_changed(self) -> None:
        self._set_orphan_deadline()
        if self._link.is_open:
            self._greet()

    def _set_orphan_deadline(self) -> None:
        is_alone = not self._link.is_open and self._reason is None
        self._orphan_at = time.monotonic() + self._linger_s if is_alone else math.inf

    def _obey(self, frames: FramesIn) -> None:
        for kind, body in frames:
            if kind == MESSAGE:
                self._stdin.take(body)
            elif kind == KILL:
                self._end("killed", NUMBER.unpack(body)[0])
            elif kind == LINGER:
                self._linger_s = NUMBER.unpack(body)[0]
                self._set_orphan_deadline()
            elif kind == TAIL:
                self._link.tell(STDERR, self._stderr.tail)

    # ---- the end

    def _check_spool(self, now: float) -> None:
        """End an agent that outruns its reader, or whose spool was deleted and has no reader any more.

        `st_blocks` is what the disk holds: less than the size by what the server has given back. While the
        spool changes, the next look is when the fastest agent could be over the quota; an idle one gets rest.
        """
        spool = os.fstat(self._spool)
        if spool.st_nlink == 0 and not self._link.is_open:
            self._end("orphaned", self._grace_s)
            return
        used = spool.st_blocks * 512
        room = self._spec["quota_bytes"] - used
        if room < 0:
            self._end("quota", 0.0)
            return
        is_idle = used == self._spool_bytes
        pause = SPOOL_CHECK_IDLE_S if is_idle else max(SPOOL_CHECK_S, room / FASTEST_WRITER_BYTES_S)
        self._look_at = now + min(pause, SPOOL_CHECK_IDLE_S)
        self._spool_bytes = used

    def _end(self, reason: str, grace_s: float) -> None:
        """TERM to the whole tree, KILL after `grace_s`, if any. Again: the first reason, the earliest KILL stand."""
        if self._reason is None:
            self._reason = reason
            self._orphan_at = self._look_at = math.inf
            self._hang_up()
            if grace_s > 0:  # CONT, because a stopped process would not see its TERM.
                signal_descendants((signal.SIGTERM, signal.SIGCONT))
        if self._give_up_at == math.inf:
            self._kill_at = min(self._kill_at, time.monotonic() + grace_s)

    def _hang_up(self) -> None:
        """Give up the terminal: when the server has done so, too, its shell is told (HUP) and reads the end.

        An interactive shell ignores TERM.
        """
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    def _kill_tree(self, now: float) -> None:
        """One pass of KILL. What is forked during a pass is met by the next; a killed process cannot fork."""
        self._give_up_at = min(self._give_up_at, now + KILL_LIMIT_S)
        found = signal_descendants((signal.SIGKILL,))
        self._kill_at = now + KILL_AGAIN_S
        self._reap()
        if now >= self._give_up_at and not self._is_finished:
            self._survivors = found
            self._is_finished = True

    def _reap(self) -> None:
        """Collect the dead. No child left means that the whole tree is dead, because orphans come to us."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._is_finished = True
                return
            if pid == 0:
                break
            if pid == self._pid:
                self._status = status
        if self._status is not None:
            # Killed from outside it may have been a launcher: what it leaves could go on as if it were the agent.
            was_killed = self._reason is None and os.WIFSIGNALED(self._status)
            self._end("exited", 0.0 if was_killed else min(self._grace_s, LEFTOVER_GRACE_S))

    def _finish(self) -> None:
        """Write the exit record, then tell the server."""
        self._stderr.drain()
        code = None if self._status is None else os.waitstatus_to_exitcode(self._status)
        record = self._write_record(
            {
                "code": code if code is None or code >= 0 else None,
                "signal": -code if code is not None and code < 0 else None,
                "reason": self._reason or "exited",
                "stderr_tail": self._stderr.tail.decode(errors="replace"),
                "survivors": self._survivors,
            }
        )
        self._link.tell(EXIT, record)

    def _write_record(self, record: dict[str, object]) -> bytes:
        data = json.dumps(record).encode()
        self._write_file("exit", data)
        return data

    def _write_file(self, name: str, data: bytes) -> None:
        """Write a file of the runner's directory, whole or not at all. On a full disk: not at all."""
        path = os.path.join(self._spec["directory"], name)
        try:
            with open(f"{path}.new", "wb") as file:
                file.write(data)
            os.rename(f"{path}.new", path)
        except OSError:
            return  # A connected server is told anyway; otherwise the next one finds the runner lost.
