"""What every agent does behind this server: one suite, with the real programs and a scripted model behind each.

Who drives one agent can drive the others. What only one of them does is in tests/e2e/test_<agent>.py.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agentsrv.agents.acp.known import KNOWN
from agentsrv.config import Config
from agentsrv.services import make_agents
from agentsrv.threads import Threads
from tests.conformance.dialects import AGENTS, Dialect
from tests.conformance.kit import Session
from tests.fakes.scripted import ScriptedApi, serve_in_thread
from tests.kit import KEY, Server, is_alive, script, wait_until
from tests.pictures import PNG

MCP_ASKS = Path(__file__).parents[1] / "fakes" / "mcp_asks.py"

WHO = ("-c", "user.name=I", "-c", "user.email=i@example.org")
NOBODY = "http://127.0.0.1:9"
"""The URL of no model."""
UNTIL_GO = "touch begun; until [ -e go ]; do sleep 0.05; done"
"""A command that runs until the test makes the file `go`."""


@pytest.fixture(scope="module", params=AGENTS)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return AGENTS[request.param]


@pytest.fixture(scope="module")
def api(dialect: Dialect) -> Iterator[ScriptedApi[Any]]:
    with serve_in_thread(dialect.api()) as api:
        yield api


@pytest.fixture(scope="module")
def program(request: pytest.FixtureRequest, dialect: Dialect) -> Path:
    path: Path = request.getfixturevalue(dialect.program)
    return path


@pytest.fixture(scope="module")
def new_session(
    dialect: Dialect,
    api: ScriptedApi[Any],
    program: Path,
    tmp_path_factory: pytest.TempPathFactory,
    server_type: type[Server],
) -> Iterator[Callable[..., Session]]:
    """`new_session(NAME=value)`: on a server of its own, with other settings or another model API.

    `run`: what a shell does in place of the program, with that as `$program`.
    """
    servers: list[Server] = []

    def make(url: str = api.url, run: str = "", **settings: str) -> Session:
        directory = tmp_path_factory.mktemp("server")
        path = wrapped(program, run, directory) if run else program
        its_own = dialect.settings(path, url, directory / "agent")
        server = server_type(directory, path, its_own | settings)
        servers.append(server)
        return Session("first", server.start(), dialect, api, path).in_directory()

    yield make
    for server in servers:
        server.close()


def wrapped(program: Path, run: str, directory: Path) -> Path:
    path = directory / program.name
    path.write_text(f'#!/bin/sh\nprogram={program}\n[ "$1" = --version ] && exec "$program" "$@"\n{run}\n')
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def failing(dialect: Dialect, new_session: Callable[..., Session]) -> dict[str, tuple[Session, str]]:
    """Jobs that are going to fail, by the code of their error. They begin at once: agents try for long.

    Whoever runs other tests of this module in another process does not pay for them.
    """
    steps = {
        "agent_not_authenticated": "error 401",
        "agent_rate_limited": "error 429",
        "agent_api_error": "error 500",
        "context_too_long": dialect.too_long,
    }
    alone = new_session(NOBODY)
    jobs = {"agent_api_unreachable": (alone, alone.start("hello"))}
    one = new_session(**dialect.hurry)
    for code, step in steps.items():
        session = one.beside(code)
        jobs[code] = (session, session.start(script(step)))
    return jobs


@pytest.fixture(scope="module")
def server(new_session: Callable[..., Session]) -> Server:
    """One for all tests, in which each has a session of its own. It outlives its own death."""
    return new_session().server


@pytest.fixture
def session(
    request: pytest.FixtureRequest, server: Server, dialect: Dialect, api: ScriptedApi[Any], program: Path
) -> Iterator[Session]:
    """A new session. It and those beside it are gone afterwards, with their agents."""
    if not is_alive(server.pid):
        server.start()
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_")).strip("-")
    yield Session(name, server, dialect, api, program).in_directory()
    for view in server.ask("GET", "/sessions").json["sessions"]:
        server.ask("DELETE", f"/sessions/{view['id']}?force=true").close()


def test_suite_has_every_agent() -> None:
    """An agent that the server has passes this suite, or that of those which speak ACP."""
    config = Config.from_env({"HOME": "/", "API_KEY": KEY})

    assert make_agents(config, Threads()).names() == [*AGENTS, *(known.name for known in KNOWN)]


# What it says and does


def test_answer(session: Session) -> None:
    """I ask, and read the answer."""
    turn = session.turn("text Hello there")

    assert (turn.text, turn.status, turn.job["status"]) == ("Hello there", "completed", "completed")


def test_prompt_reaches_the_model_byte_for_byte(session: Session) -> None:
    """What I type is what the model reads: quotes, control characters, things that look like options."""
    text = "--resume x\n$(id) \t \u2028 \U0001f600 \x1b[31m \\n \" ' </system-reminder>\r\n  end  "
    turn = session.ended(session.send(text))

    assert turn.events[0].json["message"]["content"][0]["text"] == text
    assert text in session.calls[0].user_texts


def test_deltas_come_when_wanted(session: Session) -> None:
    """Text comes as it is written only with partial_messages; the whole message comes always."""
    without = session.turn("deltas 5 0.01")
    with_deltas = session.turn("deltas 5 0.01", partial_messages=True)

    assert (without.deltas, "".join(with_deltas.deltas)) == ([], with_deltas.text)
    assert len(with_deltas.deltas) == 5
    assert without.text == with_deltas.text == "".join(f"delta {n} " for n in range(5))


def test_command(session: Session) -> None:
    """It runs a command in the session's directory: I see the output, and so does the model."""
    turn = session.turn("bash echo from-$(basename $PWD)", "text done")

    (command,) = turn.commands
    assert (command.output.strip(), command.is_failed) == (f"from-{session.id}", False)
    assert f"from-{session.id}" in session.known
    assert (turn.text, turn.status) == ("done", "completed")


