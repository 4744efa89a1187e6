"""A client that costs next to nothing: raw sockets, HTTP/1.0 (so no chunk framing), frames counted by their newlines.

A frame is `data: ...`, `id: N` and an empty line: three newlines, and JSON has none inside. So counting newlines counts
events exactly, wherever reads cut the stream.
"""

from __future__ import annotations

import json
import re
import selectors
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.kit import KEY, Server

TIMEOUT_S = 60.0
BUFFER = memoryview(bytearray(1 << 18))
STAMP = re.compile(rb'"n":(\d+),"t":(\d+),')


@dataclass(slots=True)
class Stream:
    """One response as it comes in. Times are in seconds of the monotonic clock."""

    socket: socket.socket
    sent_at: float
    newlines: int = 0
    size: int = 0
    first_byte_at: float = 0.0
    first_agent_at: float = 0.0
    done_at: float = 0.0
    tail: bytes = b""
    head: bytes | None = b""

    @property
    def events(self) -> int:
        """How many frames came; the one that says when to reconnect does not count."""
        return (self.newlines - 1) // 3

    @property
    def last_id(self) -> int:
        return int(self.tail[self.tail.rindex(b"id: ") + 4 :].split(b"\n")[0])

    def check(self, events: int, turns_before: int = 0) -> None:
        """Fails when anything was lost or added. The session had so many turns of the same size before."""
        found, expected = (self.events, self.last_id), (events, events * (1 + turns_before))
        assert found == expected, f"{found} instead of {expected}: {self.tail[-300:]!r}"

    def take(self, data: memoryview) -> bytes:
        """Account for `data`; the part of it that is body."""
        now = time.perf_counter()
        body = bytes(data)
        if self.head is not None:
            self.head += body
            head, found, body = self.head.partition(b"\r\n\r\n")
            if not found:
                return b""
            assert b" 200 " in head.split(b"\r\n")[0], self.head
            self.head = None
            self.first_byte_at = now
        self.newlines += body.count(b"\n")
        self.size += len(body)
        self.tail = (self.tail + body)[-400:] if len(body) < 400 else body[-400:]
        if not self.first_agent_at and self.newlines > 4:
            self.first_agent_at = now
        if self.tail.endswith(b"\n\n") and b'"done": true' in self.tail:
            self.done_at = now
        return body


def post(server: Server, session: str, prompt: str, **options: Any) -> Stream:
    """POST /generate/v2, sent and not read yet."""
    return request(server, "POST", "/generate/v2", {"session_id": session, "prompt": prompt, **options})


def request(server: Server, method: str, path: str, body: Any = None) -> Stream:
    data = b"" if body is None else json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = (
        f"{method} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    sent_at = time.perf_counter()
    connection.sendall(head.encode() + data)
    return Stream(connection, sent_at)


def drain(streams: Iterable[Stream], on_data: Callable[[Stream, bytes], None] | None = None) -> None:
    """Read all streams to their `done`, at once."""
    waiting = selectors.DefaultSelector()
    open_streams = 0
    for stream in streams:
        waiting.register(stream.socket, selectors.EVENT_READ, stream)
        open_streams += 1
    while open_streams:
        ready = waiting.select(TIMEOUT_S)
        assert ready, f"{open_streams} streams do not end"
        for key, _ in ready:
            stream = key.data
            count = stream.socket.recv_into(BUFFER)
            assert count, f"a stream ended early: {stream.tail[-300:]!r}"
            body = stream.take(BUFFER[:count])
            if on_data is not None:
                on_data(stream, body)
            if stream.done_at:
                waiting.unregister(stream.socket)
                stream.socket.close()
                open_streams -= 1
    waiting.close()


@dataclass(slots=True)
class Latencies:
    """From the agent's write of an event to its arrival here; the first `skip` events of each stream do not count."""

    skip: int
    ns: list[int] = field(default_factory=list)
    rests: dict[int, bytes] = field(default_factory=dict)

    def take(self, key: int, body: bytes) -> None:
        now = time.monotonic_ns()
        data = self.rests.get(key, b"") + body
        end = data.rfind(b"\n") + 1
        self.rests[key] = data[end:]
        self.ns += [now - int(at) for n, at in STAMP.findall(data, 0, end) if int(n) >= self.skip]

    def percentile_ms(self, percent: float) -> float:
        ordered = sorted(self.ns)
        return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)] / 1e6
