"""The Codex adapter reads what the real app-server wrote (transcripts/codex/), line by line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agentsrv import programs
from agentsrv.agents.codex.adapter import CodexAdapter
from agentsrv.agents.codex.agent import Codex
from agentsrv.agents.contract import Effect
from agentsrv.config import Config
from agentsrv.errors import InvalidInput
from agentsrv.model import Outcome, PermissionMode, Session, SessionId, TurnId, TurnOptions, TurnStatus
from agentsrv.threads import Threads

TRANSCRIPTS = Path(__file__).parent / "transcripts" / "codex"
PROMPT = TurnId("00000000-0000-4000-8000-000000000001")
NO_SUCH_THREAD = "01a209da-0000-7000-8000-000000000000"


def transcript(name: str) -> list[bytes]:
    return (TRANSCRIPTS / f"{name}.jsonl").read_bytes().splitlines()


def thread_of(lines: Iterable[bytes]) -> str:
    """The thread that a transcript is about: the first one that it names."""
    for message in map(json.loads, lines):
        params = message.get("params", {})
        if thread_id := params.get("threadId") or params.get("thread", {}).get("id"):
            return str(thread_id)
    raise AssertionError("the transcript names no thread")


def make_agent(tmp_path: Path, **variables: str) -> Codex:
    environment = {
        "PATH": "/bin",
        "HOME": "/home/me",
        "STATE_DIR": str(tmp_path / "state"),
        "API_KEY": "s",
        "CODEX_PATH": "/bin/true",
        "MY_VAR": "v",
    }
    return Codex(Config.from_env(environment | variables), Threads().programs)


def make_session(thread_id: str | None = None) -> Session:
    return Session(SessionId("s"), None, "codex", "/w/a", None, thread_id, 0, 0)


def make_adapter(thread_id: str | None = None, state: dict[str, Any] | None = None) -> CodexAdapter:
    """An adapter as it was when the transcripts were made: with a key, and with a model API of its own."""
    agent = make_agent(Path("/"), OPENAI_API_KEY="fake-key", OPENAI_BASE_URL="http://model")
    return agent.adapter(make_session(thread_id), state or {})


@dataclass(slots=True)
class Played:
    """What came of a turn: its outcome, the lines that it took, and what the agent was told meanwhile."""

    outcome: Outcome | None = None
    count: int = 0
    is_over: bool = False
    internal_id: str | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)

    @property
    def methods(self) -> list[str]:
        return [request["method"] for request in self.requests]

    def told(self, data: bytes | None) -> None:
        self.requests += [json.loads(line) for line in (data or b"").splitlines()]


def play(
    adapter: CodexAdapter, lines: Iterator[bytes], options: TurnOptions | None = None, prompt: TurnId = PROMPT
) -> Played:
    """Feed lines until the turn is over."""
    played = Played()
    event = make_agent(Path("/")).user_event(make_session(), prompt, "the prompt")
    adapter.begin_turn(prompt, options or TurnOptions())
    played.told(adapter.prompt(event))
    for line in lines:
        played.count += 1
        effect = adapter.receive(line)
        if effect is None:
            continue
        played.outcome = effect.outcome or effect.gave_up or played.outcome
        played.internal_id = effect.internal_session_id or played.internal_id
        played.told(effect.reply)
        if effect.takes_prompt:
            played.told(adapter.prompt(event))
        if effect.is_over:
            played.is_over = True
            break
    return played


def first_turn(name: str, thread_id: str | None = None, options: TurnOptions | None = None) -> Played:
    return play(make_adapter(thread_id), iter(transcript(name)), options)


@pytest.mark.parametrize("path", sorted(TRANSCRIPTS.glob("*.jsonl")), ids=lambda path: path.stem)
def test_no_line_is_lost_or_changed(path: Path) -> None:
    """Every line of every transcript is an event as it is, but for good answers to the server's own requests."""
    adapter = make_adapter(NO_SUCH_THREAD if path.stem == "resume_unknown" else None)
    adapter.begin_turn(PROMPT, TurnOptions())
    for line in path.read_bytes().splitlines():
        effect = adapter.receive(line)
        message = json.loads(line)
        is_kept = str(message.get("id")).startswith("steer-")
        if ("result" in message and not is_kept) or "no rollout" in str(message.get("error")):
            assert effect is not None
            assert effect.event is None
        else:
            assert effect is None or effect.event == line


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("error_400", "agent_error", "scripted error 400"),
        ("error_401", "agent_not_authenticated", "401"),
        ("no_login", "agent_not_authenticated", "401"),
        ("error_429", "agent_rate_limited", "429"),
        ("error_500", "agent_api_error", "high demand"),
        ("quota", "agent_billing", "Quota"),
        ("overloaded", "agent_overloaded", "capacity"),
        ("refused", "agent_api_unreachable", "Connection failed"),
        ("drop", "agent_api_unreachable", "disconnected"),
        ("output_limit", "output_limit_reached", "max_output_tokens"),
        ("content_filter", "model_refused", "content_filter"),
        ("context_too_long", "context_too_long", "context window"),
        ("prompt_too_long", "context_too_long", "maximum length"),
        ("interrupt_text", "agent_interrupted", "interrupted"),
        ("interrupt_command", "agent_interrupted", "interrupted"),
    ],
)
def test_failures_have_a_message_and_a_stable_code(name: str, code: str, words: str) -> None:
    """A turn that fails says why in words, and in a code for programs."""
    played = first_turn(name)

    assert played.is_over
    assert played.outcome is not None
    assert (played.outcome.status, played.outcome.error_code) == (TurnStatus.FAILED, code)
    assert words in str(played.outcome.error)


