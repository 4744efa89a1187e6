"""Things that happen at the same moment: prompts, stops, wake-ups, deletions, crashes, and odd output."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from contextlib import closing
from typing import Any

import pytest

from tests.conftest import ServerMaker
from tests.kit import Answer, Event, Server, is_alive, script, wait_until


def run(server: Server, prompt: str = "hi", session: str = "s", **options: Any) -> list[Event]:
    with server.generate(prompt, session, **options) as stream:
        return stream.rest()


def stored(server: Server, session: str = "s") -> list[int]:
    """Every seq of the session that is in the database."""
    with closing(sqlite3.connect(server.database)) as db:
        rows = db.execute(
            "SELECT first_seq, last_seq FROM events WHERE session_id = ? ORDER BY last_seq", [session]
        ).fetchall()
    return [seq for first, last in rows for seq in range(first, last + 1)]


def test_output_between_turns_does_not_lose_the_next_turn(server: Server) -> None:
    """My agent's background command writes all the time: my next prompts are answered, and no event is lost."""
    pid = next(
        e.json["pid"]
        for e in run(server, script("child chatty quick"))
        if "pid" in e.json and e.type == "fake"
    )
    statuses = [run(server)[-1].json["status"] for _ in range(10)]
    alive = is_alive(pid)
    server.terminate()

    assert statuses == ["completed"] * 10
    assert alive
    assert (seqs := stored(server)) == list(range(1, len(seqs) + 1))


def test_last_words_of_a_replaced_agent_are_kept(server: Server) -> None:
    """Another model needs another process: what the old one says at its end has its place in the log."""
    run(server, script("last-words"))
    done = run(server, model="other")[-1]
    seen = server.history()

    assert b"last words" in b"".join(event.data for event in seen)
    assert stored(server) == [event.id for event in seen] == list(range(1, done.id + 1))


def test_session_that_is_made_again_begins_again(server: Server) -> None:
    """I delete a session and use its id at once: the new one starts at event 1 and is followed to its end."""
    run(server)
    server.ask("DELETE", "/sessions/s").body()
    events = run(server)

    assert [event.id for event in events] == list(range(1, len(events) + 1))
    assert events[-1].type == "done"


def test_stream_of_a_deleted_session_ends(server: Server) -> None:
    """A slow reader of a long history whose session is deleted meanwhile is not left waiting."""
    run(server, script("lines 60000 300"))
    with server.ask("GET", "/sessions/s/events") as stream:
        stream.take(1)
        wait_until(lambda: server.ask("DELETE", "/sessions/s").status == 200)
        stream.rest()

    assert stream.is_whole


def test_prompt_that_is_queued_while_its_session_is_deleted(server: Server) -> None:
    """It comes when the queue is empty already and the running job is being stopped: it is refused, not destroyed."""
    server.start_job(script("ignore-term", "deaf"))
    earlier = server.start_job("earlier", if_busy="queue")
    deleting = server.send("DELETE", "/sessions/s?force=true")
    wait_until(lambda: server.job(earlier)["status"] == "cancelled")
    refused = server.generate("too late", if_busy="queue")

    assert (refused.status, refused.json["code"]) == (409, "session_deleting")
    assert Answer(deleting).json["deleted"]
    assert run(server)[-1].json["status"] == "completed"


def test_no_acknowledged_prompt_is_destroyed_by_a_deletion(server: Server) -> None:
    """Prompt and deletion at once, in every order: who is told that a job runs finds it until it has ended."""
    for delay_s in (0, 0.0005, 0.001, 0.002, 0.003, 0.004, 0.006, 0.008):
        for mode in ("reject", "queue", "steer"):
            run(server)
            deleting = server.send("DELETE", "/sessions/s")
            time.sleep(delay_s)
            prompt = server.generate(script("sleep 0.2", "say hi"), background=True, if_busy=mode)
            deleted = Answer(deleting)

            assert (deleted.status, prompt.status) in {(200, 202), (409, 202), (200, 409)}
            if prompt.status == 202:
                assert server.ended_job(prompt.json["taskId"])["status"] == "completed"


ODD_RESULTS = {
    "a lone surrogate": {"is_error": True, "result": "\ud800"},
    "a stop reason that is no string": {"stop_reason": {"why": ["not"]}},
    "kinds that are no strings": {"subtype": {}, "is_error": True, "terminal_reason": [], "api_error": {}},
    "costs beyond all numbers": {"total_cost_usd": 10**400},
    "prompts that are no list": {"user_message_uuids": 5},
    "a status that is no number": {"is_error": True, "api_error_status": []},
}


@pytest.mark.parametrize("fields", ODD_RESULTS.values(), ids=ODD_RESULTS)
def test_odd_result_ends_its_own_turn_only(server: Server, fields: dict[str, Any]) -> None:
    """Whatever types an agent's result has, its job ends, every line is kept, and others are not disturbed."""
    with server.generate(script("say before", f"result {json.dumps(fields)}"), "odd") as stream:
        done = stream.until(lambda event: event.type == "done")
    lines = [event.type for event in server.history("odd")]

    assert (lines.count("assistant"), lines.count("result")) == (1, 1)
    assert server.job(done.json["taskId"])["status"] == done.json["status"]
    assert run(server, session="other")[-1].json["status"] == "completed"
    assert run(server, session="odd")[-1].json["status"] == "completed"


