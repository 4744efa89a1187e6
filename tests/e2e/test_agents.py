"""What a server tells about its agents, with the real programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.conftest import ServerMaker

EFFORTS = ["low", "medium", "high", "xhigh", "max"]
MODES = ["bypass", "accept_edits", "ask", "plan"]


def test_agents_tell_what_they_can_do(make_server: ServerMaker, real_claude: Path, real_codex: Path) -> None:
    """GET /agents: models, efforts and permission modes of both; who has credentials is usable, by name only."""
    server = make_server(CLAUDE_PATH=str(real_claude), CODEX_PATH=str(real_codex), OPENAI_API_KEY="a-secret")
    answer = server.ask("GET", "/agents").json
    agents: dict[str, dict[str, Any]] = {agent["name"]: agent for agent in answer["agents"]}
    claude, codex = agents["claude-code"], agents["codex"]

    for agent in (claude, codex):
        assert (agent["available"], agent["efforts"], agent["permissionModes"]) == (True, EFFORTS, MODES)
        assert agent["models"]
    assert (claude["usable"], claude["credentials"]) == (False, [])
    assert (codex["usable"], codex["credentials"]) == (True, ["OPENAI_API_KEY"])
    assert list(codex["modelEfforts"]) == codex["models"]
    assert all(set(efforts) <= set(EFFORTS) for efforts in codex["modelEfforts"].values())
    assert "a-secret" not in str(answer)
