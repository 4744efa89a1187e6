"""Stop means stop, whatever the agent does; and so does the end of the server."""

from __future__ import annotations

import json
import time

import pytest

from tests.kit import Answer, Server, is_alive, script, wait_until

STUBBORN = {
    "a silent agent": ("hang",),
    "one that ignores interrupts": ("ignore-interrupt", "hang"),
    "one that ignores interrupts and TERM": ("ignore-interrupt", "ignore-term", "hang"),
    "one that does not read its input": ("deaf",),
    "one in the middle of a flood": ("rate 2000 100000 300",),
    "one with a child in a session of its own": ("child setsid stubborn", "hang"),
    "one with a daemon that holds stdout": ("child daemon chatty", "hang"),
    "one with a daemon that has shed its environment": ("child daemon stubborn bare", "hang"),
    "one that has closed stdout": ("close-stdout", "hang"),
}


@pytest.mark.parametrize("steps", STUBBORN.values(), ids=STUBBORN)
def test_stop_leaves_nothing_alive(server: Server, steps: tuple[str, ...]) -> None:
    """Stop answers soon, when the whole tree is dead; the job is cancelled and the session is free."""
    with server.generate(script("say started", *steps)) as stream:
        agent = stream.until(lambda event: event.json.get("subtype") == "init").json["pid"]
        stream.until(lambda event: event.type == "fake" if "child" in steps[0] else event.type == "assistant")
        began = time.monotonic()
        answer = server.stop()
        took_s = time.monotonic() - began
        events = stream.rest()

    tree = [agent, *(event.json["pid"] for event in events if event.type == "fake" and "pid" in event.json)]
    assert (answer.status, answer.json["stopped"]) == (200, True)
    assert took_s < 15
    assert [is_alive(pid) for pid in tree] == [False] * len(tree)
    assert events[-1].json["status"] == "cancelled"
    assert server.generate("next").rest()[-1].json["status"] == "completed"


def test_stopping_twice_is_fine(server: Server) -> None:
    """Two clients stop the same job at once: both are told that it is stopped. Later there is nothing to stop."""
    task_id = server.start_job(script("ignore-interrupt", "hang"))
    answers = [
        Answer(connection) for connection in [server.send("DELETE", "/generate/s/stop") for _ in range(2)]
    ]

    assert [answer.json["taskId"] for answer in answers] == [task_id, task_id]
    late = server.stop()
    assert (late.status, late.json["code"]) == (404, "not_running")


def test_deleting_a_session_by_force_stops_it(server: Server) -> None:
    """A running session is deleted only by force, and then its agent is dead."""
    with server.generate(script("hang")) as stream:
        agent = stream.until(lambda event: event.json.get("subtype") == "init").json["pid"]
        refused = server.ask("DELETE", "/sessions/s")
        deleted = server.ask("DELETE", "/sessions/s?force=true")

    assert (refused.status, deleted.status) == (409, 200)
    assert not is_alive(agent)
    assert server.ask("GET", "/sessions/s").status == 404


def test_terminated_server_ends_streams_and_leaves_the_job_alone(server: Server) -> None:
    """SIGTERM: my stream ends cleanly, the server exits with 0, the job goes on and is found by the next server."""
    with server.generate(script("rate 50 enough 300")) as stream:
        task_id = stream.headers["X-Task-Id"]
        stream.until(lambda event: event.id == 20)
        code = server.terminate()
        seen = stream.rest()
    (server.workspace / "enough").touch()
    server.start()
    rest = server.follow(task_id, after=seen[-1].id).rest()

    numbers = [event.json["n"] for event in seen + rest if "n" in event.json]
    assert (code, stream.is_whole) == (0, True)
    assert numbers == list(range(len(numbers)))
    assert rest[-1].json["status"] == "completed"


def test_terminated_server_leaves_no_idle_agent(server: Server) -> None:
    """SIGTERM with nothing to do: all processes are gone afterwards."""
    server.generate("hi").rest()
    server.terminate()

    wait_until(lambda: not server.processes(), what="nothing of it runs")


def test_stop_ends_what_a_job_has_left_running(server: Server) -> None:
    """My job has ended and its background command goes on: stop ends it, once."""
    tasks = {"type": "system", "subtype": "background_tasks_changed", "tasks": [{"id": "1"}]}
    task_id = server.start_job(script(f"raw {json.dumps(tasks)}", "child setsid"))
    server.ended_job(task_id)
    alive = server.agents()
    answer = server.stop()

    assert (answer.status, answer.json["taskId"]) == (200, task_id)
    assert [is_alive(pid) for pid in alive] == [False] * len(alive)
    assert server.stop().status == 404
