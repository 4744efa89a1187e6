"""What strangers may do to the server with connections alone."""

from __future__ import annotations

import asyncio
import json
import logging
import select
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from agentsrv.api.access_log import LINES_PER_SPELL
from agentsrv.api.connections import MAX_HEAD_BYTES, OVERFLOW, Connections, Limits
from agentsrv.app import make_app
from agentsrv.config import Config
from tests.api.kit import KEY, TIMEOUT_S, Server, serve

HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
DOCUMENT = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
FOLLOW = f"GET /sessions/s/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode()


@asynccontextmanager
async def limited(config: Config, **limits: float) -> AsyncIterator[Server]:
    async with serve(make_app(config), limits=Limits(**limits)) as server:  # type: ignore[arg-type]
        yield server


async def ends(reader: asyncio.StreamReader) -> bool:
    async with asyncio.timeout(TIMEOUT_S):
        try:
            while await reader.read(65536):
                pass
        except ConnectionResetError:
            pass
    return True


async def test_idle_connections_shut_nobody_out(config: Config) -> None:
    """With all places taken by clients that send nothing, the next one gets the place of the oldest."""
    async with limited(config, connections=10) as server, AsyncExitStack() as stack:
        idle = [await stack.enter_async_context(server.connection()) for _ in range(10)]

        assert (await server.ask("GET", "/health", key=None)).status == 200
        assert await ends(idle[0][0])


async def test_work_goes_on_when_strangers_come(config: Config) -> None:
    """A stream that runs keeps its place, however many come."""
    async with limited(config, connections=4) as server, AsyncExitStack() as stack:
        await server.ask("POST", "/sessions", json={"sessionId": "s"})
        reader, writer = await stack.enter_async_context(server.connection())
        writer.write(FOLLOW)
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(3 * (4 + OVERFLOW)):
            await stack.enter_async_context(server.connection())
        task_id = await server.start("hello", "s")

        assert (await server.end_of(task_id))["status"] == "completed"
        async with asyncio.timeout(TIMEOUT_S):
            await reader.readuntil(b'"done"')


async def test_when_all_are_at_work_health_still_answers(config: Config) -> None:
    """The last places say that there are no more, and that the server is well."""
    async with limited(config, connections=2) as server, AsyncExitStack() as stack:
        await server.ask("POST", "/sessions", json={"sessionId": "s"})
        for _ in range(2):
            reader, writer = await stack.enter_async_context(server.connection())
            writer.write(FOLLOW)
            await reader.readuntil(b"\r\n\r\n")

        refused = await server.send(HEALTH.replace(b"/health", b"/sessions"))
        assert json.loads(refused.partition(b"\r\n\r\n")[2])["code"] == "too_many_connections"
        assert (await server.send(HEALTH)).startswith(b"HTTP/1.1 200")


async def test_the_places_of_one_address_are_counted() -> None:
    """One stranger does not get all of the places; this machine's own proxies may."""
    connections = Connections(Limits(connections=100, per_address=0))

    assert [connections.has_room_for(address) for address in ("192.0.2.1", "127.0.0.1", "::1", "")] == [
        False, True, True, True,
    ]  # fmt: skip


async def test_whoever_has_a_network_of_ipv6_is_one_stranger() -> None:
    """All its addresses count as one; other networks do not, nor neighbours of one link."""
    connections = Connections(Limits(connections=100, per_address=1))
    for address in ("2001:db8::1", "fe80::1%eth0"):
        connections.expect(address)
    asked = ["2001:db8::2", "2001:db8::ffff:1", "2001:db8:0:1::1", "fe80::2%eth0"]

    assert [connections.has_room_for(address) for address in asked] == [False, False, True, True]


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHos", b"\r\n"])
async def test_a_head_has_to_come_in_time(config: Config, sent: bytes) -> None:
    """Who sends half a head, or nothing, or a byte now and then, is cut off."""
    async with limited(config, head_s=0.5) as server, server.connection() as (reader, writer):
        writer.write(sent)

        assert await ends(reader)


async def test_a_head_may_come_slowly_between_requests(config: Config) -> None:
    """A connection that has asked something may wait longer for what it asks next."""
    async with limited(config, head_s=0.5) as server, server.connection() as (reader, writer):
        writer.write(HEALTH)
        await reader.readuntil(b"}}")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 2.5)
        writer.write(HEALTH)

        assert await reader.readuntil(b"\r\n") == b"HTTP/1.1 200 OK\r\n"


async def test_the_whole_head_is_bounded(server: Server) -> None:
    """431 as soon as it is too much, whether it ends or not; nothing more is taken in."""
    lines = b"".join(b"X-%d: %s\r\n" % (number, b"x" * 1000) for number in range(MAX_HEAD_BYTES // 1000 + 4))
    for end in (b"", b"\r\n"):
        answer = await server.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + lines + end)

        assert answer[8:].startswith(b" 431 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "bad_request"


async def test_a_long_url_is_told_from_a_long_header(server: Server) -> None:
    """414 for the one and 431 for the other, with words that help."""
    url = await server.send(b"GET /%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % (b"x" * 9000))
    header = await server.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: %s\r\n\r\n" % (b"x" * 9000))

    assert (url[9:12], header[9:12]) == (b"414", b"431")
    assert b"URL" in url
    assert b"header" in header


async def test_a_large_body_is_not_taken_for_a_head(server: Server) -> None:
    """Bodies have limits of their own."""
    answer = await server.ask("POST", "/sessions", json={"sessionId": "s", "ignored": "x" * 500_000})

    assert answer.status == 201


async def test_who_takes_no_answer_is_cut_off(config: Config) -> None:
    """One who sends many requests at once and reads nothing holds his connection for a moment only."""
    async with limited(config, stall_s=1.0) as server:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", server.port))
            client.setblocking(False)
            await asyncio.get_running_loop().sock_sendall(client, DOCUMENT * 400)
            await asyncio.to_thread(wait_for_reset, client)


def wait_for_reset(client: socket.socket) -> None:
    poll = select.poll()
    poll.register(client, 0)
    assert poll.poll(TIMEOUT_S * 1000)


async def test_a_flood_of_refusals_does_not_flood_the_log(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """The first ones are told, with paths that are cut; a request with a key always is."""
    with caplog.at_level(logging.INFO):
        for _ in range(5 * LINES_PER_SPELL):
            await server.ask("GET", f"/{'x' * 7900}", key=None)
        known = len(caplog.records)
        await server.ask("GET", "/nothing/here")

    assert known == LINES_PER_SPELL
    assert len(caplog.records) == known + 1
    assert max(len(record.getMessage()) for record in caplog.records) < 300
