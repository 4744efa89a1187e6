"""Clients that speak HTTP in odd ways get through another server what they get at home, and disturb nobody."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
from aiohttp import ClientSession, WSMsgType

from agentsrv.api.connections import MAX_HEAD_BYTES
from agentsrv.api.server import MAX_HEADERS
from tests.fleet.kit import FleetOfServers, home_of
from tests.fleet.test_terminals import url_of
from tests.kit import KEY, TIMEOUT_S, Server, script, wait_until
from tests.terminal_client import TerminalClient, get_token

pytestmark = pytest.mark.tools

MIB = 1 << 20
AUTH = f"Host: localhost\r\nAuthorization: Bearer {KEY}\r\n"
HIDDEN = f"GET /sessions/hidden HTTP/1.1\r\n{AUTH}\r\n"
"""A request within the body of another one."""
LAST = f"GET /sessions/last HTTP/1.1\r\n{AUTH}Connection: close\r\n\r\n"


@pytest.fixture(scope="module", autouse=True)
def session(standing: FleetOfServers) -> None:
    assert 201 == standing.servers["home"].ask("POST", "/sessions", {"sessionId": "rough"}).status


@pytest.fixture
async def client() -> AsyncIterator[ClientSession]:
    async with ClientSession() as client:
        yield client


@contextmanager
def speaking(server: Server, text: str) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S) as connection:
        connection.sendall(text.encode("latin-1"))
        yield connection


def answered(server: Server, text: str) -> tuple[bytes, bytes]:
    """The status line of the first answer, and all that comes behind the first head until the connection ends."""
    with speaking(server, text) as connection:
        data = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, rest = data.partition(b"\r\n\r\n")
    return head.split(b"\r\n")[0], rest


def framed(framing: str, body: str = HIDDEN) -> str:
    return f"PUT /sessions/rough HTTP/1.1\r\n{AUTH}Content-Type: application/json\r\n{framing}\r\n{body}"


CHUNKED = "Transfer-Encoding: chunked\r\n"
TRICKS = {
    "length and chunks": framed(f"Content-Length: 5\r\n{CHUNKED}", f"0\r\n\r\n{HIDDEN}"),
    "chunks and length": framed(f"{CHUNKED}Content-Length: 5\r\n", f"0\r\n\r\n{HIDDEN}"),
    "two lengths": framed(f"Content-Length: 2\r\nContent-Length: {len(HIDDEN) + 2}\r\n", "{}" + HIDDEN),
    "a list of lengths": framed("Content-Length: 2, 2\r\n", "{}" + HIDDEN),
    "a length with a sign": framed("Content-Length: +2\r\n", "{}" + HIDDEN),
    "another coding": framed("Transfer-Encoding: xchunked\r\n"),
    "a coding behind": framed("Transfer-Encoding: chunked, identity\r\n", f"0\r\n\r\n{HIDDEN}"),
    "chunked twice": framed(CHUNKED + CHUNKED, f"0\r\n\r\n{HIDDEN}"),
    "a space before the colon": framed("Transfer-Encoding : chunked\r\n", f"0\r\n\r\n{HIDDEN}"),
    "a folded line": framed("Transfer-Encoding:\r\n chunked\r\n", f"0\r\n\r\n{HIDDEN}"),
    "a vertical tab": framed("Transfer-Encoding: \x0bchunked\r\n", f"0\r\n\r\n{HIDDEN}"),
    "bare line feeds": framed("Content-Length: 2\n", "{}" + HIDDEN),
    "a wrong size of a chunk": framed(CHUNKED, f"-1\r\n{{}}\r\n0\r\n\r\n{HIDDEN}"),
    "a size beyond 64 bits": framed(CHUNKED, f"{'f' * 17}\r\n{{}}\r\n0\r\n\r\n{HIDDEN}"),
    "an extension of a chunk": framed(CHUNKED, f"2;a=\nb\r\n{{}}\r\n0\r\n\r\n{HIDDEN}"),
    "a trailer": framed(CHUNKED, f"2\r\n{{}}\r\n0\r\nX-Agentsrv-Hop: x\r\nContent-Length: 9\r\n\r\n{HIDDEN}"),
    "a body of a GET": f"GET /sessions/rough HTTP/1.1\r\n{AUTH}Content-Length: {len(HIDDEN)}\r\n\r\n{HIDDEN}",
    "an upgrade with a body": "GET /ws/terminal?token=a.b.c HTTP/1.1\r\n"
    f"{AUTH}Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: {len(HIDDEN)}\r\n\r\n{HIDDEN}",
}


@pytest.mark.parametrize("trick", TRICKS)
def test_where_a_request_ends_is_the_same_for_all(home: Server, door: Server, trick: str) -> None:
    """The same answers, as many of them; and those who come after it get their own."""
    told = [answered(server, TRICKS[trick] + LAST) for server in (home, door)]

    assert told[0][0] == told[1][0]
    assert told[0][1].count(b"HTTP/1.1 ") == told[1][1].count(b"HTTP/1.1 ")
    assert ["rough"] * 4 == [door.ask("GET", "/sessions/rough").json["id"] for _ in range(4)]


def test_head_of_any_size_is_answered_the_same(home: Server, door: Server) -> None:
    """As many headers and bytes as may be, and one more: what a hop adds is not the client's."""
    start = f"GET /sessions/rough HTTP/1.1\r\n{AUTH}Connection: close\r\n"
    room = MAX_HEAD_BYTES - len(start) - 8 * len("X-Large: \r\n") + len(" HTTP/1.1GET \r\n")
    heads = {
        "most": "".join(f"X-Large: {'x' * (room // 8)}\r\n" for _ in range(8)),
        "more": "".join(f"X-Large: {'x' * (room // 8 + 8)}\r\n" for _ in range(8)),
        "many": "X: y\r\n" * (MAX_HEADERS - 3),
        "more and many": "X: y\r\n" * (MAX_HEADERS - 2),
    }
    for name, head in heads.items():
        told = [answered(server, f"{start}{head}\r\n")[0].split()[1] for server in (home, door)]
        assert [b"431" if "more" in name else b"200"] * 2 == told, name


