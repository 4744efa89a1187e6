"""Prompts to a session that is busy: queued, or added to the turn that runs."""

from __future__ import annotations

import os
import shutil
import signal
from typing import Any

import pytest
from msgspec.structs import replace

from agentsrv.agents.messages import user_event
from agentsrv.eventlog import server_chunk
from agentsrv.model import Session, SessionId, Source, Turn, TurnId, TurnOptions, TurnStatus
from agentsrv.store import prompts as rows
from agentsrv.store import sessions, transactions
from agentsrv.store.database import Database
from agentsrv.store.prompts import QueuedPrompt
from agentsrv.store.turns import MessageIdUsed
from agentsrv.turns.requests import new_turn
from tests.conftest import ServerMaker
from tests.kit import Answer, Event, Server, script, wait_until

ANN = Session(SessionId("ann"), None, "claude-code", "/", None, None, 1, 1)


def queue(server: Server, prompt: str, session: str = "s", **options: Any) -> str:
    return server.start_job(prompt, session, if_busy="queue", **options)


def waiting(server: Server, session: str = "s") -> list[str]:
    return [entry["taskId"] for entry in server.ask("GET", f"/sessions/{session}/queue").json["queue"]]


def steer(server: Server, prompt: str, **options: Any) -> Answer:
    return server.generate(prompt, if_busy="steer", **options)


def busy(server: Server, *steps: str) -> str:
    """A job that is at work until it is stopped."""
    task_id = server.start_job(script(*(steps or ("hang",))))
    server.follow(task_id).until(lambda event: event.json.get("subtype") == "init")
    return task_id


def texts(events: list[Event]) -> list[str]:
    return [
        event.json["message"]["content"][0]["text"]
        for event in events
        if event.type in {"assistant", "user"} and event.json.get("message")
    ]


def test_prompts_wait_for_their_turn(server: Server) -> None:
    """Each is a job at once, listed in order with its text, and they run one after the other."""
    first = busy(server)
    jobs = [queue(server, name) for name in ("b", "c")]
    listed = server.ask("GET", "/sessions/s/queue").json

    assert [(entry["taskId"], entry["position"], entry["prompt"]) for entry in listed["queue"]] == [
        (jobs[0], 1, "b"),
        (jobs[1], 2, "c"),
    ]
    assert server.job(jobs[1])["status"] == "queued"
    assert server.ask("GET", "/generate/v2/jobs?status=queued").json["count"] == 2
    server.stop()
    ended = [server.ended_job(task_id) for task_id in (first, *jobs)]
    assert [job["status"] for job in ended] == ["cancelled", "completed", "completed"]
    assert ended[0]["lastEventId"] < ended[1]["firstEventId"] < ended[2]["firstEventId"]
    assert waiting(server) == []


def test_foreground_prompt_is_streamed_when_its_turn_comes(server: Server) -> None:
    """The stream is open from the start and begins with the prompt, with nothing of the turn before."""
    busy(server)
    stream = server.generate("second", if_busy="queue")
    server.stop()
    events = stream.rest()

    assert (texts(events), events[-1].json["status"]) == (["second", "second"], "completed")
    assert events[-1].json["taskId"] == stream.headers["X-Task-Id"]


def test_idle_session_takes_a_prompt_at_once(server: Server) -> None:
    """`if_busy` means nothing where nothing runs."""
    for mode in ("reject", "queue", "steer"):
        assert server.generate("hi", mode, if_busy=mode).rest()[-1].json["status"] == "completed"


def test_queue_can_be_rearranged(server: Server) -> None:
    """The order is the user's; a list that is not exactly the queue is refused."""
    busy(server)
    jobs = [queue(server, name) for name in ("b", "c", "d")]
    wanted = [jobs[2], jobs[0], jobs[1]]

    assert server.ask("PUT", "/sessions/s/queue", {"taskIds": wanted}).status == 200
    assert waiting(server) == wanted
    refused = server.ask("PUT", "/sessions/s/queue", {"taskIds": jobs[:2]})
    assert (refused.status, refused.json["code"]) == (409, "queue_changed")
    server.stop()
    firsts = [server.ended_job(task_id)["firstEventId"] for task_id in wanted]
    assert firsts == sorted(firsts)


