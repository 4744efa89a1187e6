"""The program of the zygote and of the runners: `python -I -S child.py <fd of the control socket>
<soft limit of descriptors>`.

The zygote keeps one *spare* forked: a runner that waits for work on the control socket. A request is one
byte with a socket attached (SCM_RIGHTS). The spare that takes it reads its spec from that socket, starts the
agent, and keeps the socket as its first connection to the server; the zygote forks the next spare meanwhile.
The zygote ends with its server, a runner with its agent.

On a connection, both ways, everything is a frame: one byte of kind, four of length, the body. Kinds that are
not known are ignored: after an upgrade of the server its runners are older than it is.

Standard library only, and everything is imported before the first fork: this file runs without the project.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import gc
import json
import math
import os
import resource
import select
import signal
import socket
import struct
import sys
import termios
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

COOKIE = "AGENTSRV_RUNNER"

FRAME = struct.Struct("!cI")
NUMBER = struct.Struct("!d")
ID_LENGTH = struct.Struct("!H")
PEER_CREDENTIALS = struct.Struct("3i")
"""Of the other end of a Unix socket: pid, user, group."""

# From the server.
SPEC = b"S"  # JSON, once, first
MESSAGE = b"M"  # length of the id, the id, what goes to the agent's stdin
KILL = b"K"  # grace in seconds
LINGER = b"L"  # seconds
TAIL = b"T"  # asks for the tail of stderr

# From the runner.
READY = b"R"  # JSON {"pid", "runner_pid"}: first on every connection; with the master, where there is a PTY
FAILED = b"F"  # JSON {"about", "message"}: there will be no agent
STDERR = b"E"  # answers TAIL
EXIT = b"X"  # JSON: the exit record; the last frame
REPLACED = b"O"  # a newer connection has taken over; the last frame

STDERR_KEPT_BYTES = 16 * 1024
PIPE_BYTES = READ_BYTES = 64 * 1024
LAST_READS = 16
"""Reads of stderr after the end: a whole pipe, even an enlarged one; not more, a survivor may write on."""
MESSAGE_IDS_KEPT = 16 * 1024
LEFTOVER_GRACE_S = 1.0
"""What an agent that ended by itself leaves running gets this long between TERM and KILL."""
KILL_LIMIT_S = 1.5
"""How long KILL is repeated. What is still there is beyond us (another user's, or stuck in the kernel)."""
KILL_AGAIN_S = 0.02
SPOOL_CHECK_S = 0.1
SPOOL_CHECK_IDLE_S = 3.0
FASTEST_WRITER_BYTES_S = 2e9
SERVER_TIMEOUT_S = 1.0
RESPAWN_PAUSE_S = 0.1
"""Between two spares when the first one died without having done anything."""

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36

libc = ctypes.CDLL(None, use_errno=True)


def frame(kind: bytes, body: bytes = b"") -> bytes:
    return FRAME.pack(kind, len(body)) + body


class Frames:
    """Cuts a byte stream into frames, none longer than `max_bytes`."""

    def __init__(self, max_bytes: float = math.inf) -> None:
        self._buffer = bytearray()
        self._max_bytes = max_bytes

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield every (kind, body) that `data` completes. Part of a frame waits for the rest.

        Raises ValueError when that would be too long.
        """
        self._buffer += data
        while len(self._buffer) >= FRAME.size:
            kind, length = FRAME.unpack_from(self._buffer)
            if length > self._max_bytes:
                raise ValueError(f"a frame of {length} bytes")
            end = FRAME.size + length
            if len(self._buffer) < end:
                return
            body = bytes(memoryview(self._buffer)[FRAME.size : end])
            del self._buffer[:end]
            yield kind, body


class StartFailed(Exception):
    """The agent could not be started. `about`: `cwd`, `program`, `disk` (full) or `runner`."""

    def __init__(self, about: str, message: str) -> None:
        super().__init__(message)
        self.about = about
        self.message = message


# ---- the process tree


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


# ---- starting the agent

IGNORED_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ)
"""Ignored by runners. Only ignoring survives an exec (handlers do not), so the agent resets these."""


LIBC_SIGNALS = (32, 33)
RT_SIGACTION = {"x86_64": 13, "aarch64": 134}
"""The system call's number by `uname -m`. (Linux, asm/unistd.h.)"""


def reset_signals() -> None:
    """Put every signal back to its default: what is ignored here would be ignored by every agent.

    glibc keeps two signals for itself, which its own sigaction() refuses; its posix_spawn(), with which GNU
    make starts programs, leaves them ignored.
    """
    for each in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(each, signal.SIG_DFL)
    number = RT_SIGACTION.get(os.uname().machine)
    for libcs_own in LIBC_SIGNALS if number else ():
        libc.syscall(number, libcs_own, bytes(32), None, 8)  # All zero is the default, on both.
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
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != runner_pid:
            os._exit(127)  # The runner died before the line above could notice.
        os.setsid()  # An agent that signals its own process group must not hit the runner.
        for each in IGNORED_SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        for target, source in enumerate(stdio):
            os.dup2(source, target)
        if spec.get("pty"):
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        os.umask(umask)
        about = "cwd"
        os.chdir(spec["cwd"])
        about = "program"
        os.execve(spec["argv"][0], spec["argv"], spec["env"])
    except Exception as exc:
        # What is not an OSError is a NUL, or a name of a variable with "=", where there may be none.
        code = exc.errno if isinstance(exc, OSError) else errno.EINVAL
        os.write(failed, f"{about} {code}".encode())
    finally:
        os._exit(127)


def explain(about: str, code: int, spec: dict[str, Any]) -> StartFailed:
    """Say what was wrong, with which path."""
    program = spec["argv"][0]
    reason = os.strerror(code)
    if about == "cwd":
        return StartFailed(about, f"cannot enter the working directory {spec['cwd']}: {reason}")
    if about == "program" and code == errno.ENOENT and os.path.exists(program):
        return StartFailed(about, f"cannot run {program}: the interpreter it names does not exist")
    if about == "program":
        return StartFailed(about, f"cannot run {program}: {reason}")
    return StartFailed(about, f"cannot prepare the agent's process: {reason}")


# ---- the terminal of an agent that has one

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


# ---- the runner


class Runner:
    """Owns one agent from its start to the death of its last descendant. One thread, one epoll loop.

    It is constructed in the spare, before there is any work, so that a request pays only for what needs its
    spec. `umask` is the agent's. `release` is called when the zygote may fork the next spare.
    """

    def __init__(self, umask: int, release: Callable[[], None]) -> None:
        self._umask = umask
        self._release = release
        os.setsid()
        libc.prctl(PR_SET_NAME, b"agentsrv-runner")
        # Orphans of the agent become our children: the tree is dead when we have no children.
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
        # What a request uses first is touched now: right after a fork its pages cost 0.2 ms.
        json.loads(json.dumps({"argv": ["agent"], "grace_s": 1.0}))
        self._poll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._catch_signals()
        self._stdin_end, self._stdin = os.pipe()
        self._stderr, self._stderr_end = os.pipe()
        os.set_blocking(self._stdin, False)
        os.set_blocking(self._stderr, False)

        self._server: socket.socket | None = None
        self._frames = Frames()
        self._message_ids: dict[bytes, None] = {}
        self._input: deque[memoryview] = deque()
        self._stderr_kept = b""

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
        server.settimeout(SERVER_TIMEOUT_S)
        self._server = server
        later = self._read_spec(server)
        if later is None:
            return  # The server died while it asked.
        try:
            self._start_agent()
        except StartFailed as exc:
            self._refuse(exc)
            return
        self._greet()
        try:
            self._serve(later)
        except BaseException:
            # The agent dies with us (PDEATHSIG) and the server notices; this file is for who asks why.
            with open("crash", "w") as file:
                traceback.print_exc(file=file)

    def _serve(self, frames: list[tuple[bytes, bytes]]) -> None:
        self._write_meta()
        if self._server is not None:  # It may have died since it asked.
            self._watch(self._server.fileno(), self._on_server)
        self._watch(self._listener.fileno(), self._on_connect)
        self._watch(self._stderr, self._on_stderr)
        if opening := self._spec.pop("opening"):  # It may hold a secret, which nobody else needs.
            self._input.append(memoryview(opening.encode()))
            self._write_input()
        self._obey(frames)
        while not self._is_finished:
            self._turn()
        self._finish()

    # ---- events

    def _watch(self, fd: int, handler: Callable[[], None], events: int = select.EPOLLIN) -> None:
        self._handlers[fd] = handler
        self._poll.register(fd, events)

    def _forget(self, fd: int) -> None:
        if self._handlers.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def _turn(self) -> None:
        """Wait for the next thing to do, and do it."""
        due_at = min(self._orphan_at, self._look_at, self._kill_at)
        timeout = None if due_at == math.inf else max(0.0, due_at - time.monotonic())
        for fd, _ in self._poll.poll(timeout):
            if handler := self._handlers.get(fd):
                handler()
        now = time.monotonic()
        if now >= self._orphan_at:
            self._end("orphaned", self._grace_s)
        if now >= self._look_at:
            self._check_spool(now)
        if now >= self._kill_at:
            self._kill_tree(now)

    def _catch_signals(self) -> None:
        """Turn SIGCHLD and SIGTERM into bytes on a pipe that the loop watches."""
        wake, self._wake_end = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(self._wake_end, False)
        signal.set_wakeup_fd(self._wake_end, warn_on_full_buffer=False)
        for each in IGNORED_SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        for each in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(each, lambda *_: None)
        self._watch(wake, lambda: self._on_signal(os.read(wake, 4096)))

    def _on_signal(self, numbers: bytes) -> None:
        if signal.SIGTERM in numbers:
            self._end("killed", self._grace_s)
        self._reap()
        if self._give_up_at != math.inf:
            self._kill_at = 0.0  # The dead may have left orphans behind that the last pass did not meet.

    # ---- the start

    def _read_spec(self, server: socket.socket) -> list[tuple[bytes, bytes]] | None:
        """Read the spec; return the frames that came right behind it, or None if it never came."""
        frames: list[tuple[bytes, bytes]] = []
        while not frames:
            try:
                data = server.recv(READ_BYTES)
            except TimeoutError:
                continue
            except OSError:
                data = b""
            if not data:
                return None
            frames += self._frames.feed(data)
        self._spec: dict[str, Any] = json.loads(frames[0][1])
        self._grace_s: float = self._spec["grace_s"]
        self._linger_s: float = self._spec["orphan_s"]
        return frames[1:]

    def _start_agent(self) -> None:
        """Enter the directory, start the agent, listen. Raises StartFailed."""
        try:
            # From here on we live in our directory, so that a long path does not matter to bind(). Where it is
            # gone, this runner comes so late that its agent was given up: nobody would ever look after it.
            os.chdir(self._spec["directory"])
            stdio = self._open_stdio()
            failed, failed_end = os.pipe()
            runner_pid = os.getpid()
            self._pid = os.fork()
            if self._pid == 0:
                exec_agent(self._spec, runner_pid, self._umask, stdio, failed_end)
            os.close(failed_end)
            os.close(self._stdin_end)
            os.close(self._stderr_end)
            if self._master >= 0:
                os.close(stdio[0])  # The master then tells when the last process has closed the terminal.
            self._release()  # Not earlier: the two forks would compete for the processor.
            self._listen()
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
            return slave, slave, slave
        self._spool = os.open("out", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        return self._stdin_end, self._spool, self._stderr_end

    def _listen(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind("sock")
        self._listener.listen(16)
        self._listener.setblocking(False)

    def _refuse(self, exc: StartFailed) -> None:
        message = os.fsencode(exc.message).decode(errors="replace")  # It may name a path that is not UTF-8.
        self._write_record({"reason": "exec_failed", "stderr_tail": message})
        self._tell(FAILED, json.dumps({"about": exc.about, "message": message}).encode())

    def _write_meta(self) -> None:
        meta = {"pid": self._pid, "runner_pid": os.getpid(), "boot_id": self._spec["boot_id"]}
        self._write_file("meta", json.dumps(meta).encode())

    # ---- the server

    def _tell(self, kind: bytes, body: bytes = b"", fds: tuple[int, ...] = ()) -> None:
        if self._server is None:
            return
        data = frame(kind, body)
        try:
            sent = socket.send_fds(self._server, [data], fds) if fds else 0
            self._server.sendall(data[sent:])
        except ConnectionError:
            return  # It is gone. What it said before that is still to be read, and then its end.
        except OSError:  # It takes nothing (time-out): half a frame may have gone out.
            self._lose_server()

    def _greet(self) -> None:
        greeting = json.dumps({"pid": self._pid, "runner_pid": os.getpid()}).encode()
        self._tell(READY, greeting, () if self._master < 0 else (self._master,))

    def _lose_server(self) -> None:
        if self._server is not None:
            self._forget(self._server.fileno())
            self._server.close()
            self._server = None
            self._set_orphan_deadline()

    def _set_orphan_deadline(self) -> None:
        is_alone = self._server is None and self._reason is None
        self._orphan_at = time.monotonic() + self._linger_s if is_alone else math.inf

    def _on_connect(self) -> None:
        """The newest connection wins: a new server need not wait until the old one is noticed dead."""
        try:
            server, _ = self._listener.accept()
        except OSError:
            return  # It went away again.
        if is_own(server):
            server.close()
            return
        self._tell(REPLACED)
        self._lose_server()
        server.settimeout(SERVER_TIMEOUT_S)
        self._server, self._frames = server, Frames()
        self._orphan_at = math.inf
        self._watch(server.fileno(), self._on_server)
        self._greet()

    def _on_server(self) -> None:
        if self._server is None:
            return
        try:
            data = self._server.recv(READ_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return  # What was readable was the connection before this one.
        except OSError:
            data = b""
        if data:
            self._obey(self._frames.feed(data))
        else:
            self._lose_server()

    def _obey(self, frames: Iterable[tuple[bytes, bytes]]) -> None:
        for kind, body in frames:
            if kind == MESSAGE:
                self._take_message(body)
            elif kind == KILL:
                self._end("killed", NUMBER.unpack(body)[0])
            elif kind == LINGER:
                self._linger_s = NUMBER.unpack(body)[0]
                self._set_orphan_deadline()
            elif kind == TAIL:
                self._tell(STDERR, self._stderr_kept)

    # ---- the agent's stdin and stderr

    def _take_message(self, body: bytes) -> None:
        """Queue a message for the agent's stdin, unless its id was taken before."""
        start = ID_LENGTH.size + ID_LENGTH.unpack_from(body)[0]
        message_id = body[ID_LENGTH.size : start]
        if message_id in self._message_ids or self._stdin < 0:
            return
        self._message_ids[message_id] = None
        if len(self._message_ids) > MESSAGE_IDS_KEPT:
            del self._message_ids[next(iter(self._message_ids))]
        self._input.append(memoryview(body)[start:])
        self._write_input()

    def _write_input(self) -> None:
        """Write what the pipe takes now; watch it for room only while something is left."""
        try:
            while self._input:
                written = os.write(self._stdin, self._input[0])
                self._input[0] = self._input[0][written:]
                if not self._input[0]:
                    self._input.popleft()
        except BlockingIOError:
            if self._stdin not in self._handlers:
                self._watch(self._stdin, self._write_input, select.EPOLLOUT)
            return
        except OSError:  # The agent has closed its stdin.
            self._input.clear()
            self._forget(self._stdin)
            os.close(self._stdin)
            self._stdin = -1
        else:
            self._forget(self._stdin)

    def _on_stderr(self) -> None:
        try:
            data = os.read(self._stderr, PIPE_BYTES)
        except BlockingIOError:
            return
        if data:
            self._stderr_kept = (self._stderr_kept + data)[-STDERR_KEPT_BYTES:]
        else:
            self._forget(self._stderr)

    # ---- the end

    def _check_spool(self, now: float) -> None:
        """End an agent that outruns its reader, or whose spool was deleted and has no reader any more.

        `st_blocks` is what the disk holds: less than the size by what the server has given back. While the
        spool changes, the next look is when the fastest agent could be over the quota; an idle one gets rest.
        """
        spool = os.fstat(self._spool)
        if spool.st_nlink == 0 and self._server is None:
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
        """TERM to the whole tree, KILL after `grace_s`. Again: the first reason, the earliest KILL stand."""
        if self._reason is None:
            self._reason = reason
            self._orphan_at = self._look_at = math.inf
            self._hang_up()
            # CONT, because a stopped process would not see its TERM.
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
            self._end("exited", min(self._grace_s, LEFTOVER_GRACE_S))

    def _finish(self) -> None:
        """Write the exit record, then tell the server."""
        for _ in range(LAST_READS):
            self._on_stderr()
        code = None if self._status is None else os.waitstatus_to_exitcode(self._status)
        record = self._write_record(
            {
                "code": code if code is None or code >= 0 else None,
                "signal": -code if code is not None and code < 0 else None,
                "reason": self._reason or "exited",
                "stderr_tail": self._stderr_kept.decode(errors="replace"),
                "survivors": self._survivors,
            }
        )
        self._tell(EXIT, record)

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


# ---- the zygote


def receive(control: socket.socket) -> socket.socket | None:
    """Take one request: the socket that came with it. None when the server is gone."""
    while True:
        data, ancillary, _, _ = control.recvmsg(1, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
        if not data:
            return None
        for _, _, fds in ancillary:
            return socket.socket(fileno=int.from_bytes(fds[:4], sys.byteorder))


def be_spare(control: socket.socket, taken: int, umask: int) -> NoReturn:
    """In the forked child: wait for a request and be its runner. On `taken` it says that it waits no more."""

    def release() -> None:
        with contextlib.suppress(BrokenPipeError):  # The zygote was killed. This runner does not need it.
            os.write(taken, b"1")
        os.close(taken)

    try:
        runner = Runner(umask, release)
        server = receive(control)
        control.close()
        if server is not None:
            runner.run(server)
    finally:
        os._exit(0)


def refuse_one(control: socket.socket, exc: OSError) -> bool:
    """Answer one request without a runner, because there can be no new process. False: the server is gone."""
    server = receive(control)
    if server is None:
        return False
    failure = {"about": "runner", "message": f"cannot start another process: {exc.strerror}"}
    with server:
        server.sendall(frame(FAILED, json.dumps(failure).encode()))
    return True


def is_readable(control: socket.socket, timeout_s: float) -> bool:
    return bool(select.select([control], [], [], timeout_s)[0])


def is_closed(control: socket.socket) -> bool:
    poll = select.poll()
    poll.register(control, 0)
    return bool(poll.poll(0))


def be_zygote(control: socket.socket, umask: int) -> None:
    """Keep one spare forked until the server closes the control socket."""
    libc.prctl(PR_SET_NAME, b"agentsrv-zygote")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # Runners are reaped by the kernel.
    control.send(b"1")
    while True:
        taken, taken_end = os.pipe()
        try:
            pid = os.fork()
        except OSError as exc:
            os.close(taken)
            os.close(taken_end)
            if is_readable(control, RESPAWN_PAUSE_S) and not refuse_one(control, exc):
                return
            continue
        if pid == 0:
            os.close(taken)
            be_spare(control, taken_end, umask)
        os.close(taken_end)
        is_taken = os.read(taken, 1)
        os.close(taken)
        if is_closed(control):
            return
        if not is_taken:
            time.sleep(RESPAWN_PAUSE_S)


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    reset_signals()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    # The server may have raised its own; there are programs that a high one slows down, or that use select().
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]), hard))
    # Agents run as the same user. What passes through a runner, a key perhaps, is not theirs to look up in its
    # memory, nor in a core dump. Their own exec undoes this for them.
    libc.prctl(PR_SET_DUMPABLE, 0)
    # No collection: it would touch, and so copy, pages that runners share with the zygote.
    gc.disable()
    gc.freeze()
    be_zygote(control, umask=os.umask(0o077))


if __name__ == "__main__":
    main()
