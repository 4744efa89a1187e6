"""The real Claude Code CLI behind the server, with a scripted model behind the CLI."""

from __future__ import annotations

import os
import signal
from typing import Any

from tests.conftest import ServerMaker
from tests.fakes.model_api import ModelApi
from tests.kit import Event, Server, is_alive, script, wait_until


def text_of(events: list[Event]) -> str:
    """All that the assistant said."""
    blocks: list[dict[str, Any]] = []
    for event in events:
        if event.type == "assistant":
            blocks += event.json["message"]["content"]
    return "".join(block.get("text", "") for block in blocks)


def test_claude_works_in_its_directory(claude_server: Server) -> None:
    """A prompt makes Claude run a command and write and edit a file; I see each step, and the file is there."""
    steps = ("bash echo out > made.txt; pwd", "write notes.txt one two", "edit notes.txt two three")
    events = claude_server.generate(script(*steps, "text All done")).rest()

    tools = [
        block["name"]
        for event in events
        if event.type == "assistant"
        for block in event.json["message"]["content"]
        if block["type"] == "tool_use"
    ]
    assert tools == ["Bash", "Write", "Edit"]
    assert text_of(events) == "All done"
    assert (claude_server.workspace / "made.txt").read_text() == "out\n"
    assert (claude_server.workspace / "notes.txt").read_text() == "one three"
    assert events[-1].json["status"] == "completed"


def test_prompt_reaches_the_model_byte_for_byte(claude_server: Server, model: ModelApi) -> None:
    """What I type is what the model reads: quotes, control characters, things that look like options."""
    prompt = "--resume x\n$(id) \t \u2028 \U0001f600 \x1b[31m \\n \" ' </system-reminder>\r\n  end  "
    events = claude_server.generate(prompt).rest()

    assert events[0].json["message"]["content"][0]["text"] == prompt
    assert prompt in model.requests[0].user_texts


def test_second_prompt_goes_on_in_the_same_process(claude_server: Server, model: ModelApi) -> None:
    """The session remembers its first prompt; usage and cost are those of each turn."""
    usage = "usage 1000 100"
    first = claude_server.generate(script(usage, "text first answer")).rest()
    second = claude_server.generate(script(usage, "text second answer")).rest()

    jobs = [claude_server.job(events[-1].json["taskId"]) for events in (first, second)]
    assert text_of(second) == "second answer"
    assert "first answer" in str(model.requests[-1].body["messages"])
    assert [job["usage"]["output_tokens"] for job in jobs] == [100, 100]
    assert 0 < jobs[0]["costUsd"] == jobs[1]["costUsd"]


def test_session_is_resumed_by_another_process(claude_server: Server, model: ModelApi) -> None:
    """The server and Claude are restarted between two prompts: the session still remembers."""
    claude_server.generate(script("text a memorable answer")).rest()
    claude_server.terminate()
    claude_server.start()
    events = claude_server.generate(script("text and another")).rest()

    assert text_of(events) == "and another"
    assert "a memorable answer" in str(model.requests[-1].body["messages"])
    assert events[0].id > 5


def test_killed_server_does_not_disturb_claude(claude_server: Server, model: ModelApi) -> None:
    """kill -9 of the server while Claude writes: the same Claude goes on, its model is asked once, I miss nothing."""
    with claude_server.generate(script("deltas 100 0.03"), partial_messages=True) as stream:
        task_id = stream.headers["X-Task-Id"]
        for _ in range(10):
            stream.until(lambda event: event.type == "stream_event")
        claude_server.kill9()
        seen = stream.rest()
    claude_server.start()
    rest = claude_server.follow(task_id, after=seen[-1].id).rest()

    deltas = [
        event for event in seen + rest if event.json.get("event", {}).get("type") == "content_block_delta"
    ]
    assert len(deltas) == 100
    assert (seen + rest)[-1].json["status"] == "completed"
    assert len(model.requests) == 1
    assert claude_server.follow(task_id).rest() == seen + rest


def test_stop_ends_the_shell_command_too(claude_server: Server) -> None:
    """Stop kills Claude's shell command and what that has started; the next prompt is answered."""
    steps = script("bash echo $$ > shell.pid; sleep 1; sleep 1; sleep 100", "text never")
    with claude_server.generate(steps) as stream:
        pid_file = claude_server.workspace / "shell.pid"
        wait_until(lambda: pid_file.exists() and pid_file.read_text().strip())
        answer = claude_server.stop()
        events = stream.rest()

    assert (answer.status, events[-1].json["status"]) == (200, "cancelled")
    assert not is_alive(int(pid_file.read_text()))
    assert text_of(claude_server.generate(script("text still here")).rest()) == "still here"


def test_killed_claude_is_reported_and_resumed(claude_server: Server, model: ModelApi) -> None:
    """Claude is killed in the middle of a turn: the job fails, and the next prompt resumes the conversation."""
    claude_server.generate(script("text remember this")).rest()
    with claude_server.generate(script("deltas 200 0.05"), partial_messages=True) as stream:
        stream.until(lambda event: event.type == "stream_event")
        os.kill(claude_server.agents()[0], signal.SIGKILL)
        events = stream.rest()

    assert events[-1].json["status"] == "failed"
    assert text_of(claude_server.generate(script("text resumed")).rest()) == "resumed"
    assert "remember this" in str(model.requests[-1].body["messages"])


def test_options_reach_the_model(claude_server: Server, model: ModelApi) -> None:
    """Model, effort and system prompt of my request are those of the call to the model."""
    options = {"model": "claude-opus-4-5", "effort": "low", "system_prompt": "Always answer in verse."}
    claude_server.generate(script("text ok"), **options).rest()

    call = model.requests[0]
    assert (call.model, call.effort) == ("claude-opus-4-5", "low")
    assert "Always answer in verse." in call.instructions


def test_model_may_change_between_turns(claude_server: Server, model: ModelApi) -> None:
    """The second prompt names another model: it gets it, and the conversation goes on."""
    claude_server.generate(script("text one"), model="claude-opus-4-5").rest()
    claude_server.generate(script("text two"), model="claude-sonnet-4-5").rest()

    calls = [call for call in model.requests if call.tools]
    assert [call.model for call in calls] == ["claude-opus-4-5", "claude-sonnet-4-5"]
    assert "one" in str(calls[-1].body["messages"])


def test_limits_of_a_turn_are_told(claude_server: Server) -> None:
    """With max_turns the turn ends at the limit, and the job says so."""
    steps = script("bash echo 1", "bash echo 2", "bash echo 3", "text end")
    events = claude_server.generate(steps, max_turns=2).rest()

    job = claude_server.job(events[-1].json["taskId"])
    assert job["status"] == "failed"
    assert "2" in job["error"]


def test_structured_output(claude_server: Server) -> None:
    """With an output schema the job holds an object that fits it."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    events = claude_server.generate(script('structured {"n": 5}', "text ok"), output_schema=schema).rest()

    assert claude_server.job(events[-1].json["taskId"])["structuredOutput"] == {"n": 5}


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


def test_too_long_a_conversation_is_told(claude_server: Server) -> None:
    """The conversation does not fit the model: the job says so, and the next prompt is tried anew."""
    events = claude_server.generate(script("context_too_long")).rest()

    error = next(event.json for event in events if event.type == "error")
    assert events[-1].json["status"] == "failed"
    assert "long" in error["error"]


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