def test_queued_prompt_can_be_cancelled(server: Server) -> None:
    """Its job is `cancelled`, its stream ends, and what waits behind it runs."""
    busy(server)
    stream = server.generate("never", if_busy="queue")
    task_id, kept = stream.headers["X-Task-Id"], queue(server, "kept")

    assert server.ask("DELETE", f"/sessions/s/queue/{task_id}").json["taskIds"] == [task_id]
    assert [event.json["status"] for event in stream.rest()] == ["cancelled"]
    assert server.job(task_id)["status"] == "cancelled"
    assert server.follow(task_id, after=0).status == 204
    assert server.ask("DELETE", f"/sessions/s/queue/{task_id}").json["code"] == "not_queued"
    server.stop()
    assert server.ended_job(kept)["status"] == "completed"


def test_queue_can_be_cleared(server: Server) -> None:
    """All that waits is cancelled; what runs goes on."""
    running = busy(server)
    jobs = [queue(server, name) for name in ("b", "c")]

    assert server.ask("DELETE", "/sessions/s/queue").json["taskIds"] == jobs
    assert [server.job(task_id)["status"] for task_id in (running, *jobs)] == [
        "running",
        "cancelled",
        "cancelled",
    ]


def test_queue_survives_a_killed_server(server: Server) -> None:
    """What waited waits on behind the turn that still runs, in its order, and runs once."""
    busy(server)
    jobs = [queue(server, name) for name in ("b", "c")]
    server.ask("PUT", "/sessions/s/queue", {"taskIds": jobs[::-1]})
    server.kill9()
    server.start()

    assert waiting(server) == jobs[::-1]
    server.stop()
    assert [server.ended_job(task_id)["status"] for task_id in jobs] == ["completed", "completed"]
    assert texts(server.history()).count("b") == 2


def test_queue_without_a_running_turn_goes_on_after_a_restart(server: Server) -> None:
    """The turn ended while no server was there: the next one begins with what waits."""
    busy(server, "sleep 1")
    job = queue(server, "b")
    server.kill9()
    wait_until(lambda: b'"result"' in b"".join(path.read_bytes() for path in server.directory.rglob("out")))
    server.start()

    assert server.ended_job(job)["status"] == "completed"


def test_same_message_is_queued_once(server: Server) -> None:
    """A client that repeats its request gets the job that it has already."""
    busy(server)
    jobs = {queue(server, "again", message_id="m-1") for _ in range(3)}

    assert waiting(server) == list(jobs)


def test_others_do_not_overtake_the_queue(server: Server) -> None:
    """Without `if_busy` a prompt is refused as long as something waits."""
    busy(server)
    job = queue(server, "b")

    refused = server.generate("overtake")
    assert (refused.status, refused.json["code"]) == (409, "session_busy")
    server.stop()
    assert server.ended_job(job)["status"] == "completed"


def test_session_with_a_queue_is_deleted_by_force_only(server: Server) -> None:
    """Nothing of it runs afterwards."""
    busy(server)
    queue(server, "b")

    assert server.ask("DELETE", "/sessions/s").status == 409
    assert server.ask("DELETE", "/sessions/s?force=true").status == 200
    assert server.ask("GET", "/sessions/s/queue").json["code"] == "session_not_found"
    assert server.ask("GET", "/generate/v2/jobs").json["count"] == 0


def test_prompt_that_cannot_run_fails_and_the_next_one_runs(server: Server) -> None:
    """The directory has gone meanwhile: the job says so, and holds up nobody."""
    directory = server.workspace / "gone"
    directory.mkdir()
    server.start_job(script("hang"), cwd=str(directory))
    jobs = [queue(server, name) for name in ("b", "c")]
    shutil.rmtree(directory)
    server.stop()

    assert [server.ended_job(task_id)["status"] for task_id in jobs] == ["failed", "failed"]


def test_queue_waits_for_the_limit_of_turns(make_server: ServerMaker) -> None:
    """With one turn allowed at a time, a queue goes on when the turn of another session has ended."""
    server = make_server(MAX_CONCURRENT_TURNS="1")
    busy(server)
    job = queue(server, "b")
    server.kill9()
    server.start()
    server.stop()

    assert server.ended_job(job)["status"] == "completed"


def test_client_that_leaves_cancels_only_its_own_prompt(server: Server) -> None:
    """`on_disconnect: cancel` of a prompt that waits takes it out of the queue, and stops nothing."""
    running = busy(server)
    stream = server.generate("leaving", if_busy="queue", on_disconnect="cancel")
    task_id = stream.headers["X-Task-Id"]
    stream.close()

    wait_until(lambda: server.job(task_id)["status"] == "cancelled")
    assert server.job(running)["status"] == "running"


