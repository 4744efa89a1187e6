"""Connections of people without a key, and a system that gives the server few descriptors."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import ServerMaker
from tests.kit import Server, open_files, script

DESCRIPTORS = 300
AT_ONCE = 100
WAVES = 6


@pytest.fixture
def narrow_server(tmp_path: Path, fake_agent: Path) -> Iterator[Server]:
    """A server that cannot get more descriptors than it has (`ulimit -n`)."""
    server = Server(tmp_path / "server", fake_agent)
    server.command = ("prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}", sys.executable)
    server.directory.mkdir()
    try:
        yield server.start()
    finally:
        server.close()


def strangers(port: int, crowd: ExitStack, *, first_byte: bytes) -> None:
    """So many more of them, who stay and say nothing else."""
    for _ in range(AT_ONCE):
        connection = crowd.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
        connection.sendall(first_byte)


def test_strangers_who_read_nothing_hold_no_files_and_leave_health_alone(narrow_server: Server) -> None:
    """More of them than there is room for, each with a file of the console on its way."""
    server = narrow_server
    [script_file] = (Path(__file__).parents[2] / "agentsrv" / "console").glob("screen-*.js")
    request = f"GET /console/{script_file.name} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with ExitStack() as crowd:
        strangers(server.port, crowd, first_byte=3 * request)
        assert server.ask("GET", "/health").status == 200
        assert not [path for path in open_files(server.pid) if path.endswith(script_file.name)]
        strangers(server.port, crowd, first_byte=3 * request)
        assert server.ask("GET", "/health").status == 200


def test_a_flood_of_strangers_leaves_work_and_health_alone(narrow_server: Server) -> None:
    """More strangers than descriptors: a job that runs goes on, others begin, health answers, the log stays short."""
    server = narrow_server
    with server.generate(script("rate 50 enough 300")) as stream, ExitStack() as crowd:
        stream.take(10)
        lines_before = server.log.count("\n")
        for wave in range(WAVES):
            strangers(server.port, crowd, first_byte=b"G" * (wave % 2))
            assert server.ask("GET", "/health").status == 200
            assert server.generate("hi", f"other-{wave}").rest()[-1].json["status"] == "completed"
            assert len(open_files(server.pid)) < DESCRIPTORS
        logged = server.log.count("\n") - lines_before
        (server.workspace / "enough").touch()
        events = stream.rest()

    assert events[-1].json["status"] == "completed"
    assert "Traceback" not in server.log
    assert logged < AT_ONCE


def test_who_reads_no_answer_does_not_hold_up_the_end(make_server: ServerMaker) -> None:
    """SIGTERM: the server does not wait out its grace for strangers who take nothing."""
    server = make_server(SHUTDOWN_GRACE="600")
    with ExitStack() as crowd:
        for _ in range(5):
            stranger = crowd.enter_context(socket.socket())
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stranger.connect(("127.0.0.1", server.port))
            stranger.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 4)
        assert server.ask("GET", "/health").status == 200

        assert server.terminate() == 0
