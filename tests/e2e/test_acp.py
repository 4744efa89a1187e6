"""One client for both agents: `format=acp` with the real programs, and a scripted model behind each."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.acp_schema import check_frame
from tests.conformance.dialects import AGENTS
from tests.conftest import ServerMaker
from tests.fakes.model_api import ModelApi
from tests.fakes.responses_api import ResponsesApi
from tests.kit import Answer, Event, Server, script


@pytest.fixture
def server(
    model: ModelApi, responses: ResponsesApi, make_server: ServerMaker, real_claude: Path, real_codex: Path
) -> Server:
    """A server with both agents, and scripted models, which outlive it."""
    return make_server(
        CLAUDE_PATH=str(real_claude),
        ANTHROPIC_BASE_URL=model.url,
        ANTHROPIC_API_KEY="fake-model-key",
        CODEX_PATH=str(real_codex),
        OPENAI_BASE_URL=f"{responses.url}/v1",
        OPENAI_API_KEY="fake-openai-key",
    )


def prompt(server: Server, agent: str, *steps: str, **options: Any) -> Answer:
    return server.generate(script(*steps), agent, agent=agent, format="acp", **options)


def follow(server: Server, task_id: str, after: int) -> Answer:
    return server.ask("GET", f"/generate/v2/jobs/{task_id}/stream?format=acp&after={after}")


def shown(frames: Iterable[dict[str, Any]]) -> list[str]:
    """What a client would show: messages as they grow together, calls as they are in the end, and why it ended."""
    lines: dict[str, str] = {}
    calls: dict[str, dict[str, Any]] = {}
    for frame in frames:
        check_frame(frame)
        match frame.get("update", frame):
            case {"sessionUpdate": "tool_call" | "tool_call_update", "toolCallId": str(id_)} as update:
                calls.setdefault(id_, {}).update(update)
                lines[id_] = show_call(calls[id_])
            case {"sessionUpdate": str(kind), "messageId": id_, "content": content}:
                key = f"{kind} {id_}"
                lines[key] = lines.get(key, f"{kind}: ") + content["text"]
            case {"done": True, "status": status, "stopReason": reason}:
                lines["done"] = f"{status}: {reason}"
            case {"sessionUpdate": "usage_update"}:
                lines["usage"] = "usage"
            case {"sessionUpdate": "available_commands_update"}:
                pass  # Claude Code has some from the start.
            case other:
                lines[str(other)] = str(other)
    return list(lines.values())


def show_call(call: dict[str, Any]) -> str:
    title = " ".join(os.path.basename(word) for word in call["title"].split(" "))
    line = f"{call['kind']} {title}: {call['status']}"
    for part in call.get("content", []):
        if part["type"] == "diff":
            line += f", {(part['oldText'] or 'nothing').strip()} -> {part['newText'].strip()}"
        else:
            line += f", {part['content']['text'].strip()}"
    return line


def data_of(events: Iterable[Event]) -> list[bytes]:
    return [event.data for event in events]


def test_same_client_does_the_same_with_both_agents(server: Server) -> None:
    """My client knows no agent: it thinks, speaks, runs commands and edits files, and I see the same of both."""
    steps = (
        "think Hmm",
        "text I begin.",
        "bash echo out; exit 3",
        "write {agent}.txt one",
        "bash cat {agent}.txt",
        "edit {agent}.txt one two",
        "deltas 4 0.01",
    )
    seen = {}
    for agent in AGENTS:
        mine = [step.format(agent=agent) for step in steps]
        lines = shown(event.json for event in prompt(server, agent, *mine).rest())
        assert lines[0].startswith("user_message_chunk: SCRIPT: think")
        seen[agent] = sorted(line.replace(agent, "AGENT") for line in lines[1:])

    assert seen["claude-code"] == seen["codex"] == [
        "agent_message_chunk: I begin.",
        "agent_message_chunk: delta 0 delta 1 delta 2 delta 3 ",
        "agent_thought_chunk: Hmm",
        "completed: end_turn",
        "edit Edit AGENT.txt: completed, one -> two",
        "edit Write AGENT.txt: completed, nothing -> one",
        "execute cat AGENT.txt: completed, one",
        "execute echo out; exit 3: failed, out",
        "usage",
    ]  # fmt: skip
    assert [(server.workspace / f"{agent}.txt").read_text().strip() for agent in AGENTS] == ["two", "two"]


@pytest.mark.parametrize("agent", AGENTS)
def test_stream_goes_on_where_it_was_cut(server: Server, agent: str) -> None:
    """I lose the connection in the middle of a text, and the server: I get exactly what was missing."""
    with prompt(server, agent, "bash echo hi", "deltas 30 0.02") as stream:
        task_id = stream.headers["X-Task-Id"]
        stream.until(lambda event: b"delta 9 " in event.data)
        server.kill9()
        seen = stream.rest()
    server.start()

    rest = follow(server, task_id, seen[-1].id).rest()
    assert data_of([*seen, *rest]) == data_of(follow(server, task_id, 0).rest())
    words = "".join(f"delta {n} " for n in range(30))
    assert f"agent_message_chunk: {words}" in shown(event.json for event in [*seen, *rest])


@pytest.mark.parametrize("agent", AGENTS)
def test_every_place_of_a_session_can_be_resumed(server: Server, agent: str) -> None:
    """Two turns in one stream of the session: from each event on, the rest is what it was."""
    jobs = [prompt(server, agent, "bash echo hi", "deltas 3 0").rest()[-1].json["taskId"] for _ in range(2)]
    last = server.job(jobs[-1])["lastEventId"]

    def events(after: int) -> list[Event]:
        with server.ask("GET", f"/sessions/{agent}/events?format=acp", Last_Event_ID=str(after)) as answer:
            answer.until(lambda event: event.id == last)
            return answer.events

    whole = events(0)
    assert [event.json["taskId"] for event in whole if "done" in event.json] == jobs
    for place, event in enumerate(whole[:-1], 1):
        assert data_of(events(event.id)) == data_of(whole[place:])


@pytest.mark.parametrize("agent", AGENTS)
def test_history_has_whole_messages(server: Server, agent: str) -> None:
    """The messages of a session in ACP's words are the same whether they were streamed or not."""
    streamed = shown(event.json for event in prompt(server, agent, "bash echo hi", "deltas 3 0").rest())

    messages = server.ask("GET", f"/sessions/{agent}/messages?format=acp").json["messages"]
    assert shown(messages) == streamed[:-1]
    texts = [m["update"]["content"]["text"] for m in messages if "agent_message_chunk" in str(m)]
    assert texts == ["delta 0 delta 1 delta 2 "]
    assert server.ask("GET", f"/sessions/{agent}/messages?format=acp&limit=2").json["count"] == 2


