"""What an agent has planned for later comes to pass, whatever has become of its process, and once."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from contextlib import closing
from typing import Any

from tests.conftest import ServerMaker
from tests.kit import Server, script, wait_until


def plans(prompt: str, in_s: float, *, name: str = "ScheduleWakeup", **more: Any) -> tuple[str, str]:
    """The steps with which the agent plans a prompt."""
    at = int((time.time() + in_s) * 1000)
    given = {"prompt": prompt, "cron": more.pop("cron", None)}
    use = {"type": "tool_use", "id": f"toolu_{prompt}", "name": name, "input": given}
    answer = {"type": "tool_result", "tool_use_id": f"toolu_{prompt}", "content": "planned"}
    when = {"scheduledFor": at} if name == "ScheduleWakeup" else {"nextFireAt": at, "id": prompt, **more}
    lines: list[Any] = [
        {"type": "assistant", "message": {"content": [use]}},
        {"type": "user", "message": {"content": [answer]}, "tool_use_result": when},
    ]
    first, second = (f"raw {json.dumps(line)}" for line in lines)
    return first, second


def timers(server: Server, session: str = "s") -> list[Any]:
    found: list[Any] = server.ask("GET", f"/sessions/{session}/timers").json["timers"]
    return found


def prompts(server: Server) -> list[str]:
    """What the agent of session `s` was asked, but for how it began."""
    said = [event.json["message"]["content"][0] for event in server.history() if event.type == "user"]
    return [block["text"] for block in said if block["type"] == "text" and "SCRIPT" not in block["text"]]


def told(server: Server) -> list[Any]:
    """What the log says about timers, also behind the last job."""
    with closing(sqlite3.connect(server.database)) as db:
        rows = db.execute("SELECT data FROM events WHERE source = 'server' ORDER BY first_seq").fetchall()
    events = [json.loads(line) for (data,) in rows for line in data.splitlines()]
    return [event for event in events if event.get("type") == "timer"]


def stop_all(server: Server) -> None:
    """The server is killed, and its agents."""
    server.kill9()
    for pid in server.agents():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: server.agents() == [])


def test_agent_that_has_gone_is_woken(make_server: ServerMaker) -> None:
    """It has planned something and idled out; then the session gets its prompt, under the same rules."""
    server = make_server(AGENT_IDLE_TIMEOUT="0.1")
    server.generate(script(*plans("wake", -1)), permission_mode="ask").rest()
    wait_until(lambda: prompts(server) == ["wake"])
    wait_until(lambda: timers(server) == [])

    with closing(sqlite3.connect(server.database)) as db:
        modes = db.execute("SELECT json_extract(options, '$.permission_mode') FROM turns").fetchall()
    assert modes == [("ask",), ("ask",)]


def test_timer_outlives_a_killed_server(server: Server) -> None:
    """Server and agent are killed, and the time comes before the next server: it makes up for that, once."""
    server.generate(script(*plans("late", -1))).rest()
    stop_all(server)
    server.start()
    wait_until(lambda: prompts(server) == ["late"])
    server.kill9()
    server.start()

    wait_until(lambda: timers(server) == [])
    assert prompts(server) == ["late"]


def test_live_process_is_left_to_fire_its_own(server: Server) -> None:
    """It is there when the time comes: the server does not prompt it, and knows when it has fired."""
    fired = {
        "type": "command_lifecycle",
        "state": "started",
        "command_uuid": "x",
        "wakeup_source": "schedule_wakeup",
    }
    server.generate(script(*plans("own", -1), f"raw {json.dumps(fired)}")).rest()
    wait_until(lambda: timers(server) == [])

    assert prompts(server) == []


def test_cancelled_timer_is_gone(server: Server) -> None:
    """I take it out: it is gone from the list, and the log says so."""
    server.generate(script(*plans("kept", 900), *plans("gone", 600, name="CronCreate"))).rest()
    gone, kept = timers(server)
    left = server.ask("DELETE", f"/sessions/s/timers/{gone['timerId']}").json["timers"]
    again = server.ask("DELETE", f"/sessions/s/timers/{gone['timerId']}")

    assert (gone["prompt"], left) == ("gone", [kept])
    assert (again.status, again.json["code"]) == (404, "timer_not_found")
    assert [(event["state"], event["timerId"]) for event in told(server)] == [("cancelled", gone["timerId"])]


def test_schedule_comes_again(server: Server) -> None:
    """It goes off while no process is there, and stays in the list for its next time."""
    steps = plans("again", -1, name="CronCreate", cron="0 0 1 1 *", recurring=True, maxAgeMs=10**12)
    server.generate(script(*steps, "exit 0")).rest()
    wait_until(lambda: prompts(server) == ["again"])
    wait_until(lambda: timers(server)[0]["at"] > "2026-12-31")

    assert timers(server)[0]["schedule"] == "0 0 1 1 *"


def test_timer_that_cannot_come_to_pass_is_told(server: Server) -> None:
    """The session's directory is gone at the time."""
    (server.workspace / "d").mkdir()
    server.generate(script(*plans("never", -1)), cwd=str(server.workspace / "d")).rest()
    stop_all(server)
    (server.workspace / "d").rmdir()
    server.start()
    wait_until(lambda: told(server) != [])

    assert (told(server)[0]["state"], timers(server)) == ("dropped", [])
    assert told(server)[0]["reason"] == "invalid_input"
