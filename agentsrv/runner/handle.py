"""The server's end of a runner: send, kill, wait for the exit."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections import deque
from pathlib import Path

import msgspec

from agentsrv.errors import AgentsrvError
from agentsrv.model import RunnerId
from agentsrv.runner.child import frames
from agentsrv.runner.records import MAX_RECORD_BYTES, AgentExit, Pid, parse
from agentsrv.runner.spec import DEFAULT_GRACE_S, RunnerError
from agentsrv.runner.sweep import clean_up_after, kill_process
from agentsrv.tasks import Tasks
from agentsrv.threads import Pool

log = logging.getLogger(__name__)

READ_BYTES = 64 * 1024
WRITE_BYTES = 256 * 1024
TAIL_TIMEOUT_S = 2.0
WEDGED_AFTER_S = 2.0
"""A runner that has not ended its tree so long after the grace is itself killed."""
CLEAN_UP_AGAIN_S = 0.5


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

    def __init__(self, id: RunnerId, directory: Path, processes: Pool) -> None:
        loop = asyncio.get_running_loop()
        self.id = id
        self.directory = directory
        self.pid = 0
        self.exited: asyncio.Future[AgentExit] = loop.create_future()
        self._loop = loop
        self._processes = processes
        self._tasks = Tasks(f"runner:{id}")
        self._runner_pid = 0
        self._greeting: asyncio.Future[None] = loop.create_future()
        self._tails: deque[asyncio.Future[str]] = deque()
        self._frames = frames.Frames(MAX_RECORD_BYTES)
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
        self._write(frames.MESSAGE, frames.ID_LENGTH.pack(len(id_bytes)) + id_bytes, data)

    @property
    def has_unsent(self) -> bool:
        """Something that was sent is not in the kernel's hands yet."""
        transport = self._transport
        return bool(self._unsent) or (transport is not None and transport.get_write_buffer_size() > 0)

    def set_linger(self, seconds: float) -> None:
        """From now on let the agent live for `seconds` while no server is connected; `math.inf`: for ever."""
        self._write(frames.LINGER, frames.NUMBER.pack(seconds))

    async def kill(self, grace_s: float | None = None) -> AgentExit:
        """TERM to the whole tree, KILL after the grace; return when all of it is dead.

        Again, or meanwhile: the sooner KILL wins. After the exit: just returns it.
        """
        grace_s = DEFAULT_GRACE_S if grace_s is None else grace_s
        self._write(frames.KILL, frames.NUMBER.pack(grace_s))
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
        self._write(frames.TAIL)
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
        data, fds, _, _ = socket.recv_fds(connection, READ_BYTES, 1)
        if fds:
            # Python 3.11 drops the flag (MSG_CMSG_CLOEXEC) that would do this.
            os.set_inheritable(fds[0], False)
            self._pty = fds[0]
        return data

    def abandon(self, connection: socket.socket) -> None:
        """Nobody waits for this agent any more: have it killed and close the connection."""
        if self._is_connected():
            self._write(frames.KILL, frames.NUMBER.pack(0.0))
        else:
            # Cancelled while it connected: the transport drops what it is given.
            with contextlib.suppress(OSError), connection:
                connection.send(frames.frame(frames.KILL, frames.NUMBER.pack(0.0)))
        self.detach()

    def _is_connected(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def _write(self, kind: bytes, *parts: bytes) -> None:
        """Send a frame whose body is `parts`."""
        if self._is_connected():
            size = sum(map(len, parts))
            frame = [frames.FRAME.pack(kind, size), *parts]
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
        if kind == frames.READY:
            greeting = parse(body, _Greeting)
            self.pid, self._runner_pid = greeting.pid, greeting.runner_pid
            self._greet(None)
        elif kind == frames.FAILED:
            failure = parse(body, _Failure)
            self._greet(RunnerError(failure.message, about=failure.about))
        elif kind == frames.STDERR:
            self._tell_tail(body.decode(errors="replace"))
        elif kind == frames.EXIT:
            self._resolve(AgentExit.decode(body))
        elif kind == frames.REPLACED:
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
            self._tasks.spawn(self._clean_up(), name="clean-up")

    async def _clean_up(self) -> None:
        """Without a thread or descriptor to do it, try again: an agent may have used them up."""
        while not self.exited.done() and not self._is_detached:
            try:
                self._resolve(await self._processes.run(clean_up_after, self.directory))
            except (OSError, AgentsrvError):
                await asyncio.sleep(CLEAN_UP_AGAIN_S)


async def readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    has_data = asyncio.Event()
    loop.add_reader(connection, has_data.set)
    try:
        await has_data.wait()
    finally:
        loop.remove_reader(connection)
