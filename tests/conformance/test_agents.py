"""What every agent does behind this server: one suite, with the real programs and a scripted model behind each.

Who drives one agent can drive the others. What only one of them does is in tests/e2e/test_<agent>.py.
"""

from __future__ import annotations

import os
import re
import signal
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest

from agentsrv.api.schemas import AgentText
from agentsrv.app import make_agents
from agentsrv.config import Config
from tests.conformance.dialects import AGENTS, Dialect
from tests.conformance.kit import Session
from tests.fakes.scripted import ScriptedApi, serve_in_thread
from tests.kit import KEY, Server, is_alive, script, wait_until
from tests.pictures import PNG

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
    dialect: Dialect, api: ScriptedApi[Any], program: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Session]]:
    """`new_session(NAME=value)`: on a server of its own, with other settings or another model API."""
    servers: list[Server] = []

    def make(url: str = api.url, **settings: str) -> Session:
        directory = tmp_path_factory.mktemp("server")
        server = Server(directory, program, dialect.settings(program, url, directory / "agent") | settings)
        servers.append(server)
        return Session("first", server.start(), dialect, api, program).in_directory()

    yield make
    for server in servers:
        server.close()


@pytest.fixture(scope="module")
def failing(dialect: Dialect, new_session: Callable[..., Session]) -> dict[str, tuple[Session, str]]:
    """Jobs that are going to fail, by the code of their error. They begin before all else: agents try for long."""
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
def server(failing: object, new_session: Callable[..., Session]) -> Server:
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
    """An agent that the server has is in its API's contract, and passes this suite."""
    config = Config.from_env({"HOME": "/", "API_KEY": KEY})

    assert make_agents(config).names() == list(get_args(AgentText)) == list(AGENTS)


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
