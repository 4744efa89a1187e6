"""Editors drive agents: the official ACP client through `agentsrv acp`, and raw messages on `/acp`."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import acp
import pytest
from acp.schema import (
    AllowedOutcome,
    AuthCapabilities,
    ClientCapabilities,
    ElicitationCapabilities,
    ElicitationFormCapabilities,
    ElicitationUrlCapabilities,
    EnvVariable,
    FileSystemCapabilities,
    Implementation,
    McpServerStdio,
    PermissionOption,
    RequestPermissionResponse,
    ToolCallUpdate,
)
from aiohttp import ClientSession

from tests.conftest import ServerMaker
from tests.kit import KEY, ROOT, Server, script

ASK = 'ask 1 Bash {"command": "touch x"}'
TIMEOUT_S = 60


@dataclass(slots=True)
class Editor:
    """What an editor is to its agent: it notes what it is told, and chooses `option` when it is asked."""

    option: str = "allow"
    updates: list[Any] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    has_heard: asyncio.Event = field(default_factory=asyncio.Event)

    async def session_update(self, session_id: str, update: Any, **_: Any) -> None:
        self.updates.append(update)
        self.has_heard.set()

    async def request_permission(
        self, options: list[PermissionOption], session_id: str, tool_call: ToolCallUpdate, **_: Any
    ) -> RequestPermissionResponse:
        self.asked.append(tool_call.title or "")
        chosen = AllowedOutcome(outcome="selected", option_id=self.option)
        return RequestPermissionResponse(outcome=chosen)

    @property
    def said(self) -> str:
        chunks = [update for update in self.updates if update.session_update == "agent_message_chunk"]
        return "".join(chunk.content.text for chunk in chunks)

    async def hears(self, words: str) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while words not in self.said:
                self.has_heard.clear()
                await self.has_heard.wait()


@asynccontextmanager
async def editor_of(
    server: Server, editor: Editor, arguments: Sequence[str] = ("acp", "--url", "http://127.0.0.1:3000")
) -> AsyncIterator[Any]:
    """The editor's connection to `agentsrv acp`, which it has started."""
    environment = {"AGENTSRV_API_KEY": KEY, "PYTHONPATH": str(ROOT), "HOME": str(server.home)}
    here = [word.replace("127.0.0.1:3000", f"127.0.0.1:{server.port}") for word in arguments]
    command = (sys.executable, "-m", "agentsrv", *here)
    async with acp.spawn_agent_process(
        cast("acp.Client", editor), *command, env=environment, cwd=str(ROOT)
    ) as (agent, _):
        await agent.initialize(protocol_version=1)
        yield agent


def blocks_of(step: str) -> list[Any]:
    return [{"type": "text", "text": script(step)}]


def blocks(*steps: str) -> list[Any]:
    return [acp.text_block(script(*steps))]


async def test_editor_prompts_and_lists(server: Server) -> None:
    """A new session answers, is listed with its directory, and tells all again when it is loaded."""
    editor, again = Editor(), Editor()
    async with editor_of(server, editor) as agent:
        session = await agent.new_session(cwd=str(server.workspace), mcp_servers=[])
        answer = await agent.prompt(session_id=session.session_id, prompt=blocks("say Hello there"))
        listed = await agent.list_sessions(cwd=str(server.workspace))
    async with editor_of(server, again) as agent:
        await agent.load_session(session_id=session.session_id, cwd=str(server.workspace), mcp_servers=[])
        replayed = again.said

    assert (answer.stop_reason, "Hello there" in editor.said) == ("end_turn", True)
    assert [found.session_id for found in listed.sessions] == [session.session_id]
    assert replayed == editor.said
    kinds = [update.session_update for update in editor.updates]
    assert "user_message_chunk" not in kinds
    assert again.updates[0].session_update == "user_message_chunk"


@pytest.mark.parametrize(("option", "answer"), [("allow", "allow"), ("deny", "deny")])
async def test_editor_is_asked(server: Server, option: str, answer: str) -> None:
    """What its user chooses is what the agent gets."""
    editor = Editor(option)
    async with editor_of(server, editor) as agent:
        session = await agent.new_session(cwd=str(server.workspace), mcp_servers=[])
        await agent.set_session_mode(session_id=session.session_id, mode_id="ask")
        await agent.prompt(session_id=session.session_id, prompt=blocks(ASK))

    assert len(editor.asked) == 1
    assert answer in editor.said


