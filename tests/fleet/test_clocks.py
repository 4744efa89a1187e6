"""The clocks of servers and of Redis differ by hours, and are set: a fleet counts on none of them but Redis's."""

from __future__ import annotations

import base64
import json
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from aiohttp import ClientSession

from tests.fleet.clock import Clock, make_clock
from tests.fleet.kit import FleetOfServers, home_of, servers_of, wait_for_peers
from tests.fleet.test_terminals import connect
from tests.kit import Server, script, wait_until

pytestmark = pytest.mark.tools

HOUR_S = 3600


@dataclass(frozen=True, slots=True)
class Apart:
    """Two servers, one three hours ahead, one two hours behind."""

    fleet: FleetOfServers
    ahead: Server
    behind: Server
    clock: Clock
    """That of `ahead`."""


@pytest.fixture
def apart(fleet: FleetOfServers) -> Apart:
    servers, clocks = [], []
    for name, hours in (("ahead", 3), ("behind", -2)):
        clock = make_clock(fleet.directory, name, hours)
        server = fleet.add(name, **clock.variables)
        server.command = (sys.executable,)
        servers.append(server.start())
        clocks.append(clock)
    wait_for_peers(*servers)
    return Apart(fleet, servers[0], servers[1], clocks[0])


@pytest.fixture
async def client() -> AsyncIterator[ClientSession]:
    async with ClientSession() as client:
        yield client


def make_sessions(apart: Apart) -> list[str]:
    """In turn on both, each by the other one."""
    names = [f"s{n}" for n in range(6)]
    for n, name in enumerate(names):
        asked, home = ((apart.behind, "ahead"), (apart.ahead, "behind"))[n % 2]
        assert 201 == asked.ask("POST", "/sessions", {"sessionId": name, "server": home}).status
    return names


def test_sessions_are_found_worked_with_and_listed(apart: Apart) -> None:
    """By both; everything is in the list once, whoever gives a page of it."""
    made = make_sessions(apart)
    for server in (apart.ahead, apart.behind):
        assert ["ahead", "behind"] * 3 == [home_of(server, name) for name in made]
        assert all(one["alive"] for one in servers_of(server).values())
        for name in made:
            assert "completed" == server.generate(script("say hello"), name).rest()[-1].json["status"]
    difference = {
        server.ask("GET", "/sessions/s0").json["createdAt"] for server in (apart.ahead, apart.behind)
    }
    found: list[str] = []
    cursor = ""
    while cursor is not None:
        asked = (apart.ahead, apart.behind)[len(found) // 2 % 2]
        page = asked.ask("GET", f"/sessions?limit=2{cursor and f'&cursor={cursor}'}").json
        found += [one["id"] for one in page["sessions"]]
        cursor = page["nextCursor"]

    assert 1 == len(difference)
    assert ["s4", "s2", "s0", "s5", "s3", "s1"] == found, "by the time that their homes say"


async def test_token_is_for_the_clock_of_its_home(apart: Apart, client: ClientSession) -> None:
    """Whoever passes it on: it is good while it lasts there, once, and not afterwards."""
    tokens = []
    for asked in (apart.ahead, apart.behind, apart.behind):
        body = {"deploymentId": "local-dev", "server": "ahead"}
        tokens.append(asked.ask("POST", "/terminal/token", body).json["token"])
    claims = json.loads(base64.urlsafe_b64decode(tokens[0].split(".")[1] + "=="))
    assert "ahead" == claims["srv"]
    assert 2 * HOUR_S < claims["exp"] - time.time() < 4 * HOUR_S
    assert [101, 401] == [await connect(client, apart.behind, tokens[0]) for _ in range(2)]
    assert 101 == await connect(client, apart.ahead, tokens[1])

    apart.clock.set_ahead(24)
    assert [401, 401] == [await connect(client, one, tokens[2]) for one in (apart.behind, apart.ahead)]


@pytest.mark.parametrize("hours", [30, -30])
def test_clock_is_set_under_a_running_turn(apart: Apart, hours: float) -> None:
    """Its events go on, its home stays in the book, and a restart finds everything."""
    assert 201 == apart.behind.ask("POST", "/sessions", {"sessionId": "s", "server": "ahead"}).status
    task = apart.behind.start_job(script("rate 50 100 50", "hang"))
    stream = apart.behind.follow(task)
    stream.take(20)
    apart.clock.set_ahead(hours)
    seen = stream.take(100)
    stream.close()
    apart.ahead.kill9()
    apart.ahead.start()
    wait_for_peers(apart.ahead, apart.behind)

    seen += apart.behind.follow(task, after=seen[-1].id).take(3)
    assert list(range(1, len(seen) + 1)) == [event.id for event in seen]
    assert 200 == apart.behind.stop().status
    assert "cancelled" == apart.behind.ended_job(task)["status"]


@pytest.mark.parametrize("hours", [5, -5])
def test_clock_of_redis_is_set(apart: Apart, monkeypatch: pytest.MonkeyPatch, hours: float) -> None:
    """Who lives stays, also under a name that was taken before; who has died is away after its time."""
    redis, clock = apart.fleet.redis, make_clock(apart.fleet.directory, "redis")
    make_sessions(apart)
    redis.stop()
    with monkeypatch.context() as patched:
        for name, value in clock.variables.items():
            patched.setenv(name, value)
        redis.start()
    wait_until(lambda: redis.do("HLEN", "{agentsrv}:homes") == 6, what="all is said again")
    wait_for_peers(apart.ahead, apart.behind)
    apart.ahead.kill9()
    clock.set_ahead(hours)

    wait_until(lambda: not servers_of(apart.behind)["ahead"]["alive"], what="the dead one is away")
    assert [(201, "behind")] * 3 == [
        (made.status, made.headers["X-Agentsrv-Server"])
        for made in (apart.behind.ask("POST", "/sessions", {"sessionId": f"new{n}"}) for n in range(3))
    ]
    apart.ahead.start()
    wait_for_peers(apart.ahead, apart.behind)
    assert 200 == apart.behind.ask("GET", "/sessions/s0").status
    assert ["healthy"] * 2 == [
        one.ask("GET", "/health").json["status"] for one in (apart.ahead, apart.behind)
    ]
