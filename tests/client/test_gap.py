"""After a power loss the log may end before what a client has had: the gap is told, nothing is skipped."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from agentsrv.client import AsyncAgentsrv, BadRequestError, Gap

JOB = {"taskId": "t", "sessionId": "s", "status": "running"}
AHEAD = {
    "error": "invalid",
    "code": "invalid_input",
    "details": [{"path": "Last-Event-ID", "message": "lies ahead"}],
}


def frame(number: int, **fields: Any) -> bytes:
    return b"id: %d\ndata: %b\n\n" % (number, json.dumps({"type": "x", **fields}).encode())


@asynccontextmanager
async def logs(first: list[bytes], second: list[bytes]) -> AsyncIterator[AsyncAgentsrv]:
    """A server that dies after sending `first`; what comes back has `second` and nothing else."""
    streams = iter([first])

    async def stream(request: web.Request) -> web.StreamResponse:
        log = next(streams, second)
        after = int(request.headers.get("Last-Event-ID", 0))
        if after > len(log):
            return web.json_response(AHEAD, status=400)
        gaps = [n for n, each in enumerate(log[:after], 1) if b'"gap"' in each]
        told = {"X-Log-Gap": str(gaps[-1])} if gaps else {}
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **told})
        await response.prepare(request)
        for each in log[after:]:
            await response.write(each)
        return response

    async def job(request: web.Request) -> web.Response:
        return web.json_response(JOB)

    app = web.Application()
    app.router.add_get("/generate/v2/jobs/t/stream", stream)
    app.router.add_get("/generate/v2/jobs/t", job)
    async with (
        TestServer(app) as server,
        AsyncAgentsrv(f"http://127.0.0.1:{server.port}", "key", max_retries=0) as client,
    ):
        yield client


async def test_a_gap_says_what_is_void() -> None:
    """The loop goes on with the gap, and with what comes after it."""
    before = [frame(number, n=number) for number in range(1, 7)]
    after = [
        *before[:2],
        frame(3, type="gap", after=2),
        frame(4, done=True, taskId="t", status="interrupted"),
    ]
    async with logs(before, after) as client:
        events = [event async for event in await client.jobs.get("t")]

    assert [1, 2, 3, 4, 5, 6, 3, 4] == [event.id for event in events]
    assert isinstance(events[6], Gap)
    assert events[6].after == 2


REGROWN = (
    [frame(n) for n in (1, 2)] + [frame(3, type="gap", after=2)] + [frame(n, n="new") for n in (4, 5, 6, 7)]
)
TWICE = [*REGROWN[:5], frame(6, type="gap", after=5), frame(7, n="newer"), frame(8, n="newer")]
END = frame(9, done=True, taskId="t", status="interrupted")


@pytest.mark.parametrize(("regrown", "first"), [(REGROWN, 3), (TWICE, 3)])
async def test_a_gap_is_noticed_when_the_log_has_grown_again(regrown: list[bytes], first: int) -> None:
    """What we had lies within the new log: we go back to the first gap that we have not had."""
    before = [frame(number, n="old") for number in range(1, 7)]
    async with logs(before, [*regrown, END]) as client:
        events = [event async for event in await client.jobs.get("t")]

    assert [event.id for event in events] == [1, 2, 3, 4, 5, 6, *range(first, len(regrown) + 1), 9]
    assert isinstance(events[6], Gap)


async def test_a_gap_that_is_known_is_no_news() -> None:
    """It was before our first event, or came to us: we go on where we were."""
    whole = [*REGROWN, frame(8), END]
    async with logs(whole[:6], whole) as client:
        job = await client.jobs.get("t")
        assert [event.id async for event in job] == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    async with logs(whole[:6], whole) as client:
        job = await client.jobs.get("t")
        assert [event.id async for event in job.events(after=4)] == [5, 6, 7, 8, 9]


async def test_another_log_is_told() -> None:
    """A log that ends before, and has no gap, is that of somebody else."""
    before = [frame(number, n=number) for number in range(1, 7)]
    async with logs(before, before[:2]) as client:
        with pytest.raises(BadRequestError, match="this server's log is another one"):
            async for _ in await client.jobs.get("t"):
                pass
