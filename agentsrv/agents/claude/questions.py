"""How Claude Code asks people, and how it wants to be answered.

The shapes are those of claude 2.1.330, from live captures (tests/agents/transcripts/claude/ask_*). Three are one
control request (`can_use_tool`): leave to use a tool, leave to end plan mode (a tool as well), and a question to
the user, whose tool does nothing but ask. The fourth (`elicitation`) is an MCP server's: a form, or a URL to open.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from agentsrv.agents.claude.launch import MODES
from agentsrv.agents.contract import Question
from agentsrv.agents.elicitation import elicited, form_questions
from agentsrv.agents.questions import answers_to, refusal, title
from agentsrv.errors import unsupported
from agentsrv.jsontext import as_object
from agentsrv.model import Answer, Decision, PermissionMode

OWN_FIELDS = frozenset({"subtype", "tool_name", "tool_use_id", "input"})
"""What of a request is told in fields of its own; the rest are the question's details."""

TELLING = ("command", "file_path", "notebook_path", "url", "query", "path", "pattern")
"""The input that says best what a tool is about to do, as far as the tool has it."""

MAX_NAMED_CHARS = 1000


def read_question(request_id: str, request: Mapping[str, Any]) -> Question | None:
    """The question in a control request; None when it is none."""
    match request.get("subtype"):
        case "can_use_tool":
            return _about_tool(request_id, request)
        case "elicitation":
            return _elicitation(request_id, request)
        case _:
            return None


def response_to(question: Question, answer: Answer) -> dict[str, Any]:
    """What the control response says. Raises InvalidInput."""
    if question.details.get("subtype") == "elicitation":
        is_form = question.details.get("mode") != "url"
        schema = as_object(question.details.get("requested_schema"))
        return elicited(question, answer, schema if is_form else None)
    if answer.permission_mode is not None and question.kind == "question":
        raise unsupported("permissionMode", "goes with leave to carry out a plan only (ExitPlanMode)")
    if answer.decision is not Decision.ALLOW:
        return {"behavior": "deny", "message": refusal(answer)}
    if question.kind == "question":
        return {"behavior": "allow", "updatedInput": _answered(question, answer)}
    changed = answer.updated_input
    response: dict[str, Any] = {
        "behavior": "allow",
        "updatedInput": question.input if changed is None else changed,
    }
    updates = _remembered(question.details) if answer.remember else []
    if answer.permission_mode is not None:
        updates.append(_mode(question, answer.permission_mode))
    return response | ({"updatedPermissions": updates} if updates else {})


def _mode(question: Question, mode: PermissionMode) -> dict[str, Any]:
    if question.tool != "ExitPlanMode":
        raise unsupported("permissionMode", "goes with leave to carry out a plan only (ExitPlanMode)")
    if mode is PermissionMode.BYPASS:
        raise unsupported(
            "permissionMode", "a process that asks cannot stop asking; send a prompt with `bypass`"
        )
    return {"type": "setMode", "mode": MODES[mode], "destination": "session"}


def unasked_response(question: Question, request: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a request is answered where nobody is asked; None: with an error."""
    if request.get("subtype") == "elicitation":
        return {"action": "cancel"}
    # Only a process whose mode has become `bypass` meanwhile asks for leave there.
    return {"behavior": "allow", "updatedInput": question.input} if question.kind == "permission" else None


def _about_tool(request_id: str, request: Mapping[str, Any]) -> Question:
    tool = str(request.get("tool_name"))
    input_ = as_object(request.get("input"))
    call = request.get("tool_use_id")
    call_id = call if isinstance(call, str) else None
    details = {name: value for name, value in request.items() if name not in OWN_FIELDS}
    if tool == "AskUserQuestion":
        questions = _questions(input_)
        asked = title(questions[0]["question"] if questions else "The agent has a question")
        rest = {name: value for name, value in input_.items() if name != "questions"}
        details |= {"input": rest} if rest else {}
        return Question(request_id, "question", tool, {"questions": questions}, asked, call_id, None, details)
    allowance = _call(tool, input_) if _remembered(details) else None
    return Question(
        request_id, "permission", tool, input_, _title(tool, input_, details), call_id, allowance, details
    )


def _elicitation(request_id: str, request: Mapping[str, Any]) -> Question:
    questions: list[dict[str, Any]] = []
    asked = [str(request.get("message") or "")]
    if request.get("mode") == "url":
        asked.append(str(request.get("url")))
    else:
        questions = form_questions(as_object(request.get("requested_schema")))
    tool = f"mcp:{request.get('mcp_server_name')}"
    return Question(
        request_id,
        "question",
        tool,
        {"questions": questions},
        title(" ".join(asked)),
        details=dict(request),
    )


def _questions(input_: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The questions with ids, which they do not have of their own."""
    asked = input_.get("questions")
    entries = [entry for entry in asked if isinstance(entry, dict)] if isinstance(asked, list) else []
    return [
        entry | {"id": f"q{number}", "question": str(entry.get("question"))}
        for number, entry in enumerate(entries, 1)
    ]


def _answered(question: Question, answer: Answer) -> dict[str, Any]:
    """The tool's input with the answers in it, each under the words of its question."""
    given = answers_to(question, answer)
    asked = question.input["questions"]
    originals = [{name: value for name, value in entry.items() if name != "id"} for entry in asked]
    answers = {entry["question"]: ", ".join(given[entry["id"]]) for entry in asked}
    return as_object(question.details.get("input")) | {"questions": originals, "answers": answers}


def _title(tool: str, input_: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    if tool == "ExitPlanMode":
        return "The plan is ready: leave plan mode and carry it out?"
    told = next((input_[name] for name in TELLING if input_.get(name)), details.get("description"))
    name = details.get("display_name") or tool
    return title(f"{name}: {told}" if told else f"{name}")


def _remembered(details: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the CLI is to allow from now on, for as long as it lives, or up to the next prompt if it is a mode.

    It suggests rules for this very call and, along with them, to open whole directories or to allow all edits;
    that is more than was asked for, and taken only where there is nothing narrower.
    """
    suggested = details.get("permission_suggestions")
    updates = [as_object(update) for update in suggested] if isinstance(suggested, list) else []
    rules = [update for update in updates if update.get("type") == "addRules"]
    return [update | {"destination": "session"} for update in rules or updates]


def _call(tool: str, input_: Mapping[str, Any]) -> str:
    """This very call, in words that stay the same.

    Not the rules that go with it: with a rule in force the CLI still asks about calls that suggest the same one
    and do more, such as writing a file of settings, or a redirection to another directory.
    """
    # The model says each time anew what a command is good for.
    told = {name for name in input_ if (tool, name) != ("Bash", "description")}
    said = json.dumps({name: input_[name] for name in told}, sort_keys=True)
    if len(said) > MAX_NAMED_CHARS:
        said = hashlib.sha256(said.encode()).hexdigest()
    return f"{tool} {said}"
