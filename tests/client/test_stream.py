"""What an answer to a stream's request means: come back later, nothing is left, or never."""

from __future__ import annotations

import pytest
from aiohttp import web

from agentsrv.client import APIStatusError, AsyncAgentsrv, Done, RateLimitError
from tests.client.test_requests import answering

JOB = {"taskId": "t", "sessionId": "s", "status": "running"}
DONE = b'id: 1\ndata: {"done": true, "taskId": "t", "sessionId": "s", "status": "completed"}\n\n'


class Streams:
    """A job whose stream is answered with each of these statuses, and then comes."""

    def __init__(self, *statuses: int) -> None:
        self.left = list(statuses)

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        if not request.path.endswith("/stream"):
            return web.json_response(JOB)
        if not self.left:
            return web.Response(body=DONE, content_type="text/event-stream")
        status = self.left.pop(0)
        if status == 204:
            return web.Response(status=204)
        return web.json_response({"error": "no", "code": "x"}, status=status, headers={"Retry-After": "0"})


async def kinds(client: AsyncAgentsrv) -> list[type]:
    """Of the events of the job."""
    return [type(event) async for event in await client.jobs.get("t")]


async def test_a_stream_waits_for_a_server_that_is_busy() -> None:
    """429, and all that says that the server is away for a while, as often as it is said."""
    async with answering(Streams(429, 503, 500, 502, 504, 408), max_retries=0) as (client, _):
        assert await kinds(client) == [Done]


async def test_a_stream_of_which_nothing_is_left_ends() -> None:
    """204, as for who has had all of it."""
    async with answering(Streams(204)) as (client, _):
        assert await kinds(client) == []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
async def test_a_stream_that_nothing_brings_is_an_error(status: int) -> None:
    """At once: asking again would change nothing."""
    async with answering(Streams(status, 503)) as (client, asked):
        with pytest.raises(APIStatusError) as error:
            await kinds(client)

    assert error.value.status == status
    assert len(asked) == 2


async def test_waiting_for_a_busy_server_has_a_limit_where_one_is_set() -> None:
    """Then the reason is what is raised."""
    async with answering(Streams(*[429] * 99), reconnect_timeout=0.2) as (client, _):
        with pytest.raises(RateLimitError):
            await kinds(client)
