"""Tasks have an owner, and none fails unheard."""

from __future__ import annotations

import asyncio
import logging

import pytest

from agentsrv.tasks import Tasks


async def test_failure_is_logged_with_the_name_of_its_task(caplog: pytest.LogCaptureFixture) -> None:
    """A background task that breaks leaves a traceback that says whose it was."""

    async def fail() -> None:
        raise ValueError("broken")

    tasks = Tasks("owner")
    with caplog.at_level(logging.ERROR):
        tasks.spawn(fail(), name="job")
        assert await tasks.join(60)

    assert "owner:job failed" in caplog.text
    assert "ValueError: broken" in caplog.text


async def test_close_ends_what_still_runs() -> None:
    """After close nothing of the owner runs any more; closing again is fine."""
    tasks = Tasks("owner")
    task = tasks.start(asyncio.Event().wait(), name="forever")
    await tasks.close()
    await tasks.close()

    assert task.cancelled()


async def test_join_gives_up_after_its_timeout() -> None:
    """Joining a task that never ends says so instead of waiting for ever."""
    tasks = Tasks("owner")
    tasks.spawn(asyncio.Event().wait(), name="forever")
    joined = await tasks.join(0.01)
    await tasks.close()

    assert not joined
