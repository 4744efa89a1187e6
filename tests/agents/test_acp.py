"""The ACP adapter reads what eight real agents wrote (transcripts/acp/), line by line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from agentsrv.agents.acp.adapter import OF_A_TURN, AcpAdapter
from agentsrv.agents.acp.known import GEMINI, KNOWN, KnownAgent
from agentsrv.agents.contract import Effect
from agentsrv.agents.messages import user_event
from agentsrv.errors import InvalidInput
from agentsrv.model import (
    Answer,
    Decision,
    Outcome,
    PermissionMode,
    TurnId,
    TurnOptions,
    TurnStatus,
)

TRANSCRIPTS = Path(__file__).parent / "transcripts" / "acp"
PATHS = sorted(TRANSCRIPTS.glob("*.jsonl"))
AGENTS = {known.name: known for known in KNOWN}
SETTINGS = ("mode-", "model-", "effort-")
ASK = TurnOptions(permission_mode=PermissionMode.ASK)

each_transcript = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def turn_id(number: int) -> TurnId:
    return TurnId(f"00000000-0000-4000-8000-{number:012}")


def agent_of(path: Path) -> KnownAgent:
    return AGENTS[path.stem.partition("_")[0]]


def lines_of(name: str) -> list[bytes]:
    return lines_in(TRANSCRIPTS / f"{name}.jsonl")


def lines_in(path: Path) -> list[bytes]:
    lines = path.read_bytes().splitlines()
    if not any(b'"session-load"' in line for line in lines):
        return lines
    # It was loaded, though the agent can do better.
    return [line.replace(b'"resume": {}', b'"resumes": {}') for line in lines]


@dataclass(slots=True)
class User:
    """Plays a transcript: begins the next turn when one is over, answers what an agent wants to be set."""

    adapter: AcpAdapter
    options: TurnOptions
    turn: int = 1
    effects: list[tuple[bytes, Effect | None]] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    questions: list[Any] = field(default_factory=list)

    def begin(self) -> None:
        self.tell(self.adapter.begin_turn(turn_id(self.turn), self.options))
        self.prompt()

    def prompt(self) -> None:
        self.tell(self.adapter.prompt(user_event("hello", turn_id(self.turn), "s")))

    def tell(self, data: bytes | None) -> None:
        for line in (data or b"").splitlines():
            message = json.loads(line)
            self.told.append(message)
            if str(message.get("id")).startswith(SETTINGS):
                answer = {"jsonrpc": "2.0", "id": message["id"], "result": {}}
                self.hear(json.dumps(answer).encode())

    def hear(self, line: bytes) -> None:
        effect = self.adapter.receive(line)
        self.effects.append((line, effect))
        if effect is None:
            return
        if effect.question is not None:
            self.questions.append(effect.question)
        self.tell(effect.reply)
        if effect.takes_prompt:
            self.prompt()
        if effect.is_over or effect.gave_up is not None:
            self.outcomes.append(effect.outcome or effect.gave_up or Outcome(TurnStatus.COMPLETED))
            self.turn += 1
            if b'"id": "prompt-' in line:
                self.begin()

    def play(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            if not str(json.loads(line).get("id")).startswith(SETTINGS):
                self.hear(line)


def options_for(path: Path) -> TurnOptions:
    asks = (
        "bypass" if agent_of(path).name == "pi" or "errors" in path.stem or "resume" in path.stem else "ask"
    )
    return TurnOptions(permission_mode=PermissionMode(asks))


def adapter_for(path: Path) -> AcpAdapter:
    lines = path.read_bytes()
    is_resumed = b'"session-load"' in lines or b'"session-resume"' in lines
    conversation = conversation_of(lines.splitlines()) if is_resumed else None
    return AcpAdapter(agent_of(path), "/w", conversation, {})


def conversation_of(lines: Iterable[bytes]) -> str:
    for message in map(json.loads, lines):
        places = (message.get("params"), message.get("result"))
        if found := [place["sessionId"] for place in places if place and place.get("sessionId")]:
            return str(found[0])
    raise AssertionError("the transcript names no conversation")


def played(path: Path, options: TurnOptions | None = None) -> User:
    user = User(adapter_for(path), options or options_for(path))
    user.begin()
    user.play(lines_in(path))
    return user


@each_transcript
def test_no_line_is_lost_but_echoes_replays_and_what_comes_late(path: Path) -> None:
    """Every line is an event as it is, unless it repeats what was said, or belongs to no turn."""
    for line, effect in played(path).effects:
        update = (json.loads(line).get("params") or {}).get("update", {})
        if effect is not None and effect.event is None:
            assert update.get("sessionUpdate") in OF_A_TURN
        else:
            assert effect is None or effect.event == line


@each_transcript
def test_every_answered_prompt_ends_its_turn(path: Path) -> None:
    """As many turns end as prompts were answered, and each of them says how."""
    answers = [line for line in path.read_bytes().splitlines() if b'"id": "prompt-' in line]

    assert len(played(path).outcomes) == len(answers)


@each_transcript
def test_nothing_is_ever_allowed_for_always(path: Path) -> None:
    """Some would write it into the user's files, or the project's: neither we nor a user's answer say it."""
    for mode in PermissionMode:
        user = played(path, TurnOptions(permission_mode=mode))
        told = [json.dumps(message.get("result")) for message in user.told]
        leave = Answer(Decision.ALLOW, remember=True)
        asked = [question for question in user.questions if question.kind == "permission"]
        told += [user.adapter.answer(question, leave).decode() for question in asked]
        chosen = {option for text in told for option in forbidden(path) if f'"optionId":"{option}"' in text}
        assert not chosen


