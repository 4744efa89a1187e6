"""What clients see when a server of a fleet, or its Redis, is away: each row of docs/fleet.md."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import pytest

from agentsrv.fleet.registry import TTL_S
from tests.fleet.cable import Faulty, Gate, Prefixed, connecting_to, loop_in_thread
from tests.fleet.kit import (
    UPGRADE,
    FleetOfServers,
    free_port,
    home_of,
    reached_by_door,
    servers_of,
    wait_for_peers,
)
from tests.kit import Server, script, wait_until

pytestmark = pytest.mark.tools


@pytest.fixture
def pair(fleet: FleetOfServers) -> tuple[Server, Server]:
    """A home, and a door in front of it, which the test may ruin."""
    home, door = fleet.start_all("home", door={"ACCEPTS_SESSIONS": "false"})
    wait_for_peers(home, door)
    return home, door


def test_home_that_is_killed_and_comes_back(pair: tuple[Server, Server]) -> None:
    """While it is dead: 503, nothing done. Afterwards the stream resumes through the door, and nothing is lost."""
    home, door = pair
    task = door.start_job(script("rate 100 50 200", "hang"))
    stream = door.follow(task)
    seen = stream.take(10)
    home.kill9()
    seen = stream.rest()
    refused = door.generate(script("say no"), message_id="m")

    assert not stream.is_whole, "a stream that broke off does not look whole"
    assert (503, "owner_unreachable") == (refused.status, refused.json["code"])
    assert refused.headers["Retry-After"]
    home.start()
    with door.follow(task, after=seen[-1].id) as rest:
        seen += rest.take(55 - len(seen))
    assert [event.id for event in seen] == list(range(1, len(seen) + 1))
    assert door.stop().status == 200


def test_home_that_is_stopped(pair: tuple[Server, Server]) -> None:
    """A machine that hangs: 503 after some seconds and streams are cut; when it wakes all goes on, nothing is lost."""
    home, door = pair
    task = door.start_job(script("say one", "hang"))
    stream = door.follow(task)
    first = stream.take(3)
    os.kill(home.pid, signal.SIGSTOP)
    try:
        prompt = door.generate(script("say two"), "other", message_id="m")
        read = door.ask("GET", "/sessions/s")
        broken = stream.rest()
    finally:
        os.kill(home.pid, signal.SIGCONT)

    assert (503, "outcome_unknown") == (prompt.status, prompt.json["code"])
    assert (503, "owner_unreachable") == (read.status, read.json["code"])
    assert not stream.is_whole
    assert broken[: len(first)] == first
    # It was sent, and the home may have got it: the same message_id makes sure that it is done once.
    again = door.generate(script("say two"), "other", message_id="m").rest()
    assert "completed" == again[-1].json["status"]
    assert 1 == len(home.ask("GET", "/generate/v2/jobs?session_id=other").json["jobs"])
    assert door.stop().status == 200
    assert "cancelled" == door.follow(task, after=first[-1].id).rest()[-1].json["status"]


@pytest.mark.nightly
def test_home_that_hangs_for_long_loses_nothing(fleet: FleetOfServers, pair: tuple[Server, Server]) -> None:
    """Three times as long as it takes to count as away, with Redis flushed: nobody works in its place, all goes on."""
    home, door = pair
    other = fleet.start("other")
    wait_for_peers(home, door, other)
    task = door.start_job(script("rate 50 200 50", "hang"), server="home")
    os.kill(home.pid, signal.SIGSTOP)
    end = time.monotonic() + 3 * TTL_S
    fleet.redis.do("FLUSHALL")
    while time.monotonic() < end:
        refused = other.generate(script("say no"), message_id="m")
        assert (503, "home") == (refused.status, refused.json.get("server", "home"))
    os.kill(home.pid, signal.SIGCONT)

    wait_for_peers(home, door, other)
    assert "home" == home_of(other, "s")
    assert list(range(1, 201)) == [event.id for event in door.follow(task).take(200)]
    assert other.stop().status == 200


def test_redis_that_is_away(fleet: FleetOfServers, pair: tuple[Server, Server]) -> None:
    """Sessions that exist go on, on any server; a new id of the client's own is refused; the server's own is not."""
    home, door = pair
    task = door.start_job(script("say one", "hang"))
    fleet.redis.stop()
    wait_until(lambda: home.ask("GET", "/health").json["status"] == "degraded")
    wait_until(lambda: door.ask("GET", "/health").json["status"] == "degraded")

    refusals = [
        door.generate("Hello", "new"),
        home.generate("Hello", "new"),
        home.ask("POST", "/sessions", {"sessionId": "n"}),
    ]
    assert [(503, "redis_unavailable")] * 3 == [(answer.status, answer.json["code"]) for answer in refusals]
    assert (200, 404) == tuple(door.ask("GET", f"/sessions/{name}").status for name in ("s", "never"))
    assert 201 == door.ask("POST", "/sessions", {}).status
    assert "running" == door.job(task)["status"]
    assert door.stop().status == 200
    assert "completed" == door.generate("Hello").rest()[-1].json["status"]
    home.kill9()
    silent = door.ask("GET", "/sessions/never")
    assert (503, "redis_unavailable") == (silent.status, silent.json["code"]), (
        "not all have said that it is not"
    )
    home.start()

    fleet.redis.start()
    wait_for_peers(home, door)
    assert "healthy" == home.ask("GET", "/health").json["status"]
    assert "completed" == door.generate("Hello", "new").rest()[-1].json["status"]


def test_redis_that_hangs_or_is_full(fleet: FleetOfServers, pair: tuple[Server, Server]) -> None:
    """A hole, and no memory: the same as being away, and no request waits for long."""
    home, door = pair
    assert "completed" == door.generate("Hello").rest()[-1].json["status"]
    fleet.redis.freeze()
    wait_until(lambda: door.ask("GET", "/health").json["status"] == "degraded")
    assert "completed" == door.generate("Hello").rest()[-1].json["status"]
    assert 503 == door.generate("Hello", "new").status
    fleet.redis.thaw()
    wait_for_peers(home, door)

    fleet.redis.do("CONFIG", "SET", "maxmemory", "1")
    wait_until(lambda: door.ask("GET", "/health").json["status"] == "degraded")
    assert "completed" == door.generate("Hello").rest()[-1].json["status"]
    assert "redis_unavailable" == door.generate("Hello", "new").json["code"]
    fleet.redis.do("CONFIG", "SET", "maxmemory", "0")
    wait_for_peers(home, door)
    assert "completed" == door.generate("Hello", "new").rest()[-1].json["status"]


def test_redis_that_forgets_all(fleet: FleetOfServers, pair: tuple[Server, Server]) -> None:
    """FLUSHALL: every key is there again after a moment, and what exists works all the time."""
    home, door = pair
    for n in range(5):
        assert 201 == door.ask("POST", "/sessions", {"sessionId": f"s{n}"}).status
    keys = sorted(fleet.redis.do("KEYS", "*"))
    fleet.redis.do("FLUSHALL")
    assert [200] * 5 == [door.ask("GET", f"/sessions/s{n}").status for n in range(5)]
    wait_until(lambda: fleet.redis.do("HLEN", "{agentsrv}:homes") == 5)
    wait_for_peers(home, door)

    assert keys == sorted(fleet.redis.do("KEYS", "*"))
    assert {"home"} == set(fleet.redis.do("HVALS", "{agentsrv}:homes"))
    assert 409 == door.ask("POST", "/sessions", {"sessionId": "s0"}).status
    home.terminate()
    fleet.redis.do("FLUSHALL")
    wait_until(lambda: door.generate("Hello", "new").json.get("code") == "directory_incomplete")
    wait_until(lambda: door.generate("Hello", "new").json["servers"] == ["home"])
    home.start()
    wait_for_peers(home, door)
    assert "completed" == door.generate("Hello", "new").rest()[-1].json["status"]


def test_name_that_is_taken(fleet: FleetOfServers, pair: tuple[Server, Server]) -> None:
    """A second server of a name, on a volume of its own, does not start: exit code 78, and one line why."""
    home, _ = pair
    second = fleet.add("second", SERVER_NAME="home")
    with pytest.raises(AssertionError, match="not ready"):
        second.start()

    assert 78 == second.ended()
    assert "a server with the name home runs already" in second.log
    assert "healthy" == home.ask("GET", "/health").json["status"]


def test_volume_that_was_taken_away(fleet: FleetOfServers, pair: tuple[Server, Server]) -> None:
    """The same volume on another machine: the old server ends its agents and itself (70) at its first beat."""
    home, door = pair
    task = door.start_job(script("say one", "hang"))
    home.follow(task).until(lambda event: event.type == "assistant")
    agents = home.agents()
    wait_until(lambda: ("s", len(home.history())) in stored_in(home), what="all is committed")
    before = stored_in(home)
    os.kill(home.pid, signal.SIGSTOP)
    moved = fleet.add("moved", SERVER_NAME="home")
    # On another machine it would not find the agents, and so not end them.
    left = shutil.ignore_patterns("sock", "log", "runners")
    shutil.copytree(home.directory, moved.directory, ignore=left, dirs_exist_ok=True)
    with closing(sqlite3.connect(moved.database)) as database, database:
        database.execute("DELETE FROM runners")
    (moved.directory / "log").touch()
    moved.start()
    os.kill(home.pid, signal.SIGCONT)

    assert 70 == home.ended()
    assert before == stored_in(home), "it has written something"
    wait_until(lambda: not set(agents) & set(home.processes()), what="its agents are gone")
    wait_until(lambda: door.ask("GET", "/sessions/s").status == 200, what="the door has found the new one")
    assert "interrupted" == door.ended_job(task)["status"]


def stored_in(server: Server) -> list[tuple[object, ...]]:
    """The state of all jobs, and how far the log goes."""
    with closing(sqlite3.connect(server.database)) as database:
        return [
            *database.execute("SELECT id, status FROM turns ORDER BY id"),
            *database.execute("SELECT session_id, MAX(last_seq) FROM events GROUP BY session_id"),
        ]


def test_listener_that_takes_nobody(fleet: FleetOfServers, pair: tuple[Server, Server]) -> None:
    """A hole in the network, such as a full backlog: 503, and nothing was done."""
    home, door = pair
    assert 201 == door.ask("POST", "/sessions", {"sessionId": "s"}).status
    home.kill9()
    with socket.socket() as hole:
        hole.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        hole.bind(("127.0.0.1", home.port))
        hole.listen(0)
        fillers = [socket.socket() for _ in range(8)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", home.port))
        refused = door.generate("Hello")
        for filler in fillers:
            filler.close()

    assert (503, "owner_unreachable") == (refused.status, refused.json["code"])


def test_address_that_another_server_has_now(fleet: FleetOfServers, pair: tuple[Server, Server]) -> None:
    """While Redis is away the home's address is given to a new server: that one does nothing and tells nothing."""
    home, door = pair
    task = door.start_job(script("say one"))
    door.ended_job(task)
    fleet.redis.stop()
    wait_until(lambda: door.ask("GET", "/health").json["status"] == "degraded")
    home.kill9()
    stranger = replace(fleet.add("stranger"), port=home.port).start()
    try:
        answers = [
            door.ask("GET", "/sessions/s"),
            door.ask("GET", f"/generate/v2/jobs/{task}"),
            door.ask("GET", "/filesystem/files?server=home"),
            door.ask("POST", "/filesystem/directory", {"path": "wrong", "server": "home"}),
            door.ask("PUT", "/filesystem/content?path=wrong.txt&server=home", "text"),
            door.generate("Hello", message_id="m"),
        ]
        assert [(503, "owner_unreachable")] * len(answers) == [
            (one.status, one.json["code"]) for one in answers
        ]
        assert 503 == door.ask("GET", "/sessions/never").status
        assert ["home"] == door.ask("GET", "/sessions").json["unreachable"]
        assert not list(stranger.workspace.parent.glob("wrong*"))
    finally:
        stranger.close()


