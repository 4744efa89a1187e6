"""Event streams to clients that read fast, slowly, not at all, or leave."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from agentsrv.api.keys import CONFIG
from agentsrv.api.sse import stream
from agentsrv.errors import StorageFull
from agentsrv.eventlog import LARGE_BYTES, Take
from agentsrv.model import Chunk, SessionId, Source
from tests.api.kit import TIMEOUT_S, Server, events_of, make_config, serve

GET = b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n"
SPILL = b'{"data":"%s"}\n' % (b"x" * 200_000)


def chunk(seq: int, *lines: bytes) -> Chunk:
    data = b"".join(line + b"\n" for line in lines)
    return Chunk(SessionId("s"), None, Source.AGENT, 0, seq, seq + len(lines) - 1, data)


class Feed:
    """Chunks as a test wants them, and what became of them."""

    def __init__(self, make: Callable[[], AsyncGenerator[Chunk, None]]) -> None:
        self._make = make
        self.taken_bytes = 0
        self.ended = asyncio.Event()
        self.lost = asyncio.Event()

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        try:
            async for item in self._make():
                yield item
                self.taken_bytes += len(item.data)
        finally:
            self.ended.set()

    async def on_lost(self) -> None:
        self.lost.set()


@asynccontextmanager
async def serving(
    directory: Path, feed: Feed, *, tells_loss: bool = False, **settings: Any
) -> AsyncIterator[Server]:
    """A server with one stream, at /stream."""

    async def handler(request: web.Request) -> web.StreamResponse:
        return await stream(request, lambda _: feed.chunks(), on_lost=feed.on_lost if tells_loss else None)

    async with serving_by(handler, directory, **settings) as server:
        yield server


@asynccontextmanager
async def serving_by(handler: Handler, directory: Path, **settings: Any) -> AsyncIterator[Server]:
    app = web.Application()
    app[CONFIG] = make_config(directory, **settings)
    app.router.add_get("/stream", handler)
    async with serve(app) as server:
        yield server


async def silence() -> AsyncGenerator[Chunk, None]:
    yield chunk(1, b'{"first":1}')
    await asyncio.Event().wait()


async def flood() -> AsyncGenerator[Chunk, None]:
    for seq in range(1, 10_000):
        yield chunk(seq, SPILL[:-1])


async def test_events_of_any_size_arrive_whole(tmp_path: Path) -> None:
    """A chunk larger than one write, and the small ones around it."""

    async def mixed() -> AsyncGenerator[Chunk, None]:
        yield chunk(1, b'{"a":1}', b'{"a":2}')
        yield chunk(3, b'{"a":"%s"}' % (b"y" * 300_000))
        yield chunk(4, b'{"a":4}')

    async with serving(tmp_path, Feed(mixed)) as server:
        events = events_of((await server.ask("GET", "/stream")).text)

    assert [(id_, data["a"]) for id_, data in events] == [(1, 1), (2, 2), (3, "y" * 300_000), (4, 4)]


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_an_event_that_is_handed_over_comes_between_those_that_are_read(
    tmp_path: Path, version: str
) -> None:
    """It is sent at once, framed as all others, and counted: by that the log tells, and a stall is found."""
    told: list[object] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        async def follow(take: Take) -> AsyncGenerator[Chunk, None]:
            yield chunk(1, b"{}")
            told.append(take(chunk(2, b"{}")))
            told.append(take(chunk(3, b'{"a":"%s"}' % (b"y" * LARGE_BYTES))))
            yield chunk(3, b"{}")

        response = await stream(request, follow)
        told.append(request.writer.output_size)
        return response

    async with (
        asyncio.timeout(TIMEOUT_S),
        serving_by(handler, tmp_path) as server,
        server.connection() as (reader, writer),
    ):
        writer.write(GET.replace(b"1.1\r\n", version.encode() + b"\r\nConnection: close\r\n"))
        answer = await reader.read()

    ids = re.findall(rb"^id: (\d+)$", answer, re.MULTILINE)
    assert ids == [b"1", b"2", b"3"]
    assert (b"\r\n0\r\n\r\n" in answer) is (version == "1.1")
    assert told == [True, False, len(answer)]


async def test_a_client_of_http_1_0_gets_no_chunks(tmp_path: Path) -> None:
    """It reads until the connection closes; comments come unframed too."""

    is_seen = asyncio.Event()

    async def short() -> AsyncGenerator[Chunk, None]:
        yield chunk(1, b"{}")
        await is_seen.wait()

    async with (
        serving(tmp_path, Feed(short), keepalive_s=0.1) as server,
        server.connection() as (reader, writer),
    ):
        writer.write(b"GET /stream HTTP/1.0\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        body = await reader.readuntil(b": keepalive\n")
        is_seen.set()
        rest = await reader.read()

    assert body == b"retry: 1000\ndata: {}\nid: 1\n\n: keepalive\n"
    assert rest.replace(b": keepalive\n", b"") == b""


async def test_silence_is_kept_alive(tmp_path: Path) -> None:
    """A comment for every interval without an event, in a frame that HTTP clients understand."""
    async with (
        serving(tmp_path, Feed(silence), keepalive_s=0.1) as server,
        server.connection() as (reader, writer),
    ):
        writer.write(GET)
        async with asyncio.timeout(TIMEOUT_S):
            await reader.readuntil(b"c\r\n: keepalive\n\r\n")
            again = await reader.readuntil(b"c\r\n: keepalive\n\r\n")

    assert again == b"c\r\n: keepalive\n\r\n"


async def test_a_client_that_does_not_read_costs_little_and_is_cut(tmp_path: Path) -> None:
    """It holds back its own stream at less than 1 MB; its connection ends after the stall time-out."""
    feed = Feed(flood)
    async with serving(tmp_path, feed, stall_timeout_s=0.3) as server:
        with socket.socket() as client:
            # Before connecting, so that the client's own kernel keeps next to nothing.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", server.port))
            client.sendall(GET)
            async with asyncio.timeout(TIMEOUT_S):
                await feed.ended.wait()

    assert feed.taken_bytes < 1_000_000


async def test_a_client_that_reads_slowly_is_served(tmp_path: Path) -> None:
    """Slower than the stall time-out in all, but never without progress for so long."""

    async def some() -> AsyncGenerator[Chunk, None]:
        for seq in range(1, 11):
            yield chunk(seq, SPILL[:-1])

    async with (
        serving(tmp_path, Feed(some), stall_timeout_s=2.0) as server,
        server.connection() as (reader, writer),
    ):
        writer.write(GET)
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            received += await reader.read(65536)
            # Not a wait for something: this is what being slow is.
            await asyncio.sleep(0.08)

    assert received.count(b'"}\nid: ') == 10


@pytest.mark.parametrize("tells_loss", [True, False])
async def test_a_client_that_leaves_an_idle_stream_is_noticed(tmp_path: Path, tells_loss: bool) -> None:
    """The iterator is closed; who asked for it is told."""
    feed = Feed(silence)
    async with serving(tmp_path, feed, tells_loss=tells_loss, keepalive_s=0.3) as server:
        async with server.connection() as (reader, writer):
            writer.write(GET)
            await reader.readuntil(b'{"first":1}')
        async with asyncio.timeout(TIMEOUT_S):
            await feed.ended.wait()

    assert feed.lost.is_set() is tells_loss


async def test_a_client_that_left_before_the_first_byte_is_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An agent may take seconds to start; who does not wait for it fills no log, and its job learns of it."""
    feed, is_asked = Feed(silence), asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        is_asked.set()
        while request.transport is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return await stream(request, lambda _: feed.chunks(), on_lost=feed.on_lost)

    app = web.Application()
    app[CONFIG] = make_config(tmp_path)
    app.router.add_get("/stream", handler)
    async with serve(app) as server, asyncio.timeout(TIMEOUT_S):
        async with server.connection() as (_, writer):
            writer.write(GET)
            await is_asked.wait()
        await feed.lost.wait()

    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_stream_that_ends_by_itself_loses_nobody(tmp_path: Path) -> None:
    """`on_lost` is for clients that leave, not for the end."""

    async def short() -> AsyncGenerator[Chunk, None]:
        yield chunk(1, b"{}")

    feed = Feed(short)
    async with serving(tmp_path, feed, tells_loss=True) as server:
        answer = await server.ask("GET", "/stream")

    assert answer.text == "retry: 1000\ndata: {}\nid: 1\n\n"
    assert not feed.lost.is_set()


async def test_a_failure_in_the_middle_is_told_without_an_id(tmp_path: Path) -> None:
    """The status is sent already: an `error` event says what happened, and the client resumes after id 1."""

    async def failing() -> AsyncGenerator[Chunk, None]:
        yield chunk(1, b"{}")
        raise StorageFull("the disk is full; make room")

    async with serving(tmp_path, Feed(failing)) as server:
        events = events_of((await server.ask("GET", "/stream")).text)

    assert events[1:] == [
        (0, {"type": "error", "error": "the disk is full; make room", "code": "storage_full"})
    ]


async def test_two_hundred_followers_get_all_of_it(tmp_path: Path, server: Server) -> None:
    """Many streams of one job, each whole; afterwards no task is left of them."""
    task_id = await server.start("SCRIPT: lines 200 300")
    path = f"/generate/v2/jobs/{task_id}/stream"
    whole = (await server.ask("GET", path)).text
    streams = await asyncio.gather(*(server.ask("GET", path) for _ in range(200)))

    assert len(events_of(whole)) > 200
    assert {answer.text for answer in streams} == {whole}
