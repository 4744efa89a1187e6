"""What the real Codex app-server asks (transcripts/codex/ask_*), and what it is answered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentsrv.agents.codex.adapter import CodexAdapter
from agentsrv.agents.codex.questions import read_question
from agentsrv.agents.contract import Effect, Question
from agentsrv.errors import InvalidInput
from agentsrv.model import Answer, Decision, PermissionMode, TurnOptions
from tests.agents import test_codex
from tests.agents.test_codex import PROMPT, transcript

ALLOW = Answer(Decision.ALLOW)
REMEMBER = Answer(Decision.ALLOW, remember=True)
DENY = Answer(Decision.DENY)
TIMED_OUT = Answer(Decision.TIMED_OUT)


def make_adapter(mode: PermissionMode = PermissionMode.ASK) -> CodexAdapter:
    adapter = test_codex.make_adapter(state={"thread_id": "t"})
    adapter.begin_turn(PROMPT, TurnOptions(permission_mode=mode))
    return adapter


def effects_of(name: str) -> list[Effect]:
    adapter = test_codex.make_adapter()
    adapter.begin_turn(PROMPT, TurnOptions(permission_mode=PermissionMode.ASK))
    return [effect for line in transcript(name) if (effect := adapter.receive(line)) is not None]


def questions_of(name: str) -> list[Question]:
    return [effect.question for effect in effects_of(name) if effect.question is not None]


def ask(method: str, **params: Any) -> Question:
    line = json.dumps({"method": method, "id": 7, "params": params}).encode()
    effect = make_adapter().receive(line)
    assert effect is not None
    assert effect.question is not None
    return effect.question


def lines_of(question: Question, answer: Answer) -> list[dict[str, Any]]:
    return [json.loads(line) for line in make_adapter().answer(question, answer).splitlines()]


def answered(question: Question, answer: Answer) -> dict[str, Any]:
    """The result that the app-server reads."""
    line = lines_of(question, answer)[-1]
    assert line["id"] == json.loads(question.id)
    result: dict[str, Any] = line["result"]
    return result


def test_command_is_asked_for() -> None:
    """I see the command and why it needs me; what I would allow once for all is this command."""
    effect = next(effect for effect in effects_of("ask_command") if effect.question is not None)
    question = effect.question

    assert question is not None
    assert (question.id, question.kind, question.tool) == ("0", "permission", "commandExecution")
    assert question.input == {"command": "/bin/bash -lc 'touch b.txt'", "cwd": "/tmp/demo/workspace"}
    assert question.title == "Run /bin/bash -lc 'touch b.txt'"
    assert question.allowance == """run ["/bin/bash -lc 'touch b.txt'","/tmp/demo/workspace"]"""
    assert question.details["reason"] == "need it"
    assert (effect.begins, effect.reply) == (True, None)


@pytest.mark.parametrize("name", ["ask_command", "ask_patch"])
@pytest.mark.parametrize(
    ("answer", "decision"),
    [(ALLOW, "accept"), (REMEMBER, "acceptForSession"), (DENY, "decline"), (TIMED_OUT, "decline")],
)
def test_decision_is_said_in_its_words(name: str, answer: Answer, decision: str) -> None:
    """Allowed, allowed for the session, denied: with the number of the request, as a number."""
    question = questions_of(name)[0]

    assert answered(question, answer) == {"decision": decision}
    assert lines_of(question, answer)[-1]["id"] == 0


def test_change_shows_what_is_changed() -> None:
    """The request names an item alone: what it changes was said before, and is in my question."""
    first, second = questions_of("ask_patch")

    assert first.input["changes"] == [
        {"path": "/tmp/demo/workspace/a.txt", "kind": {"type": "add"}, "diff": "one\n"}
    ]
    assert (first.title, first.allowance) == (
        "Change /tmp/demo/workspace/a.txt",
        'change ["/tmp/demo/workspace/a.txt"]',
    )
    assert first.tool_call_id != second.tool_call_id


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(Decision.DENY, message="Use another name."), "Use another name."),
        (TIMED_OUT, "Nobody answered in time, so this is not allowed."),
    ],
)
def test_refusal_in_words_joins_the_turn(answer: Answer, words: str) -> None:
    """A decision has no room for words: they are said to the turn, before the decision lets it go on."""
    question = questions_of("ask_command")[1]
    told, decided = lines_of(question, answer)

    assert (told["method"], decided["result"]) == ("turn/steer", {"decision": "decline"})
    assert told["params"]["expectedTurnId"] == question.details["turnId"]
    assert told["params"]["input"] == [{"type": "text", "text": words}]
    assert words in b"".join(transcript("ask_command")).decode()


def test_answer_to_the_words_of_a_refusal_means_nothing() -> None:
    """The turn may be over by then; nothing depends on it."""
    lines = [line for line in transcript("ask_command") if b'"id":"refusal-' in line]
    failed = b'{"id":"refusal-u-1","error":{"code":-32600,"message":"no active turn to steer"}}'

    assert lines
    assert all(make_adapter().receive(line) == Effect(event=None) for line in (*lines, failed))


def test_wider_permissions_are_granted_or_not() -> None:
    """It gets what it asked for, for the turn or the session, or nothing."""
    question = questions_of("ask_permissions")[0]
    wanted = {"network": {"enabled": True}, "fileSystem": None}

    assert question.input["permissions"] == wanted
    assert answered(question, ALLOW) == {"permissions": wanted, "scope": "turn"}
    assert answered(question, REMEMBER) == {"permissions": wanted, "scope": "session"}
    assert answered(question, DENY) == {"permissions": {}, "scope": "turn"}


def test_question_to_people_keeps_its_id() -> None:
    """A question of the agent is put as it is, and my answer goes back under its id."""
    question = questions_of("ask_question")[0]
    (entry,) = question.input["questions"]
    answer = Answer(Decision.ALLOW, updated_input={"answers": {"colour": "red"}})

    assert (question.kind, question.title, question.allowance) == ("question", "Which colour?", None)
    assert (entry["id"], [option["label"] for option in entry["options"]]) == ("colour", ["red", "blue"])
    assert answered(question, answer) == {"answers": {"colour": {"answers": ["red"]}}}
    assert answered(question, DENY) == {"answers": {}}


def test_tool_of_an_mcp_server_is_a_permission() -> None:
    """That the agent may call a tool it asks in the form of a question; it is one of leave."""
    first, *_ = questions_of("ask_mcp")

    assert (first.kind, first.tool) == ("permission", "mcp:m")
    assert first.title == 'Allow the m MCP server to run tool "hello"?'
    assert first.allowance == f"mcp:m {first.title}"
    assert answered(first, ALLOW) == {"action": "accept", "content": {}}
    assert answered(first, REMEMBER)["_meta"] == {"persist": "session"}
    assert answered(first, DENY) == {"action": "decline"}
    assert answered(first, TIMED_OUT) == {"action": "cancel"}


def test_call_of_an_mcp_tool_is_known() -> None:
    """The request does not say which call it is about; I see it all the same, and which tool it uses."""
    asked = [question for question in questions_of("ask_mcp") if question.kind == "permission"]
    items = [
        json.loads(line)["params"].get("item", {})
        for line in transcript("ask_mcp")
        if b"item/started" in line
    ]
    ids = {item["tool"]: item["id"] for item in reversed(items) if item["type"] == "mcpToolCall"}

    assert [(question.details["tool"], question.tool_call_id) for question in asked] == [*ids.items()][::-1]
    other = ask("mcpServer/elicitation/request", mode="form", _meta={"codex_approval_kind": "mcp_tool_call"})
    assert other.tool_call_id is None


def form() -> Question:
    return next(
        question for question in questions_of("ask_mcp") if question.details.get("message") == "Who are you?"
    )


def test_form_of_an_mcp_server_is_a_question_a_field() -> None:
    """What a tool server wants to know is asked field by field; my texts become what its schema says."""
    question = form()
    entries = {entry["id"]: entry for entry in question.input["questions"]}
    answers = {"name": "Ann", "age": "7", "colour": "red", "sure": "true"}

    assert (question.kind, question.title, list(entries)) == (
        "question",
        "Who are you?",
        ["age", "colour", "name", "sure"],
    )
    assert entries["name"] == {"id": "name", "question": "Your name", "header": "Name"}
    assert entries["colour"]["options"] == [{"label": "red"}, {"label": "green"}]
    assert [id_ for id_, entry in entries.items() if entry.get("optional")] == ["age", "colour", "sure"]
    assert answered(question, Answer(Decision.ALLOW, updated_input={"answers": answers})) == {
        "action": "accept",
        "content": {"name": "Ann", "age": 7, "colour": "red", "sure": True},
    }


@pytest.mark.parametrize(
    ("answers", "path"),
    [
        ({}, "updatedInput"),
        ({"name": "Ann", "nobody": "x"}, "updatedInput"),
        ({"name": "Ann", "age": "old"}, "updatedInput.answers.age"),
        ({"name": "Ann", "colour": "blue"}, "updatedInput.answers.colour"),
    ],
)
def test_answer_that_does_not_fit_is_refused(answers: dict[str, Any], path: str) -> None:
    """A field that is required, unknown, no number or no choice: the error names it, and nothing is sent."""
    with pytest.raises(InvalidInput) as caught:
        make_adapter().answer(form(), Answer(Decision.ALLOW, updated_input={"answers": answers}))

    assert caught.value.problems[0].path == path


def test_choices_of_every_kind() -> None:
    """A field may offer titles for its values, and take several of them."""
    several = {
        "type": "array",
        "items": {"anyOf": [{"const": "r", "title": "Red"}, {"const": "g", "title": "G"}]},
    }
    old = {"type": "string", "enum": ["r", "g"], "enumNames": ["Red", "Green"]}
    schema = {"type": "object", "properties": {"many": several, "one": old}}
    question = ask("mcpServer/elicitation/request", mode="form", message="?", requestedSchema=schema)
    answer = Answer(Decision.ALLOW, updated_input={"answers": {"many": ["Red", "G"], "one": "Green"}})

    many, one = question.input["questions"]
    assert (many["multiSelect"], one["options"]) == (True, [{"label": "Red"}, {"label": "Green"}])
    assert answered(question, answer)["content"] == {"many": ["r", "g"], "one": "g"}


def test_address_to_visit_is_shown() -> None:
    """A tool server sends me to a page: there is nothing to fill in, but I see where it leads."""
    question = questions_of("ask_mcp")[-1]

    assert (question.kind, question.input) == ("question", {"questions": []})
    assert question.title == "Log in there https://example.com/login"
    assert answered(question, ALLOW) == {"action": "accept"}


@pytest.mark.parametrize(
    ("method", "params", "title"),
    [
        ("execCommandApproval", {"command": ["ls", "-l"], "cwd": "/w", "callId": "c"}, "Run ls -l"),
        ("applyPatchApproval", {"fileChanges": {"/w/a": {"type": "add"}}, "callId": "c"}, "Change /w/a"),
    ],
)
def test_older_requests_are_questions_too(method: str, params: dict[str, Any], title: str) -> None:
    """Older versions ask otherwise; they take words with a refusal."""
    question = ask(method, **params)

    assert (question.title, question.tool_call_id) == (title, "c")
    assert answered(question, ALLOW) == {"decision": "approved"}
    assert answered(question, REMEMBER) == {"decision": "approved_for_session"}
    assert answered(question, TIMED_OUT) == {"decision": "timed_out"}
    assert lines_of(question, Answer(Decision.DENY, message="no")) == [
        {"id": 7, "result": {"decision": {"denied": {"rejection": "no"}}}}
    ]


def test_input_cannot_be_changed() -> None:
    """Codex takes leave or refusal: another command instead of its own is refused by name."""
    with pytest.raises(InvalidInput) as caught:
        make_adapter().answer(
            questions_of("ask_command")[0], Answer(Decision.ALLOW, updated_input={"command": "x"})
        )

    assert (caught.value.code, caught.value.problems[0].path) == ("unsupported_option", "updatedInput")


def test_answered_question_is_withdrawn() -> None:
    """The app-server says which requests it does not wait for any more: answered, or interrupted."""
    withdrawn = [effect.withdrawn for effect in effects_of("ask_interrupt") if effect.withdrawn]

    assert withdrawn == [question.id for question in questions_of("ask_interrupt")] == ["0"]


def test_each_mode_asks_for_what_it_may() -> None:
    """One process, four modes: asked to write, asked to leave the sandbox, nothing in plan, nothing in bypass."""
    assert [question.tool for question in questions_of("ask_modes")] == ["fileChange", "commandExecution"]


def test_what_it_does_by_itself_is_under_the_rules_of_the_last_prompt() -> None:
    """It goes on without a prompt, after a restart of the server too: it still has to ask."""
    line = next(line for line in transcript("ask_command") if b"requestApproval" in line)
    adapter = make_adapter()
    adapter.begin_turn(None, TurnOptions())
    restarted = test_codex.make_adapter(state=json.loads(json.dumps(make_adapter().state())))
    effects = [adapter.receive(line), restarted.receive(line)]

    assert all(effect is not None and effect.question is not None for effect in effects)


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("item/commandExecution/requestApproval", {}),
        ("item/commandExecution/requestApproval", {"kind": [], "command": 5, "networkApprovalContext": []}),
        ("item/fileChange/requestApproval", {"itemId": []}),
        ("item/permissions/requestApproval", {"permissions": "all"}),
        ("item/tool/requestUserInput", {"questions": [1, {"options": 5}]}),
        ("mcpServer/elicitation/request", {"mode": "form", "requestedSchema": {"properties": {"a": 5}}}),
        ("mcpServer/elicitation/request", {"mode": "form", "requestedSchema": {"required": 5}}),
        ("applyPatchApproval", {"fileChanges": []}),
    ],
)
def test_odd_question_is_a_question(method: str, params: dict[str, Any]) -> None:
    """However oddly it asks, somebody can answer: the agent does not wait for ever."""
    assert answered(ask(method, **params), DENY)


@pytest.mark.parametrize("mode", [{"mode": []}, {"mode": "openai/userVerification"}, {}])
def test_what_no_person_could_answer_is_cancelled_at_once(mode: dict[str, Any]) -> None:
    """A kind of question that is not known here is not waited for."""
    line = json.dumps({"method": "mcpServer/elicitation/request", "id": 7, "params": mode}).encode()
    effect = make_adapter().receive(line)

    assert effect is not None
    assert effect.question is None
    assert json.loads(effect.reply or b"") == {"id": 7, "result": {"action": "cancel"}}


COMMAND = "item/commandExecution/requestApproval"
CHANGE = "item/fileChange/requestApproval"


def allowance_of(method: str, params: dict[str, Any], changes: list[Any] | None = None) -> str | None:
    calls = {"c": {"changes": changes}} if changes else {}
    question = read_question(1, method, {"itemId": "c"} | params, calls)
    assert question is not None
    return question.allowance


@pytest.mark.parametrize(
    ("allowed", "asked"),
    [
        ({"command": ["rm", "a b"], "cwd": "/w"}, {"command": ["rm", "a", "b"], "cwd": "/w"}),
        ({"command": "ls", "cwd": "/a in /b"}, {"command": "ls in /a", "cwd": "/b"}),
        (
            {"command": "ls", "cwd": "/w"},
            {"command": "ls", "cwd": "/w", "additionalPermissions": {"network": True}},
        ),
    ],
)
def test_allowed_command_is_no_leave_for_another_one(allowed: dict[str, Any], asked: dict[str, Any]) -> None:
    """What I allow for the session is this command with these words, in this directory, and nothing beside it."""
    assert allowance_of(COMMAND, allowed) != allowance_of(COMMAND, asked)


def test_allowed_change_is_no_leave_to_move_the_file_or_to_write_a_root() -> None:
    """I allow changes of a file: not that it goes elsewhere, nor that all below a directory may be written."""
    change = {"path": "/w/a", "kind": {"type": "update"}}
    moved = change | {"kind": {"type": "update", "move_path": "/etc/a"}}

    assert allowance_of(CHANGE, {}, [change]) == 'change ["/w/a"]'
    assert allowance_of(CHANGE, {}, [moved]) == 'change ["/etc/a","/w/a"]'
    assert allowance_of(CHANGE, {"grantRoot": "/"}, [change]) is None


@pytest.mark.parametrize("own_id", [0, -1, "", "7", "a/b", "..", "ä"])
def test_answer_goes_back_under_the_requests_id(own_id: int | str) -> None:
    """A question is called by what fits a URL; the app-server gets the answer, and withdraws, under its own id."""
    params = {"itemId": "i", "command": "ls"}
    request = {"method": "item/commandExecution/requestApproval", "id": own_id, "params": params}
    resolved = {"method": "serverRequest/resolved", "params": {"requestId": own_id}}
    adapter = make_adapter()
    asked, withdrawn = (adapter.receive(json.dumps(line).encode()) for line in (request, resolved))
    assert asked is not None
    assert asked.question is not None
    assert withdrawn is not None

    assert asked.question.id not in {"", ".", ".."}
    assert "/" not in asked.question.id
    assert withdrawn.withdrawn == asked.question.id
    assert lines_of(asked.question, ALLOW)[-1]["id"] == own_id