def test_home_that_takes_connections_late(fleet: FleetOfServers) -> None:
    """It is busy, not away: prompts and a terminal wait until it takes them, and are not refused."""
    with loop_in_thread() as loop, ThreadPoolExecutor() as pool:
        gate = Gate(0, loop)
        home = fleet.add("home", SERVER_URL=f"http://127.0.0.1:{gate.port}")
        gate.to_port = home.port
        gate.mend()
        fleet.add("door", ACCEPTS_SESSIONS="false")
        home, door = pool.map(Server.start, fleet.servers.values())
        wait_for_peers(home, door)
        task = door.start_job(script("rate 20 2000 50", "hang"))
        token = door.ask("POST", "/terminal/token", {"deploymentId": "local-dev"}).json["token"]
        stream = door.follow(task)
        stream.take(1)  # From now on it shows that the home lives.

        with gate.shut():
            asked = [pool.submit(door.start_job, script("say hello"), f"late-{n}") for n in range(4)]
            terminal = pool.submit(door.ask, "GET", f"/ws/terminal?token={token}", **UPGRADE)
            # The terminal, and prompts for which there is no connection from before.
            wait_until(lambda: len(connecting_to(gate.port)) >= 3)
            first = connecting_to(gate.port)
            wait_until(lambda: not first & connecting_to(gate.port), what="they were given up")
        assert 101 == terminal.result().status
        assert ["completed"] * 4 == [door.ended_job(job.result())["status"] for job in asked]
        stream.close()
        gate.cut()