@pytest.mark.parametrize("name", ["error_500_once", "command_fails", "partial", "patch", "mcp", "helper"])
def test_what_goes_wrong_inside_a_turn_is_not_its_end(name: str) -> None:
    """Retries, failing commands and patches that do not fit are the agent's affair; the turn is completed."""
    played = first_turn(name)

    assert played.is_over
    assert played.outcome is not None
    assert (played.outcome.status, played.outcome.error) == (TurnStatus.COMPLETED, None)


def test_prompt_waits_for_the_thread() -> None:
    """A new process logs in, then starts a thread, and is then given the prompt; the session learns its name."""
    played = first_turn("two_turns")
    thread_id = thread_of(transcript("two_turns"))

    assert played.methods == ["thread/start", "turn/start"]
    assert played.internal_id == thread_id
    assert played.requests[1]["params"]["threadId"] == thread_id
    assert played.requests[1]["params"]["input"] == [{"type": "text", "text": "the prompt"}]
    assert played.requests[1]["params"]["clientUserMessageId"] == PROMPT


def test_thread_is_resumed() -> None:
    """The next process of a session goes on with its thread."""
    thread_id = thread_of(transcript("resume"))
    played = first_turn("resume", thread_id)

    assert played.methods == ["thread/resume", "turn/start"]
    assert (played.is_over, played.internal_id) == (True, None)


def test_lost_thread_is_begun_anew() -> None:
    """The thread was never written down, or deleted: the conversation begins again under its new name."""
    played = first_turn("resume_unknown", NO_SUCH_THREAD)

    assert played.methods == ["thread/resume", "thread/start", "turn/start"]
    assert played.is_over
    assert played.internal_id == thread_of(transcript("resume_unknown"))


def test_thread_that_another_process_holds_is_not_waited_for() -> None:
    """Somebody else works in this thread: the turn fails at once and says so."""
    played = first_turn("held", thread_of(transcript("two_turns")))

    assert played.outcome is not None
    assert "active writer" in str(played.outcome.error)


def test_second_prompt_of_a_process_goes_to_its_thread_at_once() -> None:
    """A warm agent needs nothing but the prompt; each turn's usage is its own."""
    lines = transcript("two_turns")
    adapter = make_adapter()
    first = play(adapter, iter(lines))
    second = play(adapter, iter(lines[first.count :]))

    assert second.methods == ["turn/start"]
    assert [played.outcome and played.outcome.stop_reason for played in (first, second)] == ["end_turn"] * 2
    usages = [played.outcome.usage for played in (first, second) if played.outcome and played.outcome.usage]
    assert [(usage["inputTokens"], usage["outputTokens"]) for usage in usages] == [(10, 5), (300, 50)]


@pytest.mark.parametrize("name", ["two_turns", "resume", "resume_unknown", "patch", "partial", "error_500"])
def test_restarted_server_reads_on_wherever_it_was(name: str) -> None:
    """After each line the server may die: from the events it has, and the lines to come, it knows the rest."""
    lines = transcript(name)
    known = {"resume": thread_of(lines), "resume_unknown": NO_SUCH_THREAD}.get(name)
    whole = play(make_adapter(known), iter(lines))
    for cut in range(whole.count):
        adapter = make_adapter(known)
        adapter.begin_turn(PROMPT, TurnOptions())
        for line in lines[:cut]:
            if "method" in json.loads(line):
                adapter.receive(line)
        adapter_after = Continued(adapter, lines[cut:])

        assert adapter_after.outcome == whole.outcome
        assert adapter_after.prompt_after >= 0


class Continued:
    """A turn played on by an adapter that has seen its first events, but not the answers among them."""

    def __init__(self, adapter: CodexAdapter, lines: list[bytes]) -> None:
        self.outcome: Outcome | None = None
        self.prompt_after = -1
        event = make_agent(Path("/")).user_event(make_session(), PROMPT, "the prompt")
        for number, line in enumerate(lines):
            if self.prompt_after < 0 and adapter.prompt(event) is not None:
                self.prompt_after = number
            effect = adapter.receive(line)
            if effect is not None and effect.is_over:
                self.outcome = effect.outcome
                return


def test_idle_process_takes_prompts_after_a_restart_of_the_server() -> None:
    """What is remembered at the end of a turn is enough to go on with the same process."""
    lines = transcript("two_turns")
    adapter = make_adapter()
    first = play(adapter, iter(lines))
    second = play(make_adapter(first.internal_id, adapter.state()), iter(lines[first.count :]))

    assert second.methods == ["turn/start"]
    assert second.is_over


