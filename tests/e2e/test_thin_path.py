"""The main road, with the fake agent: prompt, stream, reconnect, crash, stop."""

from __future__ import annotations

import pytest

from tests.kit import Server, is_alive, script

pytestmark = pytest.mark.program


def test_prompt_is_answered_as_a_stream_that_ends(server: Server) -> None:
    """I post a prompt, see it, see what the agent writes, and the stream closes with `done`."""
    with server.generate("hello agent") as stream:
        events = stream.rest()

    assert (stream.status, events[0].type, events[-1].type) == (200, "user", "done")
    assert events[0].json["message"]["content"][0]["text"] == "hello agent"
    assert any("hello agent" in event.data.decode() for event in events if event.type == "assistant")
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    assert events[-1].json == {"done": True, "taskId": stream.headers["X-Task-Id"], "status": "completed"}


def test_client_that_comes_back_misses_nothing(server: Server) -> None:
    """I lose the connection after ten events, come back with Last-Event-ID and get exactly the rest."""
    with server.generate(script("rate 500 100 300")) as stream:
        task_id = stream.headers["X-Task-Id"]
        seen = list(stream.take(10))
    rest = server.follow(task_id, after=seen[-1].id).rest()

    assert server.follow(task_id).rest() == seen + rest


def test_killed_server_is_started_again_and_the_stream_goes_on(server: Server) -> None:
    """kill -9 in the middle of a turn: after a restart the same agent is still at work and nothing is missing."""
    with server.generate(script("rate 100 enough 300")) as stream:
        task_id = stream.headers["X-Task-Id"]
        agent = stream.until(lambda event: event.json.get("subtype") == "init").json["pid"]
        stream.take(30)
        server.kill9()
        seen = stream.rest()
    server.start()
    with server.follow(task_id, after=seen[-1].id) as stream:
        stream.take(30)
        (server.workspace / "enough").touch()
        rest = stream.rest()

    numbers = [event.json["n"] for event in seen + rest if "n" in event.json]
    assert numbers == list(range(len(numbers)))
    assert [event.id for event in seen + rest] == list(range(1, len(seen + rest) + 1))
    assert rest[-1].json["status"] == "completed"
    assert is_alive(agent)


def test_second_prompt_meets_the_warm_agent(server: Server) -> None:
    """The second prompt of a session is answered by the process that answered the first."""
    agents = [
        next(
            event.json["pid"] for event in server.generate("hi").rest() if event.json.get("subtype") == "init"
        )
        for _ in range(2)
    ]

    assert agents[0] == agents[1]


def test_stop_ends_a_silent_agent(server: Server) -> None:
    """I stop an agent that says nothing; its job is cancelled and the session takes the next prompt."""
    task_id = server.start_job(script("hang"))
    answer = server.stop()

    assert (answer.status, server.job(task_id)["status"]) == (200, "cancelled")
    assert server.generate("next").rest()[-1].json["status"] == "completed"