def forbidden(path: Path) -> set[str]:
    """The options of a transcript that stand for always."""
    requests = [json.loads(line).get("params") or {} for line in path.read_bytes().splitlines()]
    options = [option for request in requests for option in request.get("options") or []]
    return {option["optionId"] for option in options if option["kind"].endswith("_always")}


@each_transcript
def test_the_next_server_comes_to_the_same_end(path: Path) -> None:
    """Killed behind any line: from the state that was stored the rest means what it would have meant."""
    lines = lines_in(path)
    whole = played(path)
    for cut in range(1, len(lines), len(lines) // 4):
        first = User(adapter_for(path), options_for(path))
        first.begin()
        first.play(lines[:cut])
        second = User(adapter_for(path), first.options, turn=first.turn, outcomes=first.outcomes)
        second.adapter.begin_turn(turn_id(second.turn), second.options)
        second.adapter.restore(json.loads(json.dumps(first.adapter.state())))
        second.play(lines[cut:])
        assert second.outcomes == whole.outcomes


@each_transcript
def test_the_log_alone_tells_how_the_first_turn_went(path: Path) -> None:
    """After a crash its events are read again, by an adapter that knows which conversation was made."""
    first = played(path)
    events = [line if effect is None else effect.event for line, effect in first.effects]
    logged = [event for event in events if event is not None]
    conversation = conversation_of(logged)
    again = User(AcpAdapter(agent_of(path), "/w", conversation, {}), options_for(path))
    again.begin()
    for line in logged:
        if again.turn == 1:
            again.adapter.prompt(user_event("hello", turn_id(1), "s"))
            again.hear(line)

    assert again.outcomes[:1] == first.outcomes[:1]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("gemini_errors", "agent_not_authenticated"),
        ("opencode_errors", "agent_not_authenticated"),
        ("kimi_errors", "agent_not_authenticated"),
        ("vibe_errors", "agent_not_authenticated"),
        ("goose_errors", "agent_not_authenticated"),
        ("goose_errors1", "agent_rate_limited"),
        ("goose_errors2", "agent_api_error"),
        ("copilot_errors", "agent_not_authenticated"),
        ("qwen_errors", "agent_not_authenticated"),
        ("pi_errors", "agent_error"),
    ],
)
def test_failure_is_a_failure_whatever_the_agent_calls_it(name: str, code: str) -> None:
    """Its model refuses a key or is busy: also an agent that says `end_turn` then has failed."""
    outcome = played(TRANSCRIPTS / f"{name}.jsonl").outcomes[0]

    assert (outcome.status, outcome.error_code) == (TurnStatus.FAILED, code)


