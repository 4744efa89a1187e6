"""How Codex asks people (requests of the app-server), and how it wants to be answered.

The shapes are those of codex-cli 0.163.0, from live captures (tests/agents/transcripts/codex/ask_*) and, for the
two older requests, from its JSON schema. A request has an `id`, which its answer repeats as it was: a number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agentsrv.agents.contract import Question
from agentsrv.agents.elicitation import elicited, form_questions
from agentsrv.agents.questions import answers_to, own_id, refusal, title
from agentsrv.errors import unsupported
from agentsrv.jsontext import as_object, dump
from agentsrv.model import Answer, Decision

COMMAND = "item/commandExecution/requestApproval"
CHANGES = "item/fileChange/requestApproval"
PERMISSIONS = "item/permissions/requestApproval"
USER_INPUT = "item/tool/requestUserInput"
ELICITATION = "mcpServer/elicitation/request"
OLD_COMMAND = "execCommandApproval"
OLD_CHANGES = "applyPatchApproval"

ACCEPTED = {"decision": "accept"}
UNASKED: dict[str, dict[str, Any]] = {
    COMMAND: ACCEPTED,
    CHANGES: ACCEPTED,
    USER_INPUT: {"answers": {}},
    ELICITATION: {"action": "cancel"},
    OLD_COMMAND: {"decision": "approved"},
    OLD_CHANGES: {"decision": "approved"},
}
"""What is said where nobody is asked: the agent may do everything, and gets no answers."""

FORMS = frozenset({"form", "openai/form", "openaiForm"})

TOLD = {
    COMMAND: {"command", "cwd"},
    PERMISSIONS: {"permissions", "cwd"},
    USER_INPUT: {"questions"},
    OLD_COMMAND: {"command", "cwd"},
    OLD_CHANGES: {"fileChanges"},
}
"""Parameters that are in the question's input, and need not be in its details."""


def request_name(id_: Any) -> str:
    """A request's id as a question's: its JSON, which still tells a number from a text."""
    return dump(id_).decode()


