"""What is particular to the real Claude Code; what holds for every agent is in tests/conformance."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.conftest import ServerMaker
from tests.fakes.model_api import ModelApi
from tests.fakes.scripted import Step, serve_in_thread
from tests.kit import Answer, Event, Server, script, wait_until


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


class RenewedMeanwhile(ModelApi):
    """It refuses a login twice; before the agent has heard of the second time, somebody has renewed it."""

    def __init__(self, login: Path) -> None:
        super().__init__()
        self.login = login

    def error_status(self, step: Step, conversation: object) -> int | None:
        status = super().error_status(step, conversation)
        if len(self.requests) == 2:
            write_login(self.login, "renewed")
        return status


def write_login(path: Path, token: str) -> None:
    """As the CLI keeps it; without a token for renewals, it does not ask for one itself."""
    login = {"accessToken": token, "expiresAt": 10**13, "scopes": ["user:inference"]}
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"claudeAiOauth": login}))
    new.rename(path)


def test_login_that_another_process_renews_gets_its_time(
    make_server: ServerMaker, real_claude: Path, tmp_path: Path
) -> None:
    """My terminal renews the login that a turn works with: the turn goes on with the new one."""
    login = tmp_path / ".credentials.json"
    write_login(login, "outdated")
    with serve_in_thread(RenewedMeanwhile(login)) as api:
        server = make_server(
            CLAUDE_PATH=str(real_claude), CLAUDE_CONFIG_DIR=str(tmp_path), ANTHROPIC_BASE_URL=api.url
        )
        events = server.generate(script("error 401 2", "text goes on")).rest()

    assert (text_of(events), events[-1].json["status"]) == ("goes on", "completed")
    tokens = [request.headers["Authorization"].removeprefix("Bearer ") for request in api.requests]
    assert tokens == ["outdated", "outdated", "renewed"]


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


def test_session_whose_agent_moves_to_a_worktree_is_noticed(claude_server: Server) -> None:
    """Claude works in a worktree of its own making from then on: the session says where, and goes on there."""
    repository = claude_server.workspace / "repository"
    repository.mkdir()
    author = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    for command in (["init", "-q"], [*author, "commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", "-C", repository, *command], check=True)
    move = 'tool EnterWorktree {"name": "aside"}'
    claude_server.generate(script(move, "text moved"), cwd=str(repository)).rest()
    wait_until(lambda: claude_server.ask("GET", "/sessions/s").json["cwd"].endswith("/worktrees/aside"))
    events = claude_server.generate(script("bash pwd > here", "text on"), cwd=str(repository)).rest()

    place = Path(claude_server.ask("GET", "/sessions/s").json["cwd"])
    assert events[-1].json["status"] == "completed"
    assert (place / "here").read_text().strip() == str(place)


def test_plan_is_approved_into_a_mode(claude_server: Server) -> None:
    """I read the plan and let it edit files, but nothing else: it edits unasked, and asks for a command. The next
    server knows that, too.
    """
    steps = (
        'tool ExitPlanMode {"plan": "write it"}',
        "write a.txt one",
        "bash curl -s http://127.0.0.1:9",
        "text done",
    )
    task_id = claude_server.start_job(script(*steps), permission_mode="plan")
    stream = claude_server.follow(task_id)
    plan = next_question(stream)
    decide(claude_server, plan, permissionMode="accept_edits")
    command = next_question(stream)
    claude_server.kill9()
    claude_server.start()
    decide(claude_server, command)
    events = claude_server.follow(task_id).rest()

    assert (plan["tool"], command["tool"], events[-1].json["status"]) == ("ExitPlanMode", "Bash", "completed")
    assert (claude_server.workspace / "a.txt").read_text().strip() == "one"


def test_what_claude_has_planned_outlives_it(claude_server: Server, model: ModelApi) -> None:
    """A wake-up and a schedule, with server and agent killed; at the time the session gets the prompt, once."""
    wakeup = 'tool ScheduleWakeup {"delaySeconds": 3600, "reason": "later", "prompt": "woken up"}'
    cron = 'tool CronCreate {"cron": "0 9 1 1 *", "prompt": "happy new year"}'
    claude_server.generate(script(wakeup, cron, "text planned")).rest()
    listed = claude_server.ask("GET", "/sessions/s/timers").json["timers"]
    claude_server.kill9()
    for pid in claude_server.agents():
        os.kill(pid, signal.SIGKILL)
    with closing(sqlite3.connect(claude_server.database)) as db:
        db.execute("UPDATE timers SET at = 1 WHERE id LIKE 'wakeup-%'")
        db.commit()
    claude_server.start()
    wait_until(lambda: any("woken up" in call.user_texts for call in model.requests))

    assert [(one["prompt"], one["schedule"]) for one in listed] == [
        ("woken up", None),
        ("happy new year", "0 9 1 1 *"),
    ]
    wait_until(lambda: len(claude_server.ask("GET", "/sessions/s/timers").json["timers"]) == 1)
    jobs = claude_server.ask("GET", "/generate/v2/jobs?session_id=s").json["jobs"]
    assert [claude_server.ended_job(job["taskId"])["status"] for job in jobs] == ["completed"] * 2


def test_bypass_that_settings_forbid_is_no_other_mode(claude_server: Server) -> None:
    """It would work in another mode without a word: the job fails before the model is asked, and says why."""
    (claude_server.home / ".claude").mkdir(exist_ok=True)
    forbidden = {"permissions": {"disableBypassPermissionsMode": "disable"}}
    (claude_server.home / ".claude/settings.json").write_text(json.dumps(forbidden))
    events = claude_server.generate(script("bash touch done", "text done"), permission_mode="bypass").rest()
    asks = claude_server.generate(script("text hello"), permission_mode="ask").rest()

    assert [event.json["code"] for event in events if event.type == "error"] == ["permission_mode_refused"]
    assert not (claude_server.workspace / "done").exists()
    assert asks[-1].json["status"] == "completed"


def next_question(stream: Answer) -> dict[str, Any]:
    found: dict[str, Any] = stream.until(lambda event: event.type == "permission_request").json
    return found


def decide(server: Server, question: dict[str, Any], **fields: Any) -> None:
    path = f"/generate/v2/jobs/{question['taskId']}/permissions/{question['requestId']}"
    assert server.ask("POST", path, {"decision": "allow", **fields}).status == 200