@pytest.mark.parametrize(
    ("name", "tool"), [("goose", "other"), ("vibe", "execute"), ("opencode_ask", "execute")]
)
def test_question_tells_all_of_the_command(name: str, tool: str) -> None:
    """What the request leaves out, or cuts, was told before; so the same can be allowed for the session."""
    question = played(TRANSCRIPTS / f"{name}_tools.jsonl").questions[0]

    assert question.input["command"].startswith("echo hi; env | grep -E 'KEY|SECRET|TOKEN'")
    assert question.allowance == f"{tool} {json.dumps(question.input, separators=(',', ':'))}"


def test_call_that_is_told_of_in_a_title_alone_is_not_allowed_for_the_session() -> None:
    """Another one could have the same title."""
    question = played(TRANSCRIPTS / "gemini_tools.jsonl").questions[0]

    assert (question.allowance, question.title[:8]) == (None, "echo hi;")


def test_call_that_is_told_of_as_a_text_of_json_shows_its_command() -> None:
    """Kimi calls it `Bash`, and cuts the command in its question."""
    question = played(TRANSCRIPTS / "kimi_tools.jsonl").questions[0]

    assert question.title.startswith("echo hi; env | grep -E 'KEY|SECRET|TOKEN' | cut -c1-40 | sort; exit 3")
    assert question.input["command"] == question.title
    assert question.allowance is None


def test_form_becomes_a_question_with_its_choices() -> None:
    """Kimi asks its user: the answer goes back as the value that its form wants."""
    user = played(TRANSCRIPTS / "kimi_elicit.jsonl")
    (question,) = user.questions
    answer = Answer(Decision.ALLOW, updated_input={"answers": {"q0": "Blue"}})

    assert question.input["questions"][0]["question"] == "Which colour?"
    told = json.loads(user.adapter.answer(question, answer))
    assert told["result"] == {"action": "accept", "content": {"q0": "Blue"}}


def test_choices_that_are_asked_for_as_a_permission_are_a_question() -> None:
    """Qwen asks its user so: the choice goes back with the leave, a refusal without one."""
    user = played(TRANSCRIPTS / "qwen_elicit.jsonl")
    (question,) = user.questions
    chosen = Answer(Decision.ALLOW, updated_input={"answers": {"0": "Blue"}})

    assert (question.kind, question.title) == ("question", "Which?")
    assert [option["label"] for option in question.input["questions"][0]["options"]] == ["Red", "Blue"]
    told = [json.loads(user.adapter.answer(question, each)) for each in (chosen, Answer(Decision.DENY))]
    outcomes = [each["result"]["outcome"]["optionId"] for each in told]
    assert (outcomes, told[0]["result"]["answers"]) == (["proceed_once", "cancel"], {"0": "Blue"})


def test_stop_answers_what_is_asked() -> None:
    """Some agents do not end a turn before their questions are answered: all of them are cancelled."""
    user = played(TRANSCRIPTS / "gemini_cancelperm.jsonl")
    adapter = adapter_for(TRANSCRIPTS / "gemini_cancelperm.jsonl")
    again = User(adapter, ASK)
    again.begin()
    lines = lines_of("gemini_cancelperm")
    asked = next(place for place, line in enumerate(lines) if b"request_permission" in line)
    again.play(lines[: asked + 1])

    cancel, answer = map(json.loads, (adapter.interrupt(turn_id(1)) or b"").splitlines())
    assert (cancel["method"], answer["result"]) == ("session/cancel", {"outcome": {"outcome": "cancelled"}})
    assert answer["id"] == json.loads(lines[asked])["id"]
    assert user.outcomes[0].error_code == "agent_interrupted"


