"""Whatever an agent writes: every line is an event that clients can read, and nothing about it can fail."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Never

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentsrv.agents.acp.adapter import OF_A_TURN, AcpAdapter
from agentsrv.agents.acp.known import KIMI
from agentsrv.agents.acp.updates import AcpUpdates
from agentsrv.agents.claude.adapter import ClaudeAdapter
from agentsrv.agents.claude.updates import ClaudeUpdates
from agentsrv.agents.codex.updates import CodexUpdates
from agentsrv.agents.contract import Adapter, Effect
from agentsrv.agents.reading import receive
from agentsrv.agents.updates import UpdateReader, as_text
from agentsrv.errors import InvalidInput
from agentsrv.jsontext import as_object, dump, load_object
from agentsrv.model import Answer, Decision, PermissionMode, TurnId, TurnOptions
from tests.agents import test_codex
from tests.agents.lines import TRANSCRIPTS, any_line, known_lines

PROMPT = TurnId("00000000-0000-4000-8000-000000000001")
STEER = "00000000-0000-4000-8000-000000000091"
CONVERSATION = "5e551011-0000-4000-8000-000000000000"
ASKING = TurnOptions(permission_mode=PermissionMode.ASK, output_schema={})
UPDATED: tuple[dict[str, Any] | None, ...] = (None, {"answers": {}})
MIB = 1024 * 1024

AGENTS = ("claude", "codex", "acp")
READERS: dict[str, type[ClaudeUpdates] | type[CodexUpdates] | type[AcpUpdates]] = {
    "claude": ClaudeUpdates,
    "codex": CodexUpdates,
    "acp": AcpUpdates,
}

many = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def make_adapter(agent: str, options: TurnOptions = ASKING) -> Adapter:
    adapter = ADAPTERS[agent]()
    adapter.begin_turn(PROMPT, options)
    return adapter


def make_acp_adapter() -> AcpAdapter:
    """One whose turn runs."""
    adapter = AcpAdapter(KIMI, "/w", None, {})
    adapter.begin_turn(PROMPT, ASKING)
    for id_, result in (("initialize", {}), ("session-new", {"sessionId": "c"}), (f"mode-{PROMPT}", {})):
        adapter.receive(dump({"jsonrpc": "2.0", "id": id_, "result": result}))
    return adapter


ADAPTERS: dict[str, Callable[[], Adapter]] = {
    "claude": lambda: ClaudeAdapter(CONVERSATION, {}),
    "codex": lambda: test_codex.make_adapter("t"),
    "acp": make_acp_adapter,
}


def strict(line: bytes) -> Any:
    """What a client reads that takes nothing but JSON in UTF-8; a number may have any length there."""
    return json.loads(line.decode(), parse_constant=refuse, parse_int=str)


def refuse(constant: str) -> Never:
    raise ValueError(constant)


@pytest.mark.parametrize("agent", AGENTS)
@given(data=st.data())
@many
def test_every_line_is_an_event_that_clients_can_read(agent: str, data: st.DataObject) -> None:
    """Bytes that are no text, half characters, NaN, depths, huge numbers, odd types: one line, one readable event."""
    adapter = make_adapter(agent)
    for line in data.draw(st.lists(any_line(agent), min_size=1, max_size=4)):
        effect = receive(adapter, line)
        event = line if effect is None else effect.event
        if event is not None:
            strict(event)
            assert b"\n" not in event
        else:
            assert not line.strip() or is_answer(line) or is_left_out(line)
        if effect is not None:
            check(adapter, effect)


def is_left_out(line: bytes) -> bool:
    """An update of ACP that repeats what was said, comes too late, or is of another conversation."""
    params = as_object((load_object(line) or {}).get("params"))
    kind = as_object(params.get("update")).get("sessionUpdate")
    return as_text(kind) in OF_A_TURN or params.get("sessionId") != "c"


def is_answer(line: bytes) -> bool:
    """An answer to a request of the server's own, which is none of the clients' business."""
    message = load_object(line) or {}
    return message.get("type") == "control_response" or "method" not in message


def check(adapter: Adapter, effect: Effect) -> None:
    """What the server makes of an effect can be written, stored and answered."""
    strict(effect.reply or b"{}")
    strict(dump([effect.outcome and effect.outcome.usage, effect.outcome and effect.outcome.error]))
    if (question := effect.question) is not None:
        strict(dump([question.id, question.input, question.title, question.details, question.allowance]))
        for decision in Decision:
            for updated in UPDATED:
                try:
                    told = adapter.answer(question, Answer(decision, remember=True, updated_input=updated))
                except InvalidInput:
                    continue
                assert [strict(part) for part in told.splitlines()]


@pytest.mark.parametrize("agent", AGENTS)
@given(data=st.data())
@many
def test_no_message_is_too_odd_for_acp(agent: str, data: st.DataObject) -> None:
    """The same lines in ACP's words: an update or none, and never an error."""
    reader: UpdateReader = READERS[agent]()
    for line in data.draw(st.lists(any_line(agent), min_size=1, max_size=6)):
        if (message := load_object(line)) is not None:
            strict(dump(reader.read(message)))
            strict(dump(reader.asked(message)))


