"""Why a turn of Codex failed: who can do something about it is told by the code."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentsrv.agents.codex.outcomes import failure


def answer(message: str, code: str | None) -> str:
    """What the API says to a request that it refuses, as Codex (0.163) passes it on."""
    return json.dumps({"error": {"message": message, "type": "invalid_request_error", "code": code}})


def status(kind: str, code: int | None) -> dict[str, Any]:
    return {kind: {"httpStatusCode": code}}


@pytest.mark.parametrize(
    ("message", "kind", "code"),
    [
        ("Quota exceeded. Check your plan and billing details.", "usageLimitExceeded", "agent_billing"),
        ("Your workspace is out of credits.", "usageLimitExceeded", "agent_billing"),
        ("To use Codex with your ChatGPT plan, upgrade to Plus.", "usageLimitExceeded", "agent_billing"),
        ("You've hit your usage limit. Try again at 5:00 PM.", "usageLimitExceeded", "agent_rate_limited"),
        (
            "stream disconnected before completion: Billing hard limit has been reached",
            "other",
            "agent_billing",
        ),
        ("unexpected status 402", status("httpConnectionFailed", 402), "agent_billing"),
        ("unexpected status 529", status("responseStreamConnectionFailed", 529), "agent_overloaded"),
        ("unexpected status 413", status("httpConnectionFailed", 413), "context_too_long"),
        ("unexpected status 503", status("responseStreamDisconnected", 503), "agent_api_error"),
        ("gone", status("responseStreamDisconnected", None), "agent_api_unreachable"),
        ("stream disconnected before completion: stream closed", "other", "agent_api_unreachable"),
        (
            "unexpected status 404 Not Found: The model `x` does not exist or you do not have access to it.",
            status("httpConnectionFailed", 404),
            "model_not_found",
        ),
        (
            answer("The requested model 'x' does not exist.", "model_not_found"),
            "badRequest",
            "model_not_found",
        ),
        (answer("too long", "context_length_exceeded"), "badRequest", "context_too_long"),
        (answer("your prompt was flagged", "invalid_prompt"), "badRequest", "model_refused"),
        (
            "Invalid prompt: flagged as potentially violating our usage policy.",
            "badRequest",
            "model_refused",
        ),
        (answer("bad field", None), "badRequest", "agent_error"),
        ("no", "misalignmentPolicyViolation", "model_refused"),
        ("no", "sessionBudgetExceeded", "max_budget_reached"),
        ("no", "flexUnavailable", "agent_overloaded"),
        ("no", "somethingNew", "agent_error"),
    ],
)
def test_each_kind_of_failure_has_its_code(message: str, kind: object, code: str) -> None:
    """What passes by itself is told from what does not, whether Codex has a kind for it or only words."""
    assert failure({"message": message, "codexErrorInfo": kind})[1] == code


def test_what_the_api_said_is_told_in_its_words() -> None:
    """And not as the JSON around them."""
    error = {
        "message": answer("The model `x` does not exist.", "model_not_found"),
        "codexErrorInfo": "badRequest",
    }

    assert failure(error) == ("The model `x` does not exist.", "model_not_found")