def test_failing_command_is_the_agents_affair(session: Session) -> None:
    """A command fails: I see that and what it said, and the turn goes on."""
    turn = session.turn("bash echo trouble; exit 3", "text it failed")

    (command,) = turn.commands
    assert (command.is_failed, "trouble" in command.output) == (True, True)
    assert (turn.text, turn.status) == ("it failed", "completed")


def test_file_edit(session: Session) -> None:
    """It writes a file and edits it: the file is there, in the session's directory."""
    turn = session.turn("write notes.txt one", "edit notes.txt one two", "text done")

    assert (session.directory / "notes.txt").read_text().strip() == "two"
    assert (turn.text, turn.status) == ("done", "completed")


def test_image_reaches_the_model(session: Session) -> None:
    """The model sees the picture that comes with my prompt."""
    session.turn("text seen", images=["data:image/png;base64," + b64encode(PNG).decode()])

    assert session.calls[0].images == [("image/png", PNG)]


def test_second_prompt_goes_on_in_the_same_process(session: Session) -> None:
    """The session remembers, and costs no new process."""
    session.turn("text first-answer")
    agent = session.agent
    turn = session.turn("text second-answer")

    assert (turn.text, session.agent) == ("second-answer", agent)
    assert "first-answer" in session.known


# Options


def test_options_reach_the_model(session: Session) -> None:
    """Model, effort and instructions of my request are those of the call to the model."""
    model = session.dialect.models[0]
    session.turn("text ok", model=model, effort="high", system_prompt="Always answer in verse.")

    call = session.calls[0]
    assert (call.model, call.effort) == (model, "high")
    assert "Always answer in verse." in call.instructions


def test_output_schema(session: Session) -> None:
    """With an output schema the model is told so, and the job holds an object that fits it."""
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    turn = session.turn(*session.dialect.structured('{"n": 5}'), output_schema=schema)

    assert session.calls[0].output_schema["properties"] == schema["properties"]
    assert turn.job["structuredOutput"] == {"n": 5}


def test_options_may_change_between_turns(session: Session) -> None:
    """The second prompt names another model and effort: it gets them, and the conversation goes on."""
    first, second = session.dialect.models
    session.turn("text first-answer", model=first, effort="low")
    session.turn("text second-answer", model=second, effort="high")

    calls = [(call.model, call.effort) for call in session.calls]
    assert (calls[0], calls[-1]) == ((first, "low"), (second, "high"))
    assert "first-answer" in session.known


# Stop


def test_stop_ends_text(session: Session) -> None:
    """I stop it while it talks: the job is cancelled, and the session goes on and knows what was asked."""
    with session.prompt("deltas 500 0.05", partial_messages=True) as stream:
        stream.until(session.has_written("delta 3 "))
        assert session.stop() == 200
        turn = session.ended(stream)

    assert turn.status == "cancelled"
    assert session.turn("text still here").text == "still here"
    assert "deltas 500" in session.known


def test_stop_ends_the_command_too(session: Session) -> None:
    """I stop it in a command: that and what it has started are gone, and the next prompt is answered."""
    command = "setsid sleep 100 & echo $! > child.pid; echo $$ > shell.pid; sleep 1; sleep 100"
    with session.prompt(f"bash {command}", "text never") as stream:
        pids = [session.pid(name) for name in ("child.pid", "shell.pid")]
        assert session.stop() == 200
        turn = session.ended(stream)

    assert [is_alive(pid) for pid in pids] == [False, False]
    assert turn.status == "cancelled"
    assert session.turn("text still here").text == "still here"


# What is lost, and what is not


@pytest.mark.parametrize("process", ["agent", "runner"])
def test_killed_process_is_reported_and_the_conversation_resumed(session: Session, process: str) -> None:
    """The agent or its runner is killed in a command: the job says so, the next prompt goes on from there."""
    session.turn("text remember-this")
    with session.prompt("bash echo $$ > shell.pid; sleep 100") as stream:
        shell = session.pid("shell.pid")
        os.kill(getattr(session, process), signal.SIGKILL)
        turn = session.ended(stream)

    expected = ("failed", "agent_exited") if process == "agent" else ("interrupted", "runner_lost")
    assert (turn.error, is_alive(shell)) == (expected, False)
    assert session.turn("text resumed").text == "resumed"
    assert "remember-this" in session.known


def test_killed_server_does_not_disturb_the_agent(session: Session) -> None:
    """kill -9 of the server while the agent writes: the same agent goes on, I miss nothing and see nothing twice."""
    with session.prompt("deltas 60 0.03", partial_messages=True) as stream:
        task_id = stream.headers["X-Task-Id"]
        stream.until(session.has_written("delta 9 "))
        agent = session.agent
        session.server.kill9()
        seen = stream.rest()
    session.server.start()
    rest = session.server.follow(task_id, after=seen[-1].id).rest()

    assert seen + rest == session.server.follow(task_id).rest()
    assert "".join(session.dialect.deltas(seen + rest)) == "".join(f"delta {n} " for n in range(60))
    assert (rest[-1].json["status"], len(session.calls)) == ("completed", 1)
    assert session.turn("text still here", partial_messages=True).text == "still here"
    assert session.agent == agent


