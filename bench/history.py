"""What a long history costs: lists and prompts after a million jobs, and a start in the middle of a very long turn."""

from __future__ import annotations

import sqlite3
import statistics
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from agentsrv.store.migrate import migrate
from bench.agent import compile_agent
from bench.client import drain, post
from bench.rows import MIB, SIZE, Row, serving
from tests.kit import Server, rss_bytes, script, wait_until

FEW, MANY = 100, 1_000_000
JOBS_PER_SESSION = 10
ROUNDS = 30
OPEN_EVENTS = 1_500_000
"""Of a turn that has written 450 MB."""

LISTS = {
    "jobs": "/generate/v2/jobs?limit=20",
    "jobs that were cancelled": "/generate/v2/jobs?limit=20&status=cancelled",
    "jobs of a session": "/generate/v2/jobs?limit=20&session_id=s1",
    "sessions": "/sessions?limit=20",
    "sessions of an agent": "/sessions?limit=20&agent=codex",
    "worktrees": "/git/worktrees",
}


def history(directory: Path) -> Iterator[Row]:
    """(q) Lists and a prompt with a million jobs; the floor is the same with a hundred."""
    few, many = measured(directory / "few", FEW), measured(directory / "many", MANY)
    for name, took_ms in many.items():
        yield Row(f"(q) {name}, a million jobs", took_ms, "ms", few[name], -2 * few[name])


def recovery(directory: Path) -> Iterator[Row]:
    """(p) From the start behind a `kill -9` to the first answer, while a long turn is open; the floor has none."""
    with serving(directory / "p", compile_agent()) as server:
        nothing_open_s = started_again_s(server)
        begin_long_turn(server)
        took_s = started_again_s(server)
        peak = rss_bytes(server.pid, "VmHWM")
    yield Row("(p) ready with a turn of 450 MB open", took_s, "s", nothing_open_s, -1)
    yield Row("(p) the most memory of that start", peak / MIB, "MiB", None, -150)


def begin_long_turn(server: Server) -> None:
    job = server.start_job(script(f"open {OPEN_EVENTS} {SIZE}"), "long")
    wait_until(lambda: server.ask("GET", f"/generate/v2/jobs/{job}").json["lastEventId"] > OPEN_EVENTS)


def started_again_s(server: Server) -> float:
    server.kill9()
    began = time.perf_counter()
    server.start()
    assert server.ask("GET", "/health").status == 200
    return time.perf_counter() - began


def measured(directory: Path, jobs: int) -> dict[str, float]:
    directory.mkdir()
    (directory / "state").mkdir()
    fill(directory / "state" / "agentsrv.db", jobs)
    with serving(directory, compile_agent()) as server:
        found = {name: median_ms(server, path) for name, path in LISTS.items()}
        found["a prompt, to its first event"] = prompt_ms(server)
    return found


def fill(path: Path, jobs: int) -> None:
    """Finished jobs, ten in a session, which worked in a worktree each; the tenth part of them failed."""
    migrate(path)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA synchronous = OFF")
        db.executemany(
            """
            INSERT INTO sessions (id, cwd, worktree, agent, created_at, updated_at, generation)
            VALUES ('s' || ?1, '/w/' || ?1, '/w/' || ?1, 'claude-code', ?1, ?1, 1)
            """,
            ((n,) for n in range(jobs // JOBS_PER_SESSION)),
        )
        db.executemany(
            """
            INSERT INTO turns (id, session_id, created_at, started_at, finished_at, first_seq, last_seq, generation,
                               status, message_id)
            VALUES ('t' || ?1, 's' || (?1 / 10), ?1, ?1, ?1, 2 * (?1 % 10) + 1, 2 * (?1 % 10) + 2, 1,
                    iif(?1 % 10, 'completed', 'failed'), 'm' || ?1)
            """,
            ((n,) for n in range(jobs)),
        )


def median_ms(server: Server, path: str) -> float:
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        answer = server.ask("GET", path)
        answer.body()
        times.append(1000 * (time.perf_counter() - began))
        assert answer.status == 200, path
    return statistics.median(times)


def prompt_ms(server: Server) -> float:
    times = []
    for _ in range(ROUNDS):
        stream = post(server, "prompted", script("say hi"))
        drain([stream])
        times.append(1000 * (stream.first_agent_at - stream.sent_at))
    return statistics.median(times)
