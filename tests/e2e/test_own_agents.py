"""Agents that an operator has written down in AGENTS_FILE."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agentsrv.agents.acp.known import GEMINI
from agentsrv.agents.acp.table import agents_of
from agentsrv.errors import StartupError
from tests.conftest import ServerMaker
from tests.kit import ROOT

COMMAND = [sys.executable, "-I", "-S", str(ROOT / "tests/fakes/acp_agent.py")]
TABLE = f"""
[agents.my-agent]
command = {json.dumps(COMMAND)}
environment = {{ MY_AGENT_OFFLINE = "1" }}
pass = ["MY_AGENT_URL"]
credentials = ["MY_AGENT_KEY"]
modes = {{ ask = "careful", bypass = "yolo" }}
"""


def test_agent_of_my_own_works_without_code(make_server: ServerMaker, tmp_path: Path) -> None:
    """It is listed with what it can do, takes prompts in its modes, and sees what I pass on."""
    path = tmp_path / "agents.toml"
    path.write_text(TABLE)
    given = {"MY_AGENT_URL": "u", "MY_AGENT_KEY": "k", "MY_AGENT_OTHER": "not for it"}
    server = make_server(AGENTS_FILE=str(path), **given)
    jobs = [
        server.job(
            server.generate("hi", mode, agent="my-agent", permission_mode=mode).rest()[-1].json["taskId"]
        )
        for mode in ("ask", "bypass")
    ]
    refused = server.generate("hi", "s", agent="my-agent", permission_mode="plan").json
    agents = {agent["name"]: agent for agent in server.ask("GET", "/agents").json["agents"]}
    mine = agents["my-agent"]

    seen = json.dumps({"MY_AGENT_KEY": "k", "MY_AGENT_OFFLINE": "1", "MY_AGENT_URL": "u"})
    assert [job["result"] for job in jobs] == [f"hi careful {seen}", f"hi yolo {seen}"]
    assert (refused["code"], "plan" in str(refused)) == ("unsupported_option", False)
    assert (mine["usable"], mine["credentials"], mine["models"]) == (True, ["MY_AGENT_KEY"], ["m"])
    assert mine["permissionModes"] == ["ask", "bypass"]
    assert "gemini" not in agents


def test_login_is_that_of_the_agents_own_program(tmp_path: Path) -> None:
    """What `agents install` has put there, with what it needs to know of the environment."""
    program = tmp_path / "state" / "agents" / "gemini" / "bin" / "gemini"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\necho "logged in for $GOOGLE_CLOUD_PROJECT$API_KEY" > "$HOME/seen"\n')
    program.chmod(0o755)
    environment = {"HOME": str(tmp_path), "STATE_DIR": str(tmp_path / "state"), "PYTHONPATH": str(ROOT)}
    environment |= {"GOOGLE_CLOUD_PROJECT": "mine", "API_KEY": "x" * 32, "PATH": "/usr/bin:/bin"}
    command = (sys.executable, "-m", "agentsrv", "agents", "login", "gemini")
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (done.stdout, done.stderr) == ("Logged in.\n", "")
    assert (tmp_path / "seen").read_text() == "logged in for mine\n"


def test_entry_of_a_known_agent_changes_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "agents.toml"
    path.write_text('[agents.gemini]\ncommand = ["/opt/gemini", "--acp"]\n')
    found = {agent.name: agent for agent in agents_of(path)}["gemini"]

    assert found.command == ("/opt/gemini", "--acp")
    assert (found.modes, found.quirks, found.mcp) == (GEMINI.modes, GEMINI.quirks, GEMINI.mcp)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nonsense", "cannot be read"),
        ("[agents.a]\nsurprise = 1\ncommand = ['x']", "surprise"),
        ("[agents.codex]\ncommand = ['x']", "'codex' cannot be the name"),
        ("[agents.'A b']\ncommand = ['x']", "cannot be the name"),
        ("[agents.mine]\nlogin = 'x'", "mine needs a command"),
        ("[agents.gemini]\ncommand = []", "the command of gemini is empty"),
        ("[agents.a]\ncommand = ['x']\nquirks = ['odd']", "odd"),
        ("[agents.a]\ncommand = ['x']\nmodes = { root = 'x' }", "root"),
        ("[agents.a]\ncommand = ['x']\npass = ['API_KEY']", "must not get API_KEY"),
    ],
)
def test_mistake_in_the_file_is_told(tmp_path: Path, text: str, why: str) -> None:
    """The server does not start, and says which it is."""
    path = tmp_path / "agents.toml"
    path.write_text(text)

    with pytest.raises(StartupError, match=why):
        agents_of(path)