def test_ids_of_requests_are_used_once() -> None:
    """A prompt's request is named after its turn, so no later server can use the id again."""
    lines = transcript("two_turns")
    adapter = make_adapter()
    first = play(adapter, iter(lines))
    second = play(adapter, iter(lines[first.count :]), prompt=TurnId("another"))

    ids = [request["id"] for request in first.requests + second.requests]
    assert len(set(ids)) == len(ids) == 3


def test_interrupt_names_the_running_turn() -> None:
    """Before the agent has begun there is nothing to interrupt; then it is the turn that it named."""
    adapter = make_adapter()
    lines = transcript("interrupt_text")
    adapter.begin_turn(PROMPT, TurnOptions())
    requests = []
    for line in lines:
        adapter.receive(line)
        requests.append(adapter.interrupt(PROMPT))

    started = next(message for message in map(json.loads, lines) if message.get("method") == "turn/started")
    asked = next(json.loads(request) for request in requests if request is not None)
    assert requests[0] is None
    assert asked["params"]["turnId"] == started["params"]["turn"]["id"]
    assert requests[-1] is None


def test_last_words_are_in_the_outcome() -> None:
    """What the agent has to say at the end is the job's result, not only an event among many."""
    outcome = first_turn("partial").outcome

    assert outcome is not None
    assert outcome.result == "delta 0 delta 1 delta 2 delta 3 delta 4 "


def test_structured_output_is_in_the_outcome() -> None:
    """With an output schema the answer comes as data; without one, or with another answer, it does not."""
    schema = TurnOptions(output_schema={"type": "object"})
    played = [
        first_turn("structured_output", options=schema),
        first_turn("structured_output"),
        first_turn("mcp", options=schema),
    ]

    assert [turn.outcome and turn.outcome.structured_output for turn in played] == [{"n": 5}, None, None]


def test_background_command_keeps_the_agent_busy_until_it_ends() -> None:
    """An idle agent whose command still runs must not be ended as idle."""
    lines = transcript("background_command")
    adapter = make_adapter()
    played = play(adapter, iter(lines))
    was_busy = adapter.has_background_work
    for line in lines[played.count :]:
        adapter.receive(line)

    assert (was_busy, adapter.has_background_work) == (True, False)


def test_helpers_are_not_the_conversation() -> None:
    """A helper that the agent has started has turns of its own: none of them begins or ends the session's."""
    lines = transcript("helper")
    adapter = make_adapter()
    played = play(adapter, iter(lines))
    was_busy = adapter.has_background_work
    effects = [effect for line in lines[played.count :] if (effect := adapter.receive(line)) is not None]

    assert (was_busy, adapter.has_background_work) == (True, False)
    assert not any(effect.is_over or effect.begins for effect in effects)


def test_turn_that_nobody_prompted_is_noticed() -> None:
    """The agent goes on by itself: its turn begins when it says so."""
    lines = transcript("two_turns")
    adapter = make_adapter()
    first = play(adapter, iter(lines))
    effects = [effect for line in lines[first.count :] if (effect := adapter.receive(line)) is not None]

    assert [effect.begins for effect in effects if effect.event].count(True) == 1


STEER = "00000000-0000-4000-8000-000000000091"


def play_steered(adapter: CodexAdapter, name: str, at: bytes) -> tuple[list[Effect], list[bytes]]:
    """The first turn of a transcript, with a message added at the first line with `at`; and the rest."""
    lines = iter(transcript(name))
    event = make_agent(Path("/")).user_event(make_session(), TurnId(STEER), "more")
    effects: list[Effect] = []
    adapter.begin_turn(PROMPT, TurnOptions())
    is_steered = False
    for line in lines:
        if not is_steered and at in line:
            is_steered = adapter.steer(STEER, event) is not None
        if (effect := adapter.receive(line)) is not None:
            effects.append(effect)
            if effect.is_over:
                break
    return effects, list(lines)


def test_message_is_added_to_the_running_turn() -> None:
    """It names the turn that it joins; before there is one it cannot be taken."""
    adapter = make_adapter(state={"thread_id": "t"})
    event = make_agent(Path("/")).user_event(make_session(), TurnId(STEER), "more")
    adapter.begin_turn(PROMPT, TurnOptions())
    early = adapter.steer(STEER, event)
    adapter.receive(b'{"method":"turn/started","params":{"threadId":"t","turn":{"id":"u"}}}')
    request = json.loads(adapter.steer(STEER, event) or b"")

    assert early is None
    assert (request["id"], request["method"]) == (f"steer-{STEER}", "turn/steer")
    assert request["params"] == {
        "threadId": "t",
        "expectedTurnId": "u",
        "clientUserMessageId": STEER,
        "input": [{"type": "text", "text": "more"}],
    }


