"""What is particular to the real Codex app-server; what holds for every agent is in tests/conformance."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import OPENAI_KEY, ServerMaker
from tests.fakes.responses_api import ResponsesApi
from tests.fakes.scripted import Step, serve_in_thread
from tests.kit import Answer, Event, Server, script, wait_until
from tests.workspace.git_kit import make_repository, run_git

IDENTITY = ("-c", "user.name=x", "-c", "user.email=x@y.example")


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


def error_of(events: list[Event]) -> tuple[str, str]:
    """(status, code) of a turn that went wrong."""
    error = next(event.json for event in events if event.json.get("type") == "error")
    return events[-1].json["status"], error["code"]


def test_usage_is_that_of_each_turn(codex_server: Server) -> None:
    """One process counts on and on; each job has what all its calls of the model have used."""
    first = prompt(codex_server, "usage 100 10", "text first answer").rest()
    second = prompt(codex_server, "usage 200 20", "bash true", "usage 300 30", "text second answer").rest()

    jobs = [codex_server.job(events[-1].json["taskId"]) for events in (first, second)]
    assert [(job["usage"]["inputTokens"], job["usage"]["outputTokens"]) for job in jobs] == [
        (100, 10),
        (500, 50),
    ]


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


@pytest.mark.program
def test_key_is_not_in_the_reach_of_commands(codex_server: Server, responses: ResponsesApi) -> None:
    """The model gets the key; a command finds it in no environment, on no command line, in no file of Codex's."""
    search = (
        'env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr "\\0" "\\n"; cat $(find $CODEX_HOME -type f)'
    )
    command = f'({search}) 2>/dev/null | grep -ac "{OPENAI_KEY[:4]}[-]{OPENAI_KEY[5:]}"'
    events = prompt(codex_server, f"bash {command}", "text done").rest()

    assert responses.requests[0].key == OPENAI_KEY
    assert items(events)[0]["aggregatedOutput"] == "0\n"


class TakesRenewedLogins(ResponsesApi):
    def error_status(self, step: Step, conversation: Any) -> int | None:
        return 401 if "outdated" in self.requests[-1].headers["Authorization"] else None


def test_login_that_is_made_after_a_failure_counts(
    make_server: ServerMaker, real_codex: Path, tmp_path: Path
) -> None:
    """My login is refused, I log in anew on a terminal: the next prompt works with that, in the same conversation."""
    login = tmp_path / "auth.json"
    login.write_text('{"auth_mode": "apikey", "OPENAI_API_KEY": "outdated"}')
    with serve_in_thread(TakesRenewedLogins()) as api:
        server = make_server(
            CODEX_PATH=str(real_codex), CODEX_HOME=str(tmp_path), OPENAI_BASE_URL=f"{api.url}/v1"
        )
        refused = prompt(server, "text never").rest()
        login.write_text('{"auth_mode": "apikey", "OPENAI_API_KEY": "renewed"}')
        goes_on = prompt(server, "text goes on").rest()

    assert error_of(refused) == ("failed", "agent_not_authenticated")
    assert (text_of(goes_on), goes_on[-1].json["status"]) == ("goes on", "completed")


@pytest.mark.parametrize("use_worktree", [False, True])
def test_commits_need_leave(codex_server: Server, responses: ResponsesApi, use_worktree: bool) -> None:
    """Codex closes git's own files to commands, in a worktree too: the model is told, asks, and I allow it."""
    repo = make_repository(codex_server.workspace / "repo", {"a": "a\n"})
    commit = f"git rm -q a && git {' '.join(IDENTITY)} commit -qm gone"
    leave = {"sandbox_permissions": "require_escalated", "justification": "it writes to .git"}
    escalated = f"tool exec_command {json.dumps({'cmd': commit, **leave})}"
    options: dict[str, Any] = {
        "permission_mode": "accept_edits",
        "use_worktree": use_worktree,
        "cwd": str(repo),
    }
    with prompt(codex_server, f"bash {commit}", escalated, "text done", **options) as stream:
        asked = stream.until(lambda event: event.type == "permission_request").json
        log_before = run_git(repo, "log", "--all", "--format=%s")
        path = f"/generate/v2/jobs/{asked['taskId']}/permissions/{asked['requestId']}"
        codex_server.ask("POST", path, {"decision": "allow"}).body()
        end = stream.rest()[-1].json

    assert "Read-only file system" in str(responses.requests[1].body["input"][-1])
    assert (log_before, end["status"]) == (b"change\n", "completed")
    assert run_git(repo, "log", "--all", "--topo-order", "--format=%s") == b"gone\nchange\n"


def test_first_prompts_may_come_at_once(codex_server: Server) -> None:
    """Nobody has used Codex on this server before, and several sessions begin together: all of them work."""
    streams = [prompt(codex_server, "text hello", session=f"s{number}") for number in range(5)]

    assert [text_of(stream.rest()) for stream in streams] == ["hello"] * 5


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


def test_machine_without_sandbox_is_told_before_anything_happens(
    codex_server: Server, make_server: ServerMaker, tmp_path: Path
) -> None:
    """Commands cannot be confined here: modes that need it are refused by name, and `bypass` works."""
    real = codex_server.settings["CODEX_PATH"]
    program = tmp_path / "codex"
    refusal = 'case "$1" in sandbox) echo "bwrap: No permissions" >&2; exit 1;; esac'
    program.write_text(f'#!/bin/sh\n{refusal}\nexec {real} "$@"\n')
    program.chmod(0o755)
    server = make_server(**codex_server.settings | {"CODEX_PATH": str(program)})

    for mode in ("ask", "plan", "accept_edits"):
        refused = prompt(server, "text never", permission_mode=mode)
        assert (refused.status, refused.json["code"]) == (400, "sandbox_unavailable")
    assert server.ask("GET", "/sessions").json["sessions"] == []
    assert text_of(prompt(server, "text hello").rest()) == "hello"
