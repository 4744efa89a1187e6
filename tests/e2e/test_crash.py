"""kill -9 at any time: of the server, a runner, an agent. What a client has seen stays, and the work goes on."""

from __future__ import annotations

import os
import signal
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from tests.kit import Event, Server, environ_of, is_alive, parent_of, script, wait_until


def committed(server: Server) -> int:
    """The highest seq in the database as a dead server has left it."""
    with closing(sqlite3.connect(server.database)) as db:
        return int(db.execute("SELECT coalesce(max(last_seq), 0) FROM events").fetchone()[0])


def test_kill_at_every_event_of_a_short_turn(server: Server) -> None:
    """Wherever in a turn the server is killed, before its first output or at its end, nothing I saw changes."""
    for position in range(1, 13):
        session = f"killed-at-{position}"
        with server.generate(script("rate 50 3 300", "say end"), session) as stream:
            task_id = stream.headers["X-Task-Id"]
            stream.take(position)
            server.kill9()
            seen = stream.rest()
        server.start()
        rest = server.follow(task_id, after=seen[-1].id).rest()

        assert [event.id for event in seen + rest] == list(range(1, 14)), position
        assert seen + rest == server.follow(task_id).rest()
        assert server.job(task_id)["status"] == "completed"


def test_killed_thirty_eight_times_in_one_turn(server: Server) -> None:
    """A job whose server is killed again and again: one agent, each event once, the same bytes for ever.

    Most of the kills come between the sending of an event and its commit.
    """
    with server.generate(script("rate 250 enough 300")) as stream:
        task_id = stream.headers["X-Task-Id"]
        agent = stream.until(lambda event: event.json.get("subtype") == "init").json["pid"]
        seen: list[Event] = list(stream.events)
    uncommitted_kills = 0
    for kill in range(38):
        with server.follow(task_id, after=seen[-1].id) as stream:
            stream.take(1 + 2 * kill)
            server.kill9()
            seen += stream.rest()
        uncommitted_kills += committed(server) < seen[-1].id
        server.start()
        assert is_alive(agent)
    (server.workspace / "enough").touch()
    seen += server.follow(task_id, after=seen[-1].id).rest()

    numbers = [event.json["n"] for event in seen if "n" in event.json]
    assert [event.id for event in seen] == list(range(1, len(seen) + 1))
    assert numbers == list(range(len(numbers)))
    assert seen == server.history()
    assert seen[-1].json["status"] == "completed"
    assert uncommitted_kills > 0


def ended_without_server(server: Server) -> str:
    """A job of 50 lines whose server was killed, and whose agent has finished since."""
    with server.generate(script("sleep 0.3", "lines 50 300")) as stream:
        task_id = stream.headers["X-Task-Id"]
        stream.until(lambda event: event.json.get("subtype") == "init")
        server.kill9()
    spool = next((server.directory / "state" / "runners").glob("*/out"))
    wait_until(lambda: b'"idle"' in spool.read_bytes())
    return task_id


def test_job_that_ends_while_there_is_no_server(server: Server) -> None:
    """The agent finishes between two servers: the next one finds its whole answer."""
    task_id = ended_without_server(server)
    server.start()
    events = server.follow(task_id).rest()

    assert [event.json["n"] for event in events if "n" in event.json] == list(range(50))
    assert events[-1].json["status"] == "completed"


def test_turn_that_ended_in_time_while_there_was_no_server(server: Server) -> None:
    """When the next server comes its time would be over, but its agent was done before: it has completed."""
    task_id = ended_without_server(server)
    server.settings["TURN_TIMEOUT"] = "0.1"
    server.start()

    assert server.ended_job(task_id)["status"] == "completed"


def test_killed_agent_is_reported(server: Server) -> None:
    """The agent is killed: its job fails with the reason, its children are gone, the session goes on."""
    with server.generate(script("say first", "child setsid", "hang")) as stream:
        child = stream.until(lambda event: event.type == "fake").json["pid"]
        agent = next(event.json["pid"] for event in stream.events if event.json.get("subtype") == "init")
        os.kill(agent, signal.SIGKILL)
        events = stream.rest()

    assert events[-1].json["status"] == "failed"
    assert "SIGKILL" in events[-1].json["error"] or "signal 9" in events[-1].json["error"]
    assert not is_alive(child)
    assert server.generate("again").rest()[-1].json["status"] == "completed"


def test_killed_runner_takes_its_agent_along(server: Server) -> None:
    """The runner is killed: its job ends within 5 s with the reason, its agent's tree is gone, the session goes on."""
    with server.generate(script("say first", "child daemon", "hang")) as stream:
        child = stream.until(lambda event: event.type == "fake").json["pid"]
        agent = next(event.json["pid"] for event in stream.events if event.json.get("subtype") == "init")
        os.kill(parent_of(agent), signal.SIGKILL)
        events = stream.rest()

    assert events[-1].json["status"] in {"failed", "interrupted"}
    assert "runner" in events[-1].json["error"]
    assert (is_alive(agent), is_alive(child)) == (False, False)
    assert server.generate("again").rest()[-1].json["status"] == "completed"


