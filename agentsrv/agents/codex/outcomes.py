"""How a turn of Codex ended, and why."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from agentsrv.agents.codes import STOP_REASONS
from agentsrv.jsontext import as_object, load_object
from agentsrv.model import Outcome, TurnStatus

ERROR_CODES = {
    "contextWindowExceeded": "context_too_long",
    "usageLimitExceeded": "agent_rate_limited",
    "rateLimitExceeded": "agent_rate_limited",
    "serverOverloaded": "agent_overloaded",
    "flexUnavailable": "agent_overloaded",
    "internalServerError": "agent_api_error",
    "unauthorized": "agent_not_authenticated",
    "cyberPolicy": "model_refused",
    "misalignmentPolicyViolation": "model_refused",
    "sessionBudgetExceeded": "max_budget_reached",
}
TOLD = {
    r"reason: max_output_tokens": "output_limit_reached",
    r"content_filter|our usage policy": "model_refused",
    r"Check your plan and billing|out of credits|ChatGPT plan, upgrade|[Bb]illing hard limit": "agent_billing",
    r"model .{1,200} does not exist": "model_not_found",
}
"""What is told in words alone: the kind of these errors is `other`, or that of a limit which passes."""

MAX_TOLD = 10_000
"""So many characters of a message are looked through."""

ENDS = frozenset({"stop", "subagentStop", "sessionEnd", "interrupt"})
"""Events whose hooks come when the work is done."""
MAX_REASON = 1000

API_CODES = {
    "model_not_found": "model_not_found",
    "context_length_exceeded": "context_too_long",
    "insufficient_quota": "agent_billing",
    "billing_hard_limit_reached": "agent_billing",
    "invalid_prompt": "model_refused",
    "content_policy_violation": "model_refused",
}
"""What OpenAI's API calls its own errors."""

STATUS_CODES = {
    401: "agent_not_authenticated",
    402: "agent_billing",
    403: "agent_not_authenticated",
    413: "context_too_long",
    429: "agent_rate_limited",
    529: "agent_overloaded",
    None: "agent_api_unreachable",
}
UNREACHED = frozenset(
    {
        "httpConnectionFailed",
        "responseStreamConnectionFailed",
        "responseStreamDisconnected",
        "responseTooManyFailedAttempts",
    }
)


def outcome_of(turn: Mapping[str, Any], usage: dict[str, int] | None, *, wants_output: bool) -> Outcome:
    """From the turn that has ended, as the agent tells of it."""
    match turn.get("status"):
        case "completed":
            said = _last_words(turn)
            output = _as_data(said) if wants_output else None
            return Outcome(
                TurnStatus.COMPLETED,
                stop_reason="end_turn",
                usage=usage,
                structured_output=output,
                result=said,
            )
        case "interrupted":
            return Outcome(TurnStatus.FAILED, "the agent was interrupted", "agent_interrupted", usage=usage)
        case _:
            error, code = failure(as_object(turn.get("error")))
            return Outcome(TurnStatus.FAILED, error, code, stop_reason=STOP_REASONS.get(code), usage=usage)


def _last_words(turn: Mapping[str, Any]) -> str | None:
    """The agent's last message."""
    items = turn.get("items")
    texts = [as_object(item).get("text") for item in items] if isinstance(items, list) else []
    return texts[-1] if texts and isinstance(texts[-1], str) else None


def _as_data(said: str | None) -> Any:
    """What was said as data; None when it is no JSON."""
    try:
        return msgspec.json.decode(said or "")
    except ValueError:
        return None


def failure(error: Mapping[str, Any]) -> tuple[str, str]:
    """(message, code) of a turn's error. Its kind is a word, or an object of one word and what belongs to it."""
    message = _text(error.get("message") or "the agent failed without a word")
    info = error.get("codexErrorInfo")
    if (
        code := next((code for words, code in TOLD.items() if re.search(words, message[:MAX_TOLD])), None)
    ) is not None:
        return _said(message)[0] or message, code
    if info == "other" and message.startswith("stream disconnected"):
        return message, "agent_api_unreachable"
    if isinstance(info, str):
        said, code = _said(message)
        return said or message, code or ERROR_CODES.get(info, "agent_error")
    if isinstance(info, dict) and UNREACHED.intersection(info):
        status = as_object(next(iter(info.values()))).get("httpStatusCode")
        is_known = status is None or isinstance(status, int)
        return message, STATUS_CODES.get(status, "agent_api_error") if is_known else "agent_error"
    return message, "agent_error"


def halted_by(run: Mapping[str, Any]) -> tuple[str, str] | None:
    """(message, code) when a hook that has run keeps the model from its work. Codex calls such a turn completed."""
    event, status = run.get("eventName"), run.get("status")
    entries = run.get("entries")
    texts = [as_object(entry).get("text") for entry in (entries if isinstance(entries, list) else [])]
    reason = "; ".join(_text(text) for text in texts if text)[:MAX_REASON]
    if event == "userPromptSubmit" and status == "blocked":
        return f"a hook has blocked the prompt: {reason}", "prompt_blocked"
    if status == "stopped" and event not in ENDS:
        return f"a hook has stopped the agent: {reason}", "stopped_by_hook"
    return None


def _said(message: str) -> tuple[str | None, str | None]:
    """(message, code) where what the API had against a request comes as its whole answer."""
    error = as_object(as_object(load_object(message.encode())).get("error"))
    said, name = error.get("message"), error.get("code")
    return _text(said) if said else None, API_CODES.get(name) if isinstance(name, str) else None


def refusal_of(error: Any) -> tuple[str, str]:
    """(message, code) of the error of a refused request."""
    fields = as_object(error)
    is_too_long = as_object(fields.get("data")).get("input_error_code") == "input_too_large"
    return _text(fields.get("message") or error), "context_too_long" if is_too_long else "agent_error"


def _text(value: Any) -> str:
    """What should be a text, as one that can be stored."""
    return str(value).encode("utf-8", "replace").decode()