def test_headers_of_a_hop_are_nobodys_to_send(home: Server, door: Server) -> None:
    """Nor to take away, by naming them in `Connection`; an answer has none of them."""
    ours = ("Hop", "Caller", "To", "From")
    named = ", ".join(
        [f"X-Agentsrv-{name}" for name in ours] + ["X-Request-Id", "X-Forwarded-For", "Authorization"]
    )
    given = "".join(f"X-Agentsrv-{name}: home\r\n" for name in ("Hop", "Caller", "From"))
    for server in (home, door):
        for more in (f"Connection: close, {named}\r\n", f"Connection: close\r\n{given}"):
            with speaking(server, f"GET /sessions/rough HTTP/1.1\r\n{AUTH}{more}\r\n") as connection:
                head = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")[0].lower()
            assert head.startswith(b"http/1.1 200 ")
            assert b"x-agentsrv-server: home" in head
            assert not [name for name in ours if f"x-agentsrv-{name}:".lower().encode() in head]


@pytest.mark.parametrize("keep", ["", "Connection: keep-alive\r\n"])
def test_client_of_http_1_0(home: Server, door: Server, keep: str) -> None:
    """It gets whole answers, of a known size and streamed, and knows their end by that of the connection."""
    task = home.start_job(script("lines 5 100"), "old")
    home.ended_job(task)
    for path in ("/sessions/old", f"/generate/v2/jobs/{task}/stream"):
        told = []
        for server in (home, door):
            request = f"GET {path} HTTP/1.0\r\n{AUTH}"
            with speaking(
                server, f"{request}{keep}\r\n{request}\r\n" if keep else f"{request}\r\n"
            ) as connection:
                head, _, body = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")
            assert b"chunked" not in head.lower()
            bodies = body.split(b"HTTP/1.")
            told.append((head.split(b"\r\n")[0], bodies[0], len(bodies)))
        assert told[0] == told[1]
        assert b"200" in told[0][0]
        assert told[0][1]
        assert told[0][2] == 1 + bool(keep and "stream" not in path)


def test_upload_that_breaks_off(home: Server, door: Server) -> None:
    """200 MB are announced and 40 come: no file is there, nothing of it is left, and the next one is taken."""
    head = f"PUT /filesystem/content?path=cut.bin HTTP/1.1\r\n{AUTH}Content-Length: {200 * MIB}\r\n\r\n"
    for server in (home, door, door):
        with speaking(server, head) as connection:
            for _ in range(40):
                connection.sendall(bytes(MIB))
            wait_until(lambda: any(uploads_of(home)), what="it has begun")
        wait_until(lambda: not uploads_of(home), what="what had come is gone")
        assert not (home.workspace.parent / "cut.bin").exists()
    assert 201 == door.ask("PUT", "/filesystem/content?path=cut.bin", "whole").status
    assert "rough" == door.ask("GET", "/sessions/rough").json["id"]


def uploads_of(server: Server) -> list[str]:
    """What lies where uploads are gathered, and beside where they go."""
    places = (server.directory / "state" / "uploads", server.workspace.parent)
    return [
        str(file)
        for place in places
        if place.exists()
        for file in place.rglob("*")
        if "cut" in file.name or place.name == "uploads"
    ]


async def test_sockets_end_with_the_same_code(home: Server, door: Server, client: ClientSession) -> None:
    """Whoever ends one: the shell, the client, or the server that does not like what it gets."""
    for ends in ("exit 0\n", None):
        codes = []
        for server in (home, door):
            async with client.ws_connect(url_of(server, await get_token(client, server.port, KEY))) as ws:
                shell = TerminalClient(ws, is_binary=False)
                await shell.message("info")
                if ends is None:
                    await ws.close(code=4321, message=b"mine")
                else:
                    await shell.type(ends)
                    while not ws.closed:
                        await ws.receive(TIMEOUT_S)
                codes.append(ws.close_code)
        assert codes[0] == codes[1], ends
    frames = []
    for server in (home, door):
        url = f"http://127.0.0.1:{server.port}/acp"
        async with client.ws_connect(url, headers={"Authorization": f"Bearer {KEY}"}) as ws:
            await ws.send_bytes(b"\x00")
            frame = await ws.receive(TIMEOUT_S)
            frames.append((frame.type, frame.data, frame.extra))
    assert [(WSMsgType.CLOSE, 1003, "messages are text frames")] * 2 == frames
    assert "home" == home_of(door, "rough")
