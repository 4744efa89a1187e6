"""How ACP agents ask people: `session/request_permission` and `elicitation/create`, and how they want to be answered.

What an agent offers to remember is never taken: some write it into the user's or the project's files. What is
allowed for the session the server remembers by itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agentsrv.agents.contract import Question
from agentsrv.agents.elicitation import elicited, form_questions
from agentsrv.agents.questions import answers_to, own_id, title
from agentsrv.agents.updates import as_id, as_objects, as_text
from agentsrv.errors import unsupported
from agentsrv.jsontext import as_object, dump, load_object
from agentsrv.model import Answer, Decision

PERMISSION = "session/request_permission"
ELICITATION = "elicitation/create"

ALLOW_ONCE, REJECT_ONCE = "allow_once", "reject_once"
CANCELLED = {"outcome": {"outcome": "cancelled"}}


def request_name(id_: Any) -> str:
    """A request's id as a question's: its JSON, which still tells a number from a text."""
    return dump(id_).decode()


def unasked_answer(method: str, params: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result that lets the agent go on without anybody; None: no such request is known."""
    match method:
        case "session/request_permission":
            return _selected(params.get("options"), ALLOW_ONCE) or CANCELLED
        case "elicitation/create":
            return {"action": "cancel"}
        case _:
            return None


def withdrawn_answer(method: str) -> dict[str, Any]:
    """The result with which the agent gives up what it has asked for."""
    return {"action": "cancel"} if method == ELICITATION else CANCELLED


def read_question(
    id_: Any, method: str, params: Mapping[str, Any], calls: Mapping[str, Mapping[str, Any]]
) -> Question | None:
    """The question in a request of the agent; None where no person could answer it.

    `calls`: what is known of calls, by their ids; a request may leave out what was told before, or cut it.
    """
    match method:
        case "session/request_permission":
            return _about_call(request_name(id_), params, calls)
        case "elicitation/create" if params.get("mode") == "form":
            return _form(request_name(id_), params)
        case _:
            return None


def answer_result(question: Question, answer: Answer) -> dict[str, Any]:
    """The result that answers a question. Raises InvalidInput."""
    if answer.permission_mode is not None:
        raise unsupported(
            "permissionMode", "this agent has no plan that is allowed; its mode comes with the prompt"
        )
    if question.kind == "question" and question.details.get("method") == PERMISSION:
        return _chosen(question, answer)
    if question.kind == "question":
        return elicited(question, answer, as_object(question.details.get("requestedSchema")))
    options = question.details.get("options")
    match answer.decision:
        case Decision.CANCELLED:
            return CANCELLED
        case Decision.ALLOW:
            return _allowed(options, answer)
        case Decision.DENY if answer.message is not None:
            raise unsupported(
                "message", "this agent takes no words with a refusal; stop it, or prompt it afterwards"
            )
        case _:
            return _selected(options, REJECT_ONCE) or CANCELLED


def _allowed(options: Any, answer: Answer) -> dict[str, Any]:
    if answer.updated_input is not None:
        raise unsupported("updatedInput", "this agent asks for what it is going to do; allow it or deny it")
    if (allowed := _selected(options, ALLOW_ONCE)) is None:
        raise unsupported("decision", "the agent does not offer to do this once; deny it")
    return allowed


def _chosen(question: Question, answer: Answer) -> dict[str, Any]:
    """The choices of a user who was asked by way of a permission."""
    options = question.details.get("options")
    if answer.decision is not Decision.ALLOW:
        return _selected(options, REJECT_ONCE) or CANCELLED
    answers = {id_: ", ".join(texts) for id_, texts in answers_to(question, answer).items()}
    return (_selected(options, ALLOW_ONCE) or CANCELLED) | {"answers": answers}


def _selected(options: Any, kind: str) -> dict[str, Any] | None:
    """The first option of a kind, as a result."""
    for option in as_objects(options):
        if option.get("kind") == kind and isinstance(option.get("optionId"), str):
            return {"outcome": {"outcome": "selected", "optionId": option["optionId"]}}
    return None


def _about_call(name: str, params: Mapping[str, Any], calls: Mapping[str, Mapping[str, Any]]) -> Question:
    asked = as_object(params.get("toolCall"))
    call_id = as_id(asked.get("toolCallId"))
    before = calls.get(call_id, {})
    # What was told first is whole; what the request says of it may be cut for a screen.
    call = {**asked, **{key: value for key, value in before.items() if key != "status"}}
    given = as_object(asked.get("rawInput")) or as_object(before.get("rawInput"))
    details = {key: value for key, value in params.items() if key != "toolCall"} | {"method": PERMISSION}
    if as_object(asked.get("_meta")).get("qwenInteractionKind") == "user_question":
        return _about_choices(name, as_objects(given.get("questions")), call_id, details)
    told = given or _input_in_words(before)
    input_ = told or {key: call[key] for key in ("title", "content", "locations") if call.get(key)}
    tool = as_text(call.get("kind")) or "tool"
    said = as_text(told.get("command")) or as_text(call.get("title")) or tool
    # Only what tells all that is done can be allowed again unseen.
    allowance = f"{tool} {dump(given).decode()}" if given else None
    return Question(name, "permission", tool, input_, title(said), call_id or None, allowance, details)


def _about_choices(name: str, asked: list[dict[str, Any]], call_id: str, details: dict[str, Any]) -> Question:
    """Qwen Code asks its user for leave, and takes what the user chooses with the answer, by place."""
    questions = [
        {
            "id": str(place),
            "question": as_text(entry.get("question")),
            "header": as_text(entry.get("header")),
            "options": [_option(option) for option in as_objects(entry.get("options"))],
            "multiSelect": entry.get("multiSelect") is True,
        }
        for place, entry in enumerate(asked)
    ]
    said = as_text(asked[0].get("question")) if asked else ""
    return Question(
        name,
        "question",
        "ask_user",
        {"questions": questions},
        title(said or "The agent has a question"),
        call_id or None,
        None,
        details,
    )


def _option(option: Mapping[str, Any]) -> dict[str, str]:
    return {name: as_text(option.get(name)) for name in ("label", "description")}


def _input_in_words(call: Mapping[str, Any]) -> dict[str, Any]:
    """The input of a call whose agent shows it as a text of JSON; empty where it does not."""
    texts = [as_text(as_object(part.get("content")).get("text")) for part in as_objects(call.get("content"))]
    return (load_object(texts[0].encode("utf-8", "replace")) or {}) if len(texts) == 1 else {}


def _form(name: str, params: Mapping[str, Any]) -> Question:
    questions = form_questions(as_object(params.get("requestedSchema")))
    said = as_text(params.get("message"))
    for entry in questions[:1]:
        entry["question"] = said if len(questions) == 1 and said else entry["question"]
    call_id = as_id(params.get("toolCallId")) or None
    details = dict(params) | {"method": ELICITATION}
    input_ = {"questions": questions}
    return Question(
        name,
        "question",
        "elicitation",
        input_,
        title(said or "The agent has a question"),
        call_id,
        None,
        details,
    )


def reply_id(question: Question) -> Any:
    """The id of the request, as the agent wrote it."""
    return json.loads(own_id(question))
