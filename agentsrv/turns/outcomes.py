"""How turns end: what is concluded from their agent's end, and what the log says about it."""

from __future__ import annotations

import json
from typing import Any

from agentsrv.agents.base import Adapter
from agentsrv.model import Outcome, Seq, TurnId, TurnStatus
from agentsrv.runner.handle import AgentExit

MACHINE_RESTARTED = "machine_restarted"


def final_events(turn_id: TurnId, outcome: Outcome, seq: Seq) -> list[bytes]:
    """What the server says at the end, from `seq` on: `error` when something went wrong, always `done`."""
    closing: list[dict[str, Any]] = []
    if outcome.error_code == MACHINE_RESTARTED:
        # Events that were sent may not have reached the disk: their ids are about to be used again.
        closing.append({"type": "gap", "after": seq - 1})
    done: dict[str, Any] = {"done": True, "taskId": turn_id, "status": outcome.status}
    if outcome.error is not None:
        closing.append({"type": "error", "error": outcome.error, "code": outcome.error_code})
        done["error"] = outcome.error
    return [json.dumps(event).encode() for event in (*closing, done)]


def internal_error() -> Outcome:
    return Outcome(TurnStatus.FAILED, "internal error; see the server's log", "internal_error")


def explain(ended: AgentExit, adapter: Adapter) -> Outcome:
    """The outcome of a turn whose process ended before the agent said how the turn did."""
    if ended.reason == "runner_lost":
        return Outcome(TurnStatus.INTERRUPTED, "the agent's runner was lost", "runner_lost")
    if ended.reason == MACHINE_RESTARTED:
        return Outcome(TurnStatus.INTERRUPTED, "the machine was restarted", MACHINE_RESTARTED)
    if ended.reason in {"killed", "orphaned"}:
        # Not by us: whoever shuts the machine down ends the runners as well.
        return Outcome(TurnStatus.INTERRUPTED, "the agent was ended from outside", "agent_interrupted")
    if ended.reason == "quota":
        error = "the agent wrote more than the server could take; it was stopped"
        return Outcome(TurnStatus.FAILED, error, "spool_quota_exceeded")
    if (explained := adapter.explain_exit(ended.stderr_tail)) is not None:
        error, code = explained
        return Outcome(TurnStatus.FAILED, error, code)
    how = f"signal {ended.signal}" if ended.signal else f"exit code {ended.code}"
    return Outcome(TurnStatus.FAILED, f"the agent ended in the middle of the turn ({how})", "agent_exited")
