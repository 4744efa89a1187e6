"""Work that blocks runs beside the loop, each kind in its own pool, and what hangs stops nothing else."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager

import pytest

from agentsrv.errors import LimitReached, Unavailable
from agentsrv.threads import MAX_LOST, MAX_WAITING, Pool, Threads


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What hangs waits for this; set at the end, so that no thread is left."""
    event = threading.Event()
    yield event
    event.set()


@asynccontextmanager
async def opened(size: int = 2, timeout_s: float | None = None) -> AsyncIterator[Pool]:
    pool = Pool("test", size, timeout_s)
    try:
        yield pool
    finally:
        await pool.close()


async def refuses(pool: Pool) -> bool:
    try:
        return bool(await pool.run(int))
    except Unavailable:
        return True


async def test_a_function_runs_in_a_thread_and_its_outcome_comes_back() -> None:
    """What it returns is returned, what it raises is raised."""
    async with opened() as pool:
        assert threading.current_thread().name != await pool.run(lambda: threading.current_thread().name)
        with pytest.raises(ZeroDivisionError):
            await pool.run(divmod, 1, 0)


async def test_what_hangs_is_given_up_and_its_thread_replaced(gate: threading.Event) -> None:
    """As many calls as there are threads hang: each gets an answer in time, and the next call runs."""
    async with opened(size=2, timeout_s=0.1) as pool:
        found = await asyncio.gather(*(pool.run(gate.wait) for _ in range(2)), return_exceptions=True)

        assert ["no_answer"] * 2 == [exc.code for exc in found if isinstance(exc, Unavailable)]
        assert 7 == await pool.run(lambda: 7)


async def test_a_pool_whose_threads_are_all_lost_refuses(gate: threading.Event) -> None:
    """Threads are not made without end for a mount that never answers; when it does, all is well again."""
    async with opened(size=MAX_LOST, timeout_s=0.3) as pool:
        await asyncio.gather(*(pool.run(gate.wait) for _ in range(MAX_LOST)), return_exceptions=True)
        with pytest.raises(Unavailable):
            await pool.run(int)

        gate.set()
        async with asyncio.timeout(10):
            while await refuses(pool):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_too_many_calls_at_once_are_refused(gate: threading.Event) -> None:
    """The queue has a bound."""
    async with opened(size=1) as pool:
        waiting = [asyncio.ensure_future(pool.run(gate.wait)) for _ in range(MAX_WAITING)]  # noqa: TID251
        await asyncio.sleep(0)
        with pytest.raises(LimitReached):
            await pool.run(int)
        gate.set()
        await asyncio.gather(*waiting)


async def test_who_is_cancelled_leaves_when_the_function_has_ended(gate: threading.Event) -> None:
    """It may use what its caller closes."""
    ended: list[str] = []

    def work() -> None:
        gate.wait()
        ended.append("function")

    async with opened() as pool:
        task = asyncio.ensure_future(pool.run(work))  # noqa: TID251
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0.01)
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert ["function"] == ended


async def test_what_nobody_waits_for_any_more_is_closed(gate: threading.Event) -> None:
    """A file that was opened too late is not left open."""
    closed = threading.Event()

    class File:
        def close(self) -> None:
            closed.set()

    def open_late() -> File:
        gate.wait()
        return File()

    async with opened(timeout_s=0.05) as pool:
        with pytest.raises(Unavailable):
            await pool.run(open_late)
        gate.set()
        assert closed.wait(10)


async def test_a_generator_whose_step_hangs_is_left(gate: threading.Event) -> None:
    """Its reader gets the error, not another one about the generator."""

    def steps() -> Generator[int, None, None]:
        yield 1
        gate.wait()
        yield 2

    async with opened(timeout_s=0.1) as pool:
        items = pool.iterate(steps())
        assert 1 == await anext(items)
        with pytest.raises(Unavailable):
            await anext(items)


async def test_one_pool_that_hangs_leaves_the_others_alone(gate: threading.Event) -> None:
    """Paths are found out while every thread for programs is stuck."""
    threads = Threads()
    stuck = [asyncio.ensure_future(threads.programs.run(gate.wait)) for _ in range(40)]  # noqa: TID251
    try:
        assert 3 == await threads.paths.run(len, "abc")
    finally:
        gate.set()
        await asyncio.gather(*stuck)
        await threads.close()


def test_a_call_that_hangs_does_not_keep_the_process() -> None:
    """The interpreter ends though a thread waits for ever."""
    program = (
        "import asyncio, threading\n"
        "from agentsrv.threads import Pool\n"
        "async def main():\n"
        "    pool = Pool('test', 1, 0.05)\n"
        "    await asyncio.gather(pool.run(threading.Event().wait), return_exceptions=True)\n"
        "    await pool.close()\n"
        "asyncio.run(main())\n"
    )
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
    assert time.monotonic() - began < 20
