"""Tasks have an owner, and none fails unheard."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import pytest

from agentsrv.tasks import Tasks, Vitals


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


async def test_close_ends_what_missed_that_it_was_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """`asyncio.wait_for` of Python 3.11 forgets it when what it waits for ends at the same moment."""

    monkeypatch.setattr("agentsrv.tasks.CANCEL_AGAIN_S", 0.01)

    async def go_on() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    tasks = Tasks("owner")
    task = tasks.start(go_on(), name="deaf")
    await asyncio.sleep(0)
    await tasks.close()

    assert task.cancelled()


async def test_join_gives_up_after_its_timeout() -> None:
    """Joining a task that never ends says so instead of waiting for ever."""
    tasks = Tasks("owner")
    tasks.spawn(asyncio.Event().wait(), name="forever")
    joined = await tasks.join(0.01)
    await tasks.close()

    assert not joined


async def test_end_of_a_vital_task_is_told_once() -> None:
    """Whoever runs the server hears of the first failure after which it cannot go on."""
    told: list[str] = []
    vitals = Vitals(lambda: told.append("failed"))
    tasks = Tasks("owner")

    async def fail() -> None:
        raise ValueError("broken")

    for name in ("first", "second"):
        tasks.spawn_vital(fail(), vitals, name=name)
    await tasks.join(60)

    assert (vitals.failed, told) == ("owner:first", ["failed"])


async def test_vital_task_may_return_or_be_closed() -> None:
    """The end that its owner wants is no failure."""
    vitals = Vitals()
    tasks = Tasks("owner")
    tasks.spawn_vital(asyncio.sleep(0), vitals, name="returns")
    await tasks.join(60)
    tasks.spawn_vital(asyncio.Event().wait(), vitals, name="closed")
    await tasks.close()

    assert vitals.failed is None
