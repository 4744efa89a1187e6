"""A place to run agents in: a real zygote, real processes, and nothing left behind after a test."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from agentsrv.model import RunnerId
from agentsrv.runner.handle import RunnerHandle
from agentsrv.runner.spec import RunnerSpec
from agentsrv.runner.sweep import look_for, sweep
from agentsrv.runner.zygote import Zygote
from tests.kit import THREADS

TIMEOUT_S = 60.0


class Lab:
    """Starts agents that are small Python scripts, and knows what is left of them."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.zygote = Zygote({}, THREADS.processes)
        self.ids: list[RunnerId] = []

    def spec(
        self,
        *argv: str,
        cwd: str = "/",
        env: dict[str, str] | None = None,
        quota_bytes: int = 1 << 30,
        orphan_s: float = 30.0,
        grace_s: float = 3.0,
        opening: bytes = b"",
    ) -> RunnerSpec:
        runner_id = RunnerId(f"test-{os.getpid()}-{self.base.name}-{len(self.ids)}")
        self.ids.append(runner_id)
        (self.base / runner_id).mkdir(mode=0o700, parents=True)
        return RunnerSpec(
            id=runner_id,
            argv=argv,
            cwd=cwd,
            env=env or {},
            directory=self.base / runner_id,
            quota_bytes=quota_bytes,
            orphan_s=orphan_s,
            grace_s=grace_s,
            opening=opening,
        )

    async def start(self, script: str, **options: float | bytes) -> RunnerHandle:
        """Run a Python script as an agent."""
        argv = (sys.executable, "-I", "-S", "-c", script)
        return await self.zygote.spawn(self.spec(*argv, **options))  # type: ignore[arg-type]

    def left_behind(self) -> list[int]:
        """Processes that carry the cookie of any agent of this test."""
        return look_for([f"AGENTSRV_RUNNER={runner_id}".encode() for runner_id in self.ids])[0]


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    lab = Lab(tmp_path)
    await lab.zygote.start()
    yield lab
    await lab.zygote.close()
    sweep(lab.ids)


async def until(is_true: Callable[[], object]) -> None:
    """Wait for something that nobody announces: another process's state."""
    async with asyncio.timeout(TIMEOUT_S):
        while not is_true():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.002)


async def printed(handle: RunnerHandle, count: int = 1) -> list[str]:
    """The agent's first `count` lines, as soon as they are there."""
    spool = handle.directory / "out"
    await until(lambda: spool.read_bytes().count(b"\n") >= count)
    return spool.read_text().splitlines()


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"
