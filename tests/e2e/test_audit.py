"""The audit log of a real server: what people did while agents worked, under the names of their keys."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from aiohttp import ClientSession

from tests.kit import KEY, ROOT, Server, script, wait_until
from tests.terminal_client import terminal

SECRET = "what nobody else shall read"


def entries(server: Server) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.ask("GET", "/audit").json["entries"]
    return found


def key_for(server: Server, name: str, scope: str) -> str:
    """As an administrator makes one on the command line, while the server runs."""
    command = [sys.executable, "-m", "agentsrv", "keys", "add", name, "--scope", scope, "--expires", "90d"]
    environment = server.environment() | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout.split()[-1]


@pytest.mark.at_home("each server writes down what it has done")
async def test_answers_terminals_and_keys_are_told(server: Server) -> None:
    """Who has answered what, which terminal was opened, who got a key; and neither prompts nor keys."""
    token = key_for(server, "phone", "answer")
    job = server.start_job(f"{SECRET}\n" + script('ask 1 Bash {"command": "ls"}'), permission_mode="ask")
    question = server.follow(job).until(lambda event: event.type == "permission_request")
    request_id = question.json["requestId"]
    path = f"/generate/v2/jobs/{job}/permissions/{request_id}"
    answered = server.ask(
        "POST", path, {"decision": "deny", "message": SECRET}, Authorization=f"Bearer {token}"
    )
    async with ClientSession() as client, terminal(client, server.port, KEY, "shell"):
        wait_until(lambda: len(entries(server)) >= 5)
    told = [(entry["key"], entry["action"], entry["target"]) for entry in reversed(entries(server))]
    opened = entries(server)[0]

    assert answered.status == 200, answered.json
    assert told == [
        ("", "create_token", "phone"),
        ("API_KEY", "generate", ""),
        ("phone", "answer_permission", f"{job} {request_id}"),
        ("API_KEY", "create_terminal_token", ""),
        ("API_KEY", "open_terminal", ""),
    ]
    assert (opened["details"]["terminal"], opened["details"]["readOnly"]) == ("shell", False)
    assert not [secret for secret in (SECRET, token, KEY) if secret in str(entries(server))]


@pytest.mark.at_home("each server writes down what it has done")
def test_the_audit_log_is_not_changed_over_http(server: Server) -> None:
    """It is read, and there is no way to write into it."""
    server.ask("POST", "/sessions", {}).body()
    wait_until(lambda: entries(server))
    before = entries(server)
    changed = [server.ask(method, "/audit", {}).status for method in ("POST", "PUT", "PATCH", "DELETE")]

    assert changed == [405] * 4
    assert entries(server) == before
