"""How a turn of an ACP agent ended. Several of them say `end_turn` also when their model has failed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from agentsrv.agents.memory import MAX_RESULT_CHARACTERS, add_counts, is_count
from agentsrv.jsontext import as_object, load_object
from agentsrv.model import Outcome, TurnStatus

NOT_AUTHENTICATED = -32000

CODES = {
    NOT_AUTHENTICATED: "agent_not_authenticated",
    401: "agent_not_authenticated",
    403: "agent_not_authenticated",
    404: "model_not_found",
    429: "agent_rate_limited",
    529: "agent_overloaded",
}

SIGNS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (code, re.compile(words, re.IGNORECASE))
    for code, words in (
        ("agent_billing", r"insufficient.quota|billing|credit balance"),
        ("context_too_long", r"context.(length|window)|prompt is too long|maximum context"),
        ("agent_rate_limited", r"\b429\b|rate.?limit|too many requests|quota"),
        ("agent_not_authenticated", r"\b40[13]\b|unauthori[sz]ed|authenticat|api key|credential"),
        ("model_not_found", r"model.{0,60}not (found|exist)"),
        ("agent_overloaded", r"\b529\b|overloaded"),
        ("agent_api_error", r"\b5\d\d\b|server error|service unavailable"),
        (
            "agent_api_unreachable",
            r"ECONNREFUSED|ENOTFOUND|fetch failed|connect(ion)? (error|refused)|network|unreachable"
            r"|unable to connect|cannot connect|error sending request|connect to",
        ),
    )
)
"""What agents say of failures, in words alone; the first that fits."""

STOPPED = {
    "max_tokens": ("the model was cut off at its limit of output", "output_limit_reached"),
    "max_turn_requests": ("the agent came to its limit of calls to the model", "max_turns_reached"),
    "refusal": ("the model refuses to answer this", "model_refused"),
    "cancelled": ("the agent was interrupted", "agent_interrupted"),
}

VIBE_COUNTS = {
    "promptTokens": "inputTokens",
    "completionTokens": "outputTokens",
    "totalTokens": "totalTokens",
    "cachedTokens": "cachedReadTokens",
}
GEMINI_COUNTS = {"input_tokens": "inputTokens", "output_tokens": "outputTokens"}


def failure(error: Any) -> tuple[str, str]:
    """(message, code) of the error of a request."""
    fields = as_object(error)
    words = [_text(fields.get("message") or "the agent failed without a word")]
    # What the API has answered may be all of the message.
    if said := as_object(as_object(load_object(words[0].encode())).get("error")).get("message"):
        words = [_text(said)]
    if (details := as_object(fields.get("data")).get("details")) is not None:
        words.append(_text(details))
    text, number = ": ".join(words), fields.get("code")
    known = CODES.get(number) if isinstance(number, int) else None
    return text, known or code_of(text)


def code_of(text: str) -> str:
    """The code of a failure that is told in words alone."""
    return next((code for code, words in SIGNS if words.search(text)), "agent_error")


def outcome_of(
    result: Mapping[str, Any], said: str, usage: dict[str, int], *, has_worked: bool, failures: Sequence[str]
) -> Outcome:
    """From the answer to a prompt. `said`: its last message; `failures`: how messages begin that tell of one."""
    reason = result.get("stopReason")
    if isinstance(reason, str) and reason in STOPPED:
        error, code = STOPPED[reason]
        return Outcome(TurnStatus.FAILED, error, code, stop_reason=reason, usage=usage or None)
    if failures and said.startswith(tuple(failures)):
        return Outcome(TurnStatus.FAILED, said, code_of(said), usage=usage or None)
    if not has_worked:
        error = "the agent ended the turn without a word; its model may have failed"
        return Outcome(TurnStatus.FAILED, error, "agent_error", usage=usage or None)
    return Outcome(
        TurnStatus.COMPLETED,
        stop_reason="end_turn",
        usage=usage or None,
        result=said[:MAX_RESULT_CHARACTERS] or None,
    )


def usage_in(result: Mapping[str, Any]) -> dict[str, int]:
    """The counts in the answer to a prompt, wherever the agent has them."""
    counts: dict[str, int] = {}
    add_counts(counts, as_object(result.get("usage")))
    if not counts:
        quota = as_object(as_object(as_object(result.get("_meta")).get("quota")).get("token_count"))
        add_counts(counts, {GEMINI_COUNTS.get(name, name): count for name, count in quota.items()})
    return counts


def counted_before(update: Mapping[str, Any]) -> dict[str, int]:
    """What an update of the context says of all that the conversation has used."""
    told, counts = as_object(update.get("_meta")), dict[str, int]()
    add_counts(counts, {ours: told[name] for name, ours in VIBE_COUNTS.items() if name in told})
    return counts


def usage_since(counted: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    """What has been used since `counted`; all of `now` where that is less, and the agent has begun anew."""
    is_anew = any(now.get(name, 0) < count for name, count in counted.items())
    return dict(now) if is_anew else {name: count - counted.get(name, 0) for name, count in now.items()}


def add_usage(usage: dict[str, int], update: Mapping[str, Any]) -> None:
    """Add what a chunk says of the call to the model that it ends."""
    told = as_object(as_object(update.get("_meta")).get("usage"))
    add_counts(usage, {name: count for name, count in told.items() if is_count(count)})


def _text(value: Any) -> str:
    """What should be a text, as one that can be stored."""
    return str(value).encode("utf-8", "replace").decode()
