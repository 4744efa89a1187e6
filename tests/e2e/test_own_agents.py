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
from tests.kit import ROOT, Server, wait_until

COMMAND = [sys.executable, "-I", "-S", str(ROOT / "tests/fakes/acp_agent.py")]
TABLE = f"""
[agents.my-agent]
command = {json.dumps(COMMAND)}
environment = {{ MY_AGENT_OFFLINE = "1" }}
pass = ["MY_AGENT_URL"]
credentials = ["MY_AGENT_KEY"]
modes = {{ ask = "careful", bypass = "yolo" }}
reads_repositories = false
"""


@pytest.mark.at_home("agents are those of the server that is asked")
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


@pytest.fixture
def reader(make_server: ServerMaker, tmp_path: Path) -> Server:
    """Of whose agent nobody says that it reads nothing in a repository."""
    path = tmp_path / "agents.toml"
    path.write_text(TABLE.replace("reads_repositories = false", ""))
    return make_server(AGENTS_FILE=str(path), DEFAULT_PERMISSION_MODE="ask")


def test_agent_of_my_own_is_not_let_into_what_nobody_trusts(reader: Server) -> None:
    """What runs there before it asks is not known: in a mode that asks it is refused, and told why."""
    refused = [
        reader.generate("hi", "a", agent="my-agent").json,
        reader.ask("POST", "/sessions", {"agent": "my-agent", "permission_mode": "ask"}).json,
        reader.ask("POST", "/sessions", {"agent": "my-agent", "trust_repository": False}).json,
    ]

    assert [answer["code"] for answer in refused] == ["unsupported_option"] * 3
    assert all("trust_repository" in answer["error"] for answer in refused)


def test_agent_of_my_own_asks_in_a_repository_that_i_trust(reader: Server) -> None:
    """Said with the session, whether its mode comes with the prompt, the session or the server."""
    place = {"agent": "my-agent", "trust_repository": True}
    made = reader.ask("POST", "/sessions", place | {"sessionId": "b", "permission_mode": "ask"}).status
    changed = reader.ask("PUT", "/sessions/b", {"permission_mode": "ask"}).status
    done = reader.generate("hi", "b").rest()[-1].json

    assert (made, changed, done["status"]) == (201, 200, "completed")


def test_agent_is_not_started_ahead_where_it_would_be_refused(reader: Server) -> None:
    """A warm process would have read what the prompt is refused for."""
    body = {"agent": "my-agent", "warm": True}
    for number, trust in enumerate((None, True)):
        reader.ask("POST", "/sessions", body | {"sessionId": f"s{number}", "trust_repository": trust}).body()
    wait_until(reader.agents, what="the one of the trusted session")

    assert len(reader.agents()) == 1


@pytest.mark.at_home("agents are those of the server that is asked")
def test_nothing_is_installed_unasked(make_server: ServerMaker, tmp_path: Path) -> None:
    """Neither a start, nor a look at what there is, nor a prompt for an agent that is not there asks npm or PyPI."""
    programs, asked = tmp_path / "programs", tmp_path / "asked"
    programs.mkdir()
    for name in ("npm", "npx", "node", "pip", "uv", "python3"):
        (programs / name).write_text(f"#!/bin/sh\necho {name} >> {asked}\n")
        (programs / name).chmod(0o755)
    server = make_server(PATH=f"{programs}:/usr/bin:/bin")
    listed = server.ask("GET", "/agents").json["agents"]
    refused = server.generate("hi", agent="gemini")

    assert "gemini" not in [agent["name"] for agent in listed if agent.get("usable")]
    assert refused.status in {400, 503}, refused.json
    assert "agents install gemini" in str(refused.json)
    assert not asked.exists(), asked.read_text()


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