async def test_model_and_effort_are_options_of_a_session(server: Server) -> None:
    """What is chosen is that of the prompts that come, `default` takes it back, and what is not offered is refused."""
    async with raw(server) as connection:
        await connection.ask("initialize", protocolVersion=1)
        made = await connection.ask("session/new", cwd=str(server.workspace), mcpServers=[])
        chosen = made
        changes = [("model", "opus"), ("effort", "high"), ("mode", "plan"), ("effort", "default")]
        for option, value in changes:
            chosen = await connection.ask(
                "session/set_config_option", sessionId=made["sessionId"], configId=option, value=value
            )
        wrong = {"sessionId": made["sessionId"], "configId": "effort", "value": "endless"}
        await connection.send({"id": 9, "method": "session/set_config_option", "params": wrong})
        refused = await connection.until(lambda message: message.get("id") == 9)
    session = server.ask("GET", f"/sessions/{made['sessionId']}").json

    assert [option["id"] for option in made["configOptions"]] == ["mode", "model", "effort"]
    assert [option["currentValue"] for option in chosen["configOptions"]] == ["plan", "opus", "default"]
    assert refused["error"]["data"]["code"] == "unsupported_option"
    assert (session["model"], session.get("effort")) == ("opus", None)


async def test_session_is_driven_as_zed_does(server: Server) -> None:
    """What its source sends, in its order: defaults, files that are mentioned, a stop; it is killed, and comes back."""
    cwd = str(server.workspace)
    shell = McpServerStdio(
        name="context", command="/bin/true", args=[], env=[EnvVariable(name="A", value="b")]
    )
    mentioned = [
        acp.resource_link_block("a.txt", f"file://{cwd}/a.txt"),
        acp.resource_block(acp.embedded_text_resource(f"file://{cwd}/b.txt", "what is in it")),
    ]
    first, second = Editor(), Editor()
    async with zed_of(server, first) as agent:
        made = await agent.new_session(cwd=cwd, mcp_servers=[shell])
        session = made.session_id
        await agent.set_session_mode(session_id=session, mode_id="ask")
        await agent.set_config_option(config_id="model", session_id=session, value="opus")
        said = [*blocks("say begun", ASK, "hang"), *mentioned]
        prompting = asyncio.ensure_future(agent.prompt(session_id=session, prompt=said))  # noqa: TID251
        await first.hears("begun")
        await first.hears("allow")
        await agent.cancel(session_id=session)
        stopped = await asyncio.wait_for(prompting, TIMEOUT_S)
        running = asyncio.ensure_future(agent.prompt(session_id=session, prompt=blocks("say on", "hang")))  # noqa: TID251
        await first.hears("on")
    running.cancel()
    async with zed_of(server, second) as agent:
        (listed,) = (await agent.list_sessions(cwd=cwd)).sessions
        await agent.load_session(session_id=session, cwd=cwd, mcp_servers=[shell])
        await agent.cancel(session_id=session)
        await agent.close_session(session_id=session)
        ended = server.ended_job(
            server.ask("GET", f"/generate/v2/jobs?session_id={session}").json["jobs"][0]["taskId"]
        )
    prompt = server.history(session)[0].json["message"]["content"][0]["text"]

    assert (stopped.stop_reason, ended["status"], len(first.asked)) == ("cancelled", "cancelled", 1)
    assert (listed.session_id, listed.updated_at is not None) == (session, True)
    assert all(words in prompt for words in ("a.txt", "b.txt", "what is in it"))
    assert "begun" in second.said


