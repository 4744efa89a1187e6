"""The rows about several servers: what a hop costs against the home itself, in the same run, and what Redis does."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from agentsrv.fleet.scripts import Scripts
from bench.agent import compile_agent
from bench.client import Latencies, Stream, drain, post, request
from bench.files import LARGE_BYTES, meanwhile, ms, upload
from bench.rows import AROUND, FLOOD, MIB, SIZE, Row, cpu_s, flooded
from bench.terminal import Terminal, cat, cat_text, echo_times, in_cat
from tests.fleet.kit import FleetOfServers, fleet_of, wait_for_peers
from tests.fleet.sentinels import Sentinels
from tests.kit import Server, rss_bytes, script, wait_until
from tests.redis_server import RedisServer, real_redis

ROUNDS = 5
IDLE_FOLLOWERS = 500
ENTRIES = 100_000
PLACES = 500


def fleet(directory: Path) -> Iterator[Row]:
    """(r) Each figure through a door has that of the home as its floor."""
    with pair(directory) as fleet:
        home, door = fleet.servers["home"], fleet.servers["door"]
        yield from _flood(home, door)
        yield from _latency(home, door)
        yield from _terminals(home, door, directory)
        yield from _upload(home, door)
        yield from _idle(door)
        yield from _mended(fleet, home, door)
    yield from asyncio.run(_book(directory))
    yield from _failed_over(directory / "sentinels")


@contextmanager
def pair(directory: Path) -> Iterator[FleetOfServers]:
    """`home`, and `door` in front of it."""
    many = {"MAX_CONCURRENT_TURNS": "200", "MAX_WARM_AGENTS": "64", "TERMINAL_SHELL": "/bin/sh"}
    with fleet_of(directory, compile_agent()) as fleet:
        wait_for_peers(*fleet.start_all(home=many, door=many | {"ACCEPTS_SESSIONS": "false"}))
        yield fleet


def _flood(home: Server, door: Server) -> Iterator[Row]:
    rates: dict[int, list[float]] = {home.port: [], door.port: []}
    spent_s = 0.0
    for n in range(ROUNDS):
        for server in (home, door):
            before_s = cpu_s(door.pid)
            stream = flooded(server, f"flood-{server.port}-{n}")
            rates[server.port].append(stream.events / (stream.done_at - stream.sent_at))
            spent_s += cpu_s(door.pid) - before_s if server is door else 0.0
    direct, through = (statistics.median(rates[server.port]) for server in (home, door))
    yield Row("(r) events/s through a hop", through, "/s", direct, 0.85 * direct)
    yield Row("(r) CPU of an event at the hop", 1e6 * spent_s / (ROUNDS * FLOOD), "us", None, -1.5)


def _latency(home: Server, door: Server) -> Iterator[Row]:
    for sessions in (1, 16):
        direct, through = (_p50_ms(server, sessions) for server in (home, door))
        name = f"(r) latency at 200/s through a hop, {sessions} sessions, p50"
        yield Row(name, through, "ms", direct, -(direct + 0.5))


def _p50_ms(server: Server, sessions: int) -> float:
    found = Latencies(skip=200)
    prompt = script(f"rate 200 800 {SIZE}")
    streams = [post(server, f"rate-{server.port}-{sessions}-{n}", prompt) for n in range(sessions)]
    drain(streams, lambda stream, body: found.take(id(stream), body))
    for stream in streams:
        stream.check(800 + AROUND)
    return found.percentile_ms(50)


def _terminals(home: Server, door: Server, directory: Path) -> Iterator[Row]:
    text = cat_text(directory)
    shells = [Terminal(server, f"cat-{server.port}") for server in (home, door)]
    rounds = [[cat(shell, text) for shell in shells] for _ in range(ROUNDS)]
    direct, through = map(statistics.median, zip(*rounds, strict=True))
    yield Row("(r) terminal through a hop, cat of 50 MB", through, "MB/s", direct, 0.8 * direct)
    direct, through = (
        1000 * statistics.median(echo_times(in_cat(Terminal(server, f"echo-{server.port}"))))
        for server in (home, door)
    )
    yield Row("(r) terminal through a hop, echo, p50", through, "ms", direct, -(direct + 0.3))


def _upload(home: Server, door: Server) -> Iterator[Row]:
    run = upload(door, home.workspace.parent / "up", [("large.bin", bytes(LARGE_BYTES))])
    for server, name in ((home, "the home"), (door, "the hop")):
        run()
        before = rss_bytes(server.pid)
        with meanwhile(lambda pid=server.pid: rss_bytes(pid), 0.02) as sizes:  # type: ignore[misc]
            ms(run, rounds=1)
        more = (max(sizes) - before) / MIB
        yield Row(f"(r) upload of {LARGE_BYTES // MIB} MiB, memory of {name} more", more, "MiB", None, -10)


def _idle(door: Server) -> Iterator[Row]:
    door.ask("POST", "/sessions", {"sessionId": "idle"}).body()
    followers = [request(door, "GET", "/sessions/idle/events")]
    begin(followers)
    before = rss_bytes(door.pid)
    more = [request(door, "GET", "/sessions/idle/events") for _ in range(IDLE_FOLLOWERS)]
    begin(more)
    kb = (rss_bytes(door.pid) - before) / IDLE_FOLLOWERS / 1000
    yield Row("(r) memory of an idle follower at the hop", kb, "kB", None, -40)
    for stream in [*followers, *more]:
        stream.socket.close()


def begin(streams: list[Stream]) -> None:
    """Until each has begun."""
    for stream in streams:
        stream.socket.recv(1)


def _mended(fleet: FleetOfServers, home: Server, door: Server) -> Iterator[Row]:
    """From the moment in which what was away is back, until it is as if it had never been."""
    door.ask("POST", "/sessions", {"sessionId": "found"}).body()
    os.kill(home.pid, signal.SIGSTOP)
    refused_s = seconds_until(lambda: door.ask("GET", "/sessions/found").status == 503)
    os.kill(home.pid, signal.SIGCONT)
    yield Row("(r) a home that is stopped: until 503", refused_s, "s", None, -3)
    wait_until(lambda: door.ask("GET", "/sessions/found").status == 200)
    known = _known(fleet.redis)
    fleet.redis.do("FLUSHALL")
    again_s = seconds_until(lambda: _known(fleet.redis) == known)
    yield Row("(r) Redis that forgot all: until every key is back", again_s, "s", None, -3)
    home.kill9()
    home.start()
    found_s = seconds_until(lambda: door.ask("GET", "/sessions/found").status == 200)
    yield Row("(r) a home that was started again is found", found_s, "s", None, -1.5)
    fleet.redis.stop()
    wait_until(lambda: door.ask("GET", "/health").json["status"] == "degraded")
    fleet.redis.start()
    well_s = seconds_until(lambda: wait_for_peers(home, door))
    yield Row("(r) all is well after Redis came back empty", well_s, "s", None, -3)


def _failed_over(directory: Path) -> Iterator[Row]:
    """From the death of the master, which its sentinels notice after a second, until new ids are taken everywhere."""
    directory.mkdir()
    with ExitStack() as stack:
        sentinels = Sentinels(directory, stack)
        fleet = FleetOfServers(directory, compile_agent(), RedisServer(directory))
        stack.callback(fleet.close)
        url = {"REDIS_URL": sentinels.url}
        servers = fleet.start_all(a=url, b=url)
        wait_for_peers(*servers)
        sentinels.master_process.kill()
        well_s = seconds_until(lambda: all(_takes_an_id(server) for server in servers))
    yield Row("(r) new ids are taken after the death of a Redis with sentinels", well_s, "s", None, -6)


def _takes_an_id(server: Server) -> bool:
    new = f"{server.port}-{time.monotonic_ns()}"
    return server.ask("POST", "/sessions", {"sessionId": new}).status == 201


def _known(redis: RedisServer) -> tuple[list[str], dict[str, str]]:
    """The book's keys, and who is at home where."""
    return sorted(redis.do("KEYS", "*")), redis.do("HGETALL", "{agentsrv}:homes")