def test_killed_server_leaves_the_idle_agent_warm(session: Session) -> None:
    """kill -9 of the server between two prompts: the next server goes on with the same process."""
    session.turn("text first-answer")
    agent = session.agent
    session.server.kill9()
    session.server.start()

    assert (session.turn("text second-answer").text, session.agent) == ("second-answer", agent)


def test_conversation_outlives_server_and_agent(session: Session) -> None:
    """Server and agent are ended between two prompts: the session still remembers."""
    session.turn("text remember-this")
    session.restart_all()

    assert session.turn("text resumed").text == "resumed"
    assert "remember-this" in session.known


# Permissions


def test_what_is_allowed_is_done(session: Session) -> None:
    """In the mode `ask` it asks before it changes a file; I allow it, and the file is there."""
    with session.prompt("write notes.txt one", "text done", permission_mode="ask") as stream:
        question = session.asked(stream)
        assert session.pending() == [question["requestId"]]
        assert not (session.directory / "notes.txt").exists()
        session.answer(question, "allow")
        turn = session.ended(stream)

    assert (session.directory / "notes.txt").read_text().strip() == "one"
    assert (turn.decisions, turn.text, turn.status) == (["allow"], "done", "completed")


def test_what_is_denied_is_not_done(session: Session) -> None:
    """I deny a command with words: it does not run, and the model reads my words and goes on."""
    with session.prompt(
        session.dialect.beyond("touch denied"), "text as you like", permission_mode="ask"
    ) as stream:
        session.answer(session.asked(stream), "deny", message="Not in this house.")
        turn = session.ended(stream)

    assert not (session.directory / "denied").exists()
    assert "Not in this house." in session.known
    assert (turn.decisions, turn.text, turn.status) == (["deny"], "as you like", "completed")


def test_what_nobody_answers_is_not_done(new_session: Callable[..., Session]) -> None:
    """Nobody answers in time: it is not done, the model learns why, and the turn goes on."""
    session = new_session(PERMISSION_TIMEOUT="1")
    turn = session.turn(session.dialect.beyond("touch denied"), "text as you like", permission_mode="ask")

    assert not (session.directory / "denied").exists()
    assert "nobody answered in time" in session.known
    assert (turn.decisions, turn.text, turn.status) == (["timed_out"], "as you like", "completed")


def test_question_survives_a_killed_server(session: Session) -> None:
    """The server is killed while a question waits: the next one has the question, and passes on my answer."""
    with session.prompt(
        session.dialect.beyond("touch allowed"), "text done", permission_mode="ask"
    ) as stream:
        question = session.asked(stream)
        session.server.kill9()
    session.server.start()

    assert session.pending() == [question["requestId"]]
    session.answer(question, "allow")
    turn = session.whole(question["taskId"])
    assert (session.directory / "allowed").exists()
    assert (turn.decisions, turn.text, turn.status) == (["allow"], "done", "completed")


def test_what_is_allowed_for_the_session_is_not_asked_again(session: Session) -> None:
    """Allowed once for the session, the same command is not asked for again: nor by another process, later."""
    step = session.dialect.beyond("touch again")
    with session.prompt(step, step, "text done", permission_mode="ask") as stream:
        session.answer(session.asked(stream), "allow", remember="session")
        first = session.ended(stream)
    session.restart_all()
    (session.directory / "again").unlink()
    second = session.turn(step, "text done", permission_mode="ask")

    assert set(first.decisions + second.decisions) == {"allow"}
    assert (first.status, second.status) == ("completed", "completed")
    assert (session.directory / "again").exists()


def test_stop_ends_a_turn_that_waits_for_leave(session: Session) -> None:
    """I stop the turn instead of answering: nothing is done, and the next prompt is answered."""
    with session.prompt(session.dialect.beyond("touch denied"), permission_mode="ask") as stream:
        session.asked(stream)
        assert session.stop() == 200
        turn = session.ended(stream)

    assert (turn.decisions, turn.status, session.pending()) == (["cancelled"], "cancelled", [])
    assert not (session.directory / "denied").exists()
    assert session.turn("text still here").text == "still here"


def test_several_questions_wait_at_once(session: Session) -> None:
    """It asks for two things at once: I see both, and answer them in any order and differently."""
    steps, options = session.dialect.two_beyond(), {"model": session.dialect.models[0]}
    with session.prompt(*steps, "text done", permission_mode="ask", **options) as stream:
        first, second = session.asked(stream), session.asked(stream)
        assert sorted(session.pending()) == sorted([first["requestId"], second["requestId"]])
        session.answer(second, "deny", message="Not this one.")
        session.answer(first, "allow")
        turn = session.ended(stream)

    assert (turn.decisions, turn.text, turn.status) == (["deny", "allow"], "done", "completed")
    assert "Not this one." in session.known


