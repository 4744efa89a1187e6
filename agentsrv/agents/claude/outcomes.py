"""How a turn of Claude Code ended, from its `result` and from what was told before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentsrv.agents.claude.lines import text_or_none
from agentsrv.agents.claude.state import TurnState
from agentsrv.agents.codes import STOP_REASONS
from agentsrv.agents.memory import bounded
from agentsrv.jsontext import as_object
from agentsrv.model import Outcome, TurnStatus

CONTEXT_WINDOW = "context_window"
"""What has cut an answer off, where the CLI calls both limits by the name of the other one."""

ERROR_CODES = {
    "authentication_failed": "agent_not_authenticated",
    "billing_error": "agent_billing",
    "rate_limit": "agent_rate_limited",
    "overloaded": "agent_overloaded",
    "model_not_found": "model_not_found",
    "refusal": "model_refused",
    "prompt_too_long": "context_too_long",
    "blocking_limit": "context_too_long",
    CONTEXT_WINDOW: "context_too_long",
    "max_output_tokens": "output_limit_reached",
    "error_max_turns": "max_turns_reached",
    "error_max_budget_usd": "max_budget_reached",
    "connection_failed": "agent_api_unreachable",
    "server_error": "agent_api_error",
    "hook_stopped": "stopped_by_hook",
}
STATUS_CODES = {
    401: "authentication_failed",
    402: "billing_error",
    403: "authentication_failed",
    408: "server_error",
    413: "prompt_too_long",
    429: "rate_limit",
    529: "overloaded",
}
BLOCKED = {
    "blocked_by_hook": ("prompt_blocked", "a hook has blocked the prompt"),
    "stopped_by_hook": ("stopped_by_hook", "a hook has stopped the agent"),
}

NOT_LOGGED_IN = (
    "Claude Code is not logged in; set ANTHROPIC_API_KEY, or log in once with `agentsrv agents login claude`"
)

MAX_KIND_CHARACTERS = 64


def outcome_of(result: Mapping[str, Any], turn: TurnState) -> Outcome:
    """`turn.outcome` is that of an earlier result of the same turn."""
    error, code = _error(result, turn)
    usage = added(turn.outcome.usage if turn.outcome is not None else None, result.get("usage"))
    # Of errors the CLI says `api_error`, whatever the model did.
    stop_reason = result.get("stop_reason" if error is None else "terminal_reason")
    outcome = Outcome(
        TurnStatus.COMPLETED if error is None else TurnStatus.FAILED,
        error,
        code,
        stop_reason=STOP_REASONS.get(code or "") or (stop_reason if isinstance(stop_reason, str) else None),
        usage=usage,
        cost_usd=turn.cost_usd,
        structured_output=result.get("structured_output"),
        result=text_or_none(result.get("result")) if error is None else None,
    )
    return bounded(outcome)


def told_error(message: Mapping[str, Any]) -> str | None:
    """The kind of an error, which the CLI tells in an assistant message of its own and not in `result`."""
    if as_object(message.get("api_error_params")).get("cut") == CONTEXT_WINDOW:
        return CONTEXT_WINDOW
    error = message.get("error")
    return error if isinstance(error, str) and len(error) <= MAX_KIND_CHARACTERS else None


def blocked_by(message: Mapping[str, Any]) -> tuple[str, str] | None:
    """(kind, reason) when a hook has kept the prompt from the model."""
    told = as_object(message.get("prompt_submit_outcome"))
    kind = told.get("kind")
    if not isinstance(kind, str) or kind not in BLOCKED:
        return None
    return kind, str(told.get("reason") or "")[:1000]


def added(earlier: Mapping[str, Any] | None, usage: Any) -> dict[str, Any] | None:
    """The usage of a turn that has had a result already: the counts are added up."""
    if not isinstance(usage, dict) or earlier is None:
        return usage if isinstance(usage, dict) else None
    counts = {name: count for name, count in earlier.items() if isinstance(count, int)}
    return usage | {
        name: count + usage[name] for name, count in counts.items() if isinstance(usage.get(name), int)
    }


def _error(result: Mapping[str, Any], turn: TurnState) -> tuple[str | None, str | None]:
    """(message, code); (None, None) when it is a success.

    API errors come with subtype "success" and is_error true; limits come with their own subtype.
    """
    if turn.blocked is not None:
        code, what = BLOCKED[turn.blocked[0]]
        return (f"{what}: {turn.blocked[1]}" if turn.blocked[1] else what), code
    subtype, reason = result.get("subtype"), result.get("terminal_reason")
    if reason == "hook_stopped":
        return "a hook has stopped the agent", "stopped_by_hook"
    if subtype == "success" and not result.get("is_error"):
        return None, None
    errors = result.get("errors")
    texts = [text for text in errors if isinstance(text, str)] if isinstance(errors, list) else []
    if texts and texts[0].startswith("[ede_diagnostic]"):
        return "the agent was interrupted", "agent_interrupted"
    message = str(result.get("result") or "; ".join(texts) or f"the agent ended with {subtype}")
    if message.startswith("Not logged in"):
        message = NOT_LOGGED_IN
    return message, _code(result, turn.told_error)


def _code(result: Mapping[str, Any], told: str | None) -> str:
    status = result.get("api_error_status")
    kinds = (
        result.get("subtype"),
        result.get("stop_reason"),
        result.get("terminal_reason"),
        STATUS_CODES.get(status) if isinstance(status, int) else None,
        told if told == CONTEXT_WINDOW else None,
        result.get("api_error"),
        told,
    )
    codes = (ERROR_CODES[kind] for kind in kinds if isinstance(kind, str) and kind in ERROR_CODES)
    return next(codes, "agent_error")
