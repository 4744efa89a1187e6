"""A stream outlives its connections and the server: each event once."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from agentsrv.client import APITimeoutError, AsyncAgentsrv, BadRequestError, NotFoundError, Question, Text
from agentsrv.client.connection import Options
from tests.client.kit import client_of, frames_of
from tests.client.proxy import cutting, proxy_to
from tests.kit import Server, script


async def test_a_hundred_cuts_and_three_kills_lose_and_repeat_nothing(mortal: Server) -> None:
    """Connections break at any byte and the server is killed: one loop gets what a later reader gets."""
    kill_at = {3_000, 6_000, 9_000}
    async with proxy_to(mortal.port) as proxy, client_of(mortal, proxy.url) as client:
        proxy.budget = cutting(proxy, 100, 45_000)  # also for the connection that `run` leaves for the stream
        job = await client.run(script("rate 12000 12000 300"))
        frames = []
        async for event in job:
            frames.append(event.raw)
            if len(frames) in kill_at:
                mortal.kill9()
                await asyncio.to_thread(mortal.start)

    assert len(frames) > 12_000
    assert frames == frames_of(mortal, job.id)
    assert proxy.cuts == 100


async def test_an_event_of_several_frames_comes_once(server: Server) -> None:
    """A cut between the frames of one event repeats none of them: an answered question gives two."""
    steps = [f'ask 1 Bash {{"command":"touch {n}"}}' for n in range(10)]
    async with client_of(server) as client:
        job = await client.run(script(*steps), permission_mode="ask")
        async for event in job:
            if isinstance(event, Question):
                await event.allow()
    async with proxy_to(server.port) as proxy, client_of(server, proxy.url) as client:
        proxy.budget = cutting(proxy, 20, 2_000)
        frames = [event.raw async for event in await client.jobs.get(job.id)]

    assert proxy.cuts > 3
    assert frames == frames_of(server, job.id)


async def test_a_silent_connection_is_given_up(server: Server) -> None:
    """A connection that says nothing, not even a comment, is dead: another one goes on."""
    async with proxy_to(server.port) as proxy, client_of(server, proxy.url) as client:
        client._connection.options = replace(Options(), silence=0.3)
        job = await client.run(script("say one", "sleep 0.5", "say two"))
        stream = job.events()
        texts: list[str] = []
        breaks: list[str | None] = []
        stream._on_break = breaks.append
        async for event in stream:
            if isinstance(event, Text):
                texts.append(event.text)
                proxy.passes.clear()
                asyncio.get_running_loop().call_later(0.7, proxy.passes.set)

    assert texts == ["one", "two"]
    assert breaks[0] is not None


async def test_a_slow_network_is_none_that_is_lost(server: Server) -> None:
    """Where all is late, a stream goes on over one connection, and a request is given up when its time is over."""
    breaks: list[str | None] = []
    async with proxy_to(server.port) as proxy, client_of(server, proxy.url) as client:
        proxy.delay_s = 0.1
        job = await client.run(script("say one", "sleep 0.2", "say two"))
        frames = [event.raw async for event in job.events(on_break=breaks.append)]
        proxy.delay_s = 0.5
        with pytest.raises(APITimeoutError, match="no answer in time"):
            await client.with_options(timeout=0.3, max_retries=0).health.get()

    assert frames == frames_of(server, job.id)
    assert breaks == []


async def test_leaving_the_loop_closes_the_connection(server: Server) -> None:
    """`break` is enough: the server does not go on sending to nobody."""
    async with proxy_to(server.port) as proxy, client_of(server, proxy.url) as client:
        job = await client.run(script("say one", "hang"))
        async for event in job:
            if isinstance(event, Text):
                break
        connector = client._connection.pool.get().connector
        assert connector is not None
        assert not connector._acquired
        await job.stop()


async def test_a_time_limit_ends_reconnecting(mortal: Server) -> None:
    """Who does not want to wait for ever says so, and hears why."""
    async with client_of(mortal, reconnect_timeout=0.2) as client:
        job = await client.run(script("say one", "hang"))
        mortal.kill9()
        with pytest.raises(Exception, match=r"does not answer|cannot be reached"):
            async for _ in job:
                pass


async def test_what_no_attempt_changes_is_raised(server: Server) -> None:
    """A session that does not exist, and a number that the log has not reached."""
    async with client_of(server) as client:
        job = await client.run("hello", session="s")
        await job.result()
        with pytest.raises(NotFoundError, match="no session nope"):
            await anext(client.sessions.events("nope"))
        with pytest.raises(BadRequestError, match="this server's log is another one"):
            await anext(job.events(after=1_000))


async def test_a_client_may_be_used_by_one_loop_only(server: Server) -> None:
    """The second event loop gets a sentence, not a hang."""
    client = client_of(server)
    await client.health.get()

    with pytest.raises(Exception, match="belongs to another event loop"):
        await asyncio.to_thread(lambda: asyncio.run(_healthy(client)))
    await client.close()


async def _healthy(client: AsyncAgentsrv) -> None:
    await client.health.get()