@pytest.mark.parametrize("agent", AGENTS)
def test_stopped_command_is_shown_as_failed(server: Server, agent: str) -> None:
    """I stop a turn in a command: the call has failed, and the reason is ACP's `cancelled`."""
    with prompt(server, agent, "bash tail -f /dev/null") as stream:
        stream.until(lambda event: b'"in_progress"' in event.data)
        server.stop(agent).close()
        lines = shown(event.json for event in stream.rest())

    assert lines[-1] == "cancelled: cancelled"
    assert any(line.startswith("execute tail") and ": failed" in line for line in lines), lines


@pytest.mark.parametrize("agent", AGENTS)
def test_question_is_the_same_for_both_agents(server: Server, agent: str) -> None:
    """An agent that has to ask does so in the same words, about a call that I see already; I allow it, it goes on."""
    with prompt(server, agent, "write a.txt one", "text done", permission_mode="ask") as stream:
        asked = stream.until(lambda event: event.json.get("type") == "permission_request").json
        path = f"/generate/v2/jobs/{asked['taskId']}/permissions/{asked['requestId']}"
        assert server.ask("POST", path, {"decision": "allow"}).json["decision"] == "allow"
        frames = [event.json for event in stream.rest()]

    lines = shown(frames)
    call = asked["request"]["toolCall"]
    told = [
        frame["update"] for frame in frames if frame.get("update", {}).get("toolCallId") == call["toolCallId"]
    ]
    seen = [update for update in told if "title" in update][-1]
    assert call == {name: seen[name] for name in call} | {"status": "pending"}
    assert [update["status"] for update in told][-2:] == ["in_progress", "completed"]
    assert "edit Write a.txt: completed, nothing -> one" in lines
    assert lines[-1] == "completed: end_turn"


@pytest.mark.parametrize("agent", AGENTS)
def test_deltas_can_be_had_or_not(server: Server, agent: str) -> None:
    """`acp` streams text as it is written, unless I say that I want whole messages; the text is the same."""
    counts = []
    for options in ({}, {"partial_messages": False}):
        frames = [event.json for event in prompt(server, agent, "deltas 5 0.01", **options).rest()]
        texts = [
            f["update"]["content"]["text"] for f in frames if "agent_message_chunk" in str(f.get("update"))
        ]
        assert "".join(texts) == "".join(f"delta {n} " for n in range(5))
        counts.append(len(texts))

    assert counts == [5, 1]


@pytest.mark.parametrize("agent", AGENTS)
def test_passing_trouble_is_no_part_of_the_answer(server: Server, agent: str) -> None:
    """The model's API fails once, and the agent asks again: the turn ends well, and the answer is the answer."""
    lines = shown(event.json for event in prompt(server, agent, "error 500 1", "text an answer").rest())

    assert "agent_message_chunk: an answer" in lines
    assert lines[-1] == "completed: end_turn"
