"""A runner's connection to its server: at most one at a time, the newest."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterable

from agentsrv.runner.child.frames import REPLACED, Frames, frame
from agentsrv.runner.child.loop import Loop
from agentsrv.runner.child.tree import is_own

READ_BYTES = 64 * 1024
BACKLOG = 16
TIMEOUT_S = 1.0

FramesIn = Iterable[tuple[bytes, bytes]]


class Link:
    """Hands what the server says to `obey`. `on_change` is called when a server has come, or has gone.

    `is_open` tells which. A new server need not wait until the old one is noticed dead.
    """

    def __init__(self, loop: Loop, obey: Callable[[FramesIn], None], on_change: Callable[[], None]) -> None:
        self._loop = loop
        self._obey = obey
        self._on_change = on_change
        self._server: socket.socket | None = None
        self._frames = Frames()

    @property
    def is_open(self) -> bool:
        return self._server is not None

    def take(self, server: socket.socket) -> None:
        """Have this one from now on, without telling."""
        server.settimeout(TIMEOUT_S)
        self._server, self._frames = server, Frames()

    def first_frames(self) -> list[tuple[bytes, bytes]]:
        """What the server says first, and all that comes with it; empty when it has died meanwhile. Blocking."""
        assert self._server is not None
        frames: list[tuple[bytes, bytes]] = []
        while not frames:
            try:
                data = self._server.recv(READ_BYTES)
            except TimeoutError:
                continue
            except OSError:
                data = b""
            if not data:
                return []
            frames += self._frames.feed(data)
        return frames

    def listen(self, path: str) -> None:
        """Let other servers call. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # Of a start that failed half-way, and is made again.
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen(BACKLOG)
        self._listener.setblocking(False)

    def watch(self) -> None:
        if self._server is not None:  # It may have died since it asked.
            self._loop.watch(self._server.fileno(), self._on_server)
        self._loop.watch(self._listener.fileno(), self._on_call)

    def tell(self, kind: bytes, body: bytes = b"", fds: tuple[int, ...] = ()) -> None:
        """Blocks for TIMEOUT_S at most. Nothing happens without a server."""
        if self._server is None:
            return
        data = frame(kind, body)
        try:
            sent = socket.send_fds(self._server, [data], fds) if fds else 0
            self._server.sendall(data[sent:])
        except ConnectionError:
            return  # It is gone. What it said before that is still to be read, and then its end.
        except OSError:  # It takes nothing (time-out): half a frame may have gone out.
            self._lose()

    def _lose(self) -> None:
        if self._server is not None:
            self._loop.forget(self._server.fileno())
            self._server.close()
            self._server = None
            self._on_change()

    def _on_call(self) -> None:
        with contextlib.suppress(OSError):  # It went away again.
            server, _ = self._listener.accept()
            if is_own(server):
                server.close()
                return
            self.tell(REPLACED)
            self._lose()
            self.take(server)
            self._loop.watch(server.fileno(), self._on_server)
            self._on_change()

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
            self._lose()
