"""What agents that speak ACP do behind this server: the real programs, each with a scripted model.

It is the suite of `test_agents.py` as far as ACP goes, in fewer and longer steps: these programs take seconds to
start. goose runs all of it for every change, gemini, opencode and vibe what is marked `by_day`; the rest runs at night.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from agentsrv.agents.acp.known import KNOWN, KnownAgent
from tests.conformance.acp import DIALECTS, GOOSE, VIBE, AcpDialect
from tests.conformance.hostile import plant
from tests.fakes import mcp_asks
from tests.fakes.chat_api import NEW_PROMPT
from tests.fakes.scripted import ScriptedApi, serve_in_thread
from tests.kit import Answer, Server, cwd_of, is_alive, parent_of, script, started_at, wait_until
from tests.pictures import PNG

pytestmark = [pytest.mark.tools, pytest.mark.timeout(600)]

BY_DAY = ("goose",)
BY_DAY_IN_SHORT = ("goose", "gemini", "opencode", "vibe")

by_day = pytest.mark.by_day


@dataclass(frozen=True, slots=True)
class Session:
    """A user of one session."""

    id: str
    server: Server
    dialect: AcpDialect
    api: ScriptedApi[Any]

    @property
    def directory(self) -> Path:
        return self.server.workspace / self.id

    @property
    def known_agent(self) -> KnownAgent:
        [known] = [known for known in KNOWN if known.name == self.dialect.name]
        return known

    def send(self, *steps: str, **options: Any) -> Answer:
        self.directory.mkdir(parents=True, exist_ok=True)
        place = {"agent": self.dialect.name, "cwd": str(self.directory)}
        # goose puts a prompt that nobody has answered before the next one, in one text.
        return self.server.generate(f"{NEW_PROMPT}{script(*steps)}", self.id, **place, **options)

    def trust(self) -> None:
        """Let its directory count: some agents ask in no other."""
        self.directory.mkdir(parents=True, exist_ok=True)
        body = {"sessionId": self.id, "agent": self.dialect.name, "cwd": str(self.directory)}
        self.server.ask("POST", "/sessions", body | {"trust_repository": True}).body()

    def turn(self, *steps: str, **options: Any) -> dict[str, Any]:
        """A prompt, to its end; its job."""
        return self.ended(self.send(*steps, **options))

    def ended(self, stream: Answer) -> dict[str, Any]:
        return self.server.job(stream.rest()[-1].json["taskId"])

    def asked(self, stream: Answer) -> dict[str, Any]:
        question: dict[str, Any] = stream.until(lambda event: event.type == "permission_request").json
        return question

    def answer(self, question: dict[str, Any], decision: str, **fields: Any) -> None:
        path = f"/generate/v2/jobs/{question['taskId']}/permissions/{question['requestId']}"
        answer = self.server.ask("POST", path, {"decision": decision, **fields})
        assert answer.status == 200, answer.body()

    @property
    def processes(self) -> list[int]:
        """The agent's, the first one first."""
        here = [pid for pid in self.server.agents() if cwd_of(pid) == str(self.directory)]
        return sorted(here, key=started_at)

    def written(self, name: str) -> str:
        path = self.directory / name
        wait_until(lambda: path.exists() and path.read_text().strip(), what=name)
        return path.read_text()

    @property
    def call(self) -> Any:
        """The last one to the model. It has tools; what some ask beside, for a title, may come later and has none."""
        return next(call for call in reversed(self.api.requests) if call.tools)

    @property
    def known(self) -> str:
        """What the model was told with its last call."""
        return str(self.call.conversation)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test with each agent, most of them at night."""
    is_short = metafunc.definition.get_closest_marker("by_day") is not None
    now = BY_DAY_IN_SHORT if is_short else BY_DAY
    agents = [pytest.param(name, marks=() if name in now else (pytest.mark.nightly,)) for name in DIALECTS]
    metafunc.parametrize("dialect", agents, indirect=True, scope="module")


@pytest.fixture(scope="module")
def dialect(request: pytest.FixtureRequest) -> AcpDialect:
    found = DIALECTS[request.param]
    if found is VIBE and not found.path.exists():
        pytest.skip("it needs Python 3.12 or newer")
    assert found.path.exists(), f"STATE_DIR=.venv/acp agentsrv agents install {found.name}"
    return found


@pytest.fixture(scope="module")
def api(dialect: AcpDialect) -> Iterator[ScriptedApi[Any]]:
    with serve_in_thread(dialect.api()) as api:
        yield api


@pytest.fixture(scope="module")
def server(
    dialect: AcpDialect,
    api: ScriptedApi[Any],
    tmp_path_factory: pytest.TempPathFactory,
    server_type: type[Server],
) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("server")
    server = server_type(directory, Path("/bin/true"), dialect.settings(directory, api.url))
    yield server.start()
    server.close()


@pytest.fixture(scope="module")
def hasty_server(
    dialect: AcpDialect,
    api: ScriptedApi[Any],
    tmp_path_factory: pytest.TempPathFactory,
    server_type: type[Server],
) -> Iterator[Server]:
    """One that waits not long for an agent; under load a healthy one may be slower than that."""
    directory = tmp_path_factory.mktemp("hasty")
    settings = dialect.settings(directory, api.url) | {"AGENT_PATIENCE": str(dialect.patience_s)}
    server = server_type(directory, Path("/bin/true"), settings)
    yield server.start()
    server.close()


@pytest.fixture
def hasty(session: Session, hasty_server: Server) -> Iterator[Session]:
    """The same session, on that one."""
    yield replace(session, server=hasty_server)
    hasty_server.ask("DELETE", f"/sessions/{session.id}?force=true").close()


@pytest.fixture
def session(
    request: pytest.FixtureRequest, server: Server, dialect: AcpDialect, api: ScriptedApi[Any]
) -> Iterator[Session]:
    if not is_alive(server.pid):
        server.start()
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_")).strip("-")
    yield Session(name, server, dialect, api)
    server.ask("DELETE", f"/sessions/{name}?force=true").close()


@by_day
def test_it_answers_runs_commands_and_writes_files(session: Session) -> None:
    """Text, a command and a file, in one process; what it said is the job's result, and messages are whole."""
    first = session.turn("deltas 5 0.01")
    process = session.processes[0]
    second = session.turn(
        "bash echo from-the-shell > shell.txt", f"write {session.directory}/notes.txt one", "text done"
    )
    listed = session.server.ask("GET", f"/sessions/{session.id}/messages").json["messages"]

    said = "".join(f"delta {number} " for number in range(5))
    assert (first["status"], first["result"], second["result"]) == ("completed", said, "done")
    assert (session.written("shell.txt"), session.written("notes.txt").strip()) == ("from-the-shell\n", "one")
    assert session.processes[0] == process
    assert said in json.dumps(listed)
    assert bool(first.get("usage")) == session.dialect.counts


