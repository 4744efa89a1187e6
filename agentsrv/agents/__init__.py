"""Adapters: one file per agent command line, which alone knows its options and what its lines mean.

An `Agent` is what is known without a process (how to find it, how to shape a user message); an `Adapter` is
one live process, as its bytes tell: pure, bytes in, `Effect`s out. `turns` owns all the I/O. A new agent is
one file here, one line in `app.py`, and transcripts for its tests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from agentsrv.agents.base import Agent, AgentInfo
from agentsrv.errors import InvalidInput, Problem

__all__ = ["AgentRegistry"]


DESCRIBED_FOR_S = 10.0


class AgentRegistry:
    """The agents that this server can run, by name."""

    def __init__(self, agents: Iterable[Agent]) -> None:
        self._agents = {agent.name: agent for agent in agents}
        self._describing = asyncio.Lock()
        self._described: Sequence[AgentInfo] = ()
        self._described_at = 0.0

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

    async def describe(self) -> Sequence[AgentInfo]:
        """What is installed, as of at most DESCRIBED_FOR_S ago. It takes programs to find out, all at once."""
        async with self._describing:
            now = asyncio.get_running_loop().time()
            if not self._described or now - self._described_at > DESCRIBED_FOR_S:
                self._described = await asyncio.gather(*(agent.describe() for agent in self._agents.values()))
                self._described_at = now
            return self._described
