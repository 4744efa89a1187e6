"""The server's end of a runner: send, kill, wait for the exit, attach again after a restart."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import json
import logging
import os
import signal
import socket
import stat
import time
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from agentsrv.model import RunnerId
from agentsrv.runner import child

log = logging.getLogger(__name__)

DEFAULT_GRACE_S = 3.0
WRITE_BYTES = 256 * 1024
ATTACH_TIMEOUT_S = 5.0
TAIL_TIMEOUT_S = 2.0
WEDGED_AFTER_S = 2.0
"""A runner that has not ended its tree so long after the grace is itself killed."""
SWEEP_LIMIT_S = 2.0
SWEEP_AGAIN_S = 0.005
EMPTY_PASSES = 5
CLEAN_UP_AGAIN_S = 0.5
MAX_RECORD_BYTES = 1024 * 1024
"""Of what a runner says or writes down at once. The tail of stderr is most of it."""

Pid = Annotated[int, msgspec.Meta(gt=0)]
T = TypeVar("T")
PROC = Path("/proc")
SPOILED = frozenset(
    {
        errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENXIO,
        errno.ECONNREFUSED, errno.EAGAIN, errno.EPROTOTYPE,
    }
)  # fmt: skip
"""What a runner's directory is to blame for when it cannot be opened or called. Not: no descriptor, no memory."""
KERNEL_THREAD = 0x00200000
"""PF_KTHREAD among the flags in /proc/<pid>/stat."""


class RunnerError(Exception):
    """There is no agent: it could not be started. `about` is `cwd`, `program`, `disk` (full) or `runner`."""

    def __init__(self, message: str, *, about: str = "runner") -> None:
        super().__init__(message)
        self.message = message
        self.about = about


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerSpec:
    """What to run and how long it may go on.

    `argv[0]` is a path; it is not searched for. `env` is the agent's whole environment, to which only the
    cookie is added. `directory` is there and was not used before; its name is the id. Once it is removed, a
    runner that comes late starts nothing. `quota_bytes` is how much of the spool may lie on the disk unread.
    `orphan_s` is how long the agent may live while no server is connected (`RunnerHandle.set_linger` changes it).

    `opening` is what the agent's stdin begins with, text.

    With `pty` (columns, rows) the agent gets a new terminal in place of pipes and a spool, and its handle the
    master (`RunnerHandle.take_pty`).
    """

    id: RunnerId
    argv: tuple[str, ...]
    cwd: str
    env: dict[str, str]
    directory: Path
    quota_bytes: int
    orphan_s: float
    opening: bytes = b""
    grace_s: float = DEFAULT_GRACE_S
    pty: tuple[int, int] | None = None

    def encode(self) -> bytes:
        return json.dumps(
            {
                "argv": self.argv,
                "cwd": self.cwd,
                "env": {**self.env, child.COOKIE: self.id},
                "directory": str(self.directory),
                "quota_bytes": self.quota_bytes,
                "orphan_s": self.orphan_s,
                "grace_s": self.grace_s,
                "boot_id": boot_id(),
                "opening": self.opening.decode(),
                "pty": self.pty and {"cols": self.pty[0], "rows": self.pty[1]},
            }
        ).encode()


@dataclass(frozen=True, slots=True)
class AgentExit:
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


class _Greeting(msgspec.Struct):
    pid: Pid
    runner_pid: Pid


class _Failure(msgspec.Struct):
    about: str
    message: str