def test_question_to_the_user(session: Session) -> None:
    """It asks me something: my answer reaches the model."""
    step = session.dialect.question("Which colour?", "red", "blue")
    options = {"model": session.dialect.models[0], "permission_mode": "ask"}
    with session.prompt(step, "text I see", **options) as stream:
        asked = session.asked(stream)
        (entry,) = asked["input"]["questions"]
        session.answer(asked, "allow", updatedInput={"answers": {entry["id"]: "blue"}})
        turn = session.ended(stream)

    assert (asked["kind"], entry["question"]) == ("question", "Which colour?")
    assert [option["label"] for option in entry["options"]] == ["red", "blue"]
    assert "blue" in session.known.rpartition("Which colour?")[2]
    assert (turn.text, turn.status) == ("I see", "completed")


# Modes


def test_accept_edits_edits_unasked(session: Session) -> None:
    """In the mode `accept_edits` it writes and edits files of its directory without a question."""
    turn = session.turn("write notes.txt one", "edit notes.txt one two", permission_mode="accept_edits")

    assert (turn.questions, turn.status) == ([], "completed")
    assert (session.directory / "notes.txt").read_text().strip() == "two"


def test_plan_mode_changes_no_file(session: Session) -> None:
    """In the mode `plan` a file is not written, whatever the model tries."""
    with session.prompt("write notes.txt one", "text done", permission_mode="plan") as stream:
        turn = session.answered(stream, "deny")

    assert turn.status == "completed"
    assert list(session.directory.iterdir()) == []


def test_mode_may_change_between_turns(session: Session) -> None:
    """Each prompt has the mode that it names, in the same conversation and without a trace of the one before."""
    asked = []
    for number, mode in enumerate(("ask", "bypass", "accept_edits", "ask")):
        with session.prompt(f"write {number}.txt one", "text done", permission_mode=mode) as stream:
            asked.append(len(session.answered(stream, "allow").questions))

    assert asked == [1, 0, 0, 1]
    assert len(list(session.directory.iterdir())) == 4
    assert "0.txt" in session.known


# While a turn runs


def test_steering_joins_running_text(session: Session) -> None:
    """I add a word while it talks: it finishes, reads that and answers it, in the same job."""
    with session.prompt("deltas 30 0.03", partial_messages=True) as stream:
        stream.until(session.has_written("delta 3 "))
        joined = session.start(script("text I turn left"), if_busy="steer", partial_messages=True)
        turn = session.ended(stream)

    assert joined == turn.job["taskId"]
    assert turn.text.endswith("I turn left")
    assert turn.status == "completed"


def test_steering_joins_a_running_command(session: Session) -> None:
    """I add a word while a command runs: the model reads it with the command's end, in the same job."""
    with session.prompt(f"bash {UNTIL_GO}", "text on we go") as stream:
        wait_until((session.directory / "begun").exists)
        joined = session.start("I mean the other left", if_busy="steer")
        (session.directory / "go").touch()
        turn = session.ended(stream)

    assert joined == turn.job["taskId"]
    assert (turn.text, turn.status) == ("on we go", "completed")
    assert "I mean the other left" in session.known


@pytest.mark.parametrize("delta", range(4))
def test_late_steering_is_not_lost(session: Session, delta: int) -> None:
    """A word that comes as the turn ends is read once: in that turn, or in one of its own."""
    with session.prompt("deltas 4 0.01", partial_messages=True) as stream:
        stream.until(session.has_written(f"delta {delta} "))
        session.start(script("text a late word"), if_busy="steer", partial_messages=True)
        session.ended(stream)

    wait_until(lambda: "a late word" in session.said, what="an answer")
    assert {job["status"] for job in session.ended_jobs()} == {"completed"}
    assert session.said.count("a late word") == 1


@pytest.mark.parametrize("end", ["killed", "too long", "stopped"])
def test_what_was_not_read_is_not_lost(new_session: Callable[..., Session], end: str) -> None:
    """The agent dies, or its time is over, before its model has read what I added: it reads that next. When I stop
    it, I am told what was dropped.
    """
    session, words = new_session(TURN_TIMEOUT="15" if end == "too long" else "600"), ("pear", "quince")
    with session.prompt(f"bash {UNTIL_GO}", f"bash {UNTIL_GO}", "text one") as stream:
        wait_until((session.directory / "begun").exists)
        for word in words:
            session.start(script(f"text {word}"), if_busy="steer")
        if end == "killed":
            os.kill(session.agent, signal.SIGKILL)
        elif end == "stopped":
            session.stop()
        first = session.ended(stream)
    session.ended_jobs()
    if end == "killed":
        # Of what it had taken, and its model had not read yet, it knows when it goes on.
        session.server.ended_job(session.start(script("text after"), if_busy="queue"))
    dropped = [event.json["uuid"] for event in first.events if event.type == "prompt_dropped"]
    told = [event for event in first.events if event.type == "user" and event.json["uuid"] in dropped]
    # Codex lets its model read while a command runs.
    read = "".join(call.conversation for call in session.calls)

    if first.status == "cancelled":
        assert (end, len(session.ended_jobs())) == ("stopped", 1)
    else:
        assert dropped == []
    for word in words:
        assert word in read or any(word in str(event.json) for event in told)


def test_queued_prompts_run_one_after_the_other(session: Session) -> None:
    """Prompts that I queue behind a running turn are jobs that run in their order, and each knows the last."""
    with session.prompt(f"bash {UNTIL_GO}", "text one") as stream:
        wait_until((session.directory / "begun").exists)
        jobs = [session.start(script(f"text {word}"), if_busy="queue") for word in ("two", "three")]
        (session.directory / "go").touch()
        first = session.ended(stream)

    turns = [first, *map(session.whole, jobs)]
    assert [turn.text for turn in turns] == ["one", "two", "three"]
    assert '"two"' in session.known


