"""Whatever an agent writes, or does not write: kept, bounded, and the job ends as it should."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ServerMaker
from tests.kit import (
    STREAM_TIMEOUT_S,
    Server,
    is_alive,
    rss_bytes,
    script,
    wait_for_at_most,
    wait_until,
    write_fake_agent,
)

MIB = 1 << 20


def test_odd_lines_are_kept(server: Server) -> None:
    """Broken JSON, bytes that are not UTF-8, a bare number: each becomes an event, in its place, marked as raw."""
    odd = ('raw {"type": "assistant", "broken', "raw plain words", "bytes 22fffe220a", "bytes 2237220a")
    events = server.generate(script("say before", *odd, "say after")).rest()

    raw = [event.json for event in events if event.json.get("type") == "raw"]
    texts = [event.json["message"]["content"][0]["text"] for event in events if event.type == "assistant"]
    assert (len(raw), texts) == (4, ["before", "after"])
    assert "plain words" in str(raw[1])
    assert events[-1].json["status"] == "completed"


def test_partial_last_line_is_kept(server: Server) -> None:
    """The agent dies in the middle of a line: what there was of it is an event, and the job says how it ended."""
    events = server.generate(script('partial {"type": "assistant", "half', "exit 3")).rest()

    raw = next(event.json for event in events if event.json.get("type") == "raw")
    assert "half" in str(raw)
    assert (events[-1].json["status"], "3" in events[-1].json["error"]) == ("failed", True)


def test_line_over_the_limit_is_cut_and_says_so(server: Server) -> None:
    """A line of 50 MB: the log keeps its start and its length, the server's memory stays in bounds."""
    server.generate("hi").rest()
    before = rss_bytes(server.pid)
    events = server.generate(script("say before", "big 50000000", "say after")).rest()

    cut = next(event.json for event in events if event.json.get("type") == "raw")
    assert "50000000" in str(
        {key: value for key, value in cut.items() if key != "data"}
    ) or "49999999" in str(cut)
    assert len(max(event.data for event in events)) < MIB
    assert events[-1].json["status"] == "completed"
    assert rss_bytes(server.pid) - before < 100 * MIB


def test_stderr_costs_nothing(server: Server) -> None:
    """A gigabyte of stderr: nothing is stored, nothing stops, and the job is completed."""
    server.generate("hi").rest()
    before = rss_bytes(server.pid)
    events = server.generate(script("stderr 1000000000", "say done")).rest()

    assert events[-1].json["status"] == "completed"
    assert rss_bytes(server.pid) - before < 20 * MIB
    state = sum(
        path.stat().st_blocks * 512 for path in (server.directory / "state").rglob("*") if path.is_file()
    )
    assert state < 20 * MIB


@pytest.mark.parametrize(
    ("step", "how"), [("exit 0", "0"), ("exit 7", "7"), ("die 11", "11"), ("die 9", "9")]
)
def test_end_without_a_result_is_a_failure(server: Server, step: str, how: str) -> None:
    """The agent ends in the middle of its turn: the job fails and says how, even after exit code 0."""
    events = server.generate(script("say something", step)).rest()

    assert events[-2].type == "error"
    assert (events[-1].json["status"], how in events[-1].json["error"]) == ("failed", True)
    assert server.generate("next").rest()[-1].json["status"] == "completed"


def test_daemon_that_holds_stdout_does_not_hold_the_job(server: Server) -> None:
    """The agent ends and leaves a daemon with its stdout behind: the job ends, and the daemon with it."""
    events = server.generate(script("child daemon chatty", "exit 5")).rest()

    daemon = next(event.json["pid"] for event in events if event.type == "fake")
    assert events[-1].json["status"] == "failed"
    assert not is_alive(daemon)


def test_background_child_may_outlive_its_turn(server: Server) -> None:
    """A dev server that the agent has started lives as long as its agent, through the next turn."""
    events = server.generate(script("child setsid")).rest()
    child = next(event.json["pid"] for event in events if event.type == "fake")
    server.generate("next").rest()

    assert is_alive(child)


def test_silence_ends_at_the_limit(make_server: ServerMaker) -> None:
    """With TURN_IDLE_TIMEOUT a silent agent is stopped and its job fails; one that writes is left alone."""
    server = make_server(TURN_IDLE_TIMEOUT="2")
    busy = server.generate(script("rate 10 30 300"), "busy")
    silent = server.generate(script("hang"), "silent")

    assert silent.rest()[-1].json["status"] == "failed"
    assert busy.rest()[-1].json["status"] == "completed"


def test_whole_turn_has_a_limit_too(make_server: ServerMaker) -> None:
    """With TURN_TIMEOUT an agent that never ends is stopped, however much it writes."""
    server = make_server(TURN_TIMEOUT="0.7")

    assert server.generate(script("rate 100 100000 300")).rest()[-1].json["status"] == "failed"


