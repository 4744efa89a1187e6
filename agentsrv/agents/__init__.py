"""Adapters: one file per agent command line, which alone knows its options and what its lines mean.

An `Agent` is what is known without a process (how to find it, how to shape a user message); an `Adapter` is
one live process, as its bytes tell: pure, bytes in, `Effect`s out. `turns` owns all the I/O. A new agent is
one file here, one line in `app.py`, and transcripts for its tests.
"""

from __future__ import annotations

from collections.abc import Iterable

from agentsrv.agents.base import Agent, AgentInfo
from agentsrv.errors import InvalidInput, Problem

__all__ = ["AgentRegistry"]


class AgentRegistry:
    """The agents that this server can run, by name."""

    def __init__(self, agents: Iterable[Agent]) -> None:
        self._agents = {agent.name: agent for agent in agents}

    def names(self) -> list[str]:
        return list(self._agents)

    def get(self, name: str) -> Agent:
        """Raises InvalidInput (`unsupported_option`)."""
        try:
            return self._agents[name]
        except KeyError:
            message = f"must be one of: {', '.join(self._agents)}"
            raise InvalidInput(
                f"agent: {message}", code="unsupported_option", problems=[Problem("agent", message)]
            ) from None

    async def describe(self) -> list[AgentInfo]:
        return [await agent.describe() for agent in self._agents.values()]
