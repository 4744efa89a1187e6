"""Adapters: one package per agent command line, which alone knows its options and what its lines mean.

An `Agent` is what is known without a process (how to find it, how to shape a user message); an `Adapter` is
one live process, as its bytes tell: pure, bytes in, `Effect`s out. `turns` owns all the I/O. A new agent is
one package here, one line in `app.py`, and transcripts for its tests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from agentsrv.agents.contract import Agent, AgentInfo, Check
from agentsrv.errors import InvalidInput, Problem
from agentsrv.model import DEFAULT_MODEL

__all__ = ["AgentRegistry"]


DESCRIBED_FOR_S = 10.0


class AgentRegistry:
    """The agents that this server can run, by name."""

    def __init__(self, agents: Iterable[Agent]) -> None:
        self._agents = {agent.name: agent for agent in agents}
        self._describing = asyncio.Lock()
        self._described: Sequence[AgentInfo] = ()
        self._described_at = 0.0
        self._known: dict[str, AgentInfo] = {}

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

    def chosen_model(self, name: str | None) -> str | None:
        """The model that was asked for; an agent's name in its place means the agent's own default."""
        return None if name in self._agents else name

    def prompted_model(self, name: str | None) -> str | None:
        """The same of a prompt, where None leaves it to the session: the default has a name then."""
        return DEFAULT_MODEL if name in self._agents else name

    async def describe(self) -> Sequence[AgentInfo]:
        """What is installed, as of at most DESCRIBED_FOR_S ago. It takes programs to find out, all at once."""
        async with self._describing:
            now = asyncio.get_running_loop().time()
            if not self._described or now - self._described_at > DESCRIBED_FOR_S:
                found = await asyncio.gather(*(agent.describe() for agent in self._agents.values()))
                self._described = [info for info in found if info.is_listed]
                self._known = {info.name: info for info in found}
                self._described_at = now
            return self._described

    async def known(self, name: str) -> AgentInfo:
        """What was last found out about one of them, whenever that was. Raises InvalidInput."""
        if name not in self._known:
            self._known[name] = await self.get(name).describe()
        return self._known[name]

    async def diagnose(self) -> list[Check]:
        """What `agentsrv doctor` should know besides."""
        return [check for agent in self._agents.values() for check in await agent.diagnose()]
