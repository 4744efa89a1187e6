"""A real Redis for tests that need one."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kit import TIMEOUT_S, wait_until


def redis_url(directory: Path) -> str:
    return f"unix://{directory / 'redis.sock'}"


@contextmanager
def real_redis(directory: Path) -> Iterator[str]:
    """A Redis of its own, on a socket in `directory`: no port that could clash. Its URL."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.fail("redis-server is not installed; `python3 dev.py tools` does it")
    path = directory / "redis.sock"
    options = ["--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(directory)]
    server = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: is_listening(path), what="redis-server is ready")
        yield redis_url(directory)
    finally:
        server.terminate()
        server.wait(TIMEOUT_S)


def is_listening(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0
