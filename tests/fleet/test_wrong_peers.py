"""What has a server's address is not that server: nobody is told what it says, and it is given nothing to do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest

from agentsrv.config import Config
from agentsrv.fleet.scripts import Scripts
from tests.fleet.cable import Cable, loop_in_thread
from tests.fleet.kit import (
    UPGRADE,
    FleetOfServers,
    free_port,
    home_of,
    reached_by_door,
    servers_of,
    wait_for_peers,
)
from tests.kit import KEY, Answer, Server, script, wait_until

pytestmark = pytest.mark.tools

HOMES = "{agentsrv}:homes"
HEAD = 1
"""Which of `everything_at_home`."""


class Stranger(Cable):
    """A service that gives one answer to everybody."""

    answer = b""

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(self.answer)
            await writer.drain()
        writer.close()


class OverIPv6(Cable):
    async def _mend(self) -> None:
        self._listener = await asyncio.start_server(self._carry, "::1", self.port)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with loop_in_thread() as loop:
        yield loop


def everything_at_home(door: Server, session: str = "s") -> list[Answer]:
    """Requests of all kinds that are to go to the home of a session, server `home`."""
    return [
        door.ask("GET", f"/sessions/{session}"),
        door.ask("HEAD", f"/sessions/{session}"),
        door.ask("DELETE", f"/sessions/{session}"),
        door.generate("Hello", session, message_id="m"),
        door.ask("PUT", "/filesystem/content?path=wrong.txt&server=home", "text"),
        door.ask("POST", "/terminal/token", {"deploymentId": "local-dev", "server": "home"}),
    ]


def require_refused(door: Server) -> None:
    answers = everything_at_home(door)
    assert {503} == {one.status for one in answers}
    assert {"owner_unreachable"} == {one.json["code"] for n, one in enumerate(answers) if n != HEAD}
    assert ["home"] == door.ask("GET", "/sessions").json["unreachable"]


STRANGE = {
    "refuses": b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}",
    "has nothing": b"HTTP/1.1 404 Not Found\r\nServer: agentsrv\r\nContent-Length: 2\r\n\r\n{}",
    "has all": b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"sessions":[]}',
    "changes protocols": b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "continues": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    "is another one": b"HTTP/1.1 200 OK\r\nX-Agentsrv-From: other\r\nContent-Length: 2\r\n\r\n{}",
    "speaks no HTTP": b"SSH-2.0-OpenSSH_9.2p1\r\n",
}


def test_another_service_has_the_address(fleet: FleetOfServers, loop: asyncio.AbstractEventLoop) -> None:
    """Of another fleet, or any: what it says is no answer, whatever that is."""
    stranger = Stranger(0, loop)
    stranger.mend()
    try:
        home = fleet.add("home", SERVER_URL=f"http://127.0.0.1:{stranger.port}").start()
        assert 201 == home.ask("POST", "/sessions", {"sessionId": "s"}).status
        token = home.ask("POST", "/terminal/token", {"deploymentId": "local-dev"}).json["token"]
        door = fleet.start("door", ACCEPTS_SESSIONS="false")
        wait_for_peers(door, home)
        for name, answer in STRANGE.items():
            stranger.answer = answer
            answers = everything_at_home(door)
            assert {503} == {one.status for one in answers}, name
            codes = {one.json["code"] for n, one in enumerate(answers) if n != HEAD}
            assert codes <= {"owner_unreachable", "outcome_unknown"}, name
            assert ["home"] == door.ask("GET", "/sessions").json["unreachable"], name
            assert 503 == door.ask("GET", f"/ws/terminal?token={token}", **UPGRADE).status, name
            assert 404 == door.ask("GET", "/sessions/never").status, "the book says so"
    finally:
        stranger.cut()


def test_addresses_that_are_mixed_up(fleet: FleetOfServers) -> None:
    """Two servers with each other's address, and one with that of the server that asks: nobody does another's work."""
    a, b = fleet.add("a"), fleet.add("b")
    a.settings["SERVER_URL"], b.settings["SERVER_URL"] = b.settings["SERVER_URL"], a.settings["SERVER_URL"]
    a.start(), b.start()
    door = fleet.add("door")
    home = fleet.add("home", SERVER_URL=door.settings["SERVER_URL"])
    door.start(), home.start()
    wait_for_peers(a, b, door, home)
    for name, server in fleet.servers.items():
        assert 201 == server.ask("POST", "/sessions", {"sessionId": f"of-{name}", "server": name}).status
    for asked, name in ((a, "b"), (b, "a"), (door, "home"), (a, "home")):
        for answer in (asked.ask("GET", f"/sessions/of-{name}"), asked.generate("Hello", f"of-{name}")):
            assert (503, "owner_unreachable") == (answer.status, answer.json["code"]), name
    assert ["b", "home"] == a.ask("GET", "/sessions").json["unreachable"]
    assert [] == [job for one in (a, b, home) for job in one.ask("GET", "/generate/v2/jobs").json["jobs"]]
    assert "a" == home_of(a, "of-a")


def test_first_key_that_differs(fleet: FleetOfServers) -> None:
    """While keys are changed, with all of them good everywhere: what is passed on is refused, and not carried out."""
    home = fleet.start("home", API_KEY=f"{'n' * 32},{KEY}")
    door = fleet.start("door", ACCEPTS_SESSIONS="false")
    wait_for_peers(home, door)
    assert 201 == home.ask("POST", "/sessions", {"sessionId": "s"}).status
    require_refused(door)
    assert 200 == home.ask("GET", "/sessions/s").status
    assert [] == home.ask("GET", "/generate/v2/jobs").json["jobs"]
    assert not list(home.workspace.parent.glob("wrong*"))

    home.terminate()
    home.settings["API_KEY"] = f"{KEY},{'n' * 32}"
    home.start()
    wait_until(lambda: door.ask("GET", "/sessions/s").status == 200)


def test_peer_of_another_protocol(fleet: FleetOfServers) -> None:
    """In the middle of an upgrade: it hears nothing and gets nothing new; for what it has, both are named."""
    home = fleet.start("home")
    with socket.create_server(("127.0.0.1", 0)) as newer:
        asyncio.run(enter_newer(fleet.redis.url, newer.getsockname()[1]))
        wait_until(lambda: "newer" in servers_of(home))
        refused = [
            home.ask("GET", "/sessions/theirs"),
            home.generate("Hello", "theirs", message_id="m"),
            home.ask("POST", "/sessions", {"sessionId": "mine", "server": "newer"}),
            home.ask("PUT", "/filesystem/content?path=x&server=newer", "text"),
        ]
        told = [(one.status, one.json) for one in refused]
        assert [(503, "protocol_mismatch")] * 4 == [(status, body["code"]) for status, body in told]
        assert all("protocol 2 of" in body["error"] and "protocol 1;" in body["error"] for _, body in told)
        secret = Config.from_env({"API_KEY": KEY}).derived_key(b"agentsrv fleet 2").hex()
        asked = home.ask("GET", "/sessions", X_Agentsrv_Hop=secret, X_Agentsrv_To="home")
        assert (503, "owner_unreachable") == (asked.status, asked.json["code"]), (
            "nor does it believe that one"
        )

        new = [
            home.ask("POST", "/sessions", {"sessionId": name} if name else {})
            for name in ("mine", "new", "", "")
        ]
        assert [(201, "home")] * 4 == [(one.status, one.headers["X-Agentsrv-Server"]) for one in new]
        assert ["newer"] == home.ask("GET", "/sessions").json["unreachable"]
        assert ["1", "2"] == [one["protocol"] for one in servers_of(home).values()]
        assert ["newer"] == home.ask("GET", "/health").json["fleet"]["mismatched"]
        newer.setblocking(False)
        with pytest.raises(BlockingIOError):
            newer.accept()


async def enter_newer(url: str, port: int) -> None:
    """A server of a later version, which has much room, and a session."""
    fields = {"address": f"http://127.0.0.1:{port}", "active": "0", "capacity": "1000", "accepts": "1"}
    scripts = Scripts(url)
    answer = await scripts.beat(
        "newer",
        "1",
        ttl_ms=600_000,
        new_epoch="1",
        replaces=(),
        remembered=(),
        fields=fields | {"protocol": "2"},
    )
    await scripts.publish("newer", answer["epoch"], ["s:theirs"], is_last=True)
    await scripts.close()


def test_address_of_ipv6(fleet: FleetOfServers, loop: asyncio.AbstractEventLoop) -> None:
    """Prompts and terminals reach it."""
    cable = OverIPv6(free_port(), loop)
    home = fleet.add("home", SERVER_URL=f"http://[::1]:{cable.port}")
    cable.to_port = home.port
    cable.mend()
    try:
        reached_by_door(fleet, home)
    finally:
        cable.cut()


def test_book_with_what_nobody_has_written(fleet: FleetOfServers) -> None:
    """Names of no server, and bytes that are no text: refused one by one; everything else works."""
    home, door = fleet.start_all("home", door={"ACCEPTS_SESSIONS": "false"})
    wait_for_peers(home, door)
    redis = fleet.redis
    redis.do("HSET", HOMES, "s:ghost", "ghost", "s:bytes", b"\xff\xfe", "s:empty", "", "\xff", "x")  # type: ignore[arg-type]
    redis.do("HSET", "{agentsrv}:server:home", "\xffnew", "1", "left", "soon")
    redis.do("HSET", "{agentsrv}:server:odd", "address", "http://odd.example", "version", b"\xff")  # type: ignore[arg-type]
    for score in ("+inf", "-inf", "1"):
        redis.do("ZADD", "{agentsrv}:servers", score, f"odd{score}")
    redis.do("HSET", "{agentsrv}:server:odd1", "version", b"\xff")  # type: ignore[arg-type]
    wait_for_peers(home, door)
    for name in ("ghost", "bytes", "empty"):
        for answer in (door.ask("GET", f"/sessions/{name}"), door.generate("Hello", name)):
            assert 503 == answer.status, (name, answer.json)
    assert "completed" == door.generate(script("say hello"), "new").rest()[-1].json["status"]
    wait_for_peers(home, door)
    assert [None, None] == [one.process.poll() for one in (home, door) if one.process is not None]
