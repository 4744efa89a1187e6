"""Programs that are asked about themselves."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from agentsrv.agents.version import ask
from agentsrv.tasks import Tasks

SHELL = Path("/bin/sh")


async def test_nothing_of_where_the_server_was_started_is_seen(tmp_path: Path) -> None:
    """A repository there cannot say how the program is to behave."""
    assert await ask(SHELL, "-c", "pwd", env={}) == (b"/\n", None)


async def test_who_does_not_wait_any_more_leaves_nothing_behind(tmp_path: Path) -> None:
    """Neither the program, nor what it has started."""
    os.mkfifo(pipe := tmp_path / "pipe")
    script = f"sleep 300 > {pipe} & sleep 300"
    tasks = Tasks("test")
    tasks.spawn(ask(SHELL, "-c", script, env={"PATH": "/usr/bin:/bin"}), name="ask")
    with await asyncio.to_thread(pipe.open, "rb") as held:
        await tasks.close()
        async with asyncio.timeout(10):
            # It ends when all that could write to it are dead.
            assert await asyncio.to_thread(held.read) == b""