def test_runner_killed_between_two_servers(server: Server) -> None:
    """Server and runner are both killed: the next server keeps the events and closes the job as interrupted."""
    with server.generate(script("say first", "hang")) as stream:
        task_id = stream.headers["X-Task-Id"]
        said = stream.until(lambda event: event.type == "assistant")
        agent = next(event.json["pid"] for event in stream.events if event.json.get("subtype") == "init")
        runner = parent_of(agent)
        server.kill9()
        os.kill(runner, signal.SIGKILL)
    server.start()
    events = server.follow(task_id).rest()

    assert said in events
    assert events[-1].json["status"] == "interrupted"
    assert not is_alive(agent)
    assert server.generate("again").rest()[-1].json["status"] == "completed"


def test_question_whose_agent_has_left_nothing_is_cancelled(server: Server) -> None:
    """What its runner had is gone with it: the job is interrupted, and the log says that nobody waits for an answer."""
    task_id = server.start_job(script('ask 2 Bash {"command": "ls"}'), permission_mode="ask")
    server.follow(task_id).until(lambda event: event.type == "permission_request")
    wait_until(lambda: server.ask("GET", "/permissions").json["count"] == 2)
    runners = server.processes()
    server.kill9()
    for pid in runners:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    next((server.directory / "state/runners").glob("*/out")).unlink()
    server.start()
    events = server.follow(task_id).rest()

    assert events[-1].json["status"] == "interrupted"
    told = [event.json["decision"] for event in events if event.type == "permission_resolved"]
    assert told == ["cancelled"] * sum(event.type == "permission_request" for event in events)


def test_runner_that_comes_to_life_when_its_server_is_gone(server: Server) -> None:
    """A runner that a server since killed has asked for comes too late: another agent has the prompt, and only that."""
    wait_until(lambda: spare_of(server))
    (spare,) = spare_of(server)
    os.kill(spare, signal.SIGSTOP)
    task_id = server.start_job(script("say in time"))
    server.kill9()
    server.start()
    assert server.ended_job(task_id)["status"] == "completed"
    runners = server.directory / "state" / "runners"
    (its_runner,) = runners.iterdir()
    os.kill(spare, signal.SIGCONT)

    wait_until(lambda: not is_alive(spare))
    assert list(runners.iterdir()) == [its_runner]
    assert [event.type for event in server.follow(task_id).rest()].count("assistant") == 1


def test_prompts_that_no_agent_has_had_are_worked_on_by_the_next_server(server: Server) -> None:
    """Killed between "accepted" and the start of the agents, of which the zygote has not even heard."""
    wait_until(lambda: spare_of(server))
    (spare,) = spare_of(server)
    unable = (parent_of(spare), spare)
    for pid in unable:
        os.kill(pid, signal.SIGSTOP)
    tasks = [server.start_job(script(f"say number {number}"), f"s{number}") for number in range(5)]
    server.kill9()
    for pid in unable:
        os.kill(pid, signal.SIGKILL)
    server.start()

    for number, task_id in enumerate(tasks):
        assert server.ended_job(task_id)["status"] == "completed"
        said = [event.data for event in server.follow(task_id).rest() if event.type == "assistant"]
        assert [f"number {number}".encode() in data for data in said] == [True]


def spare_of(server: Server) -> list[int]:
    """The process that waits to be a runner: the zygote's child."""
    return [pid for pid in server.processes() if parent_of(parent_of(pid)) == server.pid]


def spoil(directory: Path) -> None:
    """Put named pipes in the place of all files, as an agent could: who reads one waits for ever."""
    directory.mkdir(exist_ok=True)
    for name in ("out", "meta", "exit", "sock", "ring", "info"):
        (directory / name).unlink(missing_ok=True)
        os.mkfifo(directory / name)


def test_an_agent_that_spoils_its_files_harms_itself_alone(server: Server) -> None:
    """Whatever it leaves where runners have their files, the next server starts, and other sessions go on."""
    jobs, cookies = {}, {}
    for session in ("spoiled", "other"):
        with server.generate(script("hang"), session) as stream:
            jobs[session] = stream.headers["X-Task-Id"]
            pid = stream.until(lambda event: event.json.get("subtype") == "init").json["pid"]
            cookies[session] = next(
                entry for entry in environ_of(pid) if entry.startswith(b"AGENTSRV_RUNNER=")
            )
    server.kill9()
    runners, terminals = server.directory / "state/runners", server.directory / "state/terminals"
    terminals.mkdir(exist_ok=True)
    for directory in (
        runners / cookies["spoiled"].decode().partition("=")[2],
        runners / "stray",
        terminals / "stray",
    ):
        spoil(directory)
    for name in (b"file", b"\xff"):
        for directory in (runners, terminals):
            Path(os.fsdecode(os.fsencode(directory) + b"/" + name)).touch()
    server.start()

    assert server.job(jobs["spoiled"], wait_s=20)["status"] == "interrupted"
    assert server.job(jobs["other"])["status"] == "running"
    assert server.stop("other").status == 200
