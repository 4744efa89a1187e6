"""What a turn does beside the main road: warm agents, wake-ups, time limits, owners that lost their session."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

import pytest

from agentsrv.turns.outcomes import SILENT
from tests.conftest import ServerMaker
from tests.kit import Event, Server, is_alive, script, wait_until


def run(server: Server, prompt: str = "hi", session: str = "s", **options: Any) -> list[Event]:
    with server.generate(prompt, session, **options) as stream:
        return stream.rest()


def agent_of(events: list[Event]) -> int:
    """The agent's pid, as its `init` tells it."""
    pid: int = next(event.json["pid"] for event in events if event.json.get("subtype") == "init")
    return pid


def test_other_options_get_another_process(server: Server) -> None:
    """Another model cannot be served by the warm agent: it ends, and a new one resumes the conversation."""
    first = agent_of(run(server))
    second = agent_of(run(server, model="other"))

    assert first != second
    wait_until(lambda: not is_alive(first))


def test_model_stays_until_another_one_is_asked_for(server: Server) -> None:
    """A model given once is the session's model from then on."""
    run(server, model="haiku")
    model = next(event.json["model"] for event in run(server) if event.json.get("subtype") == "init")

    assert model == "haiku"
    assert server.ask("GET", "/sessions/s").json["model"] == "haiku"


def test_budget_is_for_one_turn(server: Server) -> None:
    """The agent counts its budget per process: a turn with a budget shares its process with no other."""
    pids = [agent_of(run(server, max_budget_usd=1.0)) for _ in range(2)]

    assert pids[0] != pids[1]


def test_idle_agent_is_ended_after_its_time(make_server: ServerMaker) -> None:
    """An agent that nobody needs does not keep its memory."""
    server = make_server(AGENT_IDLE_TIMEOUT="0.2")
    agent = agent_of(run(server))

    wait_until(lambda: not is_alive(agent))
    assert run(server)[-1].json["status"] == "completed"


def test_only_so_many_agents_stay_warm(make_server: ServerMaker) -> None:
    """With a cap of one warm agent, the one that idles longer is ended."""
    server = make_server(MAX_WARM_AGENTS="1")
    agents = [agent_of(run(server, session=name)) for name in ("a", "b")]

    wait_until(lambda: not is_alive(agents[0]))
    assert is_alive(agents[1])


def test_agent_that_wakes_up_gets_a_job_of_its_own(server: Server) -> None:
    """What an agent does by itself (a background command has ended) is a job without a prompt, and is logged."""
    run(server, script("later 0.2 I woke up"))
    with server.ask("GET", "/sessions/s/events") as stream:
        texts = stream.until(lambda event: event.type == "assistant" and b"I woke up" in event.data)
        done = stream.until(lambda event: event.type == "done" and event.id > texts.id)
    jobs = server.ask("GET", "/generate/v2/jobs").json["jobs"]

    assert [job["status"] for job in jobs] == ["completed", "completed"]
    assert jobs[0]["taskId"] == done.json["taskId"]
    assert server.follow(jobs[0]["taskId"]).rest()[-1] == done


def test_wake_up_survives_a_killed_server(server: Server) -> None:
    """The server is killed before the agent wakes up; the next server logs what it does then."""
    run(server, script("later 0.5 I woke up"))
    server.kill9()
    server.start()
    with server.ask("GET", "/sessions/s/events") as stream:
        event = stream.until(lambda event: event.type == "assistant" and b"I woke up" in event.data)
        done = stream.until(lambda later: later.type == "done" and later.id > event.id)

    assert done.json["status"] == "completed"


def test_turn_that_takes_too_long_is_ended(make_server: ServerMaker) -> None:
    """TURN_TIMEOUT ends a turn that goes on and on, with its reason."""
    server = make_server(TURN_TIMEOUT="0.3")
    done = run(server, script("rate 100 10000 100"))[-1]

    assert done.json["status"] == "failed"
    assert server.job(done.json["taskId"])["error"] == done.json["error"]


def test_turn_that_falls_silent_is_ended(make_server: ServerMaker) -> None:
    """TURN_IDLE_TIMEOUT ends a turn in which nothing happens any more."""
    server = make_server(TURN_IDLE_TIMEOUT="0.3")
    events = run(server, script("say working", "hang"))

    assert [event.json["code"] for event in events if event.type == "error"] == ["turn_timeout"]


def content(sender: str, **block: Any) -> str:
    """The step in which a message of one block is said."""
    return f"raw {json.dumps({'type': sender, 'message': {'role': sender, 'content': [block]}})}"


