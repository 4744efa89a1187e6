"""What agents that speak ACP do behind this server: the real programs, each with a scripted model.

It is the suite of `test_agents.py` as far as ACP goes, in fewer and longer steps: these programs take seconds to
start. goose always runs; the others at night.
"""

from __future__ import annotations

import json
import os
import re
import signal
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from agentsrv.agents.acp.known import KNOWN, KnownAgent
from tests.conformance.acp import DIALECTS, VIBE, AcpDialect
from tests.conformance.hostile import plant
from tests.fakes.chat_api import NEW_PROMPT
from tests.fakes.scripted import ScriptedApi, serve_in_thread
from tests.kit import Answer, Server, cwd_of, is_alive, parent_of, script, wait_until
from tests.pictures import PNG

pytestmark = [pytest.mark.tools, pytest.mark.timeout(600)]

BY_DAY = "goose"


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
        return sorted(pid for pid in self.server.agents() if cwd_of(pid) == str(self.directory))

    def written(self, name: str) -> str:
        path = self.directory / name
        wait_until(lambda: path.exists() and path.read_text().strip(), what=name)
        return path.read_text()

    @property
    def known(self) -> str:
        """What the model was told with its last call."""
        return str(self.api.requests[-1].conversation)


def at_night(name: str) -> Any:
    return name if name == BY_DAY else pytest.param(name, marks=pytest.mark.nightly)


@pytest.fixture(scope="module", params=[at_night(name) for name in DIALECTS])
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


@pytest.fixture
def session(
    request: pytest.FixtureRequest, server: Server, dialect: AcpDialect, api: ScriptedApi[Any]
) -> Iterator[Session]:
    if not is_alive(server.pid):
        server.start()
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_")).strip("-")
    yield Session(name, server, dialect, api)
    server.ask("DELETE", f"/sessions/{name}?force=true").close()


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


def test_it_asks_and_takes_both_answers(session: Session) -> None:
    """In `ask` a command waits for me: allowed it runs, denied it does not. Or there is no such mode."""
    if not session.dialect.asks:
        assert session.send("text done", permission_mode="ask").json["code"] == "unsupported_option"
        return
    for decision in ("allow", "deny"):
        stream = session.send(f"bash touch {decision}.txt", "text done", permission_mode="ask")
        question = session.asked(stream)
        assert f"touch {decision}.txt" in question["title"]
        session.answer(question, decision)
        assert session.ended(stream)["status"] == "completed"

    assert [path.name for path in session.directory.glob("*.txt")] == ["allow.txt"]


def test_question_outlives_server(session: Session) -> None:
    """The server is killed while I think: the next one has the question, and the agent its answer."""
    if not session.dialect.asks:
        pytest.skip("it never asks")
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


def test_stop_ends_the_command(session: Session) -> None:
    """The command that it runs is gone when my stop is answered, and the session goes on."""
    stream = session.send("bash echo $$ > pid; sleep 1000; true", "text done")
    command = int(session.written("pid"))
    session.server.stop(session.id).close()

    assert session.ended(stream)["status"] == "cancelled"
    assert not is_alive(command)


@pytest.mark.parametrize("process", ["agent", "runner"])
def test_it_remembers_after_its_death(session: Session, process: str) -> None:
    """It, or its runner, is killed in the middle of a turn: all is gone, and the next one knows what was said."""
    session.turn("text first-answer")
    stream = session.send("bash echo $$ > pid; sleep 1000; true", "text done")
    command = int(session.written("pid"))
    agent = session.processes[0]
    os.kill(agent if process == "agent" else parent_of(agent), signal.SIGKILL)
    killed = session.ended(stream)
    again = session.turn("text here-again")

    # Its stdin ends with the runner, and some have a last word.
    assert killed["status"] in (["failed"] if process == "agent" else ["interrupted", "failed"])
    assert not is_alive(command)
    assert (again["result"], "first-answer" in session.known) == ("here-again", True)


@pytest.mark.parametrize("error", ["401", "429", "500"])
def test_failing_model_fails_the_turn(session: Session, error: str) -> None:
    """Whatever the agent makes of it: tries without end, says `end_turn`, or nothing at all."""
    job = session.turn(f"error {error}")

    codes = {
        "401": ("agent_not_authenticated",),
        "429": ("agent_rate_limited", "agent_stalled"),
        "500": ("agent_api_error", "agent_stalled"),
    }
    assert job["status"] == "failed"
    assert job["code"] in (codes[error] if session.dialect.says_why else ("agent_error",))


def test_failure_that_passes_is_no_part_of_the_answer(session: Session) -> None:
    """Its model is busy once: whatever the agent says meanwhile, the turn ends well with the model's words alone."""
    job = session.turn("error 500 1", "text an answer")

    assert (job["status"], job["result"]) == ("completed", "an answer")


def test_options(session: Session) -> None:
    """A model is taken by its name; what is not there is refused by name."""
    # goose asks its provider in its first session which models there are, and knows them in the next one.
    replace(session, id=f"{session.id}-before").turn("text ok")
    if (model := session.dialect.models[1]) is not None:
        other = session.turn("text ok", model=model)
        assert (other["result"], model.endswith(session.api.requests[-1].model)) == ("ok", True)
    missing = session.turn("text ok", model="no-such-model")
    refused = session.send("text ok", system_prompt="Rhyme.").json

    assert (missing["status"], missing["code"], missing["error"][:6]) == (
        "failed",
        "unsupported_option",
        "model:",
    )
    assert (refused["code"], "system_prompt" in json.dumps(refused)) == ("unsupported_option", True)


def test_images(session: Session) -> None:
    """The model sees a picture, or the prompt is refused: it is never left out."""
    images = ["data:image/png;base64," + b64encode(PNG).decode()]
    answer = session.send("text seen", images=images)
    if answer.status == 400:
        assert answer.json["code"] == "unsupported_option"
        return

    assert session.ended(answer)["result"] == "seen"
    assert [media_type for media_type, _ in session.api.requests[-1].images] == ["image/png"]


@pytest.mark.parametrize("mode", ["ask", "plan", "accept_edits"])
def test_hostile_repository_runs_nothing_before_i_am_asked(session: Session, mode: str) -> None:
    """Its servers, hooks and rules do not count in modes that ask; a mode that cannot be had so is refused."""
    distrust, mark = session.known_agent.distrust, session.directory / "ran"
    session.directory.mkdir(parents=True, exist_ok=True)
    plant(session.dialect.name, session.directory, f"touch {mark}")
    stream = session.send("bash touch unasked", "text done", permission_mode=mode)
    if stream.status == 400:
        assert stream.json["code"] == "unsupported_option"
        assert mode not in session.known_agent.modes or (distrust and mode not in distrust.modes)
        return
    for event in stream:
        if event.type == "permission_request":
            session.answer(event.json, "deny")
    session.ended(stream)

    if distrust is not None:
        assert [] == [name for name in ("ran", "unasked") if (session.directory / name).exists()]


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
