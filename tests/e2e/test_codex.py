"""The real Codex app-server behind the server, with a scripted model behind Codex."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from tests.conftest import OPENAI_KEY, ServerMaker
from tests.fakes.responses_api import ResponsesApi
from tests.kit import Answer, Event, Server, command_line_of, is_alive, parent_of, script, wait_until


def prompt(server: Server, *steps: str, session: str = "s", **options: Any) -> Answer:
    return server.generate(script(*steps), session, agent="codex", **options)


def items(events: list[Event]) -> list[dict[str, Any]]:
    """What the agent said and did, without the echo of the prompt."""
    completed = [event.json for event in events if event.json.get("method") == "item/completed"]
    found: list[dict[str, Any]] = [message["params"]["item"] for message in completed]
    return [item for item in found if item["type"] != "userMessage"]


def text_of(events: list[Event]) -> str:
    """All that the agent said."""
    return "".join(item["text"] for item in items(events) if item["type"] == "agentMessage")


def deltas(events: list[Event]) -> list[str]:
    messages = [event.json for event in events]
    return [m["params"]["delta"] for m in messages if m.get("method") == "item/agentMessage/delta"]


def is_delta(event: Event) -> bool:
    return bool(event.json.get("method") == "item/agentMessage/delta")


def error_of(events: list[Event]) -> tuple[str, str]:
    """(status, code) of a turn that went wrong."""
    error = next(event.json for event in events if event.json.get("type") == "error")
    return events[-1].json["status"], error["code"]


def pid_in(server: Server, name: str) -> int:
    """The pid that a command has written to a file of the workspace."""
    path = server.workspace / name
    wait_until(lambda: path.exists() and path.read_text().strip(), what=name)
    return int(path.read_text())


def app_servers(server: Server) -> list[int]:
    """The agent processes; none of those that they have started."""
    return [pid for pid in server.agents() if b"app-server" in command_line_of(pid)]


def test_codex_works_in_its_directory(codex_server: Server) -> None:
    """A prompt makes Codex run a command and write and edit a file; I see each step, and the files are there."""
    steps = (
        "think Hmm",
        "bash pwd > made.txt",
        "write notes.txt two",
        "edit notes.txt two three",
        "text All done",
    )
    events = prompt(codex_server, *steps).rest()

    done = [(item["type"], item.get("status")) for item in items(events)]
    assert done == [
        ("reasoning", None),
        ("commandExecution", "completed"),
        ("fileChange", "completed"),
        ("fileChange", "completed"),
        ("agentMessage", None),
    ]
    assert (codex_server.workspace / "made.txt").read_text() == f"{codex_server.workspace}\n"
    assert (codex_server.workspace / "notes.txt").read_text() == "three\n"
    assert (text_of(events), events[-1].json["status"]) == ("All done", "completed")


def test_failing_command_is_the_agents_affair(codex_server: Server) -> None:
    """A command fails: I see its output and its exit code, and the turn goes on."""
    events = prompt(codex_server, "bash echo out; exit 3", "text it failed").rest()

    command = items(events)[0]
    assert (command["status"], command["exitCode"], command["aggregatedOutput"]) == ("failed", 3, "out\n")
    assert (text_of(events), events[-1].json["status"]) == ("it failed", "completed")


def test_prompt_reaches_the_model_byte_for_byte(codex_server: Server, responses: ResponsesApi) -> None:
    """What I type is what the model reads: quotes, control characters, things that look like options."""
    text = "--resume x\n$(id) \t \u2028 \U0001f600 \x1b[31m \\n \" ' </environment_context>\r\n  end  "
    events = codex_server.generate(text, agent="codex").rest()

    assert events[0].json["message"]["content"][0]["text"] == text
    assert text in responses.requests[0].user_texts


def test_second_prompt_goes_on_in_the_same_process(codex_server: Server, responses: ResponsesApi) -> None:
    """The session remembers its first prompt, the agent is the same process, and usage is that of each turn."""
    first = prompt(codex_server, "usage 100 10", "text first answer").rest()
    pids = app_servers(codex_server)
    second = prompt(codex_server, "usage 200 20", "bash true", "usage 300 30", "text second answer").rest()

    jobs = [codex_server.job(events[-1].json["taskId"]) for events in (first, second)]
    assert text_of(second) == "second answer"
    assert "first answer" in str(responses.requests[-1].body["input"])
    assert app_servers(codex_server) == pids
    assert [(job["usage"]["inputTokens"], job["usage"]["outputTokens"]) for job in jobs] == [
        (100, 10),
        (500, 50),
    ]


def test_deltas_come_when_wanted(codex_server: Server) -> None:
    """Token deltas only with partial_messages; the whole message always."""
    without = prompt(codex_server, "deltas 5 0.01").rest()
    with_deltas = prompt(codex_server, "deltas 5 0.01", partial_messages=True).rest()

    assert (deltas(without), "".join(deltas(with_deltas))) == ([], text_of(with_deltas))
    assert text_of(without) == text_of(with_deltas) == "".join(f"delta {n} " for n in range(5))


def test_session_is_resumed_by_another_process(codex_server: Server, responses: ResponsesApi) -> None:
    """The server and Codex are restarted between two prompts: the session still remembers."""
    prompt(codex_server, "text a memorable answer").rest()
    thread = codex_server.ask("GET", "/sessions/s").json["internalSessionId"]
    codex_server.terminate()
    codex_server.start()
    events = prompt(codex_server, "text and another").rest()

    assert text_of(events) == "and another"
    assert "a memorable answer" in str(responses.requests[-1].body["input"])
    assert codex_server.ask("GET", "/sessions/s").json["internalSessionId"] == thread


def test_killed_server_does_not_disturb_codex(codex_server: Server, responses: ResponsesApi) -> None:
    """kill -9 of the server while Codex writes: the same Codex goes on, its model is asked once, I miss nothing."""
    with prompt(codex_server, "deltas 100 0.03", partial_messages=True) as stream:
        task_id = stream.headers["X-Task-Id"]
        for _ in range(10):
            stream.until(is_delta)
        codex_server.kill9()
        seen = stream.rest()
    codex_server.start()
    rest = codex_server.follow(task_id, after=seen[-1].id).rest()

    assert len(deltas(seen + rest)) == 100
    assert (seen + rest)[-1].json["status"] == "completed"
    assert len(responses.requests) == 1
    assert codex_server.follow(task_id).rest() == seen + rest
    assert text_of(prompt(codex_server, "text still here", partial_messages=True).rest()) == "still here"


@pytest.mark.parametrize("delay_s", [0.0, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3])
def test_server_may_be_killed_while_codex_starts(
    codex_server: Server, responses: ResponsesApi, delay_s: float
) -> None:
    """kill -9 of the server at any moment of the handshake: the prompt is worked on, and once only."""
    prompt(codex_server, "text hello", session="first").rest()
    responses.requests.clear()
    task_id = codex_server.start_job(script("text here I am"), agent="codex")
    time.sleep(delay_s)
    codex_server.kill9()
    codex_server.start()

    assert codex_server.ended_job(task_id)["status"] == "completed"
    assert len(responses.requests) == 1
    assert text_of(codex_server.follow(task_id).rest()) == "here I am"


def test_server_may_be_killed_between_turns(codex_server: Server) -> None:
    """kill -9 of an idle server: the next one goes on with the same warm process."""
    prompt(codex_server, "text one").rest()
    pids = app_servers(codex_server)
    codex_server.kill9()
    codex_server.start()
    events = prompt(codex_server, "text two").rest()

    assert (text_of(events), app_servers(codex_server)) == ("two", pids)


def test_stop_ends_text(codex_server: Server, responses: ResponsesApi) -> None:
    """Stop while Codex talks: the job is cancelled within a second or two, and the session goes on."""
    with prompt(codex_server, "deltas 500 0.05", partial_messages=True) as stream:
        stream.until(is_delta)
        answer = codex_server.stop()
        events = stream.rest()

    assert (answer.status, events[-1].json["status"]) == (200, "cancelled")
    assert text_of(prompt(codex_server, "text still here").rest()) == "still here"
    assert "deltas 500" in str(responses.requests[-1].body["input"])


def test_stop_ends_the_command_too(codex_server: Server) -> None:
    """Stop kills Codex's command and what that has started; the next prompt is answered."""
    steps = (
        "bash setsid sleep 100 & echo $! > child.pid; echo $$ > shell.pid; sleep 1; sleep 100",
        "text never",
    )
    with prompt(codex_server, *steps) as stream:
        pids = [pid_in(codex_server, name) for name in ("child.pid", "shell.pid")]
        answer = codex_server.stop()
        events = stream.rest()

    assert (answer.status, events[-1].json["status"]) == (200, "cancelled")
    assert [is_alive(pid) for pid in pids] == [False, False]
    assert text_of(prompt(codex_server, "text still here").rest()) == "still here"