@pytest.mark.parametrize("name", ["steer_text", "steer_command"])
def test_steered_turn_has_one_end(name: str) -> None:
    """My second message joins the turn, in the middle of a text or of a command: one answer, one end."""
    effects, _ = play_steered(make_adapter(), name, f'"id":"steer-{STEER}"'.encode())

    assert [effect.is_over for effect in effects].count(True) == 1
    assert not any(effect.lost_steers for effect in effects)
    assert effects[-1].outcome is not None


def test_message_that_comes_too_late_is_lost_by_name() -> None:
    """The turn had ended when my message came: its end waits for this to be known, and says so."""
    effects, _ = play_steered(make_adapter(), "steer_late", b'"turn/completed"')
    ends = [effect for effect in effects if effect.outcome is not None and not effect.looks_over]

    assert [(end.is_over, [*end.lost_steers]) for end in ends] == [(False, []), (True, [STEER])]
    assert ends[0].outcome == ends[1].outcome


def test_message_that_is_only_noted_at_the_end_is_lost_by_name() -> None:
    """Codex takes it, writes it into the thread, and ends without asking the model: the model has not read it."""
    adapter = make_adapter(state={"thread_id": "t"})
    adapter.begin_turn(PROMPT, TurnOptions())
    adapter.receive(b'{"method":"turn/started","params":{"threadId":"t","turn":{"id":"u"}}}')
    adapter.steer(STEER, make_agent(Path("/")).user_event(make_session(), TurnId(STEER), "more"))
    item = {"type": "userMessage", "id": "i", "clientId": STEER, "content": []}
    lines: list[dict[str, Any]] = [
        {"id": f"steer-{STEER}", "result": {"turnId": "u"}},
        {"method": "item/started", "params": {"item": item, "threadId": "t", "turnId": "u"}},
        {"method": "item/completed", "params": {"item": item, "threadId": "t", "turnId": "u"}},
        {"method": "turn/completed", "params": {"threadId": "t", "turn": {"id": "u", "status": "completed"}}},
    ]
    end = [adapter.receive(json.dumps(line, separators=(",", ":")).encode()) for line in lines][-1]

    assert end is not None
    assert (end.is_over, [*end.lost_steers], [*end.read_steers]) == (True, [STEER], [])


def test_restarted_server_does_not_wait_for_a_message_again() -> None:
    """The answer was read before the crash: wherever the message is told of again, the turn still ends."""
    lines = transcript("steer_text")
    adapter = make_adapter()
    adapter.begin_turn(PROMPT, TurnOptions())
    event = make_agent(Path("/")).user_event(make_session(), TurnId(STEER), "more")
    effects = []
    for line in lines:
        effects.append(adapter.receive(line))
        if b'"id":"steer-' in line:
            adapter.steer(STEER, event)

    assert any(effect.is_over for effect in effects if effect is not None)


def asked(method: str, **params: Any) -> dict[str, Any]:
    line = json.dumps({"method": method, "id": 0, "params": params}).encode()
    effect = make_adapter().receive(line)
    assert effect is not None
    assert (effect.event, effect.reply is not None) == (line, True)
    answer: dict[str, Any] = json.loads(effect.reply or b"")
    assert answer["id"] == 0
    return answer


@pytest.mark.parametrize(
    "method", ["item/commandExecution/requestApproval", "item/fileChange/requestApproval"]
)
def test_agent_that_may_do_everything_is_never_refused(method: str) -> None:
    """In bypass mode an approval is given as soon as it is asked for."""
    assert asked(method)["result"] == {"decision": "accept"}


def test_wider_permissions_are_granted_as_asked() -> None:
    """The agent asks for more room for a turn, and gets what it asked for."""
    wanted = {"network": {"enabled": True}}

    answer = asked("item/permissions/requestApproval", permissions=wanted)
    assert answer["result"] == {"permissions": wanted, "scope": "turn"}


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("item/tool/requestUserInput", {"result": {"answers": {}}}),
        ("mcpServer/elicitation/request", {"result": {"action": "cancel"}}),
        ("item/tool/call", {"error": {"code": -32601, "message": "not supported by this client"}}),
        ("something/new", {"error": {"code": -32601, "message": "not supported by this client"}}),
    ],
)
def test_question_that_nobody_answers_is_not_waited_for(method: str, answer: dict[str, Any]) -> None:
    """Nobody is there to answer: the agent is told so at once, and the turn goes on."""
    assert asked(method) == {"id": 0} | answer


@pytest.mark.parametrize(
    "line", [b"not json", b"[1]", b'"text"', b"{", b"\x00", b'{"a":1}{"b":2}', b"[" * 100_000]
)
def test_line_that_is_no_object_is_kept_as_raw(line: bytes) -> None:
    """Garbage on stdout is an event, not a crash and not lost."""
    effect = make_adapter().receive(line)

    assert effect is not None
    assert effect.event is not None
    assert json.loads(effect.event) == {"type": "raw", "data": line.decode()}


