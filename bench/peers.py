"""Terminals on the web that others have made, and what it takes to talk to them."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from abc import abstractmethod
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

TIMEOUT_S = 30.0
MARK = b"ready-steady"
QUIET = b"exec env PS1= sh +i -c 'stty -echo; echo ready-\"\"steady; exec sh'\n"
"""No editing, no prompt: what comes back is what the kernel echoes and what programs write."""

WETTY_COMMITS_EVERY = 256 * 1024


class RawSocket:
    """A WebSocket client that costs next to nothing: it looks at the end of what came, and at no frame."""

    def __init__(self, port: int, path: str, headers: str = "") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = memoryview(bytearray(1 << 18))
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            f"{headers}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {b64encode(os.urandom(16)).decode()}\r\n\r\n".encode()
        )
        head = b""
        while b"\r\n\r\n" not in head:
            head += self.socket.recv(4096)
        assert b" 101 " in head, head

    def send(self, opcode: int, payload: bytes) -> None:
        size = len(payload)
        length = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack("!H", size)
        # A mask of zeros is a mask.
        self.socket.sendall(bytes([opcode]) + length + bytes(4) + payload)

    def read_to(self, end: bytes) -> None:
        """Read until `end` is among the last bytes."""
        tail = b""
        while end not in tail:
            size = self.socket.recv_into(self._buffer)
            assert size, "the server has closed the socket"
            self.received(size)
            tail = (tail + bytes(self._buffer[max(0, size - 256) : size]))[-256:]

    def received(self, size: int) -> None:
        """So many bytes have come."""

    def close(self) -> None:
        self.socket.close()


class Shell(RawSocket):
    """A socket with a shell at its other end, that has no prompt: only what was asked for comes."""

    @abstractmethod
    def type(self, data: bytes) -> None: ...

    def make_quiet(self) -> None:
        self.type(QUIET)
        self.read_to(MARK)


class Terminado(Shell):
    def __init__(self, port: int) -> None:
        super().__init__(port, "/websocket")
        self.make_quiet()

    def type(self, data: bytes) -> None:
        self.send(0x81, json.dumps(["stdin", data.decode()]).encode())


class Wetty(Shell):
    """It speaks Socket.IO, whose packets begin with digits: 2 is a ping, 3 its answer, 40 a connect, 42 an event."""

    def __init__(self, port: int) -> None:
        self._uncommitted = 0
        super().__init__(port, "/socket.io/?EIO=4&transport=websocket")
        self.send(0x81, b"40")
        self.read_to(b"login")
        self.make_quiet()

    def type(self, data: bytes) -> None:
        # It hangs up on whoever does not answer pings, asked or not.
        self.send(0x81, b"3")
        self._emit("input", data.decode())

    def received(self, size: int) -> None:
        # What is not committed is not read, either.
        self._uncommitted += size
        if self._uncommitted >= WETTY_COMMITS_EVERY:
            self._emit("commit", self._uncommitted)
            self._uncommitted = 0

    def _emit(self, event: str, value: str | int) -> None:
        self.send(0x81, b"42" + json.dumps([event, value]).encode())


@contextmanager
def peers() -> Iterator[dict[str, Callable[[], Shell]]]:
    """Those that are installed here, by name; a call opens a new shell."""
    found: dict[str, Callable[[], Shell]] = {}
    with ExitStack() as stack:
        if importlib.util.find_spec("terminado") is not None:
            port = stack.enter_context(_terminado())
            found["terminado"] = lambda: Terminado(port)
        # To others than root it would give an SSH client in place of the shell.
        if (program := shutil.which("wetty")) is not None and os.getuid() == 0:
            wetty_port = stack.enter_context(_wetty(program))
            found["wetty"] = lambda: Wetty(wetty_port)
        yield found


@contextmanager
def _terminado() -> Iterator[int]:
    program = Path(__file__).with_name("peer_terminado.py")
    with _running(sys.executable, str(program)) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())


@contextmanager
def _wetty(program: str) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    options = ("--host", "127.0.0.1", "--port", str(port), "--base", "/", "--command", "/bin/sh")
    with _running(program, *options, stdout=subprocess.DEVNULL):
        end = time.monotonic() + TIMEOUT_S
        while not _listens(port):
            assert time.monotonic() < end, "wetty does not start"
            time.sleep(0.05)
        yield port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def _running(*argv: str, stdout: int = subprocess.PIPE) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(argv, stdout=stdout, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
