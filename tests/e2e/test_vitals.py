"""A server that cannot go on says so and ends, so that somebody starts it again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.kit import KEY, ROOT, TIMEOUT_S

PREAMBLE = """
import asyncio
import os
import sys

from agentsrv import Config, make_app, serve

config = Config.from_env(dict(os.environ))

def kill_the_writer():
    next(task for task in asyncio.all_tasks() if task.get_name() == "database:writer").cancel()
"""

FAILS = """
def on_ready(url):
    kill_the_writer()

sys.exit(serve.serve(config, on_ready))
"""

HOST_RAISES = """
from aiohttp import web

async def main():
    runner = web.AppRunner(make_app(config))
    await runner.setup()
    raise ValueError("the host fails")

asyncio.run(main())
"""


def run(tmp_path: Path, program: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "HOST": "127.0.0.1",
        "PORT": "0",
        "API_KEY": KEY,
        "STATE_DIR": str(tmp_path / "state"),
        "WORKSPACE_BASE_PATH": str(tmp_path / "base"),
    }
    command = [sys.executable, "-c", PREAMBLE + program]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)


def test_server_without_its_writer_ends_with_an_exit_code_of_its_own(tmp_path: Path) -> None:
    """What nobody can repair from outside is told to the supervisor, which starts the server again."""
    ended = run(tmp_path, FAILS)

    assert ended.returncode == 70
    assert "cannot go on without task database:writer" in ended.stderr


def test_host_that_fails_before_the_cleanup_ends(tmp_path: Path) -> None:
    """A host that raises between start and cleanup does not hang at its exit."""
    ended = run(tmp_path, HOST_RAISES)

    assert ended.returncode == 1
    assert "the host fails" in ended.stderr