def test_killed_codex_is_reported_and_resumed(codex_server: Server, responses: ResponsesApi) -> None:
    """Codex is killed in the middle of a turn: the job fails, and the next prompt resumes the conversation."""
    prompt(codex_server, "text remember this").rest()
    with prompt(codex_server, "bash echo $$ > shell.pid; sleep 100") as stream:
        shell = pid_in(codex_server, "shell.pid")
        os.kill(app_servers(codex_server)[0], signal.SIGKILL)
        events = stream.rest()

    assert error_of(events) == ("failed", "agent_exited")
    assert not is_alive(shell)
    assert text_of(prompt(codex_server, "text resumed").rest()) == "resumed"
    assert "remember this" in str(responses.requests[-1].body["input"])


def test_killed_runner_is_reported_and_resumed(codex_server: Server, responses: ResponsesApi) -> None:
    """The runner is killed: Codex and its command go with it, the job says so, and the next prompt resumes."""
    prompt(codex_server, "text remember this").rest()
    with prompt(codex_server, "bash echo $$ > shell.pid; sleep 100") as stream:
        shell = pid_in(codex_server, "shell.pid")
        os.kill(parent_of(app_servers(codex_server)[0]), signal.SIGKILL)
        events = stream.rest()

    assert error_of(events) == ("interrupted", "runner_lost")
    assert not is_alive(shell)
    assert text_of(prompt(codex_server, "text resumed").rest()) == "resumed"
    assert "remember this" in str(responses.requests[-1].body["input"])


