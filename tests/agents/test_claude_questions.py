"""What the real Claude Code asks (transcripts/claude/ask_*), and what it is answered."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsrv.agents.claude.adapter import ClaudeAdapter
from agentsrv.agents.claude.questions import read_question, response_to
from agentsrv.agents.contract import Effect, Question
from agentsrv.errors import InvalidInput
from agentsrv.model import Answer, Decision, PermissionMode, TurnId, TurnOptions
from tests.agents.test_claude_code import CONVERSATION, transcript

ALLOW = Answer(Decision.ALLOW)


def make_adapter(mode: PermissionMode = PermissionMode.ASK) -> ClaudeAdapter:
    adapter = ClaudeAdapter(CONVERSATION, {})
    adapter.begin_turn(TurnId("00000000-0000-4000-8000-000000000001"), TurnOptions(permission_mode=mode))
    return adapter


def effects_of(name: str) -> list[Effect]:
    adapter = make_adapter()
    return [effect for line in transcript(name) if (effect := adapter.receive(line)) is not None]


def questions_of(name: str) -> list[Question]:
    return [effect.question for effect in effects_of(name) if effect.question is not None]


def answered(question: Question, answer: Answer) -> dict[str, Any]:
    """What the CLI reads as the response."""
    line = make_adapter().answer(question, answer)
    assert line.endswith(b"\n")
    message = json.loads(line)
    assert message["type"] == "control_response"
    assert message["response"]["request_id"] == question.id
    response: dict[str, Any] = message["response"]["response"]
    return response


def test_use_of_a_tool_is_asked_for() -> None:
    """I see which tool it wants to use, with what, and what I would allow if I said it once for all."""
    effect = next(effect for effect in effects_of("ask_allow") if effect.question is not None)
    question = effect.question

    assert question is not None
    assert (question.kind, question.tool, question.title) == ("permission", "Bash", "Bash: touch p1")
    assert question.input == {"command": "touch p1", "description": "run a command"}
    assert question.allowance == 'Bash {"command": "touch p1"}'
    assert (question.tool_call_id or "").startswith("toolu_")
    assert question.details["blocked_path"] == "/workspace/p1"
    assert (effect.begins, effect.reply) == (True, None)


def test_allowance_repeats_the_input() -> None:
    """The CLI wants to be told with what to go on: with what it asked for, or with what I said instead."""
    question = questions_of("ask_allow")[0]
    changed = {"command": "touch other"}

    assert answered(question, ALLOW) == {"behavior": "allow", "updatedInput": question.input}
    assert answered(question, Answer(Decision.ALLOW, updated_input=changed))["updatedInput"] == changed


def test_remembered_allowance_is_no_wider_than_its_rule() -> None:
    """To allow `touch` for the session does not allow all edits, which the CLI suggests along with it."""
    response = answered(questions_of("ask_allow")[0], Answer(Decision.ALLOW, remember=True))

    assert response["updatedPermissions"] == [
        {
            "type": "addRules",
            "rules": [{"toolName": "Bash", "ruleContent": "touch p1 *"}],
            "behavior": "allow",
            "destination": "session",
        }
    ]


def test_remembered_edit_allows_edits() -> None:
    """For a file there is no rule: the session is to accept edits."""
    question = questions_of("ask_edit")[0]
    response = answered(question, Answer(Decision.ALLOW, remember=True))

    assert question.title == "Write: /workspace/a.txt"
    assert question.allowance == 'Write {"content": "hi", "file_path": "/workspace/a.txt"}'
    assert response["updatedPermissions"] == [
        {"type": "setMode", "mode": "acceptEdits", "destination": "session"}
    ]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer(Decision.DENY, message="use another name"), "use another name"),
        (Answer(Decision.DENY), "The user does not allow this."),
        (Answer(Decision.TIMED_OUT), "Nobody answered in time, so this is not allowed."),
    ],
)
def test_refusal_says_why(answer: Answer, message: str) -> None:
    """The model reads my words, or who has not answered; in the transcript it goes on with them."""
    assert answered(questions_of("ask_deny")[0], answer) == {"behavior": "deny", "message": message}
    assert message in b"".join(transcript("ask_deny")).decode()


def test_question_to_people_has_ids() -> None:
    """Questions are put the same way for every agent: with an id, choices, and how many may be chosen."""
    (question,) = questions_of("ask_question")
    first, second = question.input["questions"]

    assert (question.kind, question.title, question.allowance) == ("question", "Which one?", None)
    assert [(entry["id"], entry["question"], entry["multiSelect"]) for entry in (first, second)] == [
        ("q1", "Which one?", False),
        ("q2", "Many?", True),
    ]
    assert [option["label"] for option in first["options"]] == ["A", "B"]


def test_answers_go_under_the_words_of_their_questions() -> None:
    """The CLI gets its own questions back, as it asked them, and what was chosen."""
    (question,) = questions_of("ask_question")
    answers = {"answers": {"q1": "B", "q2": ["A", "B"]}}
    updated = answered(question, Answer(Decision.ALLOW, updated_input=answers))["updatedInput"]

    assert updated["answers"] == {"Which one?": "B", "Many?": "A, B"}
    assert all("id" not in entry for entry in updated["questions"])
    assert '\\"Many?\\"=\\"A, B\\"' in b"".join(transcript("ask_question")).decode()


@pytest.mark.parametrize(
    "updated_input",
    [
        None,
        {},
        {"answers": []},
        {"answers": {"q1": "A"}},
        {"answers": {"q1": "A", "q2": 5}},
        {"answers": {"q1": ["A", "B"], "q2": "A"}},
        {"answers": {"q1": "A", "q2": "A", "q3": "A"}},
    ],
)
def test_answer_that_does_not_fit_is_refused(updated_input: dict[str, Any] | None) -> None:
    """To allow a question is to answer it: all of it, and nothing else. The error says how."""
    (question,) = questions_of("ask_question")
    with pytest.raises(InvalidInput) as caught:
        make_adapter().answer(question, Answer(Decision.ALLOW, updated_input=updated_input))

    assert caught.value.problems[0].path == "updatedInput"
    assert "q1, q2" in caught.value.message


def test_plan_is_approved_like_a_tool() -> None:
    """To leave plan mode it asks; to allow it lets it work, and it asks for what it does then."""
    plan, command, next_turn = questions_of("ask_plan")

    assert (plan.kind, plan.tool, plan.allowance) == ("permission", "ExitPlanMode", None)
    assert "plan" in plan.title
    assert answered(plan, ALLOW) == {"behavior": "allow", "updatedInput": {}}
    assert [question.input["command"] for question in (command, next_turn)] == ["touch p2", "touch p3"]


def test_interrupted_question_is_withdrawn() -> None:
    """When the agent is stopped it does not want the answer any more."""
    effects = effects_of("ask_interrupt")
    asked = next(effect.question.id for effect in effects if effect.question is not None)

    assert [effect.withdrawn for effect in effects if effect.withdrawn] == [asked]


def test_subagent_asks_as_well() -> None:
    """A subagent's tools are asked for, too, and the question says whose they are."""
    (question,) = questions_of("ask_subagent")

    assert (question.title, bool(question.details["agent_id"])) == ("Bash: touch p9", True)


