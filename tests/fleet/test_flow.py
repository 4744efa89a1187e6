"""What flows over a hop goes on as it comes, and waits where it is when nobody takes it."""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import ClientSession

from bench.terminal import Terminal
from tests.fleet.kit import FleetOfServers, fleet_of, wait_for_peers
from tests.kit import (
    KEY,
    TIMEOUT_S,
    Server,
    command_line_of,
    rss_bytes,
    script,
    wait_until,
    write_fake_agent,
)
from tests.terminal_client import terminal

pytestmark = pytest.mark.tools

MIB = 1 << 20
ROOM = 8 * MIB
"""So much more memory a server may take. What is held back is several times as much."""
MAX_BODY_BYTES = 100_000
"""Of the home alone."""


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetOfServers]:
    """As for other tests, with a home that cuts off nobody who takes nothing for a while."""
    directory = tmp_path_factory.mktemp("flow")
    patient = {"STALL_TIMEOUT": "600", "TERMINAL_SHELL": "/bin/sh"}
    with fleet_of(directory, write_fake_agent(directory / "claude")) as fleet:
        own = {"MAX_BODY_BYTES": str(MAX_BODY_BYTES)}
        fleet.start_all(home=patient | own, door=patient | {"ACCEPTS_SESSIONS": "false"})
        wait_for_peers(*fleet.servers.values())
        assert 201 == fleet.servers["door"].ask("POST", "/sessions", {"sessionId": "streamed"}).status
        yield fleet


@pytest.fixture
async def client() -> AsyncIterator[ClientSession]:
    async with ClientSession() as client:
        yield client


def has_a_turn(door: Server) -> bool:
    """Another session goes on meanwhile, through the same two servers."""
    last = door.generate(script("say hello"), "other").rest()[-1]
    return bool("completed" == last.json["status"])


# -- terminals


async def test_terminal_that_nobody_reads_holds_its_program(
    home: Server, door: Server, client: ClientSession
) -> None:
    """It waits in its terminal at home, both servers' memory stays as it is, others go on; later every byte comes."""
    last = 4_000_000
    size = sum(len(f"{number}\n") for number in range(1, last + 1))
    async with terminal(client, door.port, KEY, "unread", encoding="binary") as shell:
        await shell.type("stty -echo -onlcr; echo be-'gun'\n")
        await shell.shows("be-gun\n")
        before = [rss_bytes(server.pid) for server in (home, door)]
        shell.pause()
        await shell.type(f"seq {last}; echo the-'end'\n")
        wait_until(lambda: writers(home, last), what="it has begun")
        wait_until(
            lambda: is_held(home, door, last), what="it writes nothing while another session has a turn"
        )
        (program,) = writers(home, last)

        assert written_bytes(program) < size / 2
        assert all(rss_bytes(one.pid) - had < ROOM for one, had in zip((home, door), before, strict=True))
        shell.resume()
        shown = await shell.shows("the-end\n")

    begun = shown.index("1\n2\n3\n")
    assert shown[begun : begun + size] == "".join(f"{number}\n" for number in range(1, last + 1))


def writers(home: Server, last: int) -> list[int]:
    """The program that counts to `last`."""
    return [pid for pid in home.processes() if command_line_of(pid)[:2] == [b"seq", b"%d" % last]]


def is_held(home: Server, door: Server, last: int) -> bool:
    before = [written_bytes(program) for program in writers(home, last)]
    assert before, "nobody has held it: it has written everything"
    return has_a_turn(door) and before == [written_bytes(program) for program in writers(home, last)]