@by_day
def test_it_asks_and_takes_both_answers(session: Session) -> None:
    """In `ask` a command waits for me, whatever ran unasked before: allowed it runs, denied it does not. Or there
    is no such mode."""
    if not session.dialect.asks:
        assert session.send("text done", permission_mode="ask").json["code"] == "unsupported_option"
        return
    session.trust()
    session.turn("bash touch unasked.txt", "text done", permission_mode="bypass")
    for decision in ("allow", "deny"):
        stream = session.send(f"bash touch {decision}.txt", "text done", permission_mode="ask")
        question = session.asked(stream)
        assert f"touch {decision}.txt" in question["title"]
        session.answer(question, decision)
        assert session.ended(stream)["status"] == "completed"

    assert sorted(path.name for path in session.directory.glob("*.txt")) == ["allow.txt", "unasked.txt"]


@by_day
def test_question_outlives_server(session: Session) -> None:
    """The server is killed while I think: the next one has the question, and the agent its answer."""
    if not session.dialect.asks:
        pytest.skip("it never asks")
    session.trust()
    stream = session.send("bash touch allowed.txt", "text done", permission_mode="ask")
    question = session.asked(stream)
    session.server.kill9()
    session.server.start()
    session.answer(question, "allow")

    assert session.server.ended_job(question["taskId"])["result"] == "done"
    assert (session.directory / "allowed.txt").exists()