@asynccontextmanager
async def zed_of(server: Server, editor: Editor) -> AsyncIterator[Any]:
    """The same, by an editor that says what Zed says of itself (`crates/agent_servers/src/acp.rs`), and starts what
    docs/clients.md has for its settings. Their shape is that of `CustomAgentServerSettings` in
    `crates/settings_content`: without a `type` Zed takes no notice of them."""
    (shown,) = re.findall(r"```json\n(.*?)```", (ROOT / "docs/clients.md").read_text(), re.DOTALL)
    settings = json.loads(shown)["agent_servers"]["agentsrv"]
    assert (settings["type"], settings["command"]) == ("custom", "agentsrv")
    assert list(settings["env"]) == ["AGENTSRV_API_KEY"]
    able = ClientCapabilities(
        fs=FileSystemCapabilities(read_text_file=True, write_text_file=True),
        terminal=True,
        auth=AuthCapabilities(terminal=True),
        elicitation=ElicitationCapabilities(
            form=ElicitationFormCapabilities(), url=ElicitationUrlCapabilities()
        ),
        field_meta={"terminal_output": True, "terminal-auth": True},
    )
    async with editor_of(server, editor, settings["args"]) as agent:
        zed = Implementation(name="zed", title="Zed", version="0.300.0")
        await agent.initialize(protocol_version=1, client_capabilities=able, client_info=zed)
        yield agent


async def test_cancel_is_no_error(server: Server) -> None:
    """The editor's stop button: the prompt's answer says `cancelled`."""
    editor = Editor()
    async with editor_of(server, editor) as agent:
        session = await agent.new_session(cwd=str(server.workspace), mcp_servers=[])
        prompt = agent.prompt(session_id=session.session_id, prompt=blocks("say begun", "hang"))
        prompting = asyncio.ensure_future(prompt)  # noqa: TID251  # the editor's own
        await editor.hears("begun")
        await agent.cancel(session_id=session.session_id)
        answer = await asyncio.wait_for(prompting, TIMEOUT_S)

    assert answer.stop_reason == "cancelled"


async def test_cancel_right_behind_a_prompt_ends_it_and_the_next_prompt_runs(server: Server) -> None:
    """A quick hand: nothing waits for an answer, and each message counts in its place."""
    async with raw(server) as connection:
        await connection.ask("initialize", protocolVersion=1)
        session = (await connection.ask("session/new", cwd=str(server.workspace), mcpServers=[]))["sessionId"]
        prompts = [{"sessionId": session, "prompt": blocks_of(step)} for step in ("hang", "say done")]
        await connection.send({"id": 1, "method": "session/prompt", "params": prompts[0]})
        await connection.send({"method": "session/cancel", "params": {"sessionId": session}})
        await connection.send({"id": 2, "method": "session/prompt", "params": prompts[1]})
        ends = [await connection.until(lambda message, id_=id_: message.get("id") == id_) for id_ in (1, 2)]

    assert [end["result"]["stopReason"] for end in ends] == ["cancelled", "end_turn"]


async def test_editor_does_not_notice_that_the_server_dies(server: Server) -> None:
    """`kill -9` in the middle of an answer: the bridge comes back, and each piece comes once, in order."""
    editor = Editor()
    steps = [step for number in range(60) for step in (f"say <{number}>", "sleep 0.1")]
    async with editor_of(server, editor) as agent:
        session = await agent.new_session(cwd=str(server.workspace), mcp_servers=[])
        prompt = agent.prompt(session_id=session.session_id, prompt=blocks(*steps))
        prompting = asyncio.ensure_future(prompt)  # noqa: TID251  # the editor's own
        await editor.hears("<5>")
        server.kill9()
        await asyncio.get_running_loop().run_in_executor(None, server.start)
        answer = await asyncio.wait_for(prompting, TIMEOUT_S)

    assert answer.stop_reason == "end_turn"
    assert editor.said == "".join(f"<{number}>" for number in range(60))


async def test_server_that_starts_anew_before_the_first_session_is_not_noticed(server: Server) -> None:
    async with editor_of(server, Editor()) as agent:
        server.kill9()
        await asyncio.get_running_loop().run_in_executor(None, server.start)
        session = await agent.new_session(cwd=str(server.workspace), mcp_servers=[])

    assert session.session_id


async def test_prompt_that_is_too_large_is_refused_and_the_next_one_is_not(make_server: ServerMaker) -> None:
    """It ends every connection on which it is sent; an editor would wait for ever."""
    server, editor = make_server(MAX_BODY_BYTES="100000"), Editor()
    async with editor_of(server, editor) as agent:
        session = await agent.new_session(cwd=str(server.workspace), mcp_servers=[])
        with pytest.raises(acp.RequestError, match="100000"):
            await agent.prompt(session_id=session.session_id, prompt=blocks("say " + "x" * 100_000))
        await agent.prompt(session_id=session.session_id, prompt=blocks("say Hello"))

    assert editor.said == "Hello"