@pytest.mark.parametrize(
    "line",
    [
        b'{"method":"x","t":"\\ud800"}',
        b'{"method":5}',
        b'{"no":"method"}',
        b'{"id":7,"result":{}}',
        b'{"method":"turn/started","params":[]}',
        b'{"method":"item/completed","params":{"item":"commandExecution"}}',
        b'{"method":"thread/status/changed","params":{"threadId":[],"status":[]}}',
        b'{"method":"thread/tokenUsage/updated","params":{"tokenUsage":5}}',
        b'{"method":"turn/completed","params":{"threadId":{}}}',
    ],
)
def test_odd_but_readable_lines_pass_as_they_are(line: bytes) -> None:
    """Lone surrogates, odd types and unknown kinds are passed on; only blank lines are not events."""
    adapter = make_adapter(state={"thread_id": "t"})

    assert adapter.receive(line) is None
    assert adapter.receive(b"  ") == Effect(event=None)


@pytest.mark.parametrize(
    "turn",
    [
        '"completed"',
        '{"status":[]}',
        '{"status":"failed","error":"x"}',
        '{"status":"failed","error":{"message":"\\ud800","codexErrorInfo":{}}}',
        '{"status":"failed","error":{"message":[],"codexErrorInfo":{"httpConnectionFailed":{"httpStatusCode":[]}}}}',
        '{"status":"failed","error":{"codexErrorInfo":{"httpConnectionFailed":5}}}',
        '{"status":"failed","error":{"message":"[1]","codexErrorInfo":"other"}}',
        '{"status":"completed","items":["x"]}',
        '{"status":"completed","items":[{"text":"{\\"a\\":\\"\\\\ud800\\"}"}]}',
    ],
)
def test_odd_end_of_a_turn_is_an_end(turn: str) -> None:
    """Whatever the agent says of its end, the turn is over, and what is kept of it can be stored."""
    adapter = make_adapter(state={"thread_id": "t"})
    adapter.begin_turn(PROMPT, TurnOptions(output_schema={}))
    effect = adapter.receive(
        f'{{"method":"turn/completed","params":{{"threadId":"t","turn":{turn}}}}}'.encode()
    )

    assert effect is not None
    assert effect.is_over
    assert effect.outcome is not None
    assert str((effect.outcome.error, effect.outcome.structured_output)).encode()


def test_failed_login_ends_the_turn() -> None:
    """The program does not take the key: there is no use in waiting."""
    line = b'{"method":"account/login/completed","params":{"success":false,"error":"no such key"}}'
    effect = make_adapter().receive(line)

    assert effect is not None
    assert effect.gave_up is not None
    assert effect.gave_up.error_code == "agent_not_authenticated"


def opening(agent: Codex, options: TurnOptions | None = None) -> list[dict[str, Any]]:
    launch = agent.launch(make_session(), options or TurnOptions(), resume=False, directory=Path("/d"))
    return [json.loads(line) for line in launch.opening.splitlines()]


def test_key_is_told_to_the_program_alone(tmp_path: Path) -> None:
    """The key is neither in the environment nor in the arguments nor in a file: the agent's commands inherit all."""
    agent = make_agent(tmp_path, OPENAI_API_KEY="sk-secret", OPENAI_BASE_URL="http://u:sk-secret@model")
    launch = agent.launch(make_session(), TurnOptions(), resume=False, directory=tmp_path)

    assert "sk-secret" not in str((launch.argv, launch.env, launch.files))
    assert 'cli_auth_credentials_store="ephemeral"' in launch.argv
    assert opening(agent)[2]["params"] == {"type": "apiKey", "apiKey": "sk-secret"}


def test_key_for_codex_goes_before_the_common_one(tmp_path: Path) -> None:
    """CODEX_API_KEY is used where both are set; without a key the program looks for its own login."""
    both = opening(make_agent(tmp_path, OPENAI_API_KEY="common", CODEX_API_KEY="own"))
    neither = make_agent(tmp_path)

    assert both[2]["params"]["apiKey"] == "own"
    assert [message["method"] for message in opening(neither)] == ["initialize", "initialized"]
    assert "ephemeral" not in str(
        neither.launch(make_session(), TurnOptions(), resume=False, directory=tmp_path)
    )


def test_own_login_needs_no_other() -> None:
    """Without a key the thread follows the handshake; its provider is the one that is configured."""
    adapter = make_agent(Path("/")).adapter(make_session("t-1"), {})
    played = Played()
    for line in (
        b'{"id":"initialize","result":{}}',
        b'{"id":"config","result":{"config":{"model_provider":"mine"}}}',
    ):
        effect = adapter.receive(line)
        assert effect is not None
        assert effect.event is None
        played.told(effect.reply)

    assert played.methods == ["config/read", "thread/resume"]
    assert played.requests[1]["params"]["modelProvider"] == "mine"


def test_thread_may_do_everything_in_its_directory() -> None:
    """Bypass mode: no sandbox, and it asks for no leave; only what an MCP server wants to know comes here."""
    params = first_turn("two_turns").requests[0]["params"]
    asked = [name for name, is_asked in params["approvalPolicy"]["granular"].items() if is_asked]

    assert (params["cwd"], params["sandbox"], asked) == ("/w/a", "danger-full-access", ["mcp_elicitations"])


