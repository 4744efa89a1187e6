"""Files through a real server: what they cost, and what a kill in the middle leaves."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from tests.kit import KEY, TIMEOUT_S, Server, rss_bytes, wait_until

MIB = 1 << 20
UPLOAD_BYTES = 100 * MIB
HEAD = b'--x\r\nContent-Disposition: form-data; name="f"; filename="%b"\r\n\r\n'


def send_upload(server: Server, body: bytes, length: int | None = None) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S)
    connection.sendall(
        f"POST /filesystem/upload HTTP/1.0\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {length or len(body)}\r\n\r\n".encode()
    )
    connection.sendall(body)
    return connection


def status_of(connection: socket.socket) -> int:
    with connection:
        return int(connection.makefile("rb").read().split()[1])


def staged(server: Server) -> list[Path]:
    # Not by rglob(): it fails at a directory that the server removes meanwhile.
    walk = os.walk(server.directory / "state/uploads")
    return [Path(directory, name) for directory, _, names in walk for name in names]


def test_a_large_upload_costs_little_memory(server: Server) -> None:
    """100 MB go to the disk as they come, and arrive whole."""
    server.ask("GET", "/filesystem/files").body()
    content = os.urandom(MIB) * (UPLOAD_BYTES // MIB)
    before, highest = rss_bytes(server.pid), 0
    sent = send_upload(server, HEAD % b"large" + content[:-1], UPLOAD_BYTES + len(HEAD % b"large\r\n--x--"))
    highest = max(highest, rss_bytes(server.pid))
    sent.sendall(content[-1:] + b"\r\n--x--")

    assert status_of(sent) == 201
    assert max(highest, rss_bytes(server.pid)) - before < 30 * MIB
    assert (server.workspace.parent / "large").read_bytes() == content


def test_a_kill_in_the_middle_of_an_upload_leaves_nothing(server: Server) -> None:
    """Neither in the workspace, nor, after the next start, in the server's own directory."""
    before = sorted(server.workspace.parent.rglob("*"))
    with send_upload(
        server, HEAD % b"first" + b"x" * MIB + b"\r\n" + HEAD % b"second" + b"y" * MIB, 10 * MIB
    ):
        wait_until(lambda: len(staged(server)) == 2)
        server.kill9()

    assert sorted(server.workspace.parent.rglob("*")) == before
    server.start()
    assert staged(server) == []


def test_a_small_server_takes_many_at_once(server: Server) -> None:
    """Those beyond the limit are told to wait; the others do not notice."""
    parked = [send_upload(server, HEAD % str(n).encode() + b"x" * MIB, 2 * MIB) for n in range(24)]
    wait_until(lambda: len(staged(server)) == 24)
    refused = status_of(send_upload(server, HEAD % b"late" + b"x\r\n--x--"))
    for connection in parked:
        connection.close()

    assert refused == 429
    wait_until(lambda: staged(server) == [])
    assert status_of(send_upload(server, HEAD % b"now" + b"x\r\n--x--")) == 201
