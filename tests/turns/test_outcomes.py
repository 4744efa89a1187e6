"""How turns end whose agent has not said how they did."""

from __future__ import annotations

import pytest

from agentsrv.agents.claude.adapter import ClaudeAdapter
from agentsrv.model import TurnStatus
from agentsrv.runner.records import AgentExit
from agentsrv.turns.outcomes import MACHINE_RESTARTED, explain

INTERRUPTED, FAILED = TurnStatus.INTERRUPTED, TurnStatus.FAILED

ENDS = {
    "exited": (FAILED, "agent_exited"),
    "exec_failed": (FAILED, "agent_exited"),
    "killed": (INTERRUPTED, "agent_interrupted"),
    "orphaned": (INTERRUPTED, "agent_interrupted"),
    "quota": (FAILED, "spool_quota_exceeded"),
    "runner_lost": (INTERRUPTED, "runner_lost"),
    "replaced": (INTERRUPTED, "stale_lease"),
    MACHINE_RESTARTED: (INTERRUPTED, MACHINE_RESTARTED),
}


@pytest.mark.parametrize("reason", ENDS)
def test_each_end_of_a_process_has_a_status_and_a_code(reason: str) -> None:
    """What was not the agent's fault is no failure of it."""
    outcome = explain(AgentExit(None, 9, reason), ClaudeAdapter(None, {}))

    assert (outcome.status, outcome.error_code) == ENDS[reason]