@pytest.mark.parametrize(
    ("mode", "sandbox", "policy", "approvals"),
    [
        (PermissionMode.ACCEPT_EDITS, "workspace-write", "workspaceWrite", "on-request"),
        (PermissionMode.ASK, "read-only", "readOnly", "on-request"),
    ],
)
def test_mode_says_what_it_may_do_and_ask(
    mode: PermissionMode, sandbox: str, policy: str, approvals: str
) -> None:
    """The sandbox and what it may ask for follow from the mode, for the thread and again for each turn."""
    thread, turn = first_turn("two_turns", options=TurnOptions(permission_mode=mode)).requests

    assert (thread["params"]["sandbox"], thread["params"]["approvalPolicy"]) == (sandbox, approvals)
    assert turn["params"]["sandboxPolicy"] == {"type": policy}
    assert turn["params"]["approvalPolicy"] == approvals


def test_plan_is_made_without_writing() -> None:
    """In plan mode it cannot even ask to write; what its MCP servers do and ask is still put to people."""
    options = TurnOptions(permission_mode=PermissionMode.PLAN)
    params = first_turn("two_turns", options=options).requests[1]["params"]

    allowed = [name for name, is_asked in params["approvalPolicy"]["granular"].items() if is_asked]
    assert (params["sandboxPolicy"], allowed) == ({"type": "readOnly"}, ["mcp_elicitations"])


def test_a_mode_needs_no_process_of_its_own(tmp_path: Path) -> None:
    """A warm agent changes its mode from one turn to the next, but for what a repository may bring along."""
    agent = make_agent(tmp_path)

    asking = set(PermissionMode) - {PermissionMode.BYPASS}
    assert len({agent.process_key(TurnOptions(permission_mode=mode)) for mode in asking}) == 1


def codex_with_sandbox(path: Path, command: str) -> Path:
    """A program whose `sandbox` is `command`."""
    path.write_text(f'#!/bin/sh\ntest "$1" != sandbox && exit 0\necho x >> {path}.asked\n{command}\n')
    path.chmod(0o755)
    return path


async def test_machine_without_sandbox_is_found_out_before_the_turn(tmp_path: Path) -> None:
    """Where commands cannot be confined I am told so, and what to do; not by each command that fails."""
    program = codex_with_sandbox(tmp_path / "codex", "echo 'bwrap: No permissions' >&2; exit 1")
    agent = make_agent(tmp_path, CODEX_PATH=str(program))
    with pytest.raises(InvalidInput) as caught:
        await agent.check(TurnOptions(permission_mode=PermissionMode.ASK))
    await agent.check(TurnOptions())

    assert (caught.value.code, caught.value.problems[0].path) == ("sandbox_unavailable", "permission_mode")
    assert "bypass" in str(caught.value)


