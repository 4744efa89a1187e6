"""What is particular to the real Claude Code; what holds for every agent is in tests/conformance."""

from __future__ import annotations

from typing import Any

from tests.conftest import ServerMaker
from tests.fakes.model_api import ModelApi
from tests.kit import Event, Server, script


def text_of(events: list[Event]) -> str:
    """All that the assistant said."""
    blocks: list[dict[str, Any]] = []
    for event in events:
        if event.type == "assistant":
            blocks += event.json["message"]["content"]
    return "".join(block.get("text", "") for block in blocks)


def test_usage_and_cost_are_those_of_each_turn(claude_server: Server) -> None:
    """One process counts on and on; each job has what it has cost itself."""
    usage = "usage 1000 100"
    first = claude_server.generate(script(usage, "text first answer")).rest()
    second = claude_server.generate(script(usage, "text second answer")).rest()

    jobs = [claude_server.job(events[-1].json["taskId"]) for events in (first, second)]
    assert [job["usage"]["output_tokens"] for job in jobs] == [100, 100]
    assert 0 < jobs[0]["costUsd"] == jobs[1]["costUsd"]


def test_limits_of_a_turn_are_told(claude_server: Server) -> None:
    """With max_turns the turn ends at the limit, and the job says so."""
    steps = script("bash echo 1", "bash echo 2", "bash echo 3", "text end")
    events = claude_server.generate(steps, max_turns=2).rest()

    job = claude_server.job(events[-1].json["taskId"])
    assert job["status"] == "failed"
    assert "2" in job["error"]


def test_refused_credentials_are_told_soon(claude_server: Server) -> None:
    """The model API refuses the key: the job fails within seconds with a clear error, not after minutes of retries."""
    events = claude_server.generate(script("error 401")).rest()

    error = next(event.json for event in events if event.type == "error")
    assert (events[-1].json["status"], error["code"]) == ("failed", "agent_not_authenticated")


def test_overloaded_model_is_waited_for(claude_server: Server) -> None:
    """The model API is busy once: Claude tries again, the retry is in the stream, the job is completed."""
    events = claude_server.generate(script("error 429 1", "text recovered")).rest()

    assert any(event.json.get("subtype") == "api_retry" for event in events)
    assert (text_of(events), events[-1].json["status"]) == ("recovered", "completed")


def test_missing_login_is_told(claude_server: Server, model: ModelApi, make_server: ServerMaker) -> None:
    """There is neither a key nor a login: the job says so within a second."""
    server = make_server(CLAUDE_PATH=claude_server.settings["CLAUDE_PATH"], ANTHROPIC_BASE_URL=model.url)
    events = server.generate("hi").rest()

    error = next(event.json for event in events if event.type == "error")
    assert (events[-1].json["status"], error["code"]) == ("failed", "agent_not_authenticated")


def test_background_command_wakes_claude(claude_server: Server) -> None:
    """A background command ends after its turn: Claude's reaction is a job of its own, and the next prompt works."""
    steps = script(
        "bash-bg until [ -e enough ]; do sleep 0.1; done", "text started", "end", "text it has ended"
    )
    first = claude_server.generate(steps).rest()
    (claude_server.workspace / "enough").touch()
    with claude_server.ask("GET", "/sessions/s/events", Last_Event_ID=str(first[-1].id)) as stream:
        done = stream.until(lambda event: event.type == "done")

    assert (text_of(first), text_of(stream.events)) == ("started", "it has ended")
    assert claude_server.job(done.json["taskId"])["status"] == "completed"
    assert text_of(claude_server.generate(script("text next")).rest()) == "next"


def test_doctor_and_agents_know_the_version(claude_server: Server) -> None:
    """GET /agents names the program and its version, and the credentials by name only."""
    agents = claude_server.ask("GET", "/agents").json["agents"]

    claude = next(agent for agent in agents if agent["name"] == "claude-code")
    assert claude["available"] is True
    assert claude["version"].startswith("2.")
    assert "ANTHROPIC_API_KEY" in claude["credentials"]
    assert "fake-model-key" not in str(agents)


def test_leave_to_edit_is_no_leave_to_edit_settings(claude_server: Server) -> None:
    """I allow edits for the session: Claude still asks about files of settings, and nobody answers for me."""
    steps = script("write a.txt x", "write b.txt x", "write .bashrc x", "text end")
    task_id = claude_server.start_job(steps, permission_mode="ask")
    stream = claude_server.follow(task_id)
    asked = []
    for decision in ({"decision": "allow", "remember": "session"}, {"decision": "deny"}):
        question = stream.until(lambda event: event.type == "permission_request").json
        asked.append(question["input"]["file_path"].rpartition("/")[2])
        path = f"/generate/v2/jobs/{task_id}/permissions/{question['requestId']}"
        assert claude_server.ask("POST", path, decision).status == 200

    assert stream.rest()[-1].json["status"] == "completed"
    assert asked == ["a.txt", ".bashrc"]
    assert not (claude_server.workspace / ".bashrc").exists()
