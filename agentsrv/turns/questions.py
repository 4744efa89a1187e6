"""Questions of agents and their answers, as the log has them. Pure.

A question is an event that follows from the agent's own line. Its answer is an event of the server: the agent
gets it when it is committed, so that after a crash the log knows all questions and answers, and an answer that
may not have reached the agent is sent again. The agent waits under its runner meanwhile.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from msgspec import Struct

from agentsrv.agents.contract import Question
from agentsrv.errors import Conflict, InvalidInput, NotFound, invalid_field
from agentsrv.jsontext import dump
from agentsrv.model import Answer, Decision, Millis, PermissionMode, Turn

OUR_PREFIX = b'{"type":"permission_'
"""How the events of questions and answers begin, and no other event of the log."""


class WaitingQuestion(Struct, frozen=True):
    """A question that waits for a user, as it is shown. `expires_at` None: for as long as it takes."""

    turn: Turn
    question: Question
    created_at: Millis
    expires_at: Millis | None


def request_event(turn: Turn, question: Question) -> bytes:
    """The event of a question: the same for every agent, and it follows from the agent's line alone."""
    return dump(
        {
            "type": "permission_request",
            "requestId": question.id,
            "taskId": turn.id,
            "sessionId": turn.session_id,
            "kind": question.kind,
            "tool": question.tool,
            "title": question.title,
            "input": question.input,
            "toolCallId": question.tool_call_id,
            "options": answer_options(question),
            "allowance": question.allowance,
            "details": question.details,
        }
    )


def answer_options(question: Question) -> list[dict[str, str]]:
    """What may be answered, in the fields of an answer."""
    always = {"decision": "allow", "remember": "session"}
    return [{"decision": "allow"}, *([always] if question.allowance else []), {"decision": "deny"}]


def resolved_event(turn: Turn, question_id: str, answer: Answer) -> bytes:
    event: dict[str, Any] = {
        "type": "permission_resolved",
        "requestId": question_id,
        "taskId": turn.id,
        "decision": answer.decision,
    }
    if answer.remember:
        event["remember"] = "session"
    if answer.message is not None:
        event["message"] = answer.message
    if answer.updated_input is not None:
        event["updatedInput"] = answer.updated_input
    if answer.permission_mode is not None:
        event["permissionMode"] = answer.permission_mode
    return dump(event)


def question_in(event: bytes) -> Question:
    """The question that a `permission_request` tells of."""
    fields = json.loads(event)
    return Question(
        id=fields["requestId"],
        kind=fields["kind"],
        tool=fields["tool"],
        input=fields["input"],
        title=fields["title"],
        tool_call_id=fields["toolCallId"],
        allowance=fields["allowance"],
        details=fields["details"],
    )


def answer_in(event: dict[str, Any]) -> Answer:
    """The answer that a `permission_resolved` tells of."""
    return Answer(
        Decision(event["decision"]),
        remember="remember" in event,
        message=event.get("message"),
        updated_input=event.get("updatedInput"),
        permission_mode=PermissionMode(event["permissionMode"]) if "permissionMode" in event else None,
    )


def digest(answer: Answer) -> str:
    """Tells answers apart, and costs little to remember: the decision, and a hash of the rest."""
    parts = [answer.remember, answer.message, answer.updated_input, answer.permission_mode]
    said = json.dumps(parts, sort_keys=True)
    return f"{answer.decision} {hashlib.sha256(said.encode()).hexdigest()}"


def require_same(question_id: str, known: str, answer: Answer) -> Answer:
    """`answer`, if it is the one with the digest `known`. Raises Conflict (`permission_answered`)."""
    if digest(answer) != known:
        decision = known.partition(" ")[0]
        raise Conflict(f"permission {question_id} is settled already: {decision}", code="permission_answered")
    return answer


def not_waiting(turn: Turn, question_id: str) -> NotFound:
    return NotFound(f"job {turn.id} does not wait for permission {question_id}", code="permission_not_found")


def is_ending(turn: Turn) -> Conflict:
    return Conflict(f"job {turn.id} is ending; nothing waits for an answer", code="job_ended")


def require_consistent(answer: Answer) -> None:
    """Raises InvalidInput for an answer that fits no question."""
    if answer.remember and answer.decision is not Decision.ALLOW:
        raise invalid_field("remember", "goes with the decision allow only")
    if answer.permission_mode is not None and answer.decision is not Decision.ALLOW:
        raise invalid_field("permissionMode", "goes with the decision allow only")


def not_rememberable() -> InvalidInput:
    return invalid_field(
        "remember", "this cannot be allowed for the whole session; answer it without remember"
    )


def untellable() -> InvalidInput:
    return InvalidInput("the agent cannot be told this answer; give another one")