def test_what_nobody_answers_is_not_done(session: Session, server_type: type[Server], tmp_path: Path) -> None:
    """A server that gives me a second: the command does not run, and the turn goes on."""
    if not session.dialect.asks:
        pytest.skip("it never asks")
    settings = session.dialect.settings(tmp_path, session.api.url) | {"PERMISSION_TIMEOUT": "1"}
    impatient = replace(session, server=server_type(tmp_path, Path("/bin/true"), settings).start())
    try:
        impatient.trust()
        job = impatient.turn("bash touch denied", "text as you like", permission_mode="ask")
    finally:
        impatient.server.close()

    assert job["status"] == "completed"
    assert not (impatient.directory / "denied").exists()


def test_its_question_is_mine_to_answer(session: Session) -> None:
    """Where it has a tool to ask me something: my choice reaches the model."""
    if session.dialect.question is None:
        pytest.skip("it has no such tool")
    options = [{"label": label, "description": label} for label in ("Red", "Blue")]
    asked = {"questions": [{"question": "Which colour?", "header": "Colour", "options": options}]}
    step = f"tool {session.dialect.question} {json.dumps(asked)}"
    stream = session.send(step, "text I see", permission_mode="ask")
    question = session.asked(stream)
    (entry,) = question["input"]["questions"]
    session.answer(question, "allow", updatedInput={"answers": {entry["id"]: "Blue"}})

    assert (question["kind"], session.ended(stream)["result"]) == ("question", "I see")
    assert "Blue" in session.known.rpartition("answers")[2], session.known[-500:]


def test_second_prompt_waits_for_the_first(session: Session) -> None:
    """Also one that is to steer: two prompts at once some of them would drop, or end the first one."""
    first = session.send("bash echo > began; until test -e go; do sleep 0.1; done", "text one")
    wait_until((session.directory / "began").exists)
    session.send("text two", if_busy="steer", background=True).close()
    (session.directory / "go").touch()
    one = session.ended(first)["result"]

    jobs = f"/generate/v2/jobs?session_id={session.id}"
    wait_until(lambda: len(session.server.ask("GET", jobs).json["jobs"]) == 2, what="the second job")
    second, _ = session.server.ask("GET", jobs).json["jobs"]
    assert (one, session.server.ended_job(second["taskId"])["result"]) == ("one", "two")


@by_day
def test_stop_ends_the_command(session: Session) -> None:
    """The command that it runs is gone when my stop is answered, and the session goes on."""
    stream = session.send("bash echo $$ > pid; sleep 1000; true", "text done")
    command = int(session.written("pid"))
    session.server.stop(session.id).close()

    assert session.ended(stream)["status"] == "cancelled"
    assert not is_alive(command)


@by_day
def test_it_remembers_after_its_death(session: Session) -> None:
    """It is killed in the middle of a turn: all is gone, and the next one knows what was said."""
    killed = killed_in_a_command(session, lambda agent: agent)

    assert killed["status"] == "failed"
    assert_remembers(session)


def test_it_remembers_after_the_death_of_its_runner(session: Session) -> None:
    """Its stdin ends with that, and some have a last word."""
    killed = killed_in_a_command(session, parent_of)

    assert killed["status"] in ("interrupted", "failed")
    assert_remembers(session)