def test_nonsense_of_an_editor_is_refused_by_the_server(server: Server) -> None:
    """Line by line; the command goes on."""
    lines = [
        "[" * 100_000,
        "[]",
        '{"jsonrpc":"2.0","id":[1],"method":"session/list"}',
        '{"jsonrpc":"2.0","id":{},"method":"session/prompt","params":{"_meta":7}}',
        '{"jsonrpc":"2.0","id":1,"method":"session/prompt","params":{"_meta":7}}',
    ]
    command = (sys.executable, "-m", "agentsrv", "acp", "--url", f"http://127.0.0.1:{server.port}")
    environment = {"AGENTSRV_API_KEY": KEY, "PYTHONPATH": str(ROOT), "HOME": str(server.home)}
    with subprocess.Popen(
        command, env=environment, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as bridge:
        assert bridge.stdin is not None
        assert bridge.stdout is not None
        bridge.stdin.write("".join(f"{line}\n" for line in lines))
        bridge.stdin.flush()
        answers = [json.loads(bridge.stdout.readline()) for _ in lines]
        bridge.stdin.close()

    assert {answer["error"]["code"] for answer in answers} == {-32600}


async def test_question_is_asked_again_of_who_comes_back(server: Server) -> None:
    """An editor is closed while its agent waits: the next one that loads the session is asked, and answers."""
    async with raw(server) as first:
        await first.ask("initialize", protocolVersion=1)
        session = (await first.ask("session/new", cwd=str(server.workspace), mcpServers=[]))["sessionId"]
        await first.ask("session/set_mode", sessionId=session, modeId="ask")
        prompt = [{"type": "text", "text": script(ASK)}]
        await first.send(
            {"id": 9, "method": "session/prompt", "params": {"sessionId": session, "prompt": prompt}}
        )
        await first.until(lambda message: message.get("method") == "session/request_permission")
    async with raw(server) as second:
        await second.ask("initialize", protocolVersion=1)
        await second.send({"id": 8, "method": "session/load", "params": {"sessionId": session}})
        asked = await second.until(lambda message: message.get("method") == "session/request_permission")
        chosen = {"outcome": {"outcome": "selected", "optionId": "allow"}}
        await second.send({"id": asked["id"], "result": chosen})
        await second.until(lambda message: "allow" in json.dumps(message.get("params", {}).get("update", {})))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("not json", -32700),
        ("[]", -32600),
        ('[{"jsonrpc":"2.0","id":1,"method":"initialize"}]', -32600),
        ('{"jsonrpc":"2.0","id":1,"method":7}', -32600),
        ('{"jsonrpc":"2.0","id":1,"method":"session/list","params":[]}', -32600),
        ('{"jsonrpc":"2.0","id":{"a":1},"method":"initialize"}', -32600),
        ('{"jsonrpc":"2.0","id":"%s","method":"initialize"}' % ("x" * 1000), -32600),
        ('{"jsonrpc":"2.0","id":1e30,"method":"initialize"}', -32600),
        ('{"jsonrpc":"2.0","id":1.5,"method":"initialize"}', -32600),
        ('{"jsonrpc":"2.0","id":1e400,"method":"initialize"}', -32700),
        ('{"jsonrpc":"2.0","id":"\\ud800","method":"initialize"}', -32700),
        ('{"jsonrpc":"2.0","id":1,"method":"session/list"}', -32600),
        ('{"jsonrpc":"2.0","id":1,"method":"no/such"}', -32601),
        ("[" * 10_000, -32700),
    ],
)
async def test_hostile_message_gets_an_error(server: Server, text: str, code: int) -> None:
    """And the connection goes on."""
    async with raw(server) as connection:
        await connection.ws.send_str(text)
        refused = await connection.until(lambda message: "error" in message)
        hello = await connection.ask("initialize", protocolVersion=1)

    assert (refused["error"]["code"], hello["protocolVersion"]) == (code, 1)


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("session/prompt", {"sessionId": "missing", "prompt": [{"type": "text", "text": "x"}]}),
        ("session/load", {"sessionId": "missing"}),
        ("session/new", {"cwd": "/nowhere/at/all"}),
        ("session/new", {"cwd": 7}),
        ("session/prompt", {"sessionId": "missing", "prompt": [{"type": "video"}]}),
        ("session/prompt", {"sessionId": "../x", "prompt": []}),
        ("session/set_mode", {"sessionId": "missing", "modeId": "root"}),
        ("session/list", {"cursor": "nonsense"}),
        ("session/new", {"mcpServers": [{"nothing": 1}]}),
    ],
)
async def test_bad_request_is_refused_by_name(server: Server, method: str, params: dict[str, Any]) -> None:
    """Nothing is begun, and the answer says why."""
    async with raw(server) as connection:
        await connection.ask("initialize", protocolVersion=1)
        await connection.send({"id": 5, "method": method, "params": params})
        refused = await connection.until(lambda message: message.get("id") == 5)

    assert refused["error"]["code"] in (-32602, -32002, -32603)
    assert refused["error"]["message"]