@pytest.mark.parametrize(
    ("method", "breaks", "answer"),
    [
        ("GET", 1, (200, None)),
        ("HEAD", 1, (200, None)),
        ("GET", 2, (503, "owner_unreachable")),
        ("POST", 1, (503, "outcome_unknown")),
        ("DELETE", 1, (503, "outcome_unknown")),
    ],
)
def test_what_breaks_off_is_repeated_once(
    fleet: FleetOfServers, method: str, breaks: int, answer: tuple[int, str | None]
) -> None:
    """Where that can do no harm; else I am told that nobody knows whether it was done."""
    with loop_in_thread() as loop:
        cable = Faulty(free_port(), loop)
        home = fleet.add("home", SERVER_URL=f"http://127.0.0.1:{cable.port}")
        cable.to_port = home.port
        cable.mend()
        try:
            door = fleet.add("door", ACCEPTS_SESSIONS="false")
            wait_for_peers(home.start(), door.start())
            assert 201 == home.ask("POST", "/sessions", {"sessionId": "s"}).status
            cable.breaks = breaks
            told = door.ask(method, "/sessions/s/fork" if method == "POST" else "/sessions/s")

            assert answer == (told.status, told.json.get("code") if told.status == 503 else None)
            assert 0 == cable.breaks
        finally:
            cable.cut()


