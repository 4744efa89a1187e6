"""What is not HTTP at all."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import socket
from contextlib import suppress

import pytest

from agentsrv.api.server import HttpRunner
from agentsrv.app import make_app
from agentsrv.config import Config
from agentsrv.listen import bound, listening
from tests.api.kit import TIMEOUT_S, Server

TLS_HELLO = bytes.fromhex("1603010200010001fc0303") + b"\1" * 64 + b"\r\n\r\n"


NOISE = [
    TLS_HELLO,
    b"GET / HTTP/1.1\r\nX : y\r\n\r\n",
    b"\0\0\0\0\r\n\r\n",
    b"GET / HTTP/0.9\r\n\r\n",
]


@pytest.mark.parametrize("noise", NOISE)
async def test_noise_gets_the_one_error_shape_and_one_log_line(
    server: Server, noise: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """400 in JSON, the connection closed, no traceback that fills the log."""
    with caplog.at_level(logging.INFO):
        head, _, body = (await server.send(noise)).partition(b"\r\n\r\n")

    assert head[8:].startswith(b" 400 ")
    assert b"\r\nX-Request-Id: " in head
    assert b"\r\nServer: agentsrv" in head
    assert json.loads(body)["code"] == "bad_request"
    assert [record.getMessage() for record in caplog.records] == ["not an HTTP request"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("steps", range(8))
async def test_who_comes_at_the_very_end_holds_up_nothing(config: Config, steps: int) -> None:
    """A connection that is accepted while the server stops is closed, at once, with all others."""
    runner = HttpRunner(make_app(config), shutdown_timeout=TIMEOUT_S)
    await runner.setup()
    await runner.listen([listening(bound("127.0.0.1", 0))])
    with socket.create_connection(runner.addresses[0]) as client:
        for _ in range(steps):
            await asyncio.sleep(0)
        async with asyncio.timeout(TIMEOUT_S / 2):
            await runner.cleanup()
        gc.collect()  # Python 3.11 forgets to close one that comes in the very last moment.
        client.settimeout(TIMEOUT_S)
        with suppress(ConnectionResetError):
            assert client.recv(1) == b""


async def test_what_could_not_be_read_is_not_repeated(server: Server) -> None:
    """A key in a header that is broken does not come back in the answer."""
    answer = await server.send(b"GET / HTTP/1.1\r\nAuthorization : Bearer secret-key\r\n\r\n")

    assert b"secret-key" not in answer


@pytest.mark.at_home("health is that of the server that is asked")
async def test_server_that_cannot_go_on_is_not_healthy(server: Server) -> None:
    """`/health` is 503 once something has failed without which nothing can be stored."""
    (writer,) = [task for task in asyncio.all_tasks() if task.get_name() == "database:writer"]
    writer.cancel()
    await asyncio.wait([writer])
    answer = await server.ask("GET", "/health", key=None)

    assert (answer.status, answer.json["code"]) == (503, "internal_error")
    assert answer.json["error"] == "the server cannot go on without database:writer, and ends"
