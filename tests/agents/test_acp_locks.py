"""What is pinned of agents that speak ACP has programs for both machines that agents run on, or says for which."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from agentsrv.agents.acp.install import LOCKS, install
from agentsrv.agents.acp.known import GOOSE, KNOWN, KnownAgent
from agentsrv.errors import StartupError

X64_ALONE = frozenset({"node_modules/@teddyzhu/clipboard-linux-x64-gnu"})
"""The clipboard of a desktop, which servers have not."""

FROM_NPM = [agent for agent in KNOWN if agent.package is not None and agent.package.source == "npm"]


@pytest.mark.parametrize("agent", FROM_NPM, ids=lambda agent: agent.name)
def test_programs_for_both_machines(agent: KnownAgent) -> None:
    """Each package for x64 has one for arm64 beside it in the lock, which npm takes in its place."""
    packages = json.loads((LOCKS / agent.name / "package-lock.json").read_text())["packages"]
    for_x64 = {name for name, each in packages.items() if each.get("cpu") in ("x64", ["x64"])} - X64_ALONE
    missing = {name for name in for_x64 if name.replace("x64", "arm64") not in packages}

    assert agent.package is not None
    assert bool(missing) is (agent.package.machine == "x86_64"), missing


def test_agent_that_is_pinned_for_another_machine(tmp_path: Path) -> None:
    """It is refused before anything is fetched or removed."""
    assert GOOSE.package is not None
    elsewhere = replace(GOOSE, package=replace(GOOSE.package, machine="pdp11"))

    with pytest.raises(StartupError, match="goose is pinned for pdp11 alone"):
        install(elsewhere, tmp_path / "goose", {})
    assert not (tmp_path / "goose").exists()
