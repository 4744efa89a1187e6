"""Codes of failed turns that say why the model stopped, in ACP's words for it."""

from __future__ import annotations

from agentsrv.agents.updates import StopReason

STOP_REASONS: dict[str, StopReason] = {
    "model_refused": "refusal",
    "output_limit_reached": "max_tokens",
    "context_too_long": "max_tokens",
}