async def test_sandbox_that_hangs_holds_up_one_thread_for_all_who_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight prompts at once cost one program and its time limit; they are refused, and others go on meanwhile."""
    monkeypatch.setattr(programs, "TIMEOUT_S", 0.5)
    asked = tmp_path / "asked"
    program = codex_with_sandbox(tmp_path / "codex", f"echo >> {asked}; sleep 60")
    agent = make_agent(tmp_path, CODEX_PATH=str(program))
    checks = [agent.check(TurnOptions(permission_mode=PermissionMode.ASK)) for _ in range(8)]
    refused = await asyncio.gather(*checks, return_exceptions=True)

    assert [getattr(error, "code", None) for error in refused] == ["sandbox_unavailable"] * 8
    assert asked.read_text() == "\n"


async def test_sandbox_is_tried_once(tmp_path: Path) -> None:
    """Once it is known that commands can be confined, it costs nothing."""
    program = codex_with_sandbox(tmp_path / "codex", "exit 0")
    agent = make_agent(tmp_path, CODEX_PATH=str(program))
    for mode in PermissionMode:
        await agent.check(TurnOptions(permission_mode=mode))

    assert (tmp_path / "codex.asked").read_text() == "x\n"


def test_options_go_with_the_turn() -> None:
    """Model, effort, schema and instructions are those of my prompt, and nothing is said of what I left out."""
    schema = {"type": "object"}
    options = TurnOptions(model="m", effort="high", output_schema=schema, system_prompt="In verse.")
    full = first_turn("two_turns", options=options).requests[1]["params"]
    plain = first_turn("two_turns").requests[1]["params"]

    assert (full["model"], full["effort"], full["outputSchema"]) == ("m", "high", schema)
    assert full["additionalContext"] == {"instructions": {"kind": "application", "value": "In verse."}}
    assert set(plain) == {"threadId", "clientUserMessageId", "input", "approvalPolicy", "sandboxPolicy"}


def test_mcp_servers_are_said_in_its_words() -> None:
    """MCP servers are given as to any other agent."""
    servers = {
        "a": {"type": "stdio", "command": "c", "args": ["x"], "env": {"T": "v"}},
        "b": {"type": "http", "url": "http://b", "headers": {"H": "v"}},
    }
    params = first_turn("two_turns", options=TurnOptions(mcp_servers=servers)).requests[0]["params"]

    assert params["config"]["mcp_servers"] == {
        "a": {"command": "c", "args": ["x"], "env": {"T": "v"}},
        "b": {"url": "http://b", "http_headers": {"H": "v"}},
    }


def test_only_options_that_fit_share_a_process(tmp_path: Path) -> None:
    """A warm agent changes its model, but only a new process goes back to the default."""
    agent = make_agent(tmp_path)
    keys = [agent.process_key(TurnOptions(model=model)) for model in ("a", "b", None)]
    partial = agent.process_key(TurnOptions(partial_messages=True))

    assert keys[0] == keys[1] != keys[2] != partial


def test_deltas_are_left_out_unless_wanted(tmp_path: Path) -> None:
    """Token deltas are not even written when nobody wants them."""
    agent = make_agent(tmp_path)
    capabilities = [
        opening(agent, TurnOptions(partial_messages=partial))[0]["params"]["capabilities"]
        for partial in (False, True)
    ]

    assert "item/agentMessage/delta" in capabilities[0]["optOutNotificationMethods"]
    assert "optOutNotificationMethods" not in capabilities[1]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (TurnOptions(effort="extreme"), "effort"),
        (TurnOptions(max_turns=3), "max_turns"),
        (TurnOptions(max_budget_usd=1.0), "max_budget_usd"),
        (TurnOptions(mcp_servers={"m": {"type": "sse", "url": "http://m"}}), "mcp_servers"),
        (TurnOptions(mcp_servers={"m": {}}), "mcp_servers"),
        (TurnOptions(mcp_servers={"m": 5}), "mcp_servers"),
        (TurnOptions(mcp_servers={"m": {"type": "ws", "url": "ws://m"}}), "mcp_servers"),
        (TurnOptions(mcp_servers={"m": {"type": "stdio", "url": "http://m"}}), "mcp_servers"),
        (TurnOptions(mcp_servers={"m": {"command": ""}}), "mcp_servers"),
        (TurnOptions(mcp_servers={"m": {"url": 5}}), "mcp_servers"),
    ],
)
async def test_option_that_it_does_not_have_is_refused_by_name(
    tmp_path: Path, options: TurnOptions, field: str
) -> None:
    """Nothing is ignored silently."""
    with pytest.raises(InvalidInput) as caught:
        await make_agent(tmp_path).check(options)

    assert (caught.value.code, caught.value.problems[0].path) == ("unsupported_option", field)


async def test_home_is_below_the_state_directory_unless_set(tmp_path: Path) -> None:
    """The server's Codex has a home of its own, which is made for it; CODEX_HOME names another one."""
    agent = make_agent(tmp_path)
    await agent.prepare()
    home = tmp_path / "state" / "codex"

    assert (agent.environment()["CODEX_HOME"], home.stat().st_mode & 0o777) == (str(home), 0o700)
    assert make_agent(tmp_path, CODEX_HOME="/other").environment()["CODEX_HOME"] == "/other"
    as_other_user = make_agent(tmp_path, AGENT_USER="12345:12345").environment()
    assert as_other_user["CODEX_HOME"] == "/home/me/.codex"


def test_agent_gets_an_allow_list_of_variables(tmp_path: Path) -> None:
    """The agent sees what I allowed by name; never the server's key or the rest."""
    environment = make_agent(tmp_path, AGENT_ENV="MY_VAR").environment()

    assert set(environment) == {"PATH", "HOME", "MY_VAR", "CODEX_HOME"}


def test_transcript_is_found(tmp_path: Path) -> None:
    """The conversation is where the program keeps it, on whatever day it began."""
    agent = make_agent(tmp_path)
    before = agent.transcript_of(make_session("t-1"))
    path = (
        tmp_path
        / "state"
        / "codex"
        / "sessions"
        / "2026"
        / "11"
        / "23"
        / "rollout-2026-11-23T04-50-09-t-1.jsonl"
    )
    path.parent.mkdir(parents=True)
    path.write_text('{"role": "assistant"}\n')

    assert before is None
    assert agent.transcript_of(make_session("t-1")) == path


def test_messages_are_the_completed_items(tmp_path: Path) -> None:
    """The history has my prompts, and each thing that the agent said or did, once and whole."""
    agent = make_agent(tmp_path)
    user = agent.user_event(make_session(), PROMPT, "the prompt")
    lines = [user, *transcript("patch"), b'{"type":"error","error":"x"}', b'{"done":true}', b"not json"]
    kept = [json.loads(line) for line in lines if agent.is_message(line)]

    assert [line.get("type") or line["params"]["item"]["type"] for line in kept] == [
        "user",
        "fileChange",
        "fileChange",
        "agentMessage",
        "error",
    ]