SESSION = "session"
PROMPT = [{"type": "text", "text": script("say never")}]


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("session/new", {"mcpServers": 7}),
        ("session/new", {"_meta": {"agentsrv": {"sessionId": "../x"}}}),
        ("session/new", {"_meta": {"agentsrv": {"model": "x" * 5000}}}),
        ("session/new", {"_meta": {"agentsrv": {"sessionId": SESSION}}}),
        ("session/fork", {"mcpServers": 7}),
        ("session/load", {"mcpServers": {"a": 1}}),
        ("session/resume", {"_meta": {"agentsrv": {"lastEventId": 10**30}}}),
        ("session/prompt", {"prompt": PROMPT, "_meta": {"agentsrv": {"lastEventId": 10**30}}}),
        ("session/prompt", {"prompt": PROMPT, "_meta": {"agentsrv": {"lastEventId": 1}}}),
        ("session/prompt", {"prompt": PROMPT, "_meta": {"agentsrv": {"lastEventId": -5}}}),
        ("session/prompt", {"prompt": PROMPT, "_meta": {"agentsrv": {"messageId": "x" * 100_000}}}),
        ("session/prompt", {"prompt": [{"type": "text", "text": " "}]}),
        ("session/prompt", {"prompt": [*PROMPT, {"type": "image", "mimeType": "image/png", "data": "!"}]}),
        (
            "session/prompt",
            {"prompt": [*PROMPT, *[{"type": "image", "mimeType": "image/png", "data": "AA=="}] * 21]},
        ),
        ("session/set_config_option", {"configId": ["a"], "value": {}}),
        ("session/set_config_option", {"configId": "model", "value": "x" * 100_000}),
        ("session/set_mode", {"modeId": {}}),
    ],
)
async def test_nonsense_is_refused_and_leaves_nothing(
    shared_server: Server, method: str, params: dict[str, Any]
) -> None:
    """Each request is answered, in a session that is there, and nothing has become of it."""
    shared_server.ask("POST", "/sessions", {"sessionId": SESSION}).close()
    async with raw(shared_server) as connection:
        await connection.ask("initialize", protocolVersion=1)
        await connection.send({"id": 5, "method": method, "params": {"sessionId": SESSION, **params}})
        refused = await connection.until(lambda message: message.get("id") == 5)

    assert refused["error"]["code"] in (-32602, -32603)
    assert [found["id"] for found in shared_server.ask("GET", "/sessions").json["sessions"]] == [SESSION]
    assert shared_server.ask("GET", f"/generate/v2/jobs?session_id={SESSION}").json["jobs"] == []


def chosen(option: str) -> dict[str, Any]:
    return {"outcome": {"outcome": "selected", "optionId": option}}


DISMISSALS = [{"outcome": {"outcome": "cancelled"}}, chosen("made-up"), {"action": "cancel"}, {}, None]


@pytest.mark.parametrize("result", DISMISSALS)
async def test_question_that_the_prompting_editor_dismisses_is_denied(server: Server, result: Any) -> None:
    """Its user waits for the turn, and nobody else may ever look at what it asks."""
    async with raw(server) as connection:
        session = await asking(connection, server)
        asked = await connection.until(lambda message: message.get("method") == REQUEST)
        await connection.send({"id": asked["id"], "result": result})
        ended = await connection.until(lambda message: message.get("id") == 9)

    assert (ended["result"]["stopReason"], decisions(server, session)) == ("end_turn", ["deny"])