def test_options_reach_the_model(codex_server: Server, responses: ResponsesApi) -> None:
    """Model, effort, instructions and output schema of my request are those of the call to the model."""
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    options = {"model": "gpt-5.5", "effort": "high", "system_prompt": "Always answer in verse."}
    events = prompt(codex_server, "bash true", 'text {"n": 5}', output_schema=schema, **options).rest()

    call = responses.requests[0]
    assert (call.model, call.effort, call.output_schema) == ("gpt-5.5", "high", schema)
    assert "Always answer in verse." in call.instructions
    assert codex_server.job(events[-1].json["taskId"])["structuredOutput"] == {"n": 5}


def test_options_are_of_one_turn(codex_server: Server, responses: ResponsesApi) -> None:
    """The model stays until I name another one; effort and schema are not those of the turn before."""
    prompt(codex_server, "text one").rest()
    prompt(codex_server, "text {}", model="gpt-5.5", effort="high", output_schema={"type": "object"}).rest()
    prompt(codex_server, "text three").rest()
    codex_server.ask("PUT", "/sessions/s", {"model": "codex"}).body()
    prompt(codex_server, "text four").rest()

    calls = [call for call in responses.requests if "SCRIPT: " in str(call.body["input"][-1])]
    default, chosen, kept, reset = calls
    assert (chosen.model, chosen.effort) == (kept.model, "high") == ("gpt-5.5", "high")
    assert (kept.effort, kept.output_schema) == ("medium", None)
    assert (reset.model, reset.effort) == (default.model, default.effort)
    assert "three" in str(reset.body["input"])


def test_key_is_not_in_the_reach_of_commands(codex_server: Server, responses: ResponsesApi) -> None:
    """The model gets the key; a command finds it in no environment, on no command line, in no file of Codex's."""
    search = (
        'env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr "\\0" "\\n"; cat $(find $CODEX_HOME -type f)'
    )
    command = f'({search}) 2>/dev/null | grep -ac "{OPENAI_KEY[:4]}[-]{OPENAI_KEY[5:]}"'
    events = prompt(codex_server, f"bash {command}", "text done").rest()

    assert responses.requests[0].key == OPENAI_KEY
    assert items(events)[0]["aggregatedOutput"] == "0\n"


