"""Every route answers the same through another server."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from agentsrv.api.operations import Operation
from agentsrv.api.routes import OPERATIONS, ROUTES
from agentsrv.api.routing import rules
from tests.fleet.kit import UPGRADE
from tests.kit import Answer, Server, script

pytestmark = pytest.mark.tools

Request = tuple[str, str, Any, dict[str, str]]
VOLATILE = {"date", "x-request-id"}


HERE = {
    **dict.fromkeys(("welcome", "health", "ready", "list_servers"), "how the server is that is asked"),
    **dict.fromkeys(("openapi", "docs", "enter_console", "console"), "the same everywhere"),
    **dict.fromkeys(
        ("check_environment", "list_agents", "list_models", "get_model"), "what is installed there"
    ),
    **dict.fromkeys(("list_tokens", "create_token", "revoke_token"), "named keys are rows of one server"),
    **dict.fromkeys(("create_code", "create_ticket", "redeem_code"), "good once, where they were made"),
    "read_audit": "each server writes down what it has done",
}
"""Operations that are answered where they arrive, and why."""

KNOWN = {
    "session_id": "s",
    "task_id": "{task}",
    "response_id": "resp_{task}",
    "conversation_id": "conv_s",
    **dict.fromkeys(("terminal_id", "timer_id", "background_id", "request_id"), "none"),
}
"""What stands for the parameters in paths."""

ENDLESS = {"follow_session", "watch_activity", "watch_directory"}
"""Streams of which the head and the first event are compared."""


def ask(method: str, path: str, body: Any = None, **headers: str) -> Request:
    return method, path, body, headers


@pytest.fixture(scope="module")
def task(standing: Any) -> str:
    """A job that has ended, in the session `s`, and a file beside it."""
    home: Server = standing.servers["home"]
    home.generate(script("say hello", "lines 5 100"), "s").rest()
    (home.workspace / "file.txt").write_text("0123456789\n" * 1000)
    return str(home.ask("GET", "/generate/v2/jobs?session_id=s").json["jobs"][0]["taskId"])


SAME = (
    ask("GET", "/sessions/s"),
    ask("HEAD", "/sessions/s"),
    ask("GET", "/sessions/s/"),
    ask("GET", "/sessions/none"),
    ask("GET", "/sessions/%00"),
    ask("GET", "/sessions/s/messages?limit=2"),
    ask("GET", "/sessions/s/messages?format=acp"),
    ask("GET", "/sessions/s/messages?limit=many"),
    ask("GET", "/sessions/s/allowances"),
    ask("GET", "/sessions/s/queue"),
    ask("GET", "/sessions/none/queue"),
    ask("PUT", "/sessions/s", {"name": "named"}),
    ask("PUT", "/sessions/s", {"name": 7}),
    ask("PUT", "/sessions/s", [1]),
    ask("PUT", "/sessions/s/queue", {"taskIds": ["x"]}),
    ask("POST", "/sessions", {"sessionId": "s"}),
    ask("POST", "/sessions", {"sessionId": "no/id"}),
    ask("POST", "/sessions", {"sessionId": "new", "cwd": "/nowhere"}),
    ask("POST", "/sessions/none/fork"),
    ask("DELETE", "/sessions/none"),
    ask("DELETE", "/generate/s/stop"),
    ask("POST", "/generate/v2", {"session_id": "s"}),
    ask("POST", "/generate/v2", {"session_id": "s", "prompt": "x", "agent": "codex"}),
    ask("POST", "/generate/v2", {"session_id": "new", "prompt": "x", "agent": "none"}),
    ask("POST", "/generate/v2", {"session_id": "s", "prompt": "x"}, Content_Type="text/plain"),
    ask("POST", "/generate/v2", {"session_id": "s", "prompt": "x"}, Last_Event_ID="999999"),
    ask("GET", "/generate/v2/jobs?session_id=s"),
    ask("GET", "/generate/v2/jobs/{task}"),
    ask("GET", "/generate/v2/jobs/{task}?wait=1"),
    ask("GET", "/generate/v2/jobs/none"),
    ask("GET", "/generate/v2/jobs/{task}/stream"),
    ask("GET", "/generate/v2/jobs/{task}/stream", Last_Event_ID="3"),
    ask("HEAD", "/generate/v2/jobs/{task}/stream"),
    ask("GET", "/generate/v2/jobs/{task}/stream?format=acp"),
    ask("GET", "/generate/v2/jobs/{task}/permissions"),
    ask("POST", "/generate/v2/jobs/{task}/permissions/none", {"decision": "allow"}),
    ask("GET", "/filesystem/files?path=workspaces"),
    ask("GET", "/filesystem/content?path=workspaces/file.txt"),
    ask("HEAD", "/filesystem/content?path=workspaces/file.txt"),
    ask("GET", "/filesystem/content?path=workspaces/file.txt", Range="bytes=5-9"),
    ask("GET", "/filesystem/content?path=workspaces/none"),
    ask("GET", "/filesystem/content?path=%ff"),
    ask("GET", "/filesystem/grep?path=workspaces&q=345"),
    ask("DELETE", "/filesystem/entry?path=workspaces/none"),
    ask("GET", "/git/diff?path=workspaces"),
    ask("DELETE", "/terminals/none"),
    ask("PUT", "/terminals/none/size", {"cols": 1, "rows": 1}),
    ask("GET", "/ws/terminal?token=a.b.c"),
    ask("GET", "/agents"),
    ask("GET", "/no/such/route"),
    ask("PATCH", "/sessions/s"),
)


@pytest.mark.parametrize("wanted", SAME, ids=lambda one: f"{one[0]} {one[1]}")
def test_route_answers_the_same(home: Server, door: Server, task: str, wanted: Request) -> None:
    """Status, headers and body, whichever server is asked."""
    method, path, body, headers = wanted
    path = path.replace("{task}", task)

    assert told(home.ask(method, path, body, **headers)) == told(door.ask(method, path, body, **headers))


def test_every_route_is_somebodys() -> None:
    """A new one fails here, until it is known which server answers it."""
    passed_on = rules(ROUTES)
    assert HERE.keys() == {op.name for op in OPERATIONS if op.handler not in passed_on}


PASSED_ON = [op for op in OPERATIONS if op.name not in HERE]


@pytest.mark.parametrize("operation", PASSED_ON, ids=lambda op: op.name)
def test_every_route_is_the_same_through_another_server(
    home: Server, door: Server, task: str, operation: Operation
) -> None:
    """Of what there is and of what there is not, also with a body that is wrong: all that changes nothing."""
    known, unknown = path_of(operation, KNOWN), path_of(operation, dict.fromkeys(KNOWN, "none"))
    wanted: list[tuple[str, str, Any]] = [(operation.method, unknown, [1])]
    if operation.method == "GET":
        wanted += [(method, path, None) for method in ("GET", "HEAD") for path in (known, unknown)]
    for method, path, body in wanted:
        answers = []
        for server in (home, door):
            with server.ask(method, path.replace("{task}", task), body) as answer:
                is_endless = operation.name in ENDLESS and method == "GET" and answer.status == 200
                answers.append(head_and_event(answer) if is_endless else told(answer))
        assert answers[0] == answers[1], (method, path)


def path_of(operation: Operation, values: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)(:[^}]*)?\}", lambda found: values[found[1]], operation.path)


def head_and_event(answer: Answer) -> Any:
    (first,) = answer.take(1)
    return answer.status, steady_headers(answer), {**first.json, "timestamp": None}


def test_refusal_of_a_socket_comes_whole(home: Server, door: Server) -> None:
    """Its home refuses the terminal: status, headers and body are those that it has sent."""
    token = door.ask("POST", "/terminal/token", {"deploymentId": "local-dev"}).json["token"]
    answers = [one.ask("GET", f"/ws/terminal?token={token[:-4]}AAAA", **UPGRADE) for one in (home, door)]

    assert 401 == answers[0].status
    assert told(answers[0]) == told(answers[1])


def told(answer: Answer) -> tuple[int, dict[str, str], Any]:
    """All that must be equal: without what names the moment or the request."""
    body = answer.body().decode("utf-8", "replace")
    return answer.status, steady_headers(answer), steady(body)


def steady_headers(answer: Answer) -> dict[str, str]:
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return {name: headers[name] for name in headers.keys() - VOLATILE}


def steady(body: str) -> Any:
    try:
        found = json.loads(body)
    except ValueError:
        return re.sub(r": keepalive\n", "", body)
    if isinstance(found, dict):
        found.pop("timestamp", None)
        found.pop("updatedAt", None)
    return found