def test_whose_silence_it_is_decides(make_server: ServerMaker) -> None:
    """TURN_IDLE_TIMEOUT ends what says nothing. A long build may be silent; what has lost its last line is done."""
    server = make_server(TURN_IDLE_TIMEOUT="1")
    begins = content("assistant", type="tool_use", id="t1", name="Bash", input={})
    ends = content("user", type="tool_result", tool_use_id="t1", content="")
    steps = {
        "building": [begins, "sleep 2.2", ends, "say built"],
        "over": ["say all", "lose-idle"],
        "silent": [begins, ends, "hang"],
    }
    tasks = {name: server.start_job(script(*some), name) for name, some in steps.items()}
    jobs = {name: server.ended_job(task_id) for name, task_id in tasks.items()}

    assert {name: job["status"] for name, job in jobs.items()} == {
        "building": "completed",
        "over": "completed",
        "silent": "failed",
    }
    assert jobs["silent"]["error"] == SILENT.error


@pytest.mark.parametrize(("status", "attempt"), [(403, 2), (401, 5)], ids=["refused", "login"])
def test_wrong_credentials_fail_soon(server: Server, status: int, attempt: int) -> None:
    """The agent would retry for minutes; the turn fails soon and says why. A login gets the time to be renewed."""
    retry = {
        "type": "system",
        "subtype": "api_retry",
        "attempt": attempt,
        "error_status": status,
        "error": "auth",
    }
    events = run(server, script(f"raw {json.dumps(retry)}", "hang"))

    assert events[-1].json["status"] == "failed"
    assert [event.json["code"] for event in events if event.type == "error"] == ["agent_not_authenticated"]


def test_owner_that_lost_its_session_writes_nothing_and_ends_its_agent(server: Server) -> None:
    """Somebody else has taken the session: what the old owner's agent writes is refused, and the agent is ended."""
    task_id = server.start_job(script("rate 50 1000 100"))
    with server.follow(task_id) as stream:
        agent = stream.until(lambda event: event.json.get("subtype") == "init").json["pid"]
        with sqlite3.connect(server.database) as db:
            db.execute("UPDATE sessions SET generation = generation + 1")
            stored = db.execute("SELECT max(last_seq) FROM events").fetchone()
        db.close()

    wait_until(lambda: not is_alive(agent))
    with sqlite3.connect(server.database) as db:
        assert db.execute("SELECT max(last_seq) FROM events").fetchone() == stored
    db.close()


def test_machine_that_went_down_leaves_a_gap_that_is_told(server: Server) -> None:
    """After a power loss events that were sent may be gone: the log says from where on."""
    task_id = server.start_job(script("rate 100 1000 100"))
    server.follow(task_id).take(20)
    server.kill9()
    for pid in server.processes():
        wait_until(lambda pid=pid: kill(pid))  # type: ignore[misc]
    for meta in (server.directory / "state" / "runners").glob("*/meta"):
        meta.write_text(json.dumps(json.loads(meta.read_text()) | {"boot_id": "another"}))
    server.start()
    gap, error, done = server.follow(task_id).rest()[-3:]

    assert gap.json == {"type": "gap", "after": gap.id - 1}
    assert (error.json["code"], done.json["status"]) == ("machine_restarted", "interrupted")

    run(server, "hello")  # the log grows past what was lost
    job, session = f"/generate/v2/jobs/{task_id}/stream", "/sessions/s/events"
    places = [(path, seen) for path in (job, session) for seen in (gap.id - 1, gap.id, done.id)]
    told = [
        server.ask("GET", path, **{"Last-Event-ID": str(seen)})
        for path, seen in (*places, (session, done.id + 1))
    ]
    assert [answer.headers["X-Log-Gap"] for answer in told] == [None, *[str(gap.id)] * 2] * 2 + [str(gap.id)]
    for answer in told:
        answer.close()


def kill(pid: int) -> bool:
    import os
    import signal

    if is_alive(pid):
        os.kill(pid, signal.SIGKILL)
    return not is_alive(pid)


@pytest.mark.parametrize(
    "prompt", ["-v", "--help", "--dangerously-skip-permissions", "-", "$(touch x)", "a\u2028c"]
)
def test_prompt_reaches_the_agent_literally(server: Server, prompt: str) -> None:
    """Whatever the prompt is, the agent reads it as it is, and never as an option."""
    events = run(server, f"{script('echo')}\n{prompt}")
    echoed = next(event.json for event in events if event.type == "fake")

    assert json.loads(echoed["stdin"])["message"]["content"][0]["text"].split("\n", 1)[1] == prompt
    assert prompt not in echoed["argv"]