def test_errors_of_the_model_api_are_told(codex_server: Server, make_server: ServerMaker) -> None:
    """A refused key, a limit, a broken server, a long prompt, nobody there: each has its code, within a minute."""
    steps = {
        "agent_not_authenticated": "error 401",
        "agent_rate_limited": "error 429",
        "agent_api_error": "error 500",
        "context_too_long": "failed context_length_exceeded",
    }
    streams = {code: prompt(codex_server, step, session=code) for code, step in steps.items()}
    lonely_server = make_server(**codex_server.settings | {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"})
    streams["agent_api_unreachable"] = prompt(lonely_server, "text never")

    assert {code: error_of(stream.rest()) for code, stream in streams.items()} == {
        code: ("failed", code) for code in streams
    }


def test_first_prompts_may_come_at_once(codex_server: Server) -> None:
    """Nobody has used Codex on this server before, and several sessions begin together: all of them work."""
    streams = [prompt(codex_server, "text hello", session=f"s{number}") for number in range(5)]

    assert [text_of(stream.rest()) for stream in streams] == ["hello"] * 5


def test_hiccup_of_the_model_api_is_waited_for(codex_server: Server) -> None:
    """The model API fails once: Codex tries again, and the job is completed."""
    events = prompt(codex_server, "error 500 1", "text recovered").rest()

    assert (text_of(events), events[-1].json["status"]) == ("recovered", "completed")


def test_prompt_that_is_too_long_is_told(codex_server: Server) -> None:
    """Codex takes a million characters: more is refused with a clear error, and the session goes on."""
    events = codex_server.generate("x" * 1_100_000, agent="codex").rest()

    assert error_of(events) == ("failed", "context_too_long")
    assert text_of(prompt(codex_server, "text still here").rest()) == "still here"


def test_background_command_outlives_its_turn(codex_server: Server) -> None:
    """A command goes on behind its turn: its end is in the session's events, and the next prompt works."""
    command = "until [ -e enough ]; do sleep 0.1; done; echo late"
    first = prompt(codex_server, f"bash-bg {command}", "text started").rest()
    (codex_server.workspace / "enough").touch()
    with codex_server.ask("GET", "/sessions/s/events", Last_Event_ID=str(first[-1].id)) as stream:
        late = stream.until(lambda event: event.json.get("method") == "item/completed")

    assert (text_of(first), first[-1].json["status"]) == ("started", "completed")
    assert late.json["params"]["item"]["aggregatedOutput"] == "late\n"
    assert text_of(prompt(codex_server, "text next").rest()) == "next"


def test_goal_is_worked_on_in_jobs_of_their_own(codex_server: Server) -> None:
    """Codex has set itself a goal: it goes on without a prompt, each time in a new job, until I stop it."""
    first = prompt(
        codex_server, 'tool create_goal {"objective":"be done"}', "text on it", model="gpt-5.5"
    ).rest()
    with codex_server.ask("GET", "/sessions/s/events", Last_Event_ID=str(first[-1].id)) as stream:
        done = stream.until(lambda event: event.json.get("done"))
        wait_until(lambda: codex_server.stop().status == 200)

    assert done.json["taskId"] != first[-1].json["taskId"]
    assert codex_server.job(done.json["taskId"])["status"] == "completed"
    assert text_of(prompt(codex_server, "text next").rest()) == "next"


def test_messages_are_what_was_said_and_done(codex_server: Server) -> None:
    """The history of a session has my prompts and each thing that Codex did, once and whole."""
    prompt(codex_server, "bash true", "deltas 3 0", partial_messages=True).rest()
    messages = codex_server.ask("GET", "/sessions/s/messages").json["messages"]

    kinds = [message.get("type") or message["params"]["item"]["type"] for message in messages]
    assert kinds == ["user", "commandExecution", "agentMessage"]


def test_both_agents_are_listed(codex_server: Server) -> None:
    """GET /agents names each program, its version and its models, and the credentials by name only."""
    agents = codex_server.ask("GET", "/agents").json["agents"]

    codex = next(agent for agent in agents if agent["name"] == "codex")
    assert [agent["name"] for agent in agents] == ["claude-code", "codex"]
    assert (codex["available"], codex["credentials"]) == (True, ["OPENAI_API_KEY"])
    assert codex["version"][0].isdigit()
    assert "gpt-5.5" in codex["models"]
    assert OPENAI_KEY not in str(agents)
