"""Large JSON is compressed for who asks for that."""

from __future__ import annotations

import gzip
import json

import pytest

from agentsrv.api.compression import MIN_BYTES, takes_gzip
from tests.api.kit import KEY, Server


async def ask(server: Server, path: str, accept: str) -> tuple[bytes, bytes]:
    """Head and body exactly as they come."""
    request = (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        f"Authorization: Bearer {KEY}\r\nAccept-Encoding: {accept}\r\n\r\n"
    )
    head, _, body = (await server.send(request.encode())).partition(b"\r\n\r\n")
    return head, body


async def test_json_comes_compressed_to_who_takes_it(server: Server) -> None:
    """The same answer, in fewer bytes; who does not ask gets it as ever. Caches are told that it differs."""
    await server.end_of(await server.start(f"SCRIPT: say {'word ' * 30_000}"))
    path = "/sessions/s/messages?before=1000000"
    packed_head, packed = await ask(server, path, "br, gzip")
    head, plain = await ask(server, path, "identity")

    assert b"Content-Encoding: gzip" in packed_head
    assert b"Content-Encoding" not in head
    assert b"Accept-Encoding" in head
    assert json.loads(gzip.decompress(packed))["messages"] == json.loads(plain)["messages"]
    assert len(packed) < len(plain) / 4


async def test_small_answers_and_streams_go_out_as_they_are(server: Server) -> None:
    """A small answer gains nothing, and an event must not wait in a compressor."""
    head, body = await ask(server, "/sessions", "gzip")
    job = await server.end_of(await server.start())
    streamed, _ = await ask(server, f"/generate/v2/jobs/{job['taskId']}/stream", "gzip")

    assert len(body) < MIN_BYTES
    assert b"Content-Encoding" not in head + streamed


@pytest.mark.parametrize(
    ("accepted", "takes"),
    [
        ([], False),
        ([""], False),
        (["gzip"], True),
        (["br;q=1.0, GZIP ; q=0.1"], True),
        (["gzip;q=0"], False),
        (["*"], True),
        (["*, gzip;q=0"], False),
        (["br", "gzip"], True),
        (["gzip;q=x"], False),
        (["xgzip"], False),
    ],
)
def test_what_a_client_takes(accepted: list[str], *, takes: bool) -> None:
    """As RFC 9110 has it: names, weights, everything else."""
    assert takes_gzip(accepted) == takes
