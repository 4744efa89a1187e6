"""A Redis that is replaced when it dies: one master, one replica and three sentinels."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis

from tests.fleet.kit import free_port
from tests.kit import TIMEOUT_S, wait_until

SENTINEL = """
port {port}
dir {directory}
sentinel monitor agents 127.0.0.1 {master} 2
sentinel down-after-milliseconds agents 1000
sentinel failover-timeout agents 3000
"""


@contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGCONT)
        child.kill()
        child.wait(TIMEOUT_S)


def answers(port: int) -> bool:
    try:
        with redis.Redis(port=port, socket_timeout=1) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


class Sentinels:
    """The processes, and the URL that names the sentinels."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        program = shutil.which("redis-server") or pytest.fail("redis-server is not installed")
        self._stack = stack
        self.master, self.replica, *sentinels = [free_port() for _ in range(5)]
        common = ("--save", "", "--dir", str(directory))
        self.master_process = self._run(program, "--port", str(self.master), *common)
        replica_of = ("--replicaof", f"127.0.0.1 {self.master}")
        self.replica_process = self._run(program, "--port", str(self.replica), *replica_of, *common)
        wait_until(lambda: answers(self.master) and answers(self.replica))
        for port in sentinels:
            settings = directory / f"sentinel-{port}.conf"
            settings.write_text(SENTINEL.format(port=port, directory=directory, master=self.master))
            self._run(program, str(settings), "--sentinel")
        wait_until(
            lambda: all(self.knows_all(port) for port in sentinels), what="the sentinels know each other"
        )
        hosts = ",".join(f"127.0.0.1:{port}" for port in sentinels)
        self.url = f"redis+sentinel://{hosts}/agents/0"

    def knows_all(self, port: int) -> bool:
        if not answers(port):
            return False
        with redis.Redis(port=port, decode_responses=True) as client:
            (master,) = client.sentinel_masters().values()
            return bool(master["num-other-sentinels"] == 2 and master["num-slaves"] == 1)

    def _run(self, *command: str) -> subprocess.Popen[bytes]:
        return self._stack.enter_context(process(*command))