def test_what_it_does_by_itself_is_under_the_rules_of_the_last_prompt() -> None:
    """A background command wakes it, after a restart of the server too: it still has to ask."""
    line = next(line for line in transcript("ask_allow") if b"can_use_tool" in line)
    adapter = make_adapter()
    adapter.begin_turn(None, TurnOptions())
    restarted = ClaudeAdapter(CONVERSATION, json.loads(json.dumps(make_adapter().state())))
    effects = [adapter.receive(line), restarted.receive(line)]

    assert all(effect is not None and effect.question is not None for effect in effects)


@pytest.mark.parametrize(
    "request_fields",
    [
        {"tool_name": "AskUserQuestion", "input": {"questions": 5}},
        {"tool_name": "AskUserQuestion", "input": {"questions": [1, {}]}},
        {"tool_name": 5, "input": [], "permission_suggestions": [1, {"type": "addRules"}, {"type": []}]},
        {"permission_suggestions": {"type": "setMode"}, "tool_use_id": 7},
    ],
)
def test_odd_question_is_a_question(request_fields: dict[str, Any]) -> None:
    """However oddly it asks, somebody can answer: the agent does not wait for ever."""
    request = {"subtype": "can_use_tool", **request_fields}
    line = json.dumps({"type": "control_request", "request_id": "r1", "request": request}).encode()
    effect = make_adapter().receive(line)

    assert effect is not None
    assert effect.question is not None
    assert answered(effect.question, Answer(Decision.DENY))["behavior"] == "deny"


def test_other_requests_are_answered_at_once() -> None:
    """A request that is no question for people gets an error, so that it is not waited for."""
    line = b'{"type":"control_request","request_id":"r1","request":{"subtype":"hook_callback"}}'
    effect = make_adapter().receive(line)

    assert effect is not None
    assert effect.question is None
    assert json.loads(effect.reply or b"")["response"]["subtype"] == "error"


