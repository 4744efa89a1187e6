"""What a thousand people without a key cost others: who say nothing, trickle, never read, or ask all the time."""

from __future__ import annotations

import http.client
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from bench.agent import compile_agent
from bench.rows import MIB, Row, serving
from tests.kit import TIMEOUT_S, Server, rss_bytes

STRANGERS = 1000
COME_TOGETHER = 10
"""So many arrive between two looks at `/health`."""
LASTS_S = 15.0
"""A head has 10 s to come whole: this sees what becomes of those who do not send theirs."""
ASK_EVERY_S = 0.05

Step = Callable[[socket.socket], None]


def strangers(directory: Path) -> Iterator[Row]:
    """(t) `/health`, memory and log of a server while they are there, each kind with a server of its own."""
    kinds: dict[str, tuple[Step, Step]] = {
        "silent": (_nothing, _nothing),
        "one byte a second": (_begin_a_head, _trickle),
        "never read": (_ask_for_much, _nothing),
        "ask all the time": (_ask_often, _ask_again),
    }
    program = compile_agent()
    for kind, (first, every_second) in kinds.items():
        with serving(directory / kind, program) as server:
            yield from _measured(server, kind, first, every_second)


def _measured(server: Server, kind: str, first: Step, every_second: Step) -> Iterator[Row]:
    server.ask("GET", "/health").close()
    rss, lines, times = rss_bytes(server.pid), _logged(server), list[float]()
    everybody: list[socket.socket] = []
    with ExitStack() as crowd:
        began, highest, step_at = time.monotonic(), rss, 0.0
        while (now := time.monotonic()) < began + LASTS_S or len(everybody) < STRANGERS:
            if len(everybody) < STRANGERS:
                come = [crowd.enter_context(_stranger(server.port)) for _ in range(COME_TOGETHER)]
                _each(come, first)
                everybody += come
            if now >= step_at:
                _each(everybody, every_second)
                highest, step_at = max(highest, rss_bytes(server.pid)), now + 1
            times.append(_asked(server.port))
            time.sleep(ASK_EVERY_S)
    yield Row(f"(t) 1,000 {kind}: /health p95", statistics.quantiles(times, n=20)[-1], "ms", None, -100)
    yield Row(f"(t) 1,000 {kind}: RSS added", (highest - rss) / MIB, "MiB", None, -50)
    logged = (_logged(server) - lines) / (time.monotonic() - began)
    yield Row(f"(t) 1,000 {kind}: lines of log besides ours", logged, "/s", None, -1)


def _logged(server: Server) -> int:
    """Lines, but for those about what we ask."""
    return sum("GET /health" not in line for line in server.log.splitlines())


def _stranger(port: int) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    connection.setblocking(False)
    return connection


def _each(everybody: list[socket.socket], step: Step) -> None:
    for connection in everybody:
        with suppress(OSError):  # the server may have had enough of this one
            step(connection)


def _nothing(connection: socket.socket) -> None:
    pass


def _begin_a_head(connection: socket.socket) -> None:
    connection.send(b"GET / HTTP/1.1\r\nX-Name: ")


def _trickle(connection: socket.socket) -> None:
    connection.send(b"x")


def _ask_for_much(connection: socket.socket) -> None:
    connection.send(b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 30)


def _ask_often(connection: socket.socket) -> None:
    connection.send(b"GET /sessions HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 4)


def _ask_again(connection: socket.socket) -> None:
    """Whoever has an answer asks for more."""
    connection.recv(1 << 16)
    _ask_often(connection)


def _asked(port: int) -> float:
    """Milliseconds, with a connection of its own, as a probe has it."""
    began = time.perf_counter()
    health = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    health.request("GET", "/health")
    answer = health.getresponse()
    assert answer.status == 200, answer.status
    answer.read()
    health.close()
    return (time.perf_counter() - began) * 1000