def test_failure_is_told_from_a_message_that_begins_like_one() -> None:
    """goose says its errors as its model would: what tells them apart is that nothing was used."""
    user = User(AcpAdapter(AGENTS["goose"], "/w", None, {}), TurnOptions())
    user.begin()
    user.hear(answer("initialize", {}))
    user.hear(answer("session-new", {"sessionId": "c"}))
    for turn, used in enumerate((15, 15, 20), 1):
        user.hear(update("agent_message_chunk", content={"type": "text", "text": "Ran into this error: 429"}))
        result = {"stopReason": "end_turn", "usage": {"totalTokens": used}}
        user.hear(answer(f"prompt-{turn_id(turn)}", result))

    assert [outcome.status for outcome in user.outcomes] == ["completed", "failed", "completed"]


FAILED_REQUEST = "Info: Request failed due to a transient API error. Retrying..."


@pytest.mark.parametrize(
    ("agent", "words", "message_id", "status"),
    [
        ("goose", ["Ran into this error: 500"], "msg_7ffa3a3d-2f60-47e3-afcc-c3ceafbcc619", "failed"),
        ("goose", ["Ran into this error: 500"], "chatcmpl-8", "completed"),
        ("copilot", [FAILED_REQUEST, "Error: 500"], "", "failed"),
        ("copilot", ["One mo", FAILED_REQUEST, "Error: 500"], "", "failed"),
        ("copilot", ["Error: 500"], "", "completed"),
        ("copilot", [FAILED_REQUEST, "All is well."], "", "completed"),
        ("pi", [], "", "failed"),
        ("pi", ["Retrying (attempt 1/3, waiting 2s)...", "Retry finished, resuming."], "", "failed"),
        (
            "pi",
            ["Retrying (attempt 1/3, waiting 2s)...", "Retry finished, resuming.", "Done."],
            "",
            "completed",
        ),
        ("gemini", [], "", "completed"),
    ],
)
def test_failure_after_a_command_is_told_from_success(
    agent: str, words: list[str], message_id: str, status: str
) -> None:
    """The agent says `end_turn` to both, and has used its model in both."""
    user = User(AcpAdapter(AGENTS[agent], "/w", None, {}), TurnOptions())
    user.begin()
    user.hear(answer("initialize", {}))
    user.hear(answer("session-new", {"sessionId": "c"}))
    user.hear(update("tool_call", toolCallId="call", status="completed"))
    for each in words:
        user.hear(update("agent_message_chunk", content={"type": "text", "text": each}, messageId=message_id))
    user.hear(answer(f"prompt-{turn_id(1)}", {"stopReason": "end_turn", "usage": {"totalTokens": 15}}))

    assert [outcome.status for outcome in user.outcomes] == [status]


@pytest.mark.parametrize(
    ("agent", "before", "after"),
    [
        ("pi", "Retrying (attempt 1/3, waiting 2s)...", "Retry finished, resuming."),
        ("copilot", "Info: Request failed due to a transient API error. Retrying...", ""),
        ("copilot", "Warning: 1 tool call(s) had no recorded result at resume. Files may be changed.", ""),
    ],
)
def test_notice_of_the_agent_is_no_part_of_the_answer(agent: str, before: str, after: str) -> None:
    """Its model has failed once and is asked again, for example: the turn ends well, with the model's words alone."""
    user = User(AcpAdapter(AGENTS[agent], "/w", None, {}), TurnOptions())
    user.begin()
    user.hear(answer("initialize", {}))
    user.hear(answer("session-new", {"sessionId": "c"}))
    for words in (before, "an answer", after):
        user.hear(update("agent_message_chunk", content={"type": "text", "text": words}))
    user.hear(answer(f"prompt-{turn_id(1)}", {"stopReason": "end_turn"}))

    assert [(outcome.status, outcome.result) for outcome in user.outcomes] == [("completed", "an answer")]


