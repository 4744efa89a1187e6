"""Large requests: few are in memory at once, and the others wait without costing anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

from agentsrv.api.bodies import LARGE_BYTES, MAX_LARGE_BODIES
from agentsrv.api.keys import LARGE_BODIES
from agentsrv.app import make_app
from tests.api.kit import KEY, TIMEOUT_S, Server, make_config, serve

LARGE = "x" * LARGE_BYTES
BODY = b'{"name":"%b"}' % b"x".ljust(LARGE_BYTES)
HEAD = (
    b"POST /sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
    + f"Content-Length: {len(BODY)}\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode()
)


async def occupy(server: Server, places: int) -> None:
    """As so many large requests do that take their time."""
    for _ in range(places):
        await server.app[LARGE_BODIES].acquire()


async def test_the_next_large_body_waits_to_be_read(server: Server) -> None:
    """One more than may be: its sender is invited when another has ended. Small requests pass by meanwhile."""
    async with asyncio.timeout(TIMEOUT_S), AsyncExitStack() as stack:
        connect = server.connection
        connections = [await stack.enter_async_context(connect()) for _ in range(MAX_LARGE_BODIES + 1)]
        for reader, writer in connections[:-1]:
            writer.write(HEAD)
            await reader.readuntil(b" 100 Continue\r\n\r\n")
        last, writer = connections[-1]
        writer.write(HEAD)
        invited = asyncio.get_running_loop().create_task(last.readuntil(b" 100 Continue\r\n\r\n"))
        small = await server.ask("POST", "/sessions", json={})
        has_waited = not invited.done()
        connections[0][1].write(BODY)
        await invited

    assert (small.status, has_waited) == (201, True)


async def test_a_body_of_unknown_size_counts_as_large(server: Server) -> None:
    """It may be."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b"{}"

    await occupy(server, MAX_LARGE_BODIES)
    headers = {"Content-Type": "application/json"}
    asked = asyncio.get_running_loop().create_task(
        server.ask("POST", "/sessions", data=chunks(), headers=headers)
    )
    await server.ask("POST", "/sessions", json={})
    has_waited = not asked.done()
    server.app[LARGE_BODIES].release()

    assert ((await asked).status, has_waited) == (201, True)


async def test_who_waits_for_too_long_is_told_to_come_back(tmp_path: Path) -> None:
    """429 after the time that a body may take; small ones are answered as ever."""
    async with serve(make_app(make_config(tmp_path, body_timeout_s=0.2))) as server:
        await occupy(server, MAX_LARGE_BODIES)
        refused = await server.generate(LARGE)
        small = await server.generate("hello")

    assert (refused.status, refused.json["code"]) == (429, "too_many_large_bodies")
    assert (refused.headers["Retry-After"], small.status) == ("5", 200)


async def test_a_stream_takes_no_place(server: Server) -> None:
    """Once its job has started, a large prompt is not in the way of others, for as long as it runs."""
    await occupy(server, MAX_LARGE_BODIES - 1)
    url = f"http://127.0.0.1:{server.port}/generate/v2"
    body = {"session_id": "s", "prompt": f"SCRIPT: hang\n{LARGE}"}
    async with server.client.post(url, json=body, headers={"Authorization": f"Bearer {KEY}"}) as stream:
        await stream.content.readuntil(b"\n\n")
        other = await server.ask("POST", "/sessions", json={"unknown": LARGE})
        await server.ask("DELETE", "/generate/s/stop")

    assert (stream.status, other.status) == (200, 201)


async def test_refused_bodies_leave_their_places(server: Server) -> None:
    """Whatever was wrong with them."""
    for _ in range(MAX_LARGE_BODIES + 1):
        refused = await server.ask("POST", "/sessions", json={"name": LARGE})
        assert refused.status == 400

    assert (await server.generate(LARGE)).status == 200


async def test_strangers_take_no_place(server: Server) -> None:
    """Without a key a body is small, also when it does not say how long it is."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield LARGE.encode()

    headers = {"Content-Type": "application/json"}
    path = "/auth/codes/redeem"
    await occupy(server, MAX_LARGE_BODIES)
    small = await server.ask("POST", path, json={"code": "x", "name": "n"}, key=None)
    large = await server.ask("POST", path, data=LARGE + "x", headers=headers, key=None)
    unsaid = await server.ask("POST", path, data=chunks(), headers=headers, key=None)

    assert (small.status, large.status, unsaid.status) == (403, 413, 413)