# Trouble


def test_errors_of_the_model_api_are_told(failing: dict[str, tuple[Session, str]]) -> None:
    """A refused key, a limit, a broken server, a long prompt, nobody there: each has its code."""
    errors = {code: session.whole(task_id).error for code, (session, task_id) in failing.items()}

    assert errors == {code: ("failed", code) for code in failing}


def test_unreachable_model_api_is_told_soon(failing: dict[str, tuple[Session, str]]) -> None:
    """Nobody answers at the model API's address: the job fails within a minute, instead of never."""
    session, task_id = failing["agent_api_unreachable"]
    times = [session.whole(task_id).job[name] for name in ("startedAt", "finishedAt")]
    started, finished = map(datetime.fromisoformat, times)

    assert finished - started < timedelta(seconds=60)


def test_session_goes_on_after_an_error(failing: dict[str, tuple[Session, str]]) -> None:
    """The model API is well again: the next prompt is answered."""
    session, task_id = failing["agent_api_error"]
    session.whole(task_id)

    assert session.turn("text again").text == "again"


def test_hiccup_of_the_model_api_is_waited_for(session: Session) -> None:
    """The model API fails once: the agent tries again, and the job is completed."""
    turn = session.turn("error 500 1", "text recovered")

    assert (turn.text, turn.status) == ("recovered", "completed")


# What is not trusted


@pytest.mark.parametrize("mode", ["ask", "plan", "accept_edits"])
def test_hostile_repository_runs_nothing_before_i_am_asked(session: Session, mode: str) -> None:
    """Its hooks, helpers, servers, skills and variables do not count in modes that ask, and its rules allow nothing."""
    mark = session.directory / "ran"
    session.dialect.plant(session.directory, f"touch {mark}")
    session.dialect.redirect(session.directory, NOBODY)
    steps = (*session.dialect.lures, session.dialect.beyond("touch unasked"), "text done")
    turn = session.answered(session.prompt(*steps, permission_mode=mode), "deny")

    assert turn.status == "completed"
    assert not mark.exists()
    # The CLI takes making a file for an edit.
    assert mode == "accept_edits" or not (session.directory / "unasked").exists()


@pytest.mark.parametrize("place", ["", "sub"])
@pytest.mark.parametrize("use_worktree", [False, True])
def test_what_counted_in_bypass_counts_in_no_other_mode(
    session: Session, place: str, use_worktree: bool
) -> None:
    """A turn that may do everything leaves no trust behind: not for what is below, and not for a worktree."""
    mark = session.directory / "ran"
    session.dialect.plant(session.directory, f"touch {mark}")
    (session.directory / "sub").mkdir()
    (session.directory / "sub" / "file").touch()
    for command in (("init", "-q"), ("add", "--force", "--all"), ("commit", "-qm", "all")):
        subprocess.run(["git", "-C", session.directory, *WHO, *command], check=True)
    session.turn("text hello", permission_mode="bypass")
    has_counted = mark.exists()
    mark.unlink(missing_ok=True)
    body = {"cwd": str(session.directory / place), "agent": session.dialect.name}
    options = {"permission_mode": "ask", "use_worktree": use_worktree}
    with session.server.generate(script("text hello"), f"{session.id}-2", **body, **options) as stream:
        assert stream.rest()[-1].json["status"] == "completed"

    assert (has_counted, mark.exists()) == (True, False)


def test_trusted_repository_counts_in_every_mode(session: Session) -> None:
    """I have read what is in it and say so: its settings are in force when I am asked, too."""
    mark = session.directory / "ran"
    session.dialect.plant(session.directory, f"touch {mark}")
    body = {"sessionId": session.id, "agent": session.dialect.name, "cwd": str(session.directory)}
    made = session.server.ask("POST", "/sessions", body | {"trust_repository": True})
    session.answered(session.prompt("text hello", permission_mode="ask"), "deny")

    assert (made.status, made.json["settingSources"]) == (201, ["user", "project", "local"])
    assert mark.exists()


# What is not done is not called done


def test_wanted_output_that_is_wrong_or_missing_fails_the_job(session: Session) -> None:
    """I asked for a number: a text in its place, or nothing, is no success."""
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    right = session.turn(*session.dialect.structured('{"n": 5}'), output_schema=schema)
    wrong = session.turn(*session.dialect.structured('{"n": "text"}'), output_schema=schema)
    missing = session.turn("text no", output_schema=schema)

    assert (right.status, right.job["structuredOutput"]) == ("completed", {"n": 5})
    for turn in (wrong, missing):
        assert turn.error[1] in {"structured_output_invalid", "structured_output_missing"}
        assert "structuredOutput" not in turn.job


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("echo not today >&2; exit 2", "prompt_blocked"),
        ("""echo '{"decision": "block", "reason": "not today"}'""", "prompt_blocked"),
        ("""echo '{"continue": false, "stopReason": "not today"}'""", "stopped_by_hook"),
        ("true", None),
    ],
)
def test_prompt_that_a_hook_blocks_is_not_called_done(
    new_session: Callable[..., Session], command: str, code: str | None
) -> None:
    """The model has not seen it: the job says so, and why. A hook that lets it through changes nothing."""
    session = new_session()
    own = session.server.directory / "agent"
    session.dialect.hook_prompts(session.program, session.server.home, own, command)
    turn = session.turn("text done")

    if code is None:
        assert (turn.text, turn.status) == ("done", "completed")
    else:
        assert turn.error == ("failed", code)
        assert "not today" in turn.job["error"]
        assert session.calls == []