def test_server_with_a_path_in_its_url(fleet: FleetOfServers) -> None:
    """It is behind a proxy, below a path: prompts, streams, lists and terminals reach it."""
    with loop_in_thread() as loop:
        cable = Prefixed(free_port(), loop)
        home = fleet.add("home", SERVER_URL=f"http://127.0.0.1:{cable.port}/fleet/home/")
        cable.to_port = home.port
        cable.mend()
        try:
            page = reached_by_door(fleet, home).ask("GET", "/sessions").json

            assert (["s"], []) == ([one["id"] for one in page["sessions"]], page["unreachable"])
        finally:
            cable.cut()


def test_new_process_keeps_the_streams_of_its_own(pair: tuple[Server, Server]) -> None:
    """A home that hung is killed and started again at its address: what ends is what the one before had."""
    home, door = pair
    task = door.start_job(script("say one", "hang"))
    stream = door.follow(task)
    stream.take(3)
    os.kill(home.pid, signal.SIGSTOP)
    before = door.send("GET", f"/generate/v2/jobs/{task}/stream")
    home.kill9()
    home.start()
    wait_for_peers(home, door)
    job = door.start_job(script("rate 50 200 50"), "long")
    after = door.follow(job)

    assert "completed" == after.rest()[-1].json["status"]
    assert after.is_whole
    seen = stream.rest()
    before.close()
    assert not stream.is_whole
    assert 200 == door.stop().status
    assert "cancelled" == door.follow(task, after=seen[-1].id).rest()[-1].json["status"]