ODD_LINES = (
    {"type": "system", "subtype": "background_tasks_changed", "tasks": 5},
    {"type": "system", "subtype": "api_retry", "error_status": [], "attempt": "x"},
    {"type": "system", "subtype": "init", "session_id": "\ud800"},
    {"type": "assistant", "error": {}, "message": {"model": "<synthetic>"}},
)


def test_odd_lines_are_events_like_all_others(server: Server) -> None:
    """Lines that look special and are not what they should be stay in the log, and what follows them too."""
    events = run(server, script(*(f"raw {json.dumps(line)}" for line in ODD_LINES), "say after"))
    seen = [event.json for event in events]

    assert [line for line in ODD_LINES if line not in seen] == []
    assert any("after" in json.dumps(line) for line in seen)
    assert seen[-1]["status"] == "completed"


def test_prompt_never_goes_to_the_process_that_it_replaces(server: Server) -> None:
    """The server dies while it ends the old process for my prompt: the prompt is run by a new one, and only that."""
    old = run(server, script("ignore-term"))
    task_id = server.start_job("with another model", model="other")
    server.kill9()
    server.start()
    events = server.follow(task_id).rest()

    pids = [event.json["pid"] for event in (*old, *events) if event.json.get("subtype") == "init"]
    assert events[-1].json["status"] == "completed"
    assert len(set(pids)) == 2


def test_crash_between_the_last_line_and_done(server: Server) -> None:
    """The server dies when a turn's last line is stored and `done` is not: what comes later is a turn of its own."""
    done = run(server, script("later enough I woke up"))[-1]
    server.kill9()
    (server.workspace / "enough").touch()
    spool = next((server.directory / "state" / "runners").glob("*/out"))
    wait_until(lambda: spool.read_bytes().count(b'"idle"') == 2)
    with closing(sqlite3.connect(server.database)) as db, db:
        db.execute("DELETE FROM events WHERE first_seq >= ?", [done.id])
        db.execute("UPDATE turns SET finished_at = NULL, last_seq = NULL, status = 'running'")
        db.execute("UPDATE sessions SET active_turn_id = ?", [done.json["taskId"]])
    server.start()
    with server.ask("GET", "/sessions/s/events") as stream:
        woke = stream.until(lambda event: b"I woke up" in event.data and event.type == "assistant")
        stream.until(lambda event: event.type == "done" and event.id > woke.id)

    assert server.follow(done.json["taskId"]).rest()[-1] == done
    assert len(server.ask("GET", "/generate/v2/jobs").json["jobs"]) == 2


def test_turn_that_ends_while_the_next_server_starts_ends_once(server: Server) -> None:
    """One agent has much to be read: a job of another one that has ended meanwhile is not closed again."""
    short = server.start_job(script("sleep 0.5", "say bye"), "short")
    long = server.start_job(script("sleep 0.5", "lines 200000 300", "hang"), "long")
    for task_id in (short, long):
        server.follow(task_id).until(lambda event: event.json.get("subtype") == "init")
    server.kill9()
    runners = server.directory / "state" / "runners"
    wait_until(lambda: sum(path.stat().st_size for path in runners.glob("*/out")) > 60_000_000)
    server.start()

    assert server.ended_job(short)["status"] == "completed"
    assert [event.type for event in server.follow(short).rest()].count("done") == 1


def test_background_work_is_known_after_a_restart(make_server: ServerMaker) -> None:
    """An agent that waits for its background command is not taken for idle by the next server."""
    server = make_server(AGENT_IDLE_TIMEOUT="5")
    tasks = {"type": "system", "subtype": "background_tasks_changed", "tasks": [{"id": "1"}]}
    run(server, script(f"raw {json.dumps(tasks)}", "later 7 I woke up"))
    server.kill9()
    server.start()
    with server.ask("GET", "/sessions/s/events") as stream:
        stream.until(lambda event: event.type == "assistant" and b"I woke up" in event.data)


def test_runner_that_cannot_be_read_does_not_keep_the_server_down(server: Server) -> None:
    """One agent's files are broken: the next server starts, and closes that agent's job."""
    task_id = server.start_job(script("hang"))
    server.follow(task_id).take(4)
    server.kill9()
    spool = next((server.directory / "state" / "runners").glob("*/out"))
    spool.unlink()
    server.start()

    assert server.ended_job(task_id)["status"] == "interrupted"
    assert run(server)[-1].json["status"] == "completed"


def test_stream_of_a_job_ends_with_its_own_done(server: Server) -> None:
    """I follow an earlier one of a session's jobs: I get its events, and none of the next one."""
    first, second = run(server), run(server)

    assert server.follow(first[-1].json["taskId"]).rest() == first
    assert server.follow(second[-1].json["taskId"]).rest() == second


def test_flood_does_not_hold_up_the_end_of_the_server(make_server: ServerMaker) -> None:
    """SIGTERM while my agent writes faster than I read: my stream ends cleanly, long before the grace is over."""
    server = make_server(SHUTDOWN_GRACE="60")
    with server.generate(script("lines 600000 300")) as stream:
        stream.take(100)
        began = time.monotonic()
        os.kill(server.pid, signal.SIGTERM)
        stream.rest()
        code = server.ended()
        took_s = time.monotonic() - began

    assert (code, stream.is_whole) == (0, True)
    assert took_s < 20