@pytest.mark.parametrize(
    ("allowed", "asked"),
    [
        (("Bash", {"command": "touch a"}), ("Bash", {"command": "touch a > /home/ada/.ssh/authorized_keys"})),
        (
            ("Write", {"file_path": "/w/a", "content": "x"}),
            ("Write", {"file_path": "/w/.bashrc", "content": "x"}),
        ),
        (
            ("Write", {"file_path": "a", "content": "x" * 9999}),
            ("Write", {"file_path": "a", "content": "y" * 9999}),
        ),
    ],
)
def test_allowed_call_is_no_leave_for_one_that_suggests_the_same_rule(
    allowed: tuple[str, Any], asked: tuple[str, Any]
) -> None:
    """The CLI asks about a redirection or a file of settings although the rule is in force: so am I."""
    rule = {"type": "addRules", "rules": [{"toolName": "Bash", "ruleContent": "touch a *"}]}

    def allowance(tool: str, given: dict[str, Any]) -> str:
        request = {
            "subtype": "can_use_tool",
            "tool_name": tool,
            "input": given,
            "permission_suggestions": [rule],
        }
        found = read_question("1", request)
        assert found is not None
        assert found.allowance is not None
        return found.allowance

    assert allowance(*allowed) != allowance(*asked)
    assert len(allowance(*allowed)) < 1100


def test_command_is_the_same_in_other_words() -> None:
    """What the model says about a command makes no other command of it; with other tools it may."""

    def allowance(tool: str, description: str) -> str | None:
        rule = {"type": "addRules", "rules": [{"toolName": tool}]}
        asked = {"tool_name": tool, "input": {"description": description}, "permission_suggestions": [rule]}
        question = read_question("1", {"subtype": "can_use_tool", **asked})
        assert question is not None
        return question.allowance

    assert allowance("Bash", "one") == allowance("Bash", "other")
    assert allowance("mcp__tickets__open", "one") != allowance("mcp__tickets__open", "other")


def test_plan_is_approved_into_a_mode() -> None:
    """With leave to carry out the plan goes how: edits without asking, or asking for each."""
    question = read_question(
        "1", {"subtype": "can_use_tool", "tool_name": "ExitPlanMode", "input": {"plan": "p"}}
    )
    assert question is not None
    response = response_to(question, Answer(Decision.ALLOW, permission_mode=PermissionMode.ACCEPT_EDITS))

    assert response["updatedPermissions"] == [
        {"type": "setMode", "mode": "acceptEdits", "destination": "session"}
    ]
    with pytest.raises(InvalidInput):
        response_to(question, Answer(Decision.ALLOW, permission_mode=PermissionMode.BYPASS))


@pytest.mark.parametrize(
    ("mode", "answer", "response"),
    [
        (
            "form",
            Answer(Decision.ALLOW, updated_input={"answers": {"name": "Ada", "age": "36"}}),
            {"action": "accept", "content": {"name": "Ada", "age": 36}},
        ),
        ("form", Answer(Decision.DENY), {"action": "decline"}),
        ("form", Answer(Decision.TIMED_OUT), {"action": "cancel"}),
        ("url", Answer(Decision.ALLOW), {"action": "accept"}),
    ],
)
def test_what_an_mcp_server_asks_is_a_question(mode: str, answer: Answer, response: dict[str, Any]) -> None:
    """A form or a URL: the same question as any other, and its answer is the server's."""
    requests = [json.loads(line)["request"] for line in transcript("elicitation") if b'"elicitation"' in line]
    question = read_question("1", next(request for request in requests if request["mode"] == mode))

    assert question is not None
    assert (question.kind, question.tool) == ("question", "mcp:el")
    assert response_to(question, answer) == response


@given(st.text() | st.text(".", max_size=3))
def test_answer_goes_back_under_the_clis_own_id(own_id: str) -> None:
    """A question is called by what fits a URL; the CLI is answered, and withdraws, under the name that it chose."""
    asked = {"subtype": "can_use_tool", "tool_name": "Bash", "input": {}, "ownId": "of somebody else"}
    adapter = make_adapter()
    effect = adapter.receive(message("control_request", own_id, request=asked))
    withdrawn = adapter.receive(message("control_cancel_request", own_id))
    assert effect is not None
    assert withdrawn is not None
    question = effect.question
    assert question is not None

    assert question.id not in {"", ".", ".."}
    assert "/" not in question.id
    assert withdrawn.withdrawn == question.id
    assert json.loads(adapter.answer(question, ALLOW))["response"]["request_id"] == own_id


def message(type_: str, request_id: str, **fields: Any) -> bytes:
    return json.dumps({"type": type_, "request_id": request_id, **fields}).encode()