def test_steering_prompt_joins_the_turn(server: Server) -> None:
    """It is a user message in the log of the running job, the agent reads it, and there is one `done`."""
    running = busy(server, "await-steer", "say bye")
    stream = steer(server, "go left")
    events = stream.rest()

    assert stream.headers["X-Task-Id"] == running
    assert texts(events) == ["go left", "steered: go left", "bye"]
    assert [event.json["status"] for event in server.follow(running).rest() if event.type == "done"] == [
        "completed"
    ]


def test_steering_in_the_background_names_the_running_job(server: Server) -> None:
    """The answer names the job that it joined, which runs."""
    running = busy(server, "await-steer")
    accepted = steer(server, "go left", background=True).json

    assert (accepted["taskId"], accepted["status"]) == (running, "running")
    assert "steered: go left" in texts(server.follow(running).rest())


def test_same_message_steers_once(server: Server) -> None:
    """A client that repeats its request does not say it twice."""
    running = busy(server, "await-steer", "hang")
    for _ in range(3):
        assert steer(server, "go left", message_id="m-1", background=True).json["taskId"] == running
    server.follow(running).until(lambda event: b"steered: go left" in event.data)
    server.stop()

    assert texts(server.history()).count("go left") == 1


def test_same_message_does_not_begin_a_turn_later(server: Server) -> None:
    """A client that repeats its request when the turn has ended, and the server has died, gets that turn's job."""
    running = busy(server, "await-steer")
    steer(server, "go left", message_id="m-1", background=True).body()
    server.ended_job(running)
    server.kill9()
    server.start()

    for mode in ("reject", "queue", "steer"):
        assert server.generate("go left", if_busy=mode, message_id="m-1").headers["X-Task-Id"] == running
    assert server.ask("GET", "/generate/v2/jobs").json["count"] == 1


def test_steering_prompt_survives_a_killed_server(server: Server) -> None:
    """What was accepted is read by the agent once, though the server is killed at that moment."""
    running = busy(server, "sleep 0.5", "await-steer", "hang")
    steer(server, "go left", background=True)
    server.kill9()
    server.start()
    server.follow(running).until(lambda event: b"steered: go left" in event.data)
    server.stop()

    assert texts(server.history()).count("go left") == 1


def test_steering_prompt_of_a_dead_agent_is_next(server: Server) -> None:
    """The agent is killed before it has read what I added: it runs as the next job."""
    running = busy(server, "hang")
    agent = server.follow(running).until(lambda event: event.json.get("subtype") == "init").json["pid"]
    steer(server, "go left", background=True).body()
    os.kill(agent, signal.SIGKILL)
    server.ended_job(running)
    wait_until(lambda: server.ask("GET", "/generate/v2/jobs").json["count"] == 2)
    jobs = [job["taskId"] for job in server.ask("GET", "/generate/v2/jobs").json["jobs"]]

    assert texts(server.follow(next(job for job in jobs if job != running)).rest())[0] == "go left"


def test_steering_prompt_that_is_stopped_is_told_as_dropped(server: Server) -> None:
    """The stop was meant for it as well, and I see in the log that it was never read."""
    running = busy(server, "ignore-interrupt", "hang")
    steer(server, "go right", background=True).body()
    server.stop()
    events = server.follow(running).rest()
    (told,) = [event.json for event in events if event.type == "prompt_dropped"]

    assert told["uuid"] in [event.json.get("uuid") for event in events if "go right" in texts([event])]
    assert events[-1].json["status"] == "cancelled"


@pytest.mark.parametrize(
    ("option", "value"), [("model", "other"), ("effort", "low"), ("max_turns", 3), ("permission_mode", "ask")]
)
def test_steering_cannot_change_the_turn(server: Server, option: str, value: Any) -> None:
    """An option that differs from the running turn's is refused by its name, never ignored."""
    busy(server)
    refused = steer(server, "go left", **{option: value}).json

    assert (refused["code"], refused["details"][0]["path"]) == ("unsupported_option", option)