def killed_in_a_command(session: Session, whom: Callable[[int], int]) -> dict[str, Any]:
    """The job whose agent, or what `whom` makes of that, was killed. All its processes are gone, a launcher's too."""
    session.turn("text first-answer")
    stream = session.send("bash echo $$ > pid; sleep 1000; true", "text done")
    processes = [int(session.written("pid")), *session.processes]
    os.kill(whom(processes[1]), signal.SIGKILL)
    job = session.ended(stream)
    wait_until(lambda: not any(map(is_alive, processes)), what="the end of all its processes")
    return job


def assert_remembers(session: Session) -> None:
    again = session.turn("text here-again")
    assert (again["result"], "first-answer" in session.known) == ("here-again", True)


@by_day
def test_key_that_is_refused_fails_the_turn(session: Session) -> None:
    """Whatever the agent makes of it."""
    job = session.turn("error 401")

    code = "agent_not_authenticated" if session.dialect.says_why else "agent_error"
    assert (job["status"], job["code"]) == ("failed", code)


@by_day
@pytest.mark.parametrize(("error", "code"), [("429", "agent_rate_limited"), ("500", "agent_api_error")])
def test_failing_model_fails_the_turn(hasty: Session, error: str, code: str) -> None:
    """Whatever the agent makes of it: tries without end, says `end_turn`, or nothing at all."""
    job = hasty.turn(f"error {error}")

    assert job["status"] == "failed"
    assert job["code"] in (code if hasty.dialect.says_why else "agent_error", "agent_stalled")


def test_model_that_fails_after_a_command_fails_the_turn(hasty: Session) -> None:
    """Something was done, and the rest was not: that is no success, whatever the agent makes of it."""
    job = hasty.turn("bash touch done", "error 500")

    assert job["status"] == "failed"
    assert job["code"] in ("agent_api_error" if hasty.dialect.says_why else "agent_error", "agent_stalled")
    assert (hasty.directory / "done").exists()


@pytest.mark.nightly
def test_failing_model_fails_the_turn_within_90_s(session: Session) -> None:
    """On a server with the patience that it has by itself: at once, after a command, or where no answer ever comes."""
    failures = [("error 401",), ("error 429",), ("bash true", "error 500"), ("hang",)]
    sessions = [replace(session, id=f"{session.id}-{number}") for number in range(len(failures))]
    for each in sessions:
        each.turn("text ok")
    started = [
        each.send(*steps, background=True).json["taskId"]
        for each, steps in zip(sessions, failures, strict=True)
    ]
    jobs = [ended_at_last(session.server, task_id) for task_id in started]

    assert [job["status"] for job in jobs] == ["failed"] * len(failures)
    assert max(map(seconds_of, jobs)) < 90


def ended_at_last(server: Server, task_id: str) -> dict[str, Any]:
    wait_until(lambda: "finishedAt" in server.job(task_id, wait_s=50), timeout_s=120, what="the job's end")
    return server.job(task_id)


def seconds_of(job: dict[str, Any]) -> float:
    began, ended = (datetime.fromisoformat(job[name]) for name in ("createdAt", "finishedAt"))
    return (ended - began).total_seconds()


def test_failure_that_passes_is_no_part_of_the_answer(session: Session) -> None:
    """Its model is busy once: whatever the agent says meanwhile, the turn ends well with the model's words alone."""
    job = session.turn("error 500 1", "text an answer")

    assert (job["status"], job["result"]) == ("completed", "an answer")


@by_day
def test_options(session: Session) -> None:
    """A model is taken by its name; what is not there is refused by name."""
    if session.dialect is GOOSE:
        # It asks its provider in its first session which models there are, and knows them in the next one.
        replace(session, id=f"{session.id}-before").turn("text ok")
    if (model := session.dialect.models[1]) is not None:
        other = session.turn("text ok", model=model)
        assert (other["result"], model.endswith(session.call.model)) == ("ok", True)
    missing = session.turn("text ok", model="no-such-model")
    refused = session.send("text ok", system_prompt="Rhyme.").json

    assert (missing["status"], missing["code"], missing["error"][:6]) == (
        "failed",
        "unsupported_option",
        "model:",
    )
    assert (refused["code"], "system_prompt" in json.dumps(refused)) == ("unsupported_option", True)


