"""Which agents are here."""

from __future__ import annotations

from msgspec import Struct


class AgentView(Struct, kw_only=True, rename="camel"):
    """What is installed, or in `problem` why it cannot be used. `credentials` are names.

    `usable`: available, and there are credentials. `modelEfforts` has the models whose agent tells.
    """

    name: str
    version: str | None
    path: str | None
    available: bool
    usable: bool
    problem: str | None
    credentials: list[str]
    models: list[str]
    efforts: list[str]
    model_efforts: dict[str, list[str]]
    permission_modes: list[str]
    options: list[str]


class AgentList(Struct, kw_only=True):
    agents: list[AgentView]
    count: int
    timestamp: str