def written_bytes(pid: int) -> int:
    """By all of its writes so far."""
    found = re.search(r"^wchar: (\d+)$", Path(f"/proc/{pid}/io").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


def test_program_that_reads_nothing_holds_back_who_types(home: Server, door: Server) -> None:
    """What I send waits with me, in no server's memory, and others go on; once it reads, every byte comes."""
    typed = b"".join(b"%059d\n" % number for number in range(800 * Typing.FRAME_BYTES // 60))
    half = len(typed) // 2
    go = home.directory / "go"
    waits = f"until [ -e {go} ]; do sleep 0.1; done"
    shell = Terminal(door, "typed")
    shell.type(f"stty raw; echo in-''raw; {waits}; head -c {len(typed)} | sha256sum\n".encode())
    shell.read_to(b"in-raw")
    before = [rss_bytes(server.pid) for server in (home, door)]
    typing = Typing(shell.socket, typed)
    wait_until(lambda: typing.is_held(door), what="nobody takes it while another session has a turn")

    assert typing.sent < half
    assert all(rss_bytes(one.pid) - had < ROOM for one, had in zip((home, door), before, strict=True))
    go.touch()
    typing.send_rest()
    shell.read_to(hashlib.sha256(typed).hexdigest().encode())
    shell.close()


class Typing:
    """Sends frames, as much as is taken. `text` fills all of them."""

    FRAME_BYTES = 60_000

    def __init__(self, connection: socket.socket, text: bytes) -> None:
        self._socket = connection
        head = b"\x82\xfe" + self.FRAME_BYTES.to_bytes(2, "big") + bytes(4)  # A mask of zeros is a mask.
        pieces = (text[at : at + self.FRAME_BYTES] for at in range(0, len(text), self.FRAME_BYTES))
        self._frames = memoryview(b"".join(head + piece for piece in pieces))
        self.sent = 0

    def is_held(self, door: Server) -> bool:
        self._push()
        before = self.sent
        assert has_a_turn(door)
        self._push()
        return before == self.sent

    def _push(self) -> None:
        self._socket.setblocking(False)
        try:
            while self.sent < len(self._frames):
                self.sent += self._socket.send(self._frames[self.sent : self.sent + MIB])
        except BlockingIOError:
            return

    def send_rest(self) -> None:
        self._socket.settimeout(TIMEOUT_S)
        self._socket.sendall(self._frames[self.sent :])


# -- bodies


@pytest.mark.parametrize("named", ["", "X-Session-Id: streamed\r\n"])
def test_file_is_written_while_it_comes(home: Server, door: Server, named: str) -> None:
    """The home has the first part of an upload on its disk before I have sent the rest of it."""
    data = bytes(range(256)) * (8 * MIB // 256)
    path = f"part{len(named)}.bin"
    with begun(
        door, f"PUT /filesystem/content?path={path}", f"{named}Content-Length: {len(data)}"
    ) as connection:
        connection.sendall(data[: len(data) // 2])
        wait_until(lambda: gathered_bytes(home) > len(data) // 4, what="the first part is there")
        connection.sendall(data[len(data) // 2 :])
        assert connection.recv(20).startswith(b"HTTP/1.1 201 ")

    assert data == (home.workspace.parent / path).read_bytes()


def gathered_bytes(server: Server) -> int:
    """The size of what lies where uploads are gathered."""
    return sum(file.stat().st_size for file in (server.directory / "state" / "uploads").rglob("*"))


@pytest.mark.parametrize(
    "route",
    [
        "POST /generate/v2",
        "POST /sessions",
        "PUT /sessions/streamed",
        "POST /mcp",
        "POST /openai/v1/responses",
    ],
)
def test_body_is_read_by_the_home_alone(
    home: Server, door: Server, standing: FleetOfServers, route: str
) -> None:
    """With `X-Session-Id`: what is too large for the home it says so before I have sent the rest, which never comes."""
    session = f"unread{route.replace('/', '-').replace(' ', '')}"
    head = f"X-Session-Id: {session}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked"
    first = b'{"prompt":"'.ljust(MAX_BODY_BYTES + 1, b"x")
    with begun(door, route, head) as connection:
        connection.sendall(b"%x\r\n%b\r\n" % (len(first), first))
        answer = connection.recv(20)

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert 0 == standing.redis.do("HEXISTS", "{agentsrv}:homes", f"s:{session}")


def begun(server: Server, route: str, headers: str) -> socket.socket:
    """A request of which only the head is sent."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S)
    connection.sendall(
        f"{route} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n{headers}\r\n\r\n".encode()
    )
    return connection