def test_effort(session: Session) -> None:
    """Its model gets that of each prompt, and its own where I name none; what it does not have is refused by name."""
    thinker, plain = session.dialect.efforts
    if thinker is None:
        refused = session.send("text ok", effort="high").json
        assert (refused["code"], "effort" in refused["error"]) == ("unsupported_option", True)
        return
    found = []
    for number, effort in enumerate(({}, {"effort": "high"}, {"effort": "low"}, {})):
        answer = f"{session.id} {number}"
        assert session.turn(f"text {answer}", model=thinker, **effort)["result"] == answer
        # The first one with the prompt: what qwen asks beside comes later, and has no effort.
        calls = [call for call in session.api.requests if call.tools and answer in call.conversation]
        found.append(calls[0].effort)

    assert (found[1:3], found[3]) == (["high", "low"], found[0])
    if plain is not None:
        refused = session.turn("text ok", model=plain, effort="high")
        assert (refused.get("code"), str(refused.get("error"))[:7]) == ("unsupported_option", "effort:")


def test_images(session: Session) -> None:
    """The model sees a picture, or the prompt is refused: it is never left out."""
    images = ["data:image/png;base64," + b64encode(PNG).decode()]
    answer = session.send("text seen", images=images)
    if answer.status == 400:
        assert answer.json["code"] == "unsupported_option"
        return

    assert session.ended(answer)["result"] == "seen"
    assert [media_type for media_type, _ in session.call.images] == ["image/png"]


def test_servers_of_a_prompt(session: Session, tmp_path: Path) -> None:
    """They are started, or the prompt is refused: none is quietly left out."""
    started = tmp_path / "started"
    starting = f"touch {started}; exec {sys.executable} {mcp_asks.__file__}"
    servers = {"people": {"command": "/bin/sh", "args": ["-c", starting]}}
    answer = session.send("text done", mcp_servers=servers)
    if answer.status == 400:
        assert (answer.json["code"], session.known_agent.mcp) == ("unsupported_option", ())
        return

    assert session.ended(answer)["result"] == "done"
    wait_until(started.exists)


@pytest.mark.parametrize("mode", ["ask", "plan", "accept_edits"])
def test_hostile_repository_runs_nothing_before_i_am_asked(session: Session, mode: str) -> None:
    """Its servers, hooks and rules do not count in modes that ask; a mode that cannot be had so is refused."""
    distrust, mark = session.known_agent.distrust, session.directory / "ran"
    session.directory.mkdir(parents=True, exist_ok=True)
    plant(session.dialect.name, session.directory, f"touch {mark}")
    stream = session.send("bash touch unasked", "text done", permission_mode=mode)
    if stream.status == 400:
        assert stream.json["code"] == "unsupported_option"
        assert mode not in session.known_agent.modes or distrust is None or mode not in distrust.modes
        return
    for event in stream:
        if event.type == "permission_request":
            session.answer(event.json, "deny")
    session.ended(stream)

    assert distrust is not None
    assert [] == [name for name in ("ran", "unasked") if (session.directory / name).exists()]


@pytest.mark.at_home("agents are those of the server that is asked")
def test_agent_is_listed(session: Session, server: Server, dialect: AcpDialect) -> None:
    """`GET /agents` has it, with the names of its credentials, what it can do, and the models that it has told of."""
    session.turn("text ok")
    agents = {agent["name"]: agent for agent in server.ask("GET", "/agents").json["agents"]}

    agent = agents[dialect.name]
    assert (agent["available"], agent["usable"], bool(agent["credentials"])) == (True, True, True)
    first, other = dialect.models
    assert any(first in name for name in agent["models"]) == (other is not None)
    assert agent["version"]
    assert "bypass" in agent["permissionModes"]