def seconds_until(fact: Callable[[], object]) -> float:
    began = time.perf_counter()
    wait_until(lambda: fact() is not False)
    return time.perf_counter() - began


async def _book(directory: Path) -> list[Row]:
    """A Redis that nobody else uses, and what it takes to place a session, and to say all again."""
    with real_redis(directory) as redis:
        scripts = Scripts(redis.url)
        try:
            epoch = await _entered(scripts)
            place = await _ms(PLACES, lambda n: scripts.place(f"s:new-{n}", "", "a"))
            pages = [[f"s:{page}-{n}" for n in range(1000)] for page in range(ENTRIES // 1000)]
            publish = await _ms(
                len(pages), lambda n: scripts.publish("a", epoch, pages[n], is_last=n == len(pages) - 1)
            )
        finally:
            await scripts.close()
    return [
        Row("(r) place a session", statistics.median(place), "ms", None, -2),
        Row(f"(r) say {ENTRIES:,} sessions again", sum(publish) / 1000, "s", None, -2),
    ]


async def _entered(scripts: Scripts) -> str:
    """The epoch, once server `a` is in the book and has said that it has nothing."""
    fields = {"address": "http://a", "active": "0", "capacity": "4", "accepts": "1"}
    answer = await scripts.beat(
        "a", "1", ttl_ms=600_000, new_epoch="1", replaces=(), remembered=(), fields=fields
    )
    await scripts.publish("a", answer["epoch"], [], is_last=True)
    return str(answer["epoch"])


async def _ms(count: int, does: Callable[[int], Awaitable[object]]) -> list[float]:
    taken = []
    for n in range(count):
        began = time.perf_counter()
        await does(n)
        taken.append(1000 * (time.perf_counter() - began))
    return taken
