"""What holds on every route holds on every face: keys, scopes, limits of rate, and the audit log."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agentsrv.api.keys import AUDIT, KEYRING
from agentsrv.app import make_app
from agentsrv.model import Scope
from tests.api.kit import Server, make_config, serve
from tests.kit import ROOT

PROMPT = "SCRIPT: say hello"
CALL = {"name": "send_prompt", "arguments": {"prompt": PROMPT}}
PROMPTING: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (
        "/openai/v1/chat/completions",
        {"model": "claude-code", "messages": [{"role": "user", "content": PROMPT}]},
    ),
    "responses": ("/openai/v1/responses", {"model": "claude-code", "input": PROMPT}),
    "mcp": ("/mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": CALL}),
    "acp": ("/acp", {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": 1}}),
}
faces = pytest.mark.parametrize("face", PROMPTING)


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[Server]:
    async with serve(make_app(make_config(tmp_path))) as server:
        yield server


def test_face_is_a_file_or_two_of_moderate_size() -> None:
    """A thin view of what there is: rules have no room in it, and another protocol costs no more."""
    sizes = {path.name: len(path.read_text().splitlines()) for path in (ROOT / "agentsrv/faces").glob("*.py")}

    assert {name: size for name, size in sizes.items() if size >= 400} == {}


@faces
async def test_wrong_key_is_refused_and_a_prompt_is_in_the_audit_log(app: Server, face: str) -> None:
    """Under the name of its key."""
    path, body = PROMPTING[face]
    _, key = await app.app[KEYRING].add("planner", {Scope.PROMPT, Scope.READ})
    refused = [(await app.ask("POST", path, key=wrong, json=body)).status for wrong in ("wrong", None)]
    taken = await app.ask("POST", path, key=key, json=body)
    await app.app[AUDIT].written()
    entries = (await app.ask("GET", "/audit")).json["entries"]

    assert (refused, taken.status) == ([401, 401], 200)
    assert "planner" in [entry["key"] for entry in entries]


@faces
async def test_key_that_may_only_read_starts_nothing(app: Server, face: str) -> None:
    path, body = PROMPTING[face]
    _, key = await app.app[KEYRING].add("reader", {Scope.READ})
    headers = {}
    if face == "acp":
        hello = await app.ask("POST", path, key=key, json=body)
        headers = {"Acp-Connection-Id": hello.headers["Acp-Connection-Id"]}
        body = {"jsonrpc": "2.0", "id": 2, "method": "session/new", "params": {}}
    answer = await app.ask("POST", path, key=key, json=body, headers=headers)
    told = answer.text if face != "acp" else await first_message(app, key, headers)
    sessions = (await app.ask("GET", "/sessions")).json["sessions"]

    assert "scope_missing" in told
    assert sessions == []


@faces
async def test_rate_of_a_key_is_limited(tmp_path: Path, face: str) -> None:
    path, body = PROMPTING[face]
    async with serve(make_app(make_config(tmp_path, rate_limit=2))) as app:
        statuses = [(await app.ask("POST", path, json=body)).status for _ in range(4)]

    assert statuses[-1] == 429


async def first_message(app: Server, key: str, headers: dict[str, str]) -> str:
    url = f"http://127.0.0.1:{app.port}/acp"
    asked = {**headers, "Authorization": f"Bearer {key}", "Accept": "text/event-stream"}
    async with app.client.get(url, headers=asked) as stream:
        while not (line := await stream.content.readline()).startswith(b"data: "):
            assert line
    return json.dumps(json.loads(line.removeprefix(b"data: ")))