def unasked_answer(method: str, params: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result that lets the agent go on without anybody; None: no such request is known."""
    if method == PERMISSIONS:
        return {"permissions": as_object(params.get("permissions")), "scope": "turn"}
    if method == ELICITATION and as_object(params.get("_meta")).get("codex_approval_kind") == "mcp_tool_call":
        return {"action": "accept", "content": {}}
    return UNASKED.get(method)


def read_question(
    id_: Any, method: str, params: Mapping[str, Any], calls: Mapping[str, Mapping[str, Any]]
) -> Question | None:
    """The question in a request of the app-server; None where no person could answer it.

    `calls`: the items that have begun and not ended, by their ids; what is asked for is in them.
    """
    details = {name: value for name, value in params.items() if name not in TOLD.get(method, ())}
    details["method"] = method
    call = params.get("itemId") or params.get("callId")
    call_id = call if isinstance(call, str) else None
    name = request_name(id_)
    match method:
        case "item/commandExecution/requestApproval" | "execCommandApproval":
            return _about_command(name, call_id, params, details)
        case "item/fileChange/requestApproval":
            told = calls.get(call_id or "", {}).get("changes")
            changes = told if isinstance(told, list) else []
            return _about_changes(name, call_id, {"changes": changes}, _paths(changes), details)
        case "applyPatchApproval":
            files = as_object(params.get("fileChanges"))
            return _about_changes(name, call_id, {"changes": files}, sorted(files), details)
        case "item/permissions/requestApproval":
            return _about_permissions(name, call_id, params, details)
        case "item/tool/requestUserInput":
            questions = _questions(params.get("questions"))
            return _to_people(name, "requestUserInput", questions, "", call_id, details)
        case "mcpServer/elicitation/request":
            return _elicitation(name, params, details, calls)
        case _:
            return None


def answer_lines(question: Question, answer: Answer) -> list[dict[str, Any]]:
    """The messages that answer a question. Raises InvalidInput."""
    result = _result(question, answer)
    return [*_words(question, answer), {"id": json.loads(own_id(question)), "result": result}]


# What is asked


def _about_command(
    name: str, call_id: str | None, params: Mapping[str, Any], details: dict[str, Any]
) -> Question:
    command, cwd = params.get("command"), params.get("cwd")
    text = " ".join(map(str, command)) if isinstance(command, list) else str(command or "")
    network = as_object(params.get("networkApprovalContext")).get("host")
    is_plain = (
        bool(text)
        and network is None
        and params.get("kind", "command") == "command"
        and not params.get("additionalPermissions")
    )
    said = (
        f"Reach {network}" if network else f"Run {text}" if text else params.get("reason") or "Run a command"
    )
    return Question(
        name,
        "permission",
        "commandExecution",
        {"command": command, "cwd": cwd},
        title(str(said)),
        call_id,
        f"run {dump([command, cwd]).decode()}" if is_plain else None,
        details,
    )


def _about_changes(
    name: str, call_id: str | None, input_: dict[str, Any], paths: list[str], details: dict[str, Any]
) -> Question:
    files = ", ".join(paths)
    said = title(f"Change {files or details.get('grantRoot') or 'files'}")
    # A root is leave to write whatever there is below it.
    allowance = f"change {dump(paths).decode()}" if paths and not details.get("grantRoot") else None
    return Question(name, "permission", "fileChange", input_, said, call_id, allowance, details)


def _about_permissions(
    name: str, call_id: str | None, params: Mapping[str, Any], details: dict[str, Any]
) -> Question:
    wanted = as_object(params.get("permissions"))
    named = json.dumps(wanted, sort_keys=True)
    said = title(f"Have more permissions: {params.get('reason') or named}")
    input_ = {"permissions": wanted, "cwd": params.get("cwd")}
    allowance = f"permissions {named}" if wanted else None
    return Question(name, "permission", "permissions", input_, said, call_id, allowance, details)


def _elicitation(
    name: str, params: Mapping[str, Any], details: dict[str, Any], calls: Mapping[str, Mapping[str, Any]]
) -> Question | None:
    """An MCP server wants something of the user; or the agent wants to use a tool of the server."""
    meta, server = as_object(params.get("_meta")), str(params.get("serverName"))
    message = str(params.get("message") or "")
    if meta.get("codex_approval_kind") == "mcp_tool_call":
        # The tool's name is in the message alone, which says it the same way each time.
        input_ = as_object(meta.get("tool_params"))
        call_id = _mcp_call(server, message, input_, calls)
        if call_id is not None:
            details["tool"] = calls[call_id]["tool"]
        # The message is the server's to choose, and must not be leave for anything else.
        allowance = f"mcp:{server} {message}"
        said = title(message)
        return Question(name, "permission", f"mcp:{server}", input_, said, call_id, allowance, details)
    match str(params.get("mode")):
        case "url":
            said = f"{message} {params.get('url')}"
            return _to_people(name, f"mcp:{server}", [], said, None, details)
        case mode if mode in FORMS:
            questions = form_questions(as_object(params.get("requestedSchema")))
            return _to_people(name, f"mcp:{server}", questions, message, None, details)
        case _:
            return None


def _mcp_call(
    server: str, message: str, input_: Mapping[str, Any], calls: Mapping[str, Mapping[str, Any]]
) -> str | None:
    """The call that such a request is about: it does not say so, but all that there is to know of it."""
    for call_id, call in calls.items():
        is_same = (call.get("server"), as_object(call.get("arguments"))) == (server, input_)
        if is_same and f'"{call.get("tool")}"' in message:
            return call_id
    return None


def _to_people(
    name: str,
    tool: str,
    questions: list[dict[str, Any]],
    said: str,
    call_id: str | None,
    details: dict[str, Any],
) -> Question:
    first = questions[0]["question"] if questions else "The agent has a question"
    return Question(
        name, "question", tool, {"questions": questions}, title(said or first), call_id, None, details
    )


def _questions(asked: Any) -> list[dict[str, Any]]:
    entries = [entry for entry in asked if isinstance(entry, dict)] if isinstance(asked, list) else []
    return [
        {name: value for name, value in entry.items() if name != "options" or isinstance(value, list)}
        | {"id": str(entry.get("id")), "question": str(entry.get("question"))}
        for entry in entries
    ]


def _paths(changes: list[Any]) -> list[str]:
    """The files that change, also those that others are moved to."""
    told = [as_object(change) for change in changes]
    paths = [change.get("path") for change in told]
    paths += [as_object(change.get("kind")).get("move_path") for change in told]
    return sorted({path for path in paths if isinstance(path, str)})


# What is answered


def _result(question: Question, answer: Answer) -> dict[str, Any]:
    if answer.permission_mode is not None:
        raise unsupported(
            "permissionMode", "codex has no plan that is allowed; its mode comes with the prompt"
        )
    method, is_allowed = question.details["method"], answer.decision is Decision.ALLOW
    if is_allowed and question.kind == "permission" and answer.updated_input is not None:
        raise unsupported("updatedInput", "codex asks for what it is going to do; allow it or deny it")
    match method:
        case "item/commandExecution/requestApproval" | "item/fileChange/requestApproval":
            allowed = "acceptForSession" if answer.remember else "accept"
            return {"decision": allowed if is_allowed else "decline"}
        case "item/permissions/requestApproval":
            granted = question.input["permissions"] if is_allowed else {}
            return {"permissions": granted, "scope": "session" if answer.remember else "turn"}
        case "item/tool/requestUserInput":
            given = answers_to(question, answer) if is_allowed else {}
            return {"answers": {id_: {"answers": texts} for id_, texts in given.items()}}
        case "mcpServer/elicitation/request":
            return _elicited(question, answer)
        case _:
            return {"decision": _old_decision(answer)}


def _old_decision(answer: Answer) -> str | dict[str, Any]:
    match answer.decision:
        case Decision.ALLOW:
            return "approved_for_session" if answer.remember else "approved"
        case Decision.TIMED_OUT:
            return "timed_out"
        case _:
            return {"denied": {"rejection": refusal(answer)}}


def _elicited(question: Question, answer: Answer) -> dict[str, Any]:
    if question.kind == "permission" and answer.decision is Decision.ALLOW:
        kept = {"_meta": {"persist": "session"}} if answer.remember else {}
        return {"action": "accept", "content": {}, **kept}
    is_form = question.kind == "question" and question.details.get("mode") != "url"
    return elicited(question, answer, as_object(question.details.get("requestedSchema")) if is_form else None)


def _words(question: Question, answer: Answer) -> list[dict[str, Any]]:
    """A refusal in words. The answer itself has no room for them, so they come as words of the user's.

    They are sent before the answer: with it the agent goes on, and it should know them by then.
    """
    turn_id, method = question.details.get("turnId"), question.details["method"]
    is_said = answer.message is not None or answer.decision is Decision.TIMED_OUT
    if (
        answer.decision is Decision.ALLOW
        or not is_said
        or not turn_id
        or method in {OLD_COMMAND, OLD_CHANGES}
    ):
        return []
    params = {
        "threadId": question.details.get("threadId"),
        "expectedTurnId": turn_id,
        "input": [{"type": "text", "text": refusal(answer)}],
    }
    return [{"method": "turn/steer", "id": f"refusal-{turn_id}-{question.id}", "params": params}]