def test_door_that_stops(pair: tuple[Server, Server]) -> None:
    """What it passes on ends in order, and goes on at the home."""
    home, door = pair
    task = door.start_job(script("say one", "hang"))
    stream = door.follow(task)
    seen = stream.take(3)
    assert 0 == door.terminate()
    seen = stream.rest()

    assert stream.is_whole
    assert 200 == home.stop().status
    rest = home.follow(task, after=seen[-1].id).rest()
    assert [event.id for event in seen + rest] == list(range(1, len(seen + rest) + 1))


def test_server_that_joins_a_fleet(fleet: FleetOfServers) -> None:
    """Its sessions and jobs from before, whose ids tell no server, are found by all."""
    home = fleet.add("home")
    alone = {"SERVER_NAME", "REDIS_URL", "SERVER_URL"}
    before = replace(home, settings={k: v for k, v in home.settings.items() if k not in alone}).start()
    task = before.start_job(script("say hello"))
    before.ended_job(task)
    before.terminate()
    door = fleet.add("door", ACCEPTS_SESSIONS="false")
    wait_for_peers(home.start(), door.start())

    assert "home" == home_of(door, "s")
    for server in (door, home, door):
        assert "completed" == server.job(task)["status"]
    assert "done" == door.follow(task).rest()[-1].type
    home.kill9()
    assert "owner_unreachable" == door.job(task)["code"]  # The door remembers whose it is.


def test_hundred_at_once_make_one(fleet: FleetOfServers) -> None:
    """100 prompts under one id to three servers: one begins, 99 hear that it is busy, and one server has it."""
    servers = fleet.start_all("a", "b", "c")
    wait_for_peers(*servers)

    def ask(n: int) -> int:
        return servers[n % 3].generate(script("sleep 3"), "one", background=True).status

    with ThreadPoolExecutor(32) as pool:
        statuses = list(pool.map(ask, range(100)))
    assert [202] + [409] * 99 == sorted(statuses)
    home = home_of(servers[0], "one")
    local = {one.settings["SERVER_NAME"]: one for one in servers}
    assert 1 == fleet.redis.do("HLEN", "{agentsrv}:homes")
    assert {home} == {home_of(server, "one") for server in servers}
    assert 1 == len(local[home].ask("GET", "/generate/v2/jobs?session_id=one").json["jobs"])
    assert sum((one.directory / "state" / "runners").exists() and bool(one.agents()) for one in servers) == 1


def test_server_that_drains(fleet: FleetOfServers) -> None:
    """SIGTERM with DRAIN_TIMEOUT: new turns go elsewhere or are refused, the one that runs ends in peace."""
    home, other = fleet.start_all("other", home={"DRAIN_TIMEOUT": "60"})[::-1]
    wait_for_peers(home, other)
    go = fleet.directory / "go"
    task = home.start_job(script(f"rate 50 {go} 100"), "s", server="home")
    os.kill(home.pid, signal.SIGTERM)
    wait_until(lambda: home.ask("GET", "/health/ready").status == 503)

    assert "draining" == other.generate("Hello", "s", if_busy="queue").json["code"]
    wait_until(lambda: not servers_of(other)["home"]["accepts"])
    assert "other" == other.ask("POST", "/sessions", {}).headers["X-Agentsrv-Server"]
    assert "running" == other.job(task)["status"]
    go.touch()
    assert 0 == home.ended()


def test_server_that_drains_for_long_enough(fleet: FleetOfServers) -> None:
    """After DRAIN_TIMEOUT it goes, whatever runs: the agent works on, and the next process has it."""
    home = fleet.start("home", DRAIN_TIMEOUT="1")
    task = home.start_job(script("say one", "hang"))
    os.kill(home.pid, signal.SIGTERM)
    assert 0 == home.ended()
    agents = home.agents()
    home.start()

    assert agents
    assert agents == home.agents()
    assert "running" == home.job(task)["status"]
    assert 200 == home.stop().status
