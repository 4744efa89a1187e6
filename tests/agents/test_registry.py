"""All agents of a server together."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import cast

import pytest

from agentsrv.agents import AgentRegistry
from agentsrv.agents.acp.table import agents_of
from agentsrv.agents.contract import Agent, AgentInfo
from agentsrv.errors import StartupError


class Slow:
    """An agent that answers when all are asked."""

    def __init__(self, name: str, everybody: asyncio.Barrier) -> None:
        self.name = name
        self.asked = 0
        self._everybody = everybody

    async def describe(self) -> AgentInfo:
        self.asked += 1
        await self._everybody.wait()
        return AgentInfo(self.name, available=True, login="", credentials=("KEY",))


async def test_agents_are_asked_at_the_same_time_and_not_again_at_once() -> None:
    """Three clients ask which agents are here: each program is started once, and none waits for another."""
    everybody = asyncio.Barrier(2)
    agents = [Slow("one", everybody), Slow("two", everybody)]
    registry = AgentRegistry(cast(list[Agent], agents))
    async with asyncio.timeout(10):
        answers = await asyncio.gather(*(registry.describe() for _ in range(3)))

    assert [[info.name for info in answer] for answer in answers] == [["one", "two"]] * 3
    assert [agent.asked for agent in agents] == [1, 1]


def test_pipe_in_place_of_the_file_of_agents_holds_up_no_start(tmp_path: Path) -> None:
    """Nobody may ever write into it."""
    os.mkfifo(tmp_path / "agents.toml")

    with pytest.raises(StartupError, match=r"AGENTS_FILE: .* not a file"):
        agents_of(tmp_path / "agents.toml")


def test_an_agent_without_credentials_is_not_usable() -> None:
    """It may be installed and still of no use."""
    infos = [
        AgentInfo("a", available=True, login="", credentials=("KEY",)),
        AgentInfo("b", available=True, login=""),
        AgentInfo("c", available=False, login="", credentials=("KEY",)),
    ]

    assert [True, False, False] == [info.is_usable for info in infos]
