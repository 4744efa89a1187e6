"""What the next server knows of turns that an earlier one has left open."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import Any

import pytest

from bench.rows import cpu_s
from tests.conftest import ServerMaker
from tests.kit import Server, rss_bytes, script, wait_until


def is_stop_stored(server: Server) -> bool:
    with closing(sqlite3.connect(server.database)) as db:
        return bool(db.execute("SELECT max(stop_asked) FROM turns").fetchone()[0])


def test_stop_is_remembered(server: Server) -> None:
    """The server is killed while it stops my job, whose agent ignores it: the job is cancelled, not interrupted."""
    task_id = server.start_job(script("ignore-interrupt", "ignore-term", "hang"))
    server.follow(task_id).until(lambda event: event.json.get("subtype") == "init")
    with closing(server.send("DELETE", "/generate/s/stop")):
        wait_until(lambda: is_stop_stored(server))
        server.kill9()
    server.start()

    assert server.ended_job(task_id)["status"] == "cancelled"
    assert server.generate("again").rest()[-1].json["status"] == "completed"


def test_time_limit_counts_from_the_start(make_server: ServerMaker) -> None:
    """A job that is an hour old when its server comes back has had its half hour."""
    server = make_server(TURN_TIMEOUT="1800")
    task_id = server.start_job(script("hang"))
    server.follow(task_id).until(lambda event: event.json.get("subtype") == "init")
    server.kill9()
    with closing(sqlite3.connect(server.database)) as db, db:
        db.execute("UPDATE turns SET started_at = started_at - 3600000")
    server.start()
    codes = [event.json["code"] for event in server.follow(task_id).rest() if event.type == "error"]

    assert (server.job(task_id)["status"], codes) == ("failed", ["turn_timeout"])


def fold_of(server: Server) -> Any:
    with closing(sqlite3.connect(server.database)) as db:
        return json.loads(db.execute("SELECT fold FROM runners").fetchone()[0] or "null")


def test_long_turn_is_taken_over_from_the_middle(server: Server) -> None:
    """It is not read again from its beginning: a question of before waits as it did, and the job goes on."""
    asked = {"subtype": "can_use_tool", "tool_name": "Bash", "input": {"command": "ls"}}
    line = {"type": "control_request", "request_id": "q", "request": asked}
    steps = script(f"raw {json.dumps(line)}", "lines 20000 300", "hang")
    task_id = server.start_job(steps, permission_mode="ask")
    wait_until(lambda: (fold_of(server) or {}).get("seq", 0) > 10_000)
    server.kill9()
    fold = fold_of(server)
    server.start()
    (question,) = server.ask("GET", "/permissions").json["permissions"]
    answer = server.ask(
        "POST", f"/generate/v2/jobs/{task_id}/permissions/{question['requestId']}", {"decision": "allow"}
    )
    server.stop()
    events = server.follow(task_id).rest()

    assert (len(fold["questions"]), question["input"], answer.status) == (1, {"command": "ls"}, 200)
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    assert [event.type for event in events].count("permission_resolved") == 1


@pytest.mark.nightly
@pytest.mark.parametrize(("turns", "lines", "is_stored"), [(1, 1_000_000, True), (16, 60_000, False)])
def test_server_is_ready_whatever_was_open(
    make_server: ServerMaker, turns: int, lines: int, *, is_stored: bool
) -> None:
    """One turn of 460 MB, or many whose states were not stored: it answers as soon as a server with nothing to do."""
    bare_s = cpu_s(make_server().pid)
    server = make_server()
    jobs = [server.start_job(script(f"lines {lines} 460", "hang"), f"s{n}") for n in range(turns)]
    wait_until(lambda: stored_bytes(server) > turns * lines * 460, timeout_s=200)
    server.kill9()
    if not is_stored:
        with closing(sqlite3.connect(server.database)) as db, db:
            db.execute("UPDATE runners SET fold = NULL")
    spent_s = cpu_s(server.start().pid)
    statuses = {server.job(job)["status"] for job in jobs}

    assert spent_s < bare_s + 0.5
    assert statuses == {"running"}
    assert rss_bytes(server.pid, "VmHWM") < 96 << 20


def stored_bytes(server: Server) -> int:
    with closing(sqlite3.connect(server.database)) as db:
        return int(db.execute("SELECT ifnull(sum(length(data)), 0) FROM events").fetchone()[0])
