"""What an agent leaves running behind its turns: how many may, and what is told when it is ended."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from contextlib import closing
from typing import Any

from tests.conftest import ServerMaker
from tests.kit import Server, is_alive, script, wait_until


def leave(server: Server, session: str) -> int:
    """A turn that leaves a command running; the agent's pid."""
    task = {"task_id": f"of-{session}", "task_type": "local_bash", "description": "npm start"}
    said = {"type": "system", "subtype": "background_tasks_changed", "tasks": [task]}
    events = server.generate(script(f"raw {json.dumps(said)}"), session).rest()
    pid: int = next(event.json["pid"] for event in events if event.json.get("subtype") == "init")
    return pid


def ended(server: Server) -> dict[str, Any]:
    """What the logs say of what was ended, by session: the reason and the tasks."""
    with closing(sqlite3.connect(server.database)) as db:
        rows = db.execute("SELECT session_id, data FROM events WHERE source = 'server'").fetchall()
    events = [(session, json.loads(line)) for session, data in rows for line in data.splitlines()]
    told = [(session, event) for session, event in events if event.get("type") == "background_ended"]
    return {session: (event["reason"], [task["id"] for task in event["tasks"]]) for session, event in told}


def test_agents_with_work_left_are_limited(make_server: ServerMaker) -> None:
    """With one too many the one that rests longest is ended, and its log says what went with it."""
    server = make_server(MAX_BACKGROUND_AGENTS="1", MAX_WARM_AGENTS="0")
    first, second = leave(server, "a"), leave(server, "b")
    wait_until(lambda: "a" in ended(server))

    assert ended(server) == {"a": ("limit", ["of-a"])}
    assert [is_alive(first), is_alive(second)] == [False, True]
    assert server.ask("GET", "/sessions/a/background").json["tasks"] == []
    assert server.ask("GET", "/sessions/b/background").json["count"] == 1


def test_why_it_ended_is_told(server: Server) -> None:
    """I stop it, an agent with other options takes its place, its agent dies: the log says what is lost, and why."""
    pids = {
        session: leave(server, session) for session in ("stopped", "replaced", "exited", "in-a-turn", "none")
    }
    server.stop("stopped").close()
    server.generate("hi", "replaced", model="other").rest()
    os.kill(pids["exited"], signal.SIGKILL)
    server.start_job(script("hang"), "in-a-turn")
    server.stop("in-a-turn").close()
    wait_until(lambda: len(ended(server)) == 4)

    reasons = {"stopped": "stopped", "replaced": "replaced", "exited": "exited", "in-a-turn": "stopped"}
    assert ended(server) == {session: (reason, [f"of-{session}"]) for session, reason in reasons.items()}
    assert is_alive(pids["none"])
