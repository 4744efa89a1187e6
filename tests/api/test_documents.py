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