async def test_question_that_others_dismiss_or_cannot_ask_stays(server: Server) -> None:
    """An editor that only looks on, or one that answers with an error, leaves it to somebody else."""
    async with raw(server) as first, raw(server) as second:
        session = await asking(first, server)
        asked = await first.until(lambda message: message.get("method") == REQUEST)
        await first.send({"id": asked["id"], "error": {"code": -32601, "message": "cannot"}})
        await second.ask("initialize", protocolVersion=1)
        await second.ask("session/resume", sessionId=session)
        await second.send({"id": asked["id"], "result": DISMISSALS[0]})
        for connection in (first, second):
            await connection.ask("session/list")
        (waiting,) = server.ask("GET", "/permissions").json["permissions"]
        await second.send({"id": asked["id"], "result": chosen("allow")})
        await first.until(lambda message: message.get("id") == 9)

    assert (asked["id"].endswith(waiting["requestId"]), decisions(server, session)) == (True, ["allow"])


async def test_question_of_a_turn_that_is_stopped_is_cancelled(server: Server) -> None:
    """As ACP has it: `session/cancel`, and `cancelled` to all that is asked."""
    async with raw(server) as connection:
        session = await asking(connection, server)
        asked = await connection.until(lambda message: message.get("method") == REQUEST)
        await connection.send({"method": "session/cancel", "params": {"sessionId": session}})
        await connection.send({"id": asked["id"], "result": DISMISSALS[0]})
        ended = await connection.until(lambda message: message.get("id") == 9)

    assert (ended["result"]["stopReason"], decisions(server, session)) == ("cancelled", ["cancelled"])


REQUEST = "session/request_permission"


async def asking(connection: Raw, server: Server) -> str:
    """A new session in which a turn, begun by request 9, asks."""
    await connection.ask("initialize", protocolVersion=1)
    made = await connection.ask("session/new", cwd=str(server.workspace), mcpServers=[])
    session: str = made["sessionId"]
    await connection.ask("session/set_mode", sessionId=session, modeId="ask")
    prompt = [{"type": "text", "text": script(ASK)}]
    params = {"sessionId": session, "prompt": prompt}
    await connection.send({"id": 9, "method": "session/prompt", "params": params})
    return session


def decisions(server: Server, session: str) -> list[str]:
    events = server.history(session)
    return [event.json["decision"] for event in events if event.type == "permission_resolved"]


async def test_two_editors_of_one_session(server: Server) -> None:
    """Both are asked and told; one answers, the other's answer comes too late, and a second prompt is refused."""
    asks = "session/request_permission"
    async with raw(server) as first, raw(server) as second:
        for connection in (first, second):
            await connection.ask("initialize", protocolVersion=1)
        session = (await first.ask("session/new", cwd=str(server.workspace), mcpServers=[]))["sessionId"]
        await first.ask("session/set_mode", sessionId=session, modeId="ask")
        prompt = {"sessionId": session, "prompt": [{"type": "text", "text": script(ASK)}]}
        await first.send({"id": 9, "method": "session/prompt", "params": prompt})
        asked = await first.until(lambda message: message.get("method") == asks)
        await second.ask("session/resume", sessionId=session)
        again = await second.until(lambda message: message.get("method") == asks)
        await second.send({"id": 8, "method": "session/prompt", "params": prompt})
        busy = await second.until(lambda message: message.get("id") == 8)
        await second.send({"id": asked["id"], "result": chosen("deny")})
        ended = await first.until(lambda message: message.get("id") == 9)
        await first.send({"id": asked["id"], "result": chosen("allow")})
        await first.ask("session/list")

    assert (asked["id"], busy["error"]["data"]["code"]) == (again["id"], "session_busy")
    assert ended["result"]["stopReason"] == "end_turn"
    (decided,) = [event for event in server.history(session) if event.type == "permission_resolved"]
    assert decided.json["decision"] == "deny"


