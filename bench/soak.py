"""`python -m bench.soak`: ten minutes of all that one server does, and what it keeps of it; then 10,000 idle clients.

It ends with exit code 1 when a row misses its target. The client needs as many descriptors as the server.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.__main__ import measure
from bench.agent import compile_agent
from bench.client import Stream, drain, post, request
from bench.files import health_ms
from bench.rows import MIB, Row, flooded, serving
from bench.terminal import Terminal
from tests.kit import Server, open_files, rss_bytes, script, wait_until

TURNS, TERMINALS, STREAMS = 1000, 500, 5000
ROUNDS = 100
SESSIONS = 20
IDLE = 10_000
HEALTH_EVERY_S = 0.05
JOB_EVENTS = 4000
END = b"that-was-all"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="how long the first part is to take")
    seconds = parser.parse_args().seconds
    print(f"{'row':52} {'measured':>12} {'floor':>12} {'target':>12}")
    found = []
    for part in (partial(use, seconds=seconds), idle):
        for row in measure(part):
            found.append(row)
            print(row.text(), flush=True)
    sys.exit(any(row.is_missed for row in found))


@dataclass(slots=True)
class Life:
    """What people do with a server, a little of everything in each round."""

    server: Server
    turns: int = 0

    def round(self, turns: int, terminals: int, streams: int) -> None:
        for _ in range(turns):
            session, before = f"s{self.turns % SESSIONS}", self.turns // SESSIONS
            flooded(self.server, session, 5, before)
            self.turns += 1
        for n in range(terminals):
            self._use_terminal(f"t{n}")
        for n in range(streams):
            begin_and_leave(request(self.server, "GET", f"/sessions/s{n % SESSIONS}/events"))

    def _use_terminal(self, name: str) -> None:
        terminal = Terminal(self.server, name)
        terminal.type(f"echo {END.decode()[:4]}''{END.decode()[4:]}\n".encode())
        terminal.read_to(END)
        self.server.ask("DELETE", f"/terminals/{name}").body()
        terminal.close()

    def counts(self) -> tuple[int, int, float]:
        """Descriptors, zombies and MiB of memory, once what has just ended is put away."""
        wait_until(lambda: self.server.ask("GET", "/terminals").json["terminals"] == [])
        time.sleep(1)
        pid = self.server.pid
        return len(open_files(pid)), self.server.zombies(), rss_bytes(pid) / MIB


def use(directory: Path, seconds: float) -> Iterator[Row]:
    """Rounds, spread over the time; the first ones fill what is filled once, and do not count."""
    with serving(
        directory / "use", compile_agent(), TERMINAL_SHELL="/bin/sh", MAX_WARM_AGENTS="20"
    ) as server:
        life = Life(server)
        life.round(5 * SESSIONS, 20, 200)
        files, _, mib = life.counts()
        end = time.monotonic() + seconds
        for n in range(ROUNDS):
            life.round(TURNS // ROUNDS, TERMINALS // ROUNDS, STREAMS // ROUNDS)
            time.sleep(max(0.0, end - (ROUNDS - 1 - n) * seconds / ROUNDS - time.monotonic()))
        files_after, zombies, mib_after = life.counts()
    what = f"{TURNS:,} turns, {TERMINALS} terminals, {STREAMS:,} streams"
    yield Row(f"{what}: descriptors", files_after, "", files, -(files + 5))
    yield Row(f"{what}: zombies", zombies, "", None, 0)
    yield Row(f"{what}: RSS", mib_after, "MiB", mib, -1.2 * mib)


def idle(directory: Path) -> Iterator[Row]:
    """Clients that follow a session in which nothing happens, and one whose agent works."""
    room = str(IDLE + 100)
    settings = {"MAX_CONNECTIONS": room, "MAX_CONNECTIONS_PER_ADDRESS": room, "KEEPALIVE_INTERVAL": "15"}
    with serving(directory / "idle", compile_agent(), **settings) as server:
        server.ask("POST", "/sessions", {"sessionId": "idle"}).body()
        followers = [following(server) for _ in range(IDLE)]
        job = post(server, "busy", script(f"rate 200 {JOB_EVENTS} 300"))
        end = time.monotonic() + JOB_EVENTS / 200
        asked = []
        while time.monotonic() < end:
            asked.append(health_ms(server))
            time.sleep(HEALTH_EVERY_S)
        drain([job])
        rss = rss_bytes(server.pid) / MIB
        for stream in followers:
            stream.socket.close()
    yield Row(f"{IDLE:,} idle streams: /health, p95", statistics.quantiles(asked, n=20)[18], "ms", None, -100)
    yield Row(f"{IDLE:,} idle streams: RSS", rss, "MiB", None, -500)


def following(server: Server) -> Stream:
    stream = request(server, "GET", "/sessions/idle/events")
    assert b" 200 " in stream.socket.recv(1 << 16)
    return stream


def begin_and_leave(stream: Stream) -> None:
    with closing(stream.socket):
        assert b" 200 " in stream.socket.recv(1 << 16)


if __name__ == "__main__":
    main()
