"""How turns end: what is concluded from their agent's end, and what the log says about it."""

from __future__ import annotations

import json
from typing import Any

from agentsrv.agents.contract import Adapter
from agentsrv.agents.stderr import last_words
from agentsrv.model import Outcome, Seq, Turn, TurnId, TurnStatus
from agentsrv.runner.records import AgentExit

MACHINE_RESTARTED = "machine_restarted"

CANCELLED = Outcome(TurnStatus.CANCELLED, stop_reason="cancelled")
STALE = Outcome(TurnStatus.INTERRUPTED, "another server took over the session", "stale_lease")
TOOK_TOO_LONG = Outcome(
    TurnStatus.FAILED, "the turn took longer than the server allows (TURN_TIMEOUT)", "turn_timeout"
)
SILENT = Outcome(
    TurnStatus.FAILED,
    "the agent said nothing for longer than the server allows (TURN_IDLE_TIMEOUT)",
    "turn_timeout",
)
STALLED = Outcome(
    TurnStatus.FAILED,
    "the agent came no further (AGENT_PATIENCE): its model does not answer, or it tries again without end",
    "agent_stalled",
)
INTERNAL_ERROR = Outcome(TurnStatus.FAILED, "internal error; see the server's log", "internal_error")


def dropped_event(turn_id: TurnId, message_id: str) -> bytes:
    """A prompt that was added to a turn, the user event with this uuid, is not going to be read."""
    return json.dumps(
        {"type": "prompt_dropped", "uuid": message_id, "taskId": turn_id, "reason": "stopped"}
    ).encode()


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


AFTER_GAP = 2
"""Events that follow it: `error` and `done`."""


def gap_of(turn: Turn) -> Seq:
    """The seq of the gap that a turn has ended with; 0: none."""
    is_gap = turn.outcome is not None and turn.outcome.error_code == MACHINE_RESTARTED
    return turn.last_seq - AFTER_GAP if is_gap and turn.last_seq else 0


def explain(ended: AgentExit, adapter: Adapter) -> Outcome:
    """The outcome of a turn whose process ended before the agent said how the turn did."""
    if ended.reason == "runner_lost":
        return Outcome(TurnStatus.INTERRUPTED, "the agent's runner was lost", "runner_lost")
    if ended.reason == MACHINE_RESTARTED:
        return Outcome(TurnStatus.INTERRUPTED, "the machine was restarted", MACHINE_RESTARTED)
    if ended.reason == "replaced":
        return Outcome(TurnStatus.INTERRUPTED, "another server has taken over the agent", "stale_lease")
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
    error = f"the agent ended in the middle of the turn ({how})"
    if words := last_words(ended.stderr_tail):
        error = f"{error}; it last said:\n{words}"
    return Outcome(TurnStatus.FAILED, error, "agent_exited")