@pytest.mark.parametrize("agent", AGENTS)
@given(stderr=st.text() | st.sampled_from(["", "error: \ud83d", "\x1b[31mError\x1b[0m: x"]))
@many
def test_any_last_words_are_told(agent: str, stderr: str) -> None:
    """What an agent writes on stderr explains its end, or does not."""
    explained = make_adapter(agent).explain_exit(stderr)

    assert explained is None or strict(dump(explained))


@pytest.mark.parametrize("agent", AGENTS)
def test_what_is_remembered_is_bounded(agent: str) -> None:
    """Lines without an end, each with something new to remember, cost a bounded amount of memory."""
    flood = FLOODS[agent]
    adapter = make_adapter(agent)
    if agent == "codex":
        adapter.receive(b'{"method":"thread/started","params":{"thread":{"id":"t"}}}')
        adapter.receive(b'{"method":"turn/started","params":{"threadId":"t","turn":{"id":"u"}}}')
    if agent == "acp":
        adapter.prompt(b'{"message":{"content":[]}}')
    large = "x" * MIB
    tracemalloc.start()
    for number in range(12):
        for make in flood:
            adapter.receive(json.dumps(make(f"{number}{large}", number)).encode())
    for number in range(1500):
        for make in flood:
            adapter.receive(json.dumps(make(f"{number}", number)).encode())
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert kept < 8 * MIB
    assert len(dump(adapter.state())) < 8 * MIB


Make = Callable[[str, int], dict[str, Any]]


def item(kind: str) -> Make:
    return lambda name, _: {
        "method": "item/started",
        "params": {
            "item": {"type": kind, "id": name, "changes": [{"path": "p", "diff": name}], "tool": name}
        },
    }


def acp_update(kind: str, fields: Callable[[str], dict[str, Any]]) -> Make:
    return lambda name, _: {
        "method": "session/update",
        "params": {"sessionId": "c", "update": {"sessionUpdate": kind, **fields(name)}},
    }


FLOODS: Mapping[str, list[Make]] = {
    "claude": [
        lambda name, _: {"type": "command_lifecycle", "command_uuid": name, "state": "completed"},
        lambda name, _: {
            "type": "result",
            "user_message_uuids": [name, PROMPT],
            "usage": {name: 1},
            "result": name,
        },
        lambda name, _: {
            "type": "assistant",
            "message": {"content": [{"type": "tool_use", "id": name, "name": name}]},
        },
        lambda name, _: {"type": "assistant", "error": name, "message": {"model": "<synthetic>"}},
        lambda name, _: {"type": "system", "subtype": "init", "session_id": name, "cwd": f"/{name}"},
        lambda name, _: {
            "type": "system",
            "subtype": "informational",
            "prompt_submit_outcome": {"kind": "blocked_by_hook", "reason": name},
        },
    ],
    "acp": [
        acp_update(
            "tool_call",
            lambda name: {"toolCallId": name, "title": name, "kind": name, "rawInput": {name: name}},
        ),
        acp_update("tool_call_update", lambda name: {"toolCallId": name[:9], "content": [{"type": name}]}),
        acp_update("agent_message_chunk", lambda name: {"messageId": name, "content": {"text": name}}),
        acp_update("agent_message_chunk", lambda name: {"_meta": {"usage": {name: 1}}}),
        acp_update(
            "config_option_update", lambda name: {"configOptions": [{"id": name, "category": "model"}]}
        ),
        lambda name, _: {
            "id": name,
            "method": "session/request_permission",
            "params": {"toolCall": {"title": name}},
        },
        lambda name, _: {"id": name, "method": name, "params": {}},
    ],
    "codex": [
        item("fileChange"),
        item("mcpToolCall"),
        item("commandExecution"),
        lambda name, _: {
            "method": "thread/status/changed",
            "params": {"threadId": name, "status": {"type": "active"}},
        },
        lambda name, _: {"id": f"steer-{name}", "result": {}},
        lambda name, number: {
            "method": "thread/tokenUsage/updated",
            "params": {"turnId": "u", "tokenUsage": {"total": number, "last": {"inputTokens": 1, name: 1}}},
        },
        lambda name, _: {
            "method": "error",
            "params": {"threadId": "t", "willRetry": False, "error": {"message": name}},
        },
    ],
}


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize(
    "path", sorted(TRANSCRIPTS.glob("*/*.jsonl")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_an_adapter_goes_on_from_anothers_state(agent: str, path: Path) -> None:
    """In the middle of a turn the server is killed: from what was stored the next one reads on to the same end."""
    if path.parent.name != agent:
        return
    lines = path.read_bytes().splitlines()
    options = TurnOptions(permission_mode=PermissionMode.ASK)
    whole = make_adapter(agent, options)
    whole.steer(STEER, b"{}")
    effects = [whole.receive(line) for line in lines]
    for cut in range(0, len(lines), max(1, len(lines) // 6)):
        first = make_adapter(agent, options)
        first.steer(STEER, b"{}")
        for line in lines[:cut]:
            first.receive(line)
        second = make_adapter(agent, options)
        second.restore(json.loads(dump(first.state())))
        assert [second.receive(line) for line in lines[cut:]] == effects[cut:]
        assert second.state() == whole.state()


def test_known_lines_are_there() -> None:
    """The property tests above mutate something."""
    assert all(len(known_lines(agent)) > 10 for agent in AGENTS)