@pytest.mark.parametrize("value", ["later", 1, None, True])
def test_unknown_way_to_be_busy_is_refused(server: Server, value: Any) -> None:
    """The field is named."""
    refused = server.generate("hi", if_busy=value)

    assert (refused.status, refused.json["details"][0]["path"]) == (400, "if_busy")


def test_followers_may_come_at_the_moment_a_prompt_begins(server: Server) -> None:
    """Whenever a client asks for a queued job's stream, it gets the whole of it, to its end."""
    busy(server)
    jobs = [queue(server, f"prompt {number}") for number in range(12)]
    server.stop()
    streams = [server.follow(job) for job in jobs for _ in range(12)]

    assert [stream.rest()[-1].json["taskId"] for stream in streams] == [
        job for job in jobs for _ in range(12)
    ]


def test_queue_has_an_end(server: Server) -> None:
    """Prompts do not pile up without limit: one too many is refused, and taken when another one has left."""
    busy(server)
    jobs = [queue(server, "b") for _ in range(100)]
    refused = server.generate("c", if_busy="queue")

    assert (refused.status, refused.json["code"]) == (429, "queue_full")
    server.ask("DELETE", f"/sessions/s/queue/{jobs[0]}").body()
    queue(server, "c")
    assert len(waiting(server)) == 100


def test_queue_shows_how_prompts_begin(server: Server) -> None:
    """The list of what waits stays small, however long its prompts are."""
    busy(server)
    queue(server, "é" * 5000)
    (entry,) = server.ask("GET", "/sessions/s/queue").json["queue"]

    assert entry["prompt"] == "é" * 1000


def test_message_at_the_end_of_a_turn_is_answered_in_its_job(server: Server) -> None:
    """Whenever a message comes, the job that took it has its answer: the running one, or one of its own."""
    for number in range(40):
        text = f"message {number}."
        server.start_job(script("say working", "sleep 0.01"))
        job = steer(server, text, background=True).json["taskId"]
        assert texts(server.follow(job).rest()).count(text) == 2


@pytest.fixture
async def db(db: Database) -> Database:
    await db.write(lambda c: sessions.insert(c, ANN))
    return db


def prompt(name: str, message_id: str | None = None) -> QueuedPrompt:
    event = user_event(name, TurnId(name), None)
    return QueuedPrompt(TurnId(name), ANN.id, name, event, TurnOptions(), message_id, 1)


async def open_ann(db: Database, message_id: str | None = None) -> Turn:
    turn = replace(new_turn(ANN.id, TurnOptions(), message_id), first_seq=1)
    return await transactions.open_turn(db, ANN, turn, is_new_session=False, prompt=None, runner=None)


async def test_message_that_has_begun_is_not_queued_again(db: Database) -> None:
    """The same request twice at once: the first is a turn by the time the second would wait."""
    await open_ann(db, "m-1")

    with pytest.raises(MessageIdUsed):
        await db.write(lambda c: rows.append(c, prompt("again", "m-1")))


async def test_message_that_was_added_to_a_turn_begins_none(db: Database) -> None:
    """The same request twice at once: the turn that took the first has ended when the second comes to its own."""
    turn = await open_ann(db)
    message = server_chunk(turn, Source.USER, 1, [b"{}"])
    await transactions.add_to_turn(db, turn, message, "m-1")
    ended = replace(turn, status=TurnStatus.COMPLETED, finished_at=2, last_seq=2)
    done = server_chunk(turn, Source.SERVER, 2, [b"{}"])
    await transactions.close_turn(db, ended, done, runner_id=None, agent_state={})

    with pytest.raises(MessageIdUsed):
        await open_ann(db, "m-1")
    with pytest.raises(MessageIdUsed):
        await db.write(lambda c: rows.append(c, prompt("again", "m-1")))


async def test_unread_messages_are_next_when_their_turn_ends(db: Database) -> None:
    """They were said before what waits, and are kept with the end of the turn, or not at all."""
    turn = await open_ann(db)
    await db.write(lambda c: rows.append(c, prompt("c")))
    done = server_chunk(turn, Source.SERVER, 1, [b"{}"])
    ended = replace(turn, status=TurnStatus.COMPLETED, finished_at=2, last_seq=1)
    unread = [prompt("a"), prompt("b")]
    await transactions.close_turn(db, ended, done, runner_id=None, agent_state={}, unread=unread)

    assert [waiting.text for waiting in await rows.of_session(db, ANN.id)] == ["a", "b", "c"]