def nothing(record: bytes) -> bytes:
    return b""


def zeros(record: bytes) -> bytes:
    """What a power loss leaves."""
    return bytes(len(record))


def beginning(record: bytes) -> bytes:
    """Before anything was said."""
    return b"".join(record.splitlines(keepends=True)[:2])


def torn(record: bytes) -> bytes:
    return record[:200] + bytes(len(record) - 200)


def other(record: bytes) -> bytes:
    return b"{}\nnot a record\n"


def lose_conversation(session: Session, leave: Callable[[bytes], bytes] | None = None) -> None:
    """The agent's process ends, and its record of the session is removed, or only `leave` is left of it."""
    pid, runner = session.agent, session.runner
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid) and not is_alive(runner))
    name = session.server.ask("GET", f"/sessions/{session.id}").json["internalSessionId"]
    records = list(session.server.directory.rglob(f"*{name}.jsonl"))
    assert records
    for record in records:
        if leave is None:
            record.unlink()
        else:
            record.write_bytes(leave(record.read_bytes()))


@pytest.mark.parametrize("leave", [None, nothing, zeros, beginning, torn, other])
def test_lost_conversation_is_told_before_anything_happens(
    session: Session, leave: Callable[[bytes], bytes] | None
) -> None:
    """My agent's record is gone, or nothing of what was said is in it: it would know nothing. I am asked what to do,
    and what is done is in the log.
    """
    session.turn("text the word is plum")
    lose_conversation(session, leave)
    refused = session.prompt("text never")
    again = session.turn("text new", if_lost="restart")

    assert (refused.status, refused.json["code"]) == (409, "conversation_lost")
    assert (again.text, "plum" in session.known) == ("new", False)
    assert [event.json.get("if_lost") for event in again.events if event.type == "system"][:1] == ["restart"]
    assert session.turn("text on").status == "completed"


def test_record_that_is_old_or_torn_at_its_end_is_kept(session: Session) -> None:
    """Another session begins months later, and the last line was not written whole: nothing is lost."""
    session.turn("text the word is plum")
    lose_conversation(session, lambda record: record[:-40])
    name = session.server.ask("GET", f"/sessions/{session.id}").json["internalSessionId"]
    (record,) = session.server.directory.rglob(f"*{name}.jsonl")
    os.utime(record, (1_000_000_000, 1_000_000_000))
    session.beside(f"{session.id}-2").turn("text hello")

    assert session.turn("text on").status == "completed"
    assert "plum" in session.known


def test_lost_conversation_is_rebuilt_from_the_log(session: Session) -> None:
    """With `rebuild` the agent is told what we said before."""
    session.turn("text the word is plum")
    lose_conversation(session)
    again = session.turn("text new", if_lost="rebuild")

    assert again.text == "new"
    assert "Assistant: the word is plum" in session.known


def test_conversation_goes_on_in_a_renamed_directory(session: Session) -> None:
    """I rename the directory and tell the session: its agent works in the new one, and knows what was said."""
    session.turn("text the word is plum")
    moved = session.directory.rename(session.directory.with_name(f"{session.id}-renamed"))
    refused = session.server.generate("hello", session.id)
    session.server.ask("PUT", f"/sessions/{session.id}", {"cwd": str(moved)}).close()
    again = session.ended(session.server.generate(script("bash pwd", "text on"), session.id))

    assert refused.status == 400
    assert [command.output.strip() for command in again.commands] == [str(moved)]
    assert (again.text, "plum" in session.known) == ("on", True)


def repository(directory: Path) -> Path:
    """With one commit."""
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.com")
    for words in (("init", "-q"), (*identity, "commit", "-q", "--allow-empty", "-m", "first")):
        subprocess.run(("git", *words), cwd=directory, check=True)
    return directory


def test_conversation_goes_on_when_its_worktree_was_removed(session: Session) -> None:
    """Neither it nor a fork works nowhere: they are refused until it is made again, and know then what was said."""
    root = repository(session.directory)
    session.turn("text the word is plum", use_worktree=True)
    path = f"/sessions/{session.id}"
    worktree = session.server.ask("GET", path).json["cwd"]
    subprocess.run(["git", "worktree", "remove", "--force", worktree], cwd=root, check=True)
    refused = [session.prompt("text no").status, session.server.ask("POST", f"{path}/fork", {}).status]
    again = session.turn("bash pwd", "text medlar", use_worktree=True)
    fork = session.server.ask("POST", f"{path}/fork", {}).json["id"]
    forked = session.ended(session.server.generate(script("bash pwd", "text sloe"), fork))

    assert refused == [400, 400]
    for turn, words in ((again, "medlar"), (forked, "sloe")):
        known = [call.conversation for call in session.api.requests if words in call.conversation]
        assert [command.output.strip() for command in turn.commands] == [worktree]
        assert (turn.status, "plum" in known[0]) == ("completed", True)