async def test_prompt_that_is_repeated_behind_a_load_is_told_once(server: Server) -> None:
    """Who comes back after a cut loads the session, and gives its prompt again by its name for the answer."""
    async with raw(server) as first, raw(server) as second:
        for connection in (first, second):
            await connection.ask("initialize", protocolVersion=1)
        session = (await first.ask("session/new", cwd=str(server.workspace), mcpServers=[]))["sessionId"]
        prompt = {
            "sessionId": session,
            "prompt": [{"type": "text", "text": script("say before", "await-steer", "say after")}],
            "_meta": {"agentsrv": {"messageId": "one"}},
        }
        await first.send({"id": 9, "method": "session/prompt", "params": prompt})
        await first.until(lambda message: "before" in json.dumps(message))
        await second.ask("session/load", sessionId=session)
        await second.send({"id": 9, "method": "session/prompt", "params": prompt})
        await second.until(
            lambda message: "before" in json.dumps(message.get("params", {}).get("update", {}))
        )
        server.ask("POST", "/generate/v2", steering(session)).body()
        told: list[dict[str, Any]] = [{}]
        while told[-1].get("id") != 9:
            told.append(await second.until(lambda _: True))

    assert sum('"after"' in json.dumps(message) for message in told) == 1


async def test_closed_session_is_not_told_of(server: Server) -> None:
    """Its turn goes on, and who waits for that one's end is told the end alone."""
    async with raw(server) as connection:
        await connection.ask("initialize", protocolVersion=1)
        session = (await connection.ask("session/new", cwd=str(server.workspace), mcpServers=[]))["sessionId"]
        prompt = [{"type": "text", "text": script("say before", "await-steer", "say after")}]
        params = {"sessionId": session, "prompt": prompt}
        await connection.send({"id": 9, "method": "session/prompt", "params": params})
        await connection.until(lambda message: "before" in json.dumps(message))
        await connection.ask("session/close", sessionId=session)
        server.ask("POST", "/generate/v2", steering(session)).body()
        told = await connection.until(lambda _: True)

    assert (told["id"], told["result"]["stopReason"]) == (9, "end_turn")


def steering(session: str) -> dict[str, Any]:
    return {"session_id": session, "prompt": "go on", "if_busy": "steer", "background": True}


async def test_deleting_what_is_not_there_is_fine(server: Server) -> None:
    async with raw(server) as connection:
        await connection.ask("initialize", protocolVersion=1)
        assert await connection.ask("session/delete", sessionId="missing") == {}


@pytest.mark.at_home("keys of devices are those of one server")
async def test_key_may_do_no_more_than_its_scopes(server: Server) -> None:
    """One that may only read lists sessions, and starts nothing."""
    command = (sys.executable, "-m", "agentsrv", "keys", "add", "reader", "--scope", "read")
    made = subprocess.run(
        command, env=server.environment(), cwd=ROOT, capture_output=True, text=True, check=True
    )
    async with raw(server, made.stdout.strip()) as connection:
        await connection.ask("initialize", protocolVersion=1)
        listed = await connection.ask("session/list")
        await connection.send({"id": 5, "method": "session/new", "params": {"cwd": str(server.workspace)}})
        refused = await connection.until(lambda message: message.get("id") == 5)

    assert (listed["sessions"], refused["error"]["data"]["code"]) == ([], "scope_missing")


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}])
async def test_no_key_no_socket(server: Server, headers: dict[str, str]) -> None:
    """The upgrade is refused before anything is said."""
    url = f"http://127.0.0.1:{server.port}/acp"
    async with ClientSession() as http, http.get(url, headers=headers) as answer:
        assert answer.status == 401


@dataclass(slots=True)
class Raw:
    """A WebSocket on `/acp`."""

    ws: Any
    count: int = 0

    async def send(self, message: dict[str, Any]) -> None:
        await self.ws.send_json({"jsonrpc": "2.0", **message})

    async def until(self, found: Any) -> dict[str, Any]:
        async with asyncio.timeout(TIMEOUT_S):
            while not found(message := await self.ws.receive_json()):
                pass
        heard: dict[str, Any] = message
        return heard

    async def ask(self, method: str, **params: Any) -> Any:
        self.count += 1
        id_ = f"r{self.count}"
        await self.send({"id": id_, "method": method, "params": params})
        return (await self.until(lambda message: message.get("id") == id_))["result"]


@asynccontextmanager
async def raw(server: Server, key: str = KEY) -> AsyncIterator[Raw]:
    url = f"http://127.0.0.1:{server.port}/acp"
    headers = {"Authorization": f"Bearer {key}"}
    async with ClientSession() as http, http.ws_connect(url, headers=headers) as ws:
        yield Raw(ws)


@pytest.fixture
def server(make_server: ServerMaker) -> Server:
    return make_server()