class RunnerHandle(asyncio.Protocol):
    """One connection to a runner, from its greeting to the agent's exit. `pid` is the agent's.

    `exited` resolves when the agent and its whole tree are gone and the exit is recorded, also when the
    runner was killed. Await it through `wait_exit`: a task that awaits the bare future and is cancelled
    cancels it for all others.
    """

    def __init__(self, id: RunnerId, directory: Path) -> None:
        loop = asyncio.get_running_loop()
        self.id = id
        self.directory = directory
        self.pid = 0
        self.exited: asyncio.Future[AgentExit] = loop.create_future()
        self._loop = loop
        self._runner_pid = 0
        self._greeting: asyncio.Future[None] = loop.create_future()
        self._tails: deque[asyncio.Future[str]] = deque()
        self._frames = child.Frames(MAX_RECORD_BYTES)
        self._connection: socket.socket | None = None
        self._transport: asyncio.Transport | None = None
        self._unsent: deque[memoryview] = deque()
        self._is_paused = False
        self._is_detached = False
        self._pty = -1

    def send(self, message_id: str, data: bytes) -> None:
        """Give `data` to the agent's stdin, whole, behind what was sent before; never blocks.

        The runner drops a message whose id it has taken before, so after a crash it may be sent again.
        An agent that has ended or closed its stdin loses it silently: its exit is the news.
        """
        id_bytes = message_id.encode()
        self._write(child.MESSAGE, child.ID_LENGTH.pack(len(id_bytes)) + id_bytes, data)

    def set_linger(self, seconds: float) -> None:
        """From now on let the agent live for `seconds` while no server is connected; `math.inf`: for ever."""
        self._write(child.LINGER, child.NUMBER.pack(seconds))

    async def kill(self, grace_s: float | None = None) -> AgentExit:
        """TERM to the whole tree, KILL after the grace; return when all of it is dead.

        Again, or meanwhile: the sooner KILL wins. After the exit: just returns it.
        """
        grace_s = DEFAULT_GRACE_S if grace_s is None else grace_s
        self._write(child.KILL, child.NUMBER.pack(grace_s))
        try:
            async with asyncio.timeout(grace_s + WEDGED_AFTER_S):
                return await self.wait_exit()
        except TimeoutError:
            if self._is_connected():  # So the pid is still the runner's.
                kill_process(self._runner_pid)
        return await self.wait_exit()

    async def wait_exit(self) -> AgentExit:
        return await asyncio.shield(self.exited)

    async def stderr_tail(self) -> str:
        """The last 16 KiB that the agent wrote to stderr; empty when the runner does not answer in time."""
        if self.exited.done():
            return self.exited.result().stderr_tail
        tail: asyncio.Future[str] = self._loop.create_future()
        self._tails.append(tail)
        self._write(child.TAIL)
        try:
            async with asyncio.timeout(TAIL_TIMEOUT_S):
                return await tail
        except TimeoutError:
            return ""

    @property
    def has_pty(self) -> bool:
        """False also when the runner has given the terminal up, because it is ending it."""
        return self._pty >= 0

    def take_pty(self) -> int:
        """The master of the agent's terminal. Once: from then on it is the caller's to close."""
        assert self._pty >= 0
        master, self._pty = self._pty, -1
        return master

    def detach(self) -> None:
        """Close the connection and leave everything running: the server is going. `exited` stays pending."""
        self._is_detached = True
        if self._transport is not None:
            if self._is_connected():
                self._transport.writelines(self._unsent)
            self._unsent.clear()
            self._transport.close()
        elif self._connection is not None:
            self._connection.close()
        if self._pty >= 0:
            os.close(self.take_pty())

    # ---- the connection

    async def open(
        self, connection: socket.socket, unsent: bytes = b"", *, expects_pty: bool = False
    ) -> None:
        """Connect, send what is still `unsent` of a spec, and wait for the runner's greeting.

        Raises RunnerError (no agent) and ConnectionError (the runner went without a word). When the greeting
        is an exit record, `exited` is done.
        """
        self._connection = connection
        received = b""
        if expects_pty:
            await self._loop.sock_sendall(connection, unsent)
            unsent, received = b"", await self._receive_pty(connection)
        await self._loop.create_unix_connection(lambda: self, sock=connection)
        assert self._transport is not None
        self._transport.write(unsent)
        self.data_received(received)
        await self._greeting

    async def _receive_pty(self, connection: socket.socket) -> bytes:
        """The beginning of the greeting, which carries the descriptor. A transport's own read would drop it."""
        await readable(connection)
        data, fds, _, _ = socket.recv_fds(connection, child.READ_BYTES, 1)
        if fds:
            # Python 3.11 drops the flag (MSG_CMSG_CLOEXEC) that would do this.
            os.set_inheritable(fds[0], False)
            self._pty = fds[0]
        return data

    def abandon(self, connection: socket.socket) -> None:
        """Nobody waits for this agent any more: have it killed and close the connection."""
        if self._is_connected():
            self._write(child.KILL, child.NUMBER.pack(0.0))
        else:
            # Cancelled while it connected: the transport drops what it is given.
            with contextlib.suppress(OSError), connection:
                connection.send(child.frame(child.KILL, child.NUMBER.pack(0.0)))
        self.detach()

    def _is_connected(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def _write(self, kind: bytes, *parts: bytes) -> None:
        """Send a frame whose body is `parts`."""
        if self._is_connected():
            size = sum(map(len, parts))
            frame = [child.FRAME.pack(kind, size), *parts]
            self._unsent += map(memoryview, frame if size > WRITE_BYTES else [b"".join(frame)])
            self._write_on()

    def _write_on(self) -> None:
        """Give the transport as much as it takes, in pieces: it copies what it cannot send at once."""
        if self._unsent and not self._is_paused and self._transport is not None and self._is_connected():
            piece = self._unsent.popleft()
            self._transport.write(piece[:WRITE_BYTES])
            if len(piece) > WRITE_BYTES:
                self._unsent.appendleft(piece[WRITE_BYTES:])
            if self._unsent:
                self._loop.call_soon(self._write_on)

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self._write_on()

    def data_received(self, data: bytes) -> None:
        try:
            for kind, body in self._frames.feed(data):
                self._take(kind, body)
        except ValueError:
            # An agent can put itself in the place of its runner.
            log.warning("what answers for the runner %s is none", self.id)
            assert self._transport is not None
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def _take(self, kind: bytes, body: bytes) -> None:
        if kind == child.READY:
            greeting = parse(body, _Greeting)
            self.pid, self._runner_pid = greeting.pid, greeting.runner_pid
            self._greet(None)
        elif kind == child.FAILED:
            failure = parse(body, _Failure)
            self._greet(RunnerError(failure.message, about=failure.about))
        elif kind == child.STDERR:
            self._tell_tail(body.decode(errors="replace"))
        elif kind == child.EXIT:
            self._resolve(AgentExit.decode(body))
        elif kind == child.REPLACED:
            self._resolve(AgentExit(None, None, "replaced"))

    def _greet(self, error: Exception | None) -> None:
        if self._greeting.done():
            return
        if error is None:
            self._greeting.set_result(None)
        else:
            self._greeting.set_exception(error)

    def _tell_tail(self, tail: str) -> None:
        """Answer the oldest who waits for a tail."""
        while self._tails:
            waiting = self._tails.popleft()
            if not waiting.done():
                waiting.set_result(tail)
                return

    def _resolve(self, exit: AgentExit) -> None:
        if not self.exited.done():
            self.exited.set_result(exit)
        self._greet(None)
        while self._tails:
            self._tell_tail(exit.stderr_tail)
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Without an exit record the runner was killed, and its tree may still be there."""
        self._unsent.clear()
        if self._is_detached or self.exited.done():
            return
        if not self._greeting.done():
            self._greet(ConnectionError(f"the runner {self.id} went without a word"))
        elif self._greeting.exception() is None:
            self._clean_up()

    def _clean_up(self) -> None:
        """Without a thread or descriptor to do it, try again: an agent may have used them up."""
        try:
            clean_up = self._loop.run_in_executor(None, clean_up_after, self.directory)
        except RuntimeError:
            self._loop.call_later(CLEAN_UP_AGAIN_S, self._clean_up)
        else:
            clean_up.add_done_callback(self._cleaned_up)

    def _cleaned_up(self, done: asyncio.Future[AgentExit]) -> None:
        if done.cancelled():
            return
        if done.exception() is not None:
            self._loop.call_later(CLEAN_UP_AGAIN_S, self._clean_up)
        else:
            self._resolve(done.result())


async def readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    has_data = asyncio.Event()
    loop.add_reader(connection, has_data.set)
    try:
        await has_data.wait()
    finally:
        loop.remove_reader(connection)


@functools.cache
def boot_id() -> str:
    """The kernel's name for the time since the machine started; empty when it does not say.

    A `meta` with another one belongs to an agent that is dead.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class RunnerMeta:
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


async def attach(directory: Path, *, expects_pty: bool = False) -> RunnerHandle | AgentExit:
    """Find the runner of `directory` again, after a restart of the server.

    `expects_pty`: its agent has a terminal. Returns how the agent ended when it has. When the runner is gone
    without a record, or does not answer within 5 s, what is left of its tree is killed and the reason is
    `runner_lost`. The newest connection to a runner wins: an older handle's `exited` resolves with `replaced`.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connect(connection, directory)
    except BaseException as exc:
        connection.close()
        if isinstance(exc, OSError) and exc.errno in SPOILED:  # Nobody is there, or takes calls.
            return await asyncio.to_thread(clean_up_after, directory)
        raise
    runner_pid = child.peer_pid(connection)
    handle = RunnerHandle(RunnerId(directory.name), directory)
    try:
        async with asyncio.timeout(ATTACH_TIMEOUT_S):
            await handle.open(connection, expects_pty=expects_pty)
    except (TimeoutError, ConnectionError):
        handle.detach()
        kill_process(runner_pid)
        return await asyncio.to_thread(clean_up_after, directory)
    except BaseException:
        handle.detach()
        raise
    if handle.exited.done():
        handle.detach()
        return handle.exited.result()
    return handle


def connect(connection: socket.socket, directory: Path) -> None:
    """Connect to `directory/sock` without blocking. By a descriptor, for paths of over 108 bytes."""
    connection.setblocking(False)
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        connection.connect(f"/proc/self/fd/{fd}/sock")
    finally:
        os.close(fd)


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
    cookies = tuple(os.fsencode(f"{child.COOKIE}={runner_id}") for runner_id in runner_ids)
    gives_up_at = time.monotonic() + SWEEP_LIMIT_S
    found, empty_passes = 0, 0
    while empty_passes < EMPTY_PASSES and time.monotonic() < gives_up_at:
        marked, is_sure = look_for(cookies)
        found, empty_passes = len(marked), empty_passes + 1 if is_sure and not marked else 0
        for pid in marked:
            kill_process(pid)
        time.sleep(SWEEP_AGAIN_S)
    return found


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


def environment_of(process: Path) -> bytes | None:
    """None in the middle of an exec, when a process has neither environment nor arguments.

    Kernel threads and the dead never have them.
    """
    if environment := (process / "environ").read_bytes():
        return environment
    if (process / "cmdline").read_bytes():
        return (process / "environ").read_bytes()  # It may have had none because of an exec that is over now.
    state, _, _, _, _, _, flags, *_ = (process / "stat").read_text().rpartition(") ")[2].split()
    return b"" if state in "ZX" or int(flags) & KERNEL_THREAD else None