def test_default_model_comes_back_and_a_wrong_one_is_not_kept(session: Session) -> None:
    """A model stays for the prompts that name none; the agent's own name goes back to its default. What fails with a
    model leaves the session as it was.
    """
    asked, default = session.dialect.models[1], session.dialect.name
    for model in (asked, None, default, None):
        session.turn("text ok", **({} if model is None else {"model": model}))
    session.turn("error 400", model="no-such-model")
    session.turn("text ok")
    used = [call.model for call in session.calls if "no-such-model" not in call.model]

    assert used[:2] == [asked, asked]
    assert len(set(used[2:])) == 1
    assert used[2] != asked


def test_default_model_comes_back_by_the_session_and_in_a_fork(session: Session) -> None:
    """Told to the session, or to a fork of it, the agent's own name goes back to its default too; an agent that was
    killed since does not go back to the other one.
    """
    asked, default = session.dialect.models[1], session.dialect.name
    path = f"/sessions/{session.id}"
    session.turn("text ok", model=asked)
    forks = [session.server.ask("POST", f"{path}/fork", body).json["id"] for body in ({}, {"model": default})]
    put = session.server.ask("PUT", path, {"model": default}).json["model"]
    session.restart_all()
    session.turn("text own")
    for fork in forks:
        session.ended(session.server.generate(script(f"text {fork}"), fork))
    used = {
        words: next(call.model for call in session.api.requests if words in call.conversation)
        for words in ("text own", *forks)
    }

    assert put is None
    assert used[forks[0]] == asked
    assert used["text own"] == used[forks[1]] != asked


# What I have allowed, and take back


def test_what_was_allowed_can_be_listed_and_taken_back(session: Session) -> None:
    """I allowed a command for the session; when I take that back I am asked again."""
    step = session.dialect.beyond("touch it")
    stream = session.prompt(step, "text one", permission_mode="ask")
    asked = session.asked(stream)
    session.answer(asked, "allow", remember="session")
    session.ended(stream)
    path = f"/sessions/{session.id}/allowances"
    listed = session.server.ask("GET", path).json["allowances"]
    left = session.server.ask("DELETE", path).json["allowances"]
    again = session.answered(session.prompt(step, "text two", permission_mode="ask"), "deny")

    assert (listed, left) == ([asked["allowance"]], [])
    assert again.decisions == ["deny"]


def test_mode_is_changed_while_a_turn_runs(session: Session) -> None:
    """I am tired of being asked: from now on, in this turn and the next ones, everything is allowed."""
    steps = (session.dialect.beyond("touch one"), session.dialect.beyond("touch two"), "text done")
    stream = session.prompt(*steps, permission_mode="ask")
    asked = session.asked(stream)
    changed = session.server.ask("PUT", f"/sessions/{session.id}", {"permission_mode": "bypass"})
    session.answer(asked, "allow")
    turn = session.ended(stream)

    assert (changed.status, changed.json["permissionMode"]) == (200, "bypass")
    assert (len(turn.questions), turn.status) == (1, "completed")
    assert (session.directory / "two").exists()
    assert session.turn(session.dialect.beyond("touch three"), "text ok").questions == []


def test_changed_mode_survives_a_killed_server(session: Session) -> None:
    """The next server does not ask either."""
    steps = (session.dialect.beyond("touch one"), session.dialect.beyond("touch two"), "text done")
    asked = session.asked(session.prompt(*steps, permission_mode="ask"))
    session.server.ask("PUT", f"/sessions/{session.id}", {"permission_mode": "bypass"}).close()
    session.server.kill9()
    session.server.start()
    session.answer(asked, "allow")
    turn = session.whole(asked["taskId"])

    assert (len(turn.questions), turn.status) == (1, "completed")
    assert (session.directory / "two").exists()


def test_turn_that_asks_nobody_cannot_begin_to(session: Session) -> None:
    """It is said that this is not possible, and not ignored."""
    stream = session.prompt("deltas 200 0.05", permission_mode="bypass", partial_messages=True)
    stream.until(session.has_written("delta 3"))
    refused = session.server.ask("PUT", f"/sessions/{session.id}", {"permission_mode": "ask"})

    assert (refused.status, refused.json["code"]) == (409, "mode_is_fixed")
    session.stop()


# What goes on behind a turn


def test_background_commands_are_listed_and_ended(new_session: Callable[..., Session]) -> None:
    """Two go on behind the turn, over a killed server and the idle limit. I end one, and `stop` the other."""
    session = new_session(AGENT_IDLE_TIMEOUT="0.3")
    first, second = (f"echo $$ > {name}; until [ -e enough ]; do sleep 0.1; done" for name in ("one", "two"))
    session.turn(f"bash-bg {first}", f"bash-bg {second}", "text started")
    pids, agent = [session.pid("one"), session.pid("two")], session.agent
    session.server.kill9()
    session.server.start()
    path = f"/sessions/{session.id}/background"
    listed = session.server.ask("GET", path).json["tasks"]
    left = session.server.ask("DELETE", f"{path}/{listed[0]['id']}")

    assert [task["kind"] for task in listed] == ["command", "command"]
    assert (left.status, left.json["tasks"]) == (200, listed[1:])
    wait_until(lambda: sorted(map(is_alive, pids)) == [False, True])
    assert session.agent == agent
    assert session.server.ask("DELETE", f"{path}/nosuch").json["code"] == "background_not_found"
    assert session.stop() == 200
    assert not any(map(is_alive, pids))