def test_usage_is_the_turns_own_where_the_agent_counts_the_conversation() -> None:
    """Vibe adds up all that was ever used: a job has its own part of that."""
    outcomes = played(TRANSCRIPTS / "vibe_tools.jsonl").outcomes
    told = [json.loads(line)["result"]["usage"] for line in lines_of("vibe_tools") if b'"stopReason"' in line]

    assert [outcome.usage for outcome in outcomes[:1]] == told[:1]
    total = sum((outcome.usage or {})["totalTokens"] for outcome in outcomes)
    assert total == told[-1]["totalTokens"]


def test_replay_of_a_conversation_is_not_told_again() -> None:
    """Gemini tells all that was said once more after it has brought the conversation back."""
    adapter = AcpAdapter(GEMINI, "/w", "c", {})
    user = User(adapter, TurnOptions())
    user.begin()
    user.hear(answer("initialize", {"agentCapabilities": {"loadSession": True}}))
    user.hear(
        answer("session-load", {"modes": {"currentModeId": "yolo", "availableModes": [{"id": "yolo"}]}})
    )
    user.hear(update("agent_message_chunk", content={"type": "text", "text": "old"}))
    before = len(user.told)
    user.hear(update("available_commands_update"))

    assert [effect.event for _, effect in user.effects if effect][2] is None
    assert (before, user.told[-1]["method"]) == (1, "session/prompt")


def test_lost_conversation_gives_way_to_a_new_one() -> None:
    """The agent has no record of it: its words for that are in the log, and the turn goes on."""
    user = User(AcpAdapter(GEMINI, "/w", "gone", {}), TurnOptions())
    user.begin()
    user.hear(answer("initialize", {"agentCapabilities": {"loadSession": True}}))
    user.hear(b'{"jsonrpc":"2.0","id":"session-load","error":{"code":-32603,"message":"Invalid session"}}')
    user.hear(answer("session-new", {"sessionId": "new"}))

    named = [effect.internal_session_id for _, effect in user.effects if effect]
    assert ("new" in named, user.told[-1]["params"]["sessionId"]) == (True, "new")


@pytest.mark.parametrize(
    ("field", "options"), [("model", TurnOptions(model="no-such")), ("effort", TurnOptions(effort="high"))]
)
def test_what_the_agent_does_not_have_is_refused_by_name(field: str, options: TurnOptions) -> None:
    """Before the prompt is sent: a turn does not quietly work with another model."""
    user = User(AcpAdapter(GEMINI, "/w", None, {}), options)
    user.begin()
    user.hear(answer("initialize", {}))
    user.hear(answer("session-new", {"sessionId": "c", "models": {"availableModels": [{"modelId": "m"}]}}))

    (outcome,) = user.outcomes
    assert (outcome.error_code, str(outcome.error).partition(":")[0]) == ("unsupported_option", field)


def test_efforts_are_those_of_the_model() -> None:
    """Another model has others, or none: what it has is set, and what it does not have is refused by name."""
    told = [
        settings_of("plain", []),
        settings_of("thinker", ["low", "high"]),
        settings_of("thinker", ["low", "high"], "high"),
        settings_of("plain", []),
    ]
    adapter = AcpAdapter(replace(GEMINI, modes={PermissionMode.BYPASS: None}), "/w", None, {})
    adapter.begin_turn(turn_id(1), TurnOptions(model="thinker", effort="high"))
    adapter.receive(answer("initialize", {}))
    asked = [adapter.receive(answer("session-new", {"sessionId": "c", **told[0]}))]
    asked += [
        adapter.receive(answer(f"{kind}-{turn_id(1)}", told[n])) for n, kind in ((1, "model"), (2, "effort"))
    ]
    adapter.prompt(user_event("hello", turn_id(1), "s"))
    adapter.receive(answer(f"prompt-{turn_id(1)}", {"stopReason": "end_turn"}))
    adapter.begin_turn(turn_id(2), TurnOptions(effort="high"))
    refused = adapter.receive(answer(f"model-{turn_id(2)}", told[3]))

    sent = [json.loads(effect.reply)["params"] for effect in asked if effect and effect.reply]
    assert [(each["configId"], each["value"]) for each in sent] == [("model", "thinker"), ("effort", "high")]
    assert asked[-1] is not None
    assert asked[-1].takes_prompt
    assert refused is not None
    assert refused.gave_up is not None
    assert str(refused.gave_up.error).startswith("effort: ")


