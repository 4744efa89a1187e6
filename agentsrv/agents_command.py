"""`agentsrv agents install | login NAME`: programs of agents that do not come with the server, and logins of all."""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Mapping
from pathlib import Path

from agentsrv.agents.acp.agent import AcpAgent
from agentsrv.agents.acp.install import install
from agentsrv.agents.acp.known import KnownAgent
from agentsrv.agents.acp.table import agents_of
from agentsrv.agents.claude.agent import ClaudeCode
from agentsrv.agents.codex.agent import Codex
from agentsrv.config import Config
from agentsrv.errors import StartupError
from agentsrv.programs import child_environment
from agentsrv.threads import Threads
from agentsrv.users import acting_as

BUNDLED: dict[str, tuple[type[ClaudeCode] | type[Codex], tuple[str, ...]]] = {
    "claude": (ClaudeCode, ("auth", "login")),
    "claude-code": (ClaudeCode, ("auth", "login")),
    "codex": (Codex, ("login",)),
}
"""Agents that come with the server, and what their own programs call a login."""


def run(arguments: argparse.Namespace, config: Config) -> str:
    """What to print. Raises StartupError, one line."""
    if arguments.name in BUNDLED:
        return _bundled(arguments, config)
    known = _known(arguments.name, config)
    agent = AcpAgent(known, config, Threads(config.agent_user).programs)
    if arguments.action == "install":
        version = install(known, agent.home, config.environment, arguments.python)
        return f"{known.name} {version} is in {agent.home}; {known.login}"
    return _log_in(known, agent, config)


def _known(name: str, config: Config) -> KnownAgent:
    table = {known.name: known for known in agents_of(config.agents_file)}
    if name not in table:
        raise StartupError(f"{name} is none of {', '.join([*BUNDLED, *table])}")
    return table[name]


def _bundled(arguments: argparse.Namespace, config: Config) -> str:
    kind, words = BUNDLED[arguments.name]
    if arguments.action == "install":
        raise StartupError(f"{arguments.name} comes with the server: `make run` has installed it")
    agent = kind(config, Threads(config.agent_user).programs)
    environment = agent.environment()
    if home := environment.get("CODEX_HOME"):  # which it does not make itself
        with acting_as(config.agent_user):
            Path(home).mkdir(mode=0o700, parents=True, exist_ok=True)
    return _run_login(str(agent.program()), *words, environment=environment, config=config)


def _log_in(known: KnownAgent, agent: AcpAgent, config: Config) -> str:
    """Run the agent's own program for that."""
    program = agent.find()
    if program is None or not known.login_command:
        raise StartupError(f"{known.name}: {known.login if program else 'it is not installed'}")
    command = program.with_name(known.login_command[0])
    environment = (
        child_environment(config.environment, (*known.passed, *config.agent_env)) | known.environment
    )
    return _run_login(str(command), *known.login_command[1:], environment=environment, config=config)


def _run_login(program: str, *words: str, environment: Mapping[str, str], config: Config) -> str:
    """On this terminal, as the user that agents run as."""
    user = {} if config.agent_user is None else config.agent_user.popen()
    done = subprocess.run((program, *words), env=environment, check=False, **user)
    if done.returncode:
        raise StartupError(f"{Path(program).name} {' '.join(words)} ended with exit code {done.returncode}")
    return "Logged in."
