"""A full disk stops writing and nothing else, and is over when there is space again."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agentsrv.config import Config
from agentsrv.doctor import workspace
from tests.kit import Server, is_alive, script, wait_until, write_fake_agent

SIZE_MB = 24


@pytest.fixture
def small_server(tmp_path: Path, server_type: type[Server]) -> Iterator[Server]:
    """A server whose state lies on a file system of 24 MB."""
    server = server_type(tmp_path / "server", write_fake_agent(tmp_path / "claude"))
    state = server.directory / "state"
    state.mkdir(parents=True)
    options = ["-t", "tmpfs", "-o", f"size={SIZE_MB}m,mode=700", "tmpfs", str(state)]
    if subprocess.run(["mount", *options], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield server.start()
    finally:
        server.close()
        wait_until(
            lambda: subprocess.run(["umount", state], capture_output=True, check=False).returncode == 0
        )


def fill(state: Path) -> Path:
    """Take all that is left of the disk."""
    filler = state / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 65536)
        except OSError:
            pass
    return filler


@pytest.mark.door
def test_full_disk_refuses_writes_and_keeps_reading(small_server: Server) -> None:
    """The disk is full: prompts get 507, finished jobs and health still answer; with space again all goes on."""
    server = small_server
    done = server.generate(script("lines 20 300")).rest()
    task_id = done[-1].json["taskId"]
    filler = fill(server.directory / "state")
    refused = server.generate("hi", "other")

    assert (refused.status, refused.json["code"]) == (507, "storage_full")
    assert server.follow(task_id).rest() == done
    assert server.ask("GET", "/health").status == 200
    assert server.ask("GET", "/sessions").json["count"] == 1

    filler.unlink()
    wait_until(lambda: server.generate("hi", "later").status == 200)
    assert server.generate("hi").rest()[-1].json["status"] == "completed"


def test_disk_that_fills_in_the_middle_of_a_turn(small_server: Server) -> None:
    """The disk fills while an agent writes: its job ends, nothing that was seen is lost, the database is intact."""
    server = small_server
    with server.generate(script("rate 200 never 300")) as stream:
        task_id = stream.headers["X-Task-Id"]
        agent = stream.until(lambda event: event.json.get("subtype") == "init").json["pid"]
        seen = list(stream.take(60))
        filler = fill(server.directory / "state")
        wait_until(lambda: not is_alive(agent))
        filler.unlink()
        events = stream.rest()

    assert events[:60] == seen
    assert server.ended_job(task_id)["status"] in {"completed", "failed"}
    assert server.follow(task_id).rest() == events
    server.kill9()
    with closing(sqlite3.connect(server.database)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert os.path.getsize(server.database) > 0
    server.start()
    assert server.generate("hi").rest()[-1].json["status"] == "completed"


def test_answer_is_refused_while_a_full_disk_holds_up_the_end(small_server: Server) -> None:
    """My job is being stopped and its end cannot be stored: an answer gets 507 and does not hang; then all goes on."""
    server = small_server
    task_id = server.start_job(script('ask 1 Bash {"command": "ls"}'), permission_mode="ask")
    question = (
        server.follow(task_id).until(lambda event: event.type == "permission_request").json["requestId"]
    )
    filler = fill(server.directory / "state")
    with closing(server.send("DELETE", "/generate/s/stop")):
        wait_until(lambda: server.generate("hi", "other").status == 507)
        path = f"/generate/v2/jobs/{task_id}/permissions/{question}"
        refused = server.ask("POST", path, {"decision": "allow"})
        filler.unlink()
        assert server.ended_job(task_id)["status"] == "cancelled"

    assert (refused.status, refused.json["code"]) == (507, "storage_full")


def test_doctor_tells_of_a_full_disk(small_server: Server) -> None:
    """It is wrong, and which directory is meant; with space again all is well."""
    config = Config.from_env(small_server.environment())
    filler = fill(config.state_dir)
    while_full = {finding.subject: finding for finding in workspace(config) if finding.is_wrong}
    filler.unlink()

    assert while_full.keys() == {"state"}
    assert while_full["state"].detail == f"the disk that holds {config.state_dir} is full"
    assert not any(finding.is_wrong for finding in workspace(config))


def test_server_starts_while_the_disk_is_full(small_server: Server) -> None:
    """Killed on a full disk, the next one starts, shows all that there is, and ends the job once there is space."""
    server = small_server
    done = server.generate(script("lines 20 300")).rest()
    task_id = server.start_job(script("rate 200 never 300"))
    server.follow(task_id).take(60)
    with closing(sqlite3.connect(server.database)) as db, db:  # Too old to be kept: something to write.
        columns = "session_id, id, at, prompt, runner_id, state, created_at"
        db.execute(f"INSERT INTO timers ({columns}) VALUES ('s', 't', 1, 'p', '', 'cancelled', 1)")
        db.execute("UPDATE sessions SET deletion = 'pending' WHERE id = 's'")  # It was not decided in time.
    filler = fill(server.directory / "state")
    wait_until(lambda: server.generate("hi", "other").status == 507)
    server.kill9()
    server.start()

    assert server.follow(done[-1].json["taskId"]).rest() == done
    assert server.generate("hi", "other").status == 507
    filler.unlink()
    assert server.ended_job(task_id)["status"] in {"failed", "interrupted"}
    assert server.generate("hi").rest()[-1].json["status"] == "completed"