def test_agent_that_cannot_start_is_explained(make_server: ServerMaker, tmp_path: Path) -> None:
    """The agent fails before it reads anything: the job says what it wrote on stderr or how it ended."""
    server = make_server(CLAUDE_PATH=str(write_fake_agent(tmp_path / "failing", "exit 4")))
    events = server.generate("hi").rest()

    assert (events[-1].json["status"], "4" in events[-1].json["error"]) == ("failed", True)


def test_missing_agent_is_refused(make_server: ServerMaker, tmp_path: Path) -> None:
    """There is no such program: the prompt is refused before anything has happened."""
    server = make_server(CLAUDE_PATH=str(tmp_path / "nowhere"))
    answer = server.generate("hi")

    assert (answer.status, answer.json["code"]) == (503, "agent_unavailable")
    assert server.ask("GET", "/sessions").json["count"] == 0


def test_agent_that_wakes_up_gets_a_job_of_its_own(server: Server) -> None:
    """A background task of the agent ends after its turn: what it does then is a job in the same session."""
    first = server.generate(script("later 0.2 I woke up", "say first")).rest()
    with server.ask("GET", "/sessions/s/events", Last_Event_ID=str(first[-1].id)) as stream:
        done = stream.until(lambda event: event.type == "done")

    job = server.job(done.json["taskId"])
    assert (job["status"], job["firstEventId"]) == ("completed", first[-1].id + 1)
    assert any("I woke up" in event.data.decode() for event in stream.events)
    assert server.generate("next").rest()[-1].json["status"] == "completed"


def test_agent_that_outruns_its_reader_is_stopped(make_server: ServerMaker, bench_agent: Path) -> None:
    """An agent that fills the disk while the server does not read is ended at the quota, and its job says why."""
    server = make_server(CLAUDE_PATH=str(bench_agent), SPOOL_QUOTA_BYTES=str(4 * MIB))
    task_id = server.start_job(script("lines 500000 4000"))
    server.follow(task_id).take(3)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: not server.agents(), what="the runner ends the agent")
    finally:
        os.kill(server.pid, signal.SIGCONT)
    job = server.ended_job(task_id)

    assert job["status"] == "failed"
    assert "more than" in job["error"]


@pytest.mark.parametrize("format", ["native", "acp"])
def test_long_history_is_not_held(server: Server, format: str) -> None:
    """Who asks for all messages of a long session gets them, and the server keeps none of it."""
    server.ended_job(server.start_job(script("lines 20000 1700")))
    before = rss_bytes(server.pid)
    history = server.ask("GET", f"/sessions/s/messages?format={format}").json

    assert history["count"] == len(history["messages"]) > 20_000
    assert rss_bytes(server.pid) - before < 30 * MIB


def test_a_spool_that_was_made_large_without_being_written_holds_up_nothing(server: Server) -> None:
    """An agent can give its output any size; it can be stopped all the same, and the session goes on."""
    with server.generate(script("hang")) as stream:
        pid = stream.until(lambda event: event.json.get("subtype") == "init").json["pid"]
        os.truncate(f"/proc/{pid}/fd/1", 1 << 40)
        stopped = server.stop()
        cut = stream.until(lambda event: event.type == "raw")

    assert (stopped.status, cut.json["truncated"]) == (200, True)
    assert server.generate("again").rest()[-1].json["status"] == "completed"


QUESTION = {"subtype": "can_use_tool", "tool_name": "Bash", "input": {"command": "@"}}
REMEMBERED = {
    "states": (40, 8 * MIB, {"type": "command_lifecycle", "command_uuid": "#@", "state": "completed"}),
    "questions": (90, 8_000_000, {"type": "control_request", "request_id": "#", "request": QUESTION}),
    "names": (30_000, 100, {"type": "system", "subtype": "init", "session_id": "#", "tools": ["@"]}),
}


MOST_GROWTH = 150 * MIB
"""Of memory that the process was given; a few lines of 8 MiB are on their way at once."""


def has_ended_or_written(server: Server, count: int) -> bool:
    with closing(sqlite3.connect(server.database)) as db:
        return bool(
            db.execute(
                "SELECT finished_at IS NOT NULL OR (SELECT max(last_seq) FROM events e WHERE e.session_id = 's') > ?"
                "  FROM turns WHERE session_id = 's'",
                (count,),
            ).fetchone()[0]
        )


@pytest.mark.parametrize(("count", "size", "line"), REMEMBERED.values(), ids=REMEMBERED)
def test_what_an_agent_has_to_be_remembered_is_bounded(
    server: Server, count: int, size: int, line: dict[str, Any]
) -> None:
    """Ids and questions of hundreds of megabytes: they are in the log, not in memory for as long as the job runs."""
    server.generate("hello", session="other").rest()
    before = rss_bytes(server.pid)
    steps = script(f"many {count} {size} {json.dumps(line)}", "say end", "hang")
    server.start_job(steps, permission_mode="ask")
    wait_until(lambda: has_ended_or_written(server, count), STREAM_TIMEOUT_S)
    wait_for_at_most((MOST_GROWTH,), lambda: (rss_bytes(server.pid) - before,))
    other = server.generate("hello", session="other").rest()
    server.stop()

    assert other[-1].json["status"] == "completed"