def test_agent_that_takes_a_model_it_does_not_have_is_not_believed() -> None:
    """As goose does, which lists it from then on: the turn is refused, and the next one has the model of before."""
    adapter = AcpAdapter(replace(GEMINI, modes={PermissionMode.BYPASS: None}), "/w", None, {})
    adapter.begin_turn(turn_id(1), TurnOptions())
    adapter.receive(answer("initialize", {}))
    adapter.receive(answer("session-new", {"sessionId": "c", **settings_of("plain", [])}))
    adapter.prompt(user_event("hello", turn_id(1), "s"))
    adapter.receive(answer(f"prompt-{turn_id(1)}", {"stopReason": "end_turn"}))
    adapter.begin_turn(turn_id(2), TurnOptions(model="nothing"))
    refused = adapter.receive(answer(f"model-{turn_id(2)}", settings_of("nothing", [])))
    again = adapter.begin_turn(turn_id(3), TurnOptions())

    assert refused is not None
    assert refused.gave_up is not None
    assert str(refused.gave_up.error).startswith("model: ")
    assert again is not None
    assert json.loads(again)["params"]["value"] == "plain"


def settings_of(model: str, efforts: list[str], effort: str = "low") -> dict[str, Any]:
    """What an agent says that it can be set to."""
    models = [{"value": name} for name in ("plain", "thinker")]
    options = [{"id": "model", "category": "model", "currentValue": model, "options": models}]
    if efforts:
        values = [{"value": name} for name in efforts]
        options.append(
            {"id": "effort", "category": "thought_level", "currentValue": effort, "options": values}
        )
    return {"configOptions": options}


def test_request_that_is_not_known_gets_an_answer() -> None:
    """An agent must not wait for files and terminals that nobody gives it."""
    user = played(TRANSCRIPTS / "opencode_ask_tools.jsonl")

    refused = [message for message in user.told if message.get("error")]
    assert [message["error"]["code"] for message in refused] == [-32601]


def test_words_with_a_refusal_are_refused() -> None:
    """ACP has no room for them: whoever says them learns that the agent would not."""
    user = played(TRANSCRIPTS / "goose_tools.jsonl")

    with pytest.raises(InvalidInput, match="message"):
        user.adapter.answer(user.questions[0], Answer(Decision.DENY, message="Use git mv."))


def answer(id_: str, result: dict[str, Any]) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": id_, "result": result}).encode()


def update(kind: str, **fields: Any) -> bytes:
    params = {"sessionId": "c", "update": {"sessionUpdate": kind, **fields}}
    return json.dumps({"jsonrpc": "2.0", "method": "session/update", "params": params}).encode()


def test_call_that_has_ended_is_not_remembered() -> None:
    """What is known in the middle of a turn is stored again and again: it must not grow with the turn."""
    adapter = adapter_for(PATHS[0])
    adapter.restore({"conversation": "c", "turn": {"is_prompted": True}})
    sizes = []
    for number in range(50):
        for kind, status in (("tool_call", "in_progress"), ("tool_call_update", "completed")):
            content = [{"text": "x" * 10_000}]
            adapter.receive(update(kind, toolCallId=f"call-{number}", status=status, content=content))
        sizes.append(len(json.dumps(adapter.state())))

    assert sizes == sizes[:1] * 50


def test_models_are_told_of_with_the_conversation() -> None:
    """For `GET /agents`: each once, by the agent's own name."""
    told: list[tuple[str, ...]] = []
    user = User(AcpAdapter(AGENTS["kimi"], "/w", None, {}, told.append), TurnOptions())
    options = [{"value": name, "name": name.upper()} for name in ("a", "b")]
    model = {"id": "model", "category": "model", "currentValue": "a", "options": options}
    user.begin()
    user.hear(answer("initialize", {}))
    user.hear(answer("session-new", {"sessionId": "c", "configOptions": [model]}))

    assert told == [("a", "b")]
