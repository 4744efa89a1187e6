"""A real Redis for tests that need one."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.kit import TIMEOUT_S, wait_until


@dataclass(slots=True)
class RedisServer:
    """A Redis of its own, on a socket in `directory`: no port that could clash. It can be stopped and started."""

    directory: Path
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def path(self) -> Path:
        return self.directory / "redis.sock"

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    def start(self) -> None:
        """Returns when it listens."""
        program = shutil.which("redis-server")
        if program is None:
            pytest.fail("redis-server is not installed; `python3 dev.py tools` does it")
        options = ["--port", "0", "--unixsocket", str(self.path), "--save", "", "--dir", str(self.directory)]
        self.process = subprocess.Popen([program, *options, *self.options], stdout=subprocess.DEVNULL)
        wait_until(lambda: is_listening(self.path), what="redis-server is ready")

    def stop(self) -> None:
        """Kill it. Stopping twice is fine."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(TIMEOUT_S)
            self.process = None

    def freeze(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)

    def do(self, *command: str) -> Any:
        """The answer to one command."""
        import redis  # A test looks whether a server without a fleet imports it.

        with redis.Redis(unix_socket_path=str(self.path), decode_responses=True) as client:
            return client.execute_command(*command)


@contextmanager
def real_redis(directory: Path, *options: str) -> Iterator[RedisServer]:
    server = RedisServer(directory, options)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def is_listening(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0
