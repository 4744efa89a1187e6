"""What anybody may ask for: given from memory, in as few bytes as the client allows, a piece at a time."""

from __future__ import annotations

import asyncio
import gzip

import pytest

from agentsrv.api.crowd import SLICE_BYTES, STEPS, Line
from agentsrv.tasks import Tasks
from tests.api.kit import Server


async def ask(server: Server, path: str, *headers: str) -> tuple[bytes, bytes]:
    """Head and body exactly as they come."""
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", ""]
    head, _, body = (await server.send("\r\n".join(lines).encode())).partition(b"\r\n\r\n")
    return head, body


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/console/"])
async def test_document_comes_compressed_or_not_at_all_to_who_has_it(server: Server, path: str) -> None:
    """The same bytes under one ETag, which is good for what came compressed, too."""
    plain_head, plain = await ask(server, path)
    packed_head, packed = await ask(server, path, "Accept-Encoding: gzip")
    tag = next(line for line in packed_head.split(b"\r\n") if line.lower().startswith(b"etag: "))[6:].decode()
    had_head, had = await ask(server, path, f"If-None-Match: {tag}")

    assert gzip.decompress(packed) == plain
    assert len(packed) < len(plain)
    assert f"Etag: {tag.removeprefix('W/')}".encode() in plain_head
    assert (had_head.split(b"\r\n")[0], had) == (b"HTTP/1.1 304 Not Modified", b"")


async def test_who_waits_in_line_goes_on_in_turn() -> None:
    """However many are ready, each pass of the loop does a few steps."""
    line, done = Line(), list[int]()

    async def stranger(number: int) -> None:
        async for _ in line.slices(b"x" * 2 * SLICE_BYTES):
            done.append(number)

    tasks = Tasks("crowd")
    for number in range(20):
        tasks.spawn(stranger(number), name=str(number))
    most = 0
    while len(done) < 40:
        before = len(done)
        await asyncio.sleep(0)
        most = max(most, len(done) - before)

    assert most <= STEPS
    assert done == 2 * list(range(20))


async def test_who_asks_rarely_goes_first() -> None:
    """However many wait because they ask all the time; and they do not stand still."""
    line, done = Line(), list[str]()

    async def stranger(name: str, *, is_rare: bool) -> None:
        await line.wait(is_rare=is_rare)
        done.append(name)

    async with asyncio.TaskGroup() as tasks:
        for number in range(100):
            tasks.create_task(stranger(f"often {number}", is_rare=False))
        for number in range(6):
            tasks.create_task(stranger(f"rarely {number}", is_rare=True))

    assert done.index("rarely 5") < 2 * STEPS
    assert [name for name in done if "often" in name] == [f"often {number}" for number in range(100)]
    assert done.index("often 0") < STEPS


async def test_one_request_of_a_connection_in_a_while_is_rare(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who keeps asking on it waits behind others; who comes anew does not."""
    asked = list[bool]()

    async def wait(_line: Line, *, is_rare: bool) -> None:
        asked.append(is_rare)

    monkeypatch.setattr(Line, "wait", wait)
    for _ in range(2):
        await server.send(2 * b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")

    assert asked[0]
    assert asked.count(True) == 2