def test_user_event_has_the_common_shape(tmp_path: Path) -> None:
    """The first event of a turn is the same for every agent, the prompt byte by byte."""
    event = json.loads(make_agent(tmp_path).user_event(make_session(), PROMPT, "--help\n\u2028\x00\"'"))

    assert event["message"] == {
        "role": "user",
        "content": [{"type": "text", "text": "--help\n\u2028\x00\"'"}],
    }
    assert (event["type"], event["uuid"], event["session_id"], event["parent_tool_use_id"]) == (
        "user",
        PROMPT,
        "s",
        None,
    )


def test_exit_is_explained_by_its_last_error() -> None:
    """Colours and warnings on stderr do not hide the reason."""
    stderr = "\x1b[2mWARN\x1b[0m noise\n\x1b[31mError\x1b[0m: no such home\ncaused by: dust\n"

    assert make_adapter().explain_exit(stderr) == ("Error: no such home\ncaused by: dust", "agent_error")
    assert make_adapter().explain_exit("noise") is None


def test_lost_end_of_a_turn_shows_in_the_threads_state() -> None:
    """`turn/completed` never comes: the thread is idle, so the turn is over."""
    adapter = make_adapter()
    adapter.begin_turn(PROMPT, TurnOptions())
    lines = [line for line in transcript("two_turns") if b'"turn/completed"' not in line]
    signs = [effect for line in lines if (effect := adapter.receive(line)) and effect.looks_over]

    assert signs[0].outcome is not None
    assert signs[0].outcome.status == TurnStatus.COMPLETED


def test_idle_thread_with_an_error_has_failed() -> None:
    """What was not tried again is what the turn ended with."""
    adapter = make_adapter()
    adapter.begin_turn(PROMPT, TurnOptions())
    lines = [line for line in transcript("error_500") if b'"turn/completed"' not in line]
    signs = [effect for line in lines if (effect := adapter.receive(line)) and effect.looks_over]

    assert signs[0].outcome is not None
    assert (signs[0].outcome.status, signs[0].outcome.error_code) == (TurnStatus.FAILED, "agent_api_error")


@pytest.mark.parametrize(
    ("mode", "sources", "trust"),
    [
        (PermissionMode.BYPASS, None, "trusted"),
        (PermissionMode.ASK, None, "untrusted"),
        (PermissionMode.ASK, ("user", "project", "local"), "trusted"),
        (PermissionMode.BYPASS, ("user",), "untrusted"),
    ],
)
def test_whose_settings_count(mode: PermissionMode, sources: tuple[str, ...] | None, trust: str) -> None:
    """The repository's in bypass, else not, unless it is trusted: said with each thread, for all that is around it."""
    options = TurnOptions(permission_mode=mode, setting_sources=sources)
    config = first_turn("two_turns", options=options).requests[0]["params"]["config"]

    assert config["projects"] == {place: {"trust_level": trust} for place in ("/w/a", "/w", "/")}


def test_record_of_an_earlier_server_is_brought(tmp_path: Path) -> None:
    """It kept its threads in `~/.codex`: they are found there, and copied to where they can be resumed."""
    thread = "01a209db-94b8-7d02-a749-9d50e4abd6d4"
    agent = make_agent(tmp_path, HOME=str(tmp_path))
    before = agent.has_record(make_session(thread))
    record = tmp_path / ".codex/sessions/2026/11/29" / f"rollout-2026-11-29T10-00-00-{thread}.jsonl"
    record.parent.mkdir(parents=True)
    record.write_text('{"role":"assistant"}\n')

    assert not before
    assert agent.has_record(make_session(thread))
    found = agent.transcript_of(make_session(thread))
    assert found is not None
    assert (found.read_text(), found.is_relative_to(tmp_path / "state")) == ('{"role":"assistant"}\n', True)


@pytest.mark.parametrize(
    ("name", "content", "is_one"),
    [
        (
            "rollout-x-{}.jsonl",
            b'{"type":"session_meta"}\n{"type":"response_item","payload":{"role":"assistant"}}',
            True,
        ),
        (
            "rollout-x-{}.jsonl",
            b'{"type":"session_meta"}\n{"type":"event_msg","payload":{"type": "user_message"}}',
            True,
        ),
        ("rollout-x-{}.jsonl.zst", b"\x28\xb5\x2f\xfd\x00", True),
        (
            "rollout-x-{}.jsonl",
            b'{"type":"session_meta"}\n{"type":"response_item","payload":{"role":"user"}}',
            False,
        ),
        ("rollout-x-{}.jsonl", b"", False),
        ("rollout-x-{}.jsonl.partial", b'{"role":"assistant"}', False),
    ],
)
def test_record_is_one_in_which_something_was_said(
    tmp_path: Path, name: str, content: bytes, *, is_one: bool
) -> None:
    """In the shapes of today and before, also compressed. Where it only begins there is nothing to go on from."""
    agent, thread = make_agent(tmp_path), "01a209db-94b8-7d02-a749-9d50e4abd6d4"
    record = tmp_path / "state/codex/sessions/2026/11/29" / name.format(thread)
    record.parent.mkdir(parents=True)
    record.write_bytes(content)

    assert agent.has_record(make_session(thread)) == is_one
    assert (agent.transcript_of(make_session(thread)) == record) == is_one
