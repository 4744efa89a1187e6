"""What our own Python client makes of a flood: typed events in a second, and what it needs for a million."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Iterator
from pathlib import Path

from agentsrv.client import Agentsrv, AsyncAgentsrv
from bench.agent import compile_agent
from bench.rows import FLOOD, MIB, SIZE, Row, serving
from tests.kit import KEY, Server, rss_bytes, script

LONG = 1_000_000


def client(directory: Path) -> Iterator[Row]:
    """(o) Replays of a job: events as the loop of a user gets them."""
    with serving(directory / "o", compile_agent()) as server:
        task_id = finished(server, FLOOD)
        asyncio.run(read(server, task_id))  # whatever is done only once
        yield Row(
            "(o) typed events/s, AsyncAgentsrv", asyncio.run(read(server, task_id)), "/s", None, 100_000
        )
        yield Row("(o) typed events/s, Agentsrv", read_blocking(server, task_id), "/s", None, 50_000)
        long_id = finished(server, LONG)
        yield Row(
            "(o) RSS added by 1,000,000 events", asyncio.run(added(server, long_id)) / MIB, "MiB", None, -8
        )


def finished(server: Server, count: int) -> str:
    task_id = server.start_job(script(f"lines {count} {SIZE}"), f"client-{count}")
    server.ended_job(task_id)
    return task_id


async def read(server: Server, task_id: str) -> float:
    """Events a second."""
    async with AsyncAgentsrv(url_of(server), KEY) as client:
        job = await client.jobs.get(task_id)
        began, count = time.perf_counter(), 0
        async for _ in job:
            count += 1
    return count / (time.perf_counter() - began)


def read_blocking(server: Server, task_id: str) -> float:
    with Agentsrv(url_of(server), KEY) as client:
        job = client.jobs.get(task_id)
        began = time.perf_counter()
        count = sum(1 for _ in job)
    return count / (time.perf_counter() - began)


async def added(server: Server, task_id: str) -> float:
    """What this process has grown by, from an early event to the last one."""

    before = 0
    async with AsyncAgentsrv(url_of(server), KEY) as client:
        count = 0
        async for _ in await client.jobs.get(task_id):
            count += 1
            if count == LONG // 20:
                gc.collect()
                before = rss_bytes(os.getpid())
    gc.collect()
    return rss_bytes(os.getpid()) - before


def url_of(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"
