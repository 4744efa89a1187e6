"""Agents drive agents: the official MCP client, and a real Claude Code that hands work to Codex."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import mcp
import pytest
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from agentsrv.api.keys import KEYRING
from agentsrv.app import make_app
from agentsrv.model import Scope
from tests.api.kit import make_config, serve
from tests.conftest import OPENAI_KEY, ServerMaker
from tests.fakes.model_api import ModelApi
from tests.fakes.responses_api import ResponsesApi
from tests.kit import KEY, ROOT, Server, script
from tests.workspace.git_kit import make_repository

ASK = 'ask 1 Bash {"command": "touch x"}'


@asynccontextmanager
async def client_of(server: Server) -> AsyncIterator[mcp.Client]:
    async with create_mcp_http_client(headers={"Authorization": f"Bearer {KEY}"}) as http:
        transport = streamable_http_client(f"http://127.0.0.1:{server.port}/mcp", http_client=http)
        async with mcp.Client(transport) as client:
            yield client


async def call(client: mcp.Client, tool: str, **arguments: Any) -> Any:
    return told(await client.call_tool(tool, arguments))


def told(result: Any) -> Any:
    """What a tool has found."""
    return json.loads(result.content[0].text)


def post(server: Server, message: Any, **headers: str) -> tuple[int, Any]:
    answer = server.ask("POST", "/mcp", message, **headers)
    body = answer.body()
    return answer.status, json.loads(body) if body else None


def post_text(server: Server, text: str) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    with closing(connection):
        connection.request("POST", "/mcp", text.encode(), headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


async def test_prompt_is_sent_waited_for_and_listed(server: Server) -> None:
    async with client_of(server) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        job = await call(client, "send_prompt", prompt=script("say hello"), session_id="s", message_id="one")
        again = await call(
            client, "send_prompt", prompt=script("say hello"), session_id="s", message_id="one"
        )
        ended = await call(client, "wait", task_id=job["task_id"])
        listed = await call(client, "list_sessions", limit=5)

    assert set(tools) == {"send_prompt", "wait", "answer", "stop", "list_sessions", "diff"}
    assert tools["send_prompt"].input_schema["required"] == ["prompt"]
    assert again["task_id"] == job["task_id"]
    assert (ended["status"], ended["session_id"]) == ("completed", "s")
    assert [session["session_id"] for session in listed["sessions"]] == ["s"]


async def test_question_is_waited_for_and_answered(server: Server) -> None:
    async with client_of(server) as client:
        job = await call(client, "send_prompt", prompt=script(ASK), permission_mode="ask")
        waiting = await call(client, "wait", task_id=job["task_id"])
        (question,) = waiting["questions"]
        name = {"task_id": job["task_id"], "request_id": question["request_id"]}
        await call(client, "answer", **name, decision="allow")
        ended = await call(client, "wait", task_id=job["task_id"])
        late = await client.call_tool("answer", {**name, "decision": "deny"})

    assert (waiting["status"], question["input"]) == ("waiting_for_approval", {"command": "touch x"})
    assert (ended["status"], late.is_error) == ("completed", True)


async def test_job_is_stopped(server: Server) -> None:
    async with client_of(server) as client:
        job = await call(client, "send_prompt", prompt=script("hang"))
        running = await call(client, "wait", task_id=job["task_id"], timeout_s=0)
        stopped = await call(client, "stop", task_id=job["task_id"])

    assert (running["status"], stopped["status"]) == ("running", "cancelled")


async def test_diff_of_a_session_is_told_and_a_large_one_in_short(server: Server) -> None:
    repo = make_repository(server.workspace / "repo", {"a": "a\n"})
    server.generate("hello", "s", cwd=str(repo)).rest()
    (repo / "a").write_text("b\n")
    async with client_of(server) as client:
        small = await call(client, "diff", session_id="s")
        (repo / "new").write_text("line\n" * 100_000)
        large = await call(client, "diff", session_id="s")

    assert [file["newPath"] for file in small["files"]] == ["a"]
    assert {file["newPath"] for file in large["summary"]["files"]} == {"a", "new"}


async def test_progress_is_told_to_who_asks_for_it(make_server: ServerMaker) -> None:
    told_of: list[str | None] = []
    server = make_server()

    async def note(progress: float, total: float | None, message: str | None) -> None:
        told_of.append(message)

    async with client_of(server) as client:
        job = await call(
            client, "send_prompt", prompt=script("say a", "sleep 1.2", "say b", "sleep 1.2", "say c")
        )
        result = await client.call_tool("wait", {"task_id": job["task_id"]}, progress_callback=note)

    assert told(result)["status"] == "completed"
    assert told_of


def test_what_is_wrong_is_told_in_the_words_of_the_protocol(server: Server) -> None:
    rpc = {"jsonrpc": "2.0", "id": 1}
    assert post(server, rpc | {"method": "server/discover"})[1]["error"]["code"] == -32601
    assert post(server, rpc | {"method": 7})[1]["error"]["code"] == -32600
    assert post(server, rpc | {"method": "ping", "params": []})[1]["error"]["code"] == -32602
    assert post(server, {**rpc, "id": {}, "method": "ping"})[1] == {
        "jsonrpc": "2.0",
        "id": None,
        "error": {
            "code": -32600,
            "message": "`method` must be a string, and `id` a whole number or at most 256 characters",
        },
    }
    assert (
        post(server, rpc | {"method": "tools/call", "params": {"name": "rm"}})[1]["error"]["code"] == -32602
    )
    assert post(server, {"jsonrpc": "2.0", "method": "notifications/initialized"}) == (202, None)
    assert post(server, [rpc | {"method": "ping"}])[0] == 400
    assert server.ask("GET", "/mcp").status == 405
    assert post(server, rpc | {"method": "ping"}, Authorization="Bearer wrong")[0] == 401


@pytest.mark.parametrize("id_", ["null", "1.5", "true", "[]", "9" * 30, f'"{"x" * 5000}"'])
def test_id_that_is_none_is_refused(server: Server, id_: str) -> None:
    status, answer = post_text(server, f'{{"jsonrpc": "2.0", "id": {id_}, "method": "ping"}}')

    assert (status, answer["id"], answer["error"]["code"]) == (200, None, -32600)


@pytest.mark.parametrize(
    "text", ['{"jsonrpc": "2.0", "id": 1e400, "method": "ping"}', '{"id": 1}', "", "null"]
)
def test_what_is_no_message_is_refused(server: Server, text: str) -> None:
    assert post_text(server, text)[0] == 400


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2099-01-01", 7, None])
def test_versions_are_agreed_on(server: Server, version: object) -> None:
    """An older client gets what it knows where we do, too, else our newest; whether it says hello or not."""
    rpc = {"jsonrpc": "2.0", "id": 1}
    hello = post(server, rpc | {"method": "initialize", "params": {"protocolVersion": version}})[1]["result"]
    tools = post(server, rpc | {"method": "tools/list"})[1]["result"]["tools"]

    assert hello["protocolVersion"] == (version if version == "2025-03-26" else "2025-11-25")
    assert len(tools) == 6


def test_version_that_was_not_agreed_on_is_refused(server: Server) -> None:
    """Unless a client asks which there are."""

    def answer(method: str, version: str) -> tuple[int, Any]:
        return post(server, {"jsonrpc": "2.0", "id": 1, "method": method}, MCP_Protocol_Version=version)

    refused = answer("ping", "2099-01-01")
    assert (refused[0], "2025-11-25" in refused[1]["error"]) == (400, True)
    assert answer("ping", "2025-06-18")[1]["result"] == {}
    assert answer("server/discover", "2099-01-01")[1]["error"]["code"] == -32601


@pytest.mark.parametrize(
    ("tool", "arguments", "code"),
    [
        ("send_prompt", {}, "invalid_input"),
        ("send_prompt", {"prompt": "x", "session_id": "../x"}, "invalid_input"),
        ("send_prompt", {"prompt": "x", "cwd": "/etc"}, "outside_workspace"),
        ("send_prompt", {"prompt": "x", "agent": "nobody"}, "unsupported_option"),
        ("send_prompt", {"prompt": "x", "cwd": "x" * 100_000}, "invalid_input"),
        ("send_prompt", ["x"], "invalid_input"),
        ("wait", {"task_id": "none"}, "job_not_found"),
        ("wait", {"task_id": "x" * 100_000}, "invalid_input"),
        ("wait", {"task_id": "none", "timeout_s": 1e9}, "invalid_input"),
        ("stop", {"task_id": "none"}, "job_not_found"),
        ("diff", {"session_id": "none"}, "session_not_found"),
        ("list_sessions", {"cursor": "x"}, "invalid_input"),
        ("answer", {"task_id": "none", "request_id": "x", "decision": "maybe"}, "invalid_input"),
    ],
)
def test_tool_says_what_is_wrong(server: Server, tool: str, arguments: object, code: str) -> None:
    """To the model, which may do better: the call has a result."""
    params = {"name": tool, "arguments": arguments}
    status, answer = post(server, {"jsonrpc": "2.0", "id": "a", "method": "tools/call", "params": params})

    assert (status, answer["result"]["isError"]) == (200, True)
    assert len(json.dumps(answer)) < 1000
    assert json.loads(answer["result"]["content"][0]["text"])["code"] == code


async def test_key_may_do_what_its_scopes_say(tmp_path: Path) -> None:
    async with serve(make_app(make_config(tmp_path))) as server:
        _, key = await server.app[KEYRING].add("reader", {Scope.READ})
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
        listing = await server.ask(
            "POST", "/mcp", key=key, json={**message, "params": {"name": "list_sessions"}}
        )
        wanted = {"name": "send_prompt", "arguments": {"prompt": "x"}}
        prompting = await server.ask("POST", "/mcp", key=key, json={**message, "params": wanted})

    assert listing.json["result"]["isError"] is False
    assert "scope_missing" in prompting.json["result"]["content"][0]["text"]


@pytest.fixture
def server_of_both(
    model: ModelApi,
    responses: ResponsesApi,
    make_server: ServerMaker,
    real_claude: Path,
    real_codex: Path,
) -> Server:
    """One with the real Claude Code and the real Codex."""
    return make_server(
        CLAUDE_PATH=str(real_claude),
        CODEX_PATH=str(real_codex),
        ANTHROPIC_BASE_URL=model.url,
        ANTHROPIC_API_KEY="fake-model-key",
        OPENAI_BASE_URL=f"{responses.url}/v1",
        OPENAI_API_KEY=OPENAI_KEY,
    )


GIVEN = {"prompt": script("text the child is done"), "agent": "codex", "session_id": "child"}
HAND_OVER = script(f"tool mcp__agents__send_prompt {json.dumps(GIVEN)}", "text handed over")


def test_real_claude_that_was_told_of_the_server_hands_work_to_codex(
    server_of_both: Server, real_claude: Path, tmp_path: Path
) -> None:
    """On a terminal, with `claude mcp add` as docs/clients.md has it: Claude Code has the tools, and Codex works."""
    (adding,) = re.findall(r"^claude (mcp add .*)$", (ROOT / "docs/clients.md").read_text(), re.MULTILINE)
    adding = adding.replace("127.0.0.1:3000", f"127.0.0.1:{server_of_both.port}")
    names = ("PATH", "ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY")
    environment = {name: server_of_both.environment()[name] for name in names}
    environment |= {"HOME": str(tmp_path), "API_KEY": KEY, "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}

    def claude(words: str, *argv: str) -> str:
        command = ("sh", "-c", f'"$0" {words}', str(real_claude), *argv)
        return subprocess.run(
            command,
            env=environment,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    claude(adding)
    said = claude('-p "$1" --allowedTools mcp__agents__send_prompt', HAND_OVER)
    (child,) = server_of_both.ask("GET", "/generate/v2/jobs?session_id=child").json["jobs"]

    assert said == "handed over\n"
    assert server_of_both.ended_job(child["taskId"])["result"] == "the child is done"


def test_real_claude_hands_work_to_codex(server_of_both: Server) -> None:
    """It gives the server that runs it a prompt for Codex, and waits for what that has said."""
    server = server_of_both
    tools = {
        "agents": {
            "type": "http",
            "url": f"http://127.0.0.1:{server.port}/mcp",
            "headers": {"Authorization": f"Bearer {KEY}"},
        }
    }
    ended = server.generate(HAND_OVER, "parent", mcp_servers=tools).rest()
    (child,) = server.ask("GET", "/generate/v2/jobs?session_id=child").json["jobs"]

    assert ended[-1].json["status"] == "completed"
    assert server.ended_job(child["taskId"])["result"] == "the child is done"


def test_real_codex_that_was_told_of_the_server_hands_work_to_another_agent(
    server: Server, responses: ResponsesApi, real_codex: Path, tmp_path: Path
) -> None:
    """With the settings as docs/clients.md has them: it prompts, waits, and sees what changed."""
    repo = make_repository(server.workspace / "repo", {"a": "a\n"})
    (settings,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs/clients.md").read_text(), re.DOTALL)
    (tmp_path / "config.toml").write_text(
        model_at(responses.url) + settings.replace("127.0.0.1:3000", f"127.0.0.1:{server.port}")
    )
    environment = {"PATH": os.defpath, "HOME": str(tmp_path), "CODEX_HOME": str(tmp_path), "API_KEY": KEY}

    def codex(*steps: str) -> tuple[str, str]:
        """What it says, and what its model was told."""
        options = ("--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "-m", "gpt-5.5")
        said = subprocess.run(
            (real_codex, "exec", *options, script(*steps)),
            env=environment | {"MODEL_KEY": OPENAI_KEY},
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        return said, responses.requests[-1].conversation

    def use(tool: str, **arguments: Any) -> str:
        return f"tool mcp__agents.{tool} {json.dumps(arguments)}"

    prompt = script("say hello")
    said, _ = codex(use("send_prompt", prompt=prompt, session_id="child", cwd=str(repo)), "text handed over")
    (child,) = server.ask("GET", "/generate/v2/jobs?session_id=child").json["jobs"]
    (repo / "a").write_text("changed\n")
    _, told_it = codex(use("wait", task_id=child["taskId"]), use("diff", session_id="child"), "text seen")

    assert said == "handed over\n"
    assert [part for part in ("completed", "done", "changed") if part not in told_it] == []


def model_at(url: str) -> str:
    provider = f'[model_providers.fake]\nname = "fake"\nbase_url = "{url}/v1"\nenv_key = "MODEL_KEY"\n'
    return f'model_provider = "fake"\n\n{provider}wire_api = "responses"\n\n'