def test_plan_is_told(session: Session) -> None:
    """What the agent is going to do, and what of it is done, is a plan in the words of ACP."""
    turn = session.turn(
        *session.dialect.planned("read", "write"), "text done", model=session.dialect.models[0]
    )
    path = f"/generate/v2/jobs/{turn.job['taskId']}/stream?format=acp&times=true"
    events = [event.json for event in session.server.ask("GET", path).rest()]
    updates = [event["update"] for event in events if "update" in event]
    plans = [update["entries"] for update in updates if update["sessionUpdate"] == "plan"]

    assert [(one["content"], one["status"]) for one in plans[-1]] == [
        ("read", "completed"),
        ("write", "pending"),
    ]
    times = [event["receivedAt"] for event in events]
    assert times == sorted(times)
    assert turn.job["createdAt"] <= times[0] <= times[-1]


def test_what_the_agent_plans_for_later_is_kept(session: Session) -> None:
    """It is listed, with its time, also after agent and server were killed, and can be cancelled. An agent without a
    tool for it has nothing to list.
    """
    session.turn(*session.dialect.plans_ahead, "text done")
    session.restart_all()
    path = f"/sessions/{session.id}/timers"
    listed = session.server.ask("GET", path).json["timers"]
    left = [session.server.ask("DELETE", f"{path}/{one['timerId']}").json["timers"] for one in listed]

    assert [one["prompt"] for one in listed] == ["wake up"] * len(session.dialect.plans_ahead)
    assert left == [[]] * len(listed)
    if not session.dialect.plans_ahead:
        assert not re.search(r"(?i)wakeup|schedule|cron", json.dumps(session.calls[-1].body.get("tools")))


# What goes wrong beside the model


def test_agent_that_cannot_start_says_why(new_session: Callable[..., Session]) -> None:
    """What the loader wrote is in the job's error, though it does not begin with `error`."""
    words = "/lib/libc.so.6: version `GLIBC_2.38' not found"
    session = new_session(run=f'echo "{words.replace("`", chr(92) + "`")}" >&2; exit 1')
    turn = session.turn("text no")

    assert (turn.status, words in turn.job["error"]) == ("failed", True)


def test_bypass_is_never_another_mode(new_session: Callable[..., Session]) -> None:
    """Its user's settings are against it: I am told so and nothing is done, or it is what I asked for."""
    session = new_session()
    session.dialect.ban_bypass(session.server.home, session.server.directory / "agent")
    turn = session.turn("bash touch it", "text done", permission_mode="bypass")

    if session.dialect.heeds_bans:
        assert turn.error == ("failed", "permission_mode_refused")
    else:
        assert (turn.questions, turn.status) == ([], "completed"), turn.job["error"]
    assert (session.directory / "it").exists() == (turn.status == "completed")


@pytest.mark.nightly
def test_lost_end_of_a_turn_is_noticed(new_session: Callable[..., Session], dialect: Dialect) -> None:
    """The line that says so never comes. The other signs do, and the next prompt is worked on."""
    all_else = f'"$program" "$@" | grep --line-buffered -v \'{dialect.last_line}\''
    session = new_session(run=all_else)
    first, second = session.turn("text one"), session.turn("text two")

    assert (first.text, first.status) == ("one", "completed")
    assert (second.text, second.status) == ("two", "completed")


# Who says no, and who asks


@pytest.mark.parametrize(
    ("code", "reason"),
    [("agent_billing", None), ("model_refused", "refusal"), ("output_limit_reached", "max_tokens")],
)
def test_who_says_no_is_told(session: Session, code: str, reason: str | None) -> None:
    """The account, the model or its limit: a code each, and a stop reason where ACP has one."""
    turn = session.turn(*session.dialect.says_no[code], model=session.dialect.models[0])
    path = f"/generate/v2/jobs/{turn.job['taskId']}/stream?format=acp"
    last = session.server.ask("GET", path).rest()[-1]

    assert turn.error == ("failed", code)
    assert last.json.get("stopReason") == reason


@pytest.mark.parametrize(("mode", "action"), [("ask", "accept"), ("bypass", "cancel")])
def test_mcp_server_asks_me(session: Session, mode: str, action: str) -> None:
    """What a tool's server wants to know is a question like any other; where nobody is asked it is told so."""
    servers = {"s": {"command": sys.executable, "args": [str(MCP_ASKS)]}}
    options = {"model": session.dialect.models[0], "mcp_servers": servers, "permission_mode": mode}
    stream = session.prompt(session.dialect.mcp_tool("s", "ask"), "text done", **options)
    for event in stream:
        if event.type == "permission_request":
            is_form = event.json["kind"] == "question"
            given = {"updatedInput": {"answers": {"name": "Ada"}}} if is_form else {}
            session.answer(event.json, "allow", **given)
    turn = session.ended(stream)

    assert turn.status == "completed"
    assert f'"{action}"' in session.known.replace("\\", "")
    assert ("Ada" in session.known) == (action == "accept")


def test_mcp_server_that_cannot_start_is_told(session: Session) -> None:
    """I asked for its tools, and they are not there: in the words of ACP a notice says so."""
    turn = session.turn("text done", mcp_servers={"broken": {"command": "/nonexistent/program"}})
    path = f"/generate/v2/jobs/{turn.job['taskId']}/stream?format=acp"
    updates = [event.json.get("update", {}) for event in session.server.ask("GET", path).rest()]
    notices = [update.get("_meta", {}).get("agentsrv", {}).get("notice", {}) for update in updates]

    assert turn.status == "completed"
    assert [notice["kind"] for notice in notices if "broken" in notice.get("message", "")] == ["warning"]
