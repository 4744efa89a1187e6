"""`agentsrv doctor`: what this machine offers the server, and what to do where it is not right."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from agentsrv.agents.base import AgentInfo
from agentsrv.app import make_agents
from agentsrv.config import Config
from agentsrv.errors import InvalidInput, StartupError
from agentsrv.model import PermissionMode, TurnOptions
from agentsrv.store.health import ping_redis
from agentsrv.store.migrate import status

GIT_TIMEOUT_S = 5.0


class State(StrEnum):
    OK = "ok"
    NOTE = "note"  # works, though something optional is not there
    WRONG = "WRONG"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table: what was looked at, how it is, and what to do about it."""

    subject: str
    state: State
    detail: str
    advice: str = ""

    @property
    def is_wrong(self) -> bool:
        return self.state is State.WRONG


def examine(environment: Mapping[str, str], config: Config) -> list[Finding]:
    """Look at everything. The key in `config` may be made up: whether there is a real one is a question."""
    checks: list[Callable[[Config], Iterator[Finding]]] = [
        workspace,
        database,
        redis,
        port,
        git,
        agent_programs,
        codex_sandbox,
    ]
    return [settings(environment), *(finding for check in checks for finding in check(config))]


def table(findings: list[Finding]) -> str:
    """Columns for a terminal; advice stands under its line."""
    width = max(len(finding.subject) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.state:5}  {finding.subject:{width}}  {finding.detail}")
        if finding.advice:
            lines.append(f"{'':5}  {'':{width}}  -> {finding.advice}")
    return "\n".join(lines)


def settings(environment: Mapping[str, str]) -> Finding:
    try:
        warnings = Config.from_env(environment).warnings()
    except StartupError as exc:
        return Finding("settings", State.WRONG, str(exc))
    if warnings:
        return Finding("settings", State.NOTE, "; ".join(warnings), "make a longer one with `agentsrv token`")
    return Finding("settings", State.OK, "valid, API key set")


def workspace(config: Config) -> Iterator[Finding]:
    yield writable_directory("workspace", config.workspace_base, "WORKSPACE_BASE_PATH")
    yield writable_directory("state", config.state_dir, "STATE_DIR")


def writable_directory(subject: str, path: Path, variable: str) -> Finding:
    """`path`, or the nearest directory above it that exists: the rest is made at the start."""
    existing = next((place for place in (path, *path.parents) if place.exists()), path)
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        missing = "" if existing == path else " (will be made)"
        return Finding(subject, State.OK, f"{path}{missing}")
    advice = f"make it one, or set {variable} to another"
    return Finding(subject, State.WRONG, f"{existing} is not a writable directory", advice)


def database(config: Config) -> Iterator[Finding]:
    try:
        found = status(config.database_path)
    except StartupError as exc:
        yield Finding("database", State.WRONG, str(exc))
        return
    path = config.database_path
    if found.unknown:
        advice = "start the newer version, or set DATABASE_PATH to another file"
        yield Finding("database", State.WRONG, f"{path} was written by a newer version", advice)
    elif not path.exists():
        yield Finding("database", State.OK, f"{path} (will be made)")
    else:
        behind = f", {len(found.pending)} migrations to apply at the next start" if found.pending else ""
        yield Finding("database", State.OK, f"{path}{behind}")


def redis(config: Config) -> Iterator[Finding]:
    if config.redis_url is None:
        yield Finding("redis", State.OK, "not configured, not needed by a single server")
    elif asyncio.run(ping_redis(config.redis_url)):
        yield Finding("redis", State.OK, "answers")
    else:
        yield Finding("redis", State.WRONG, "does not answer", "start it, or unset REDIS_URL")


def port(config: Config) -> Iterator[Finding]:
    where = f"{config.host}:{config.port}"
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, config.port))
        except OSError as exc:
            advice = "if that is not a server of yours, set PORT to another"
            yield Finding("port", State.NOTE, f"{where}: {exc.strerror}", advice)
        else:
            yield Finding("port", State.OK, f"{where} is free")


def git(config: Config) -> Iterator[Finding]:
    program = shutil.which("git", path=config.environment.get("PATH"))
    if program is None:
        yield Finding("git", State.NOTE, "not found", "install git: agents use it in repositories")
        return
    try:
        answer = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=GIT_TIMEOUT_S, env={}, check=True
        )
    except (OSError, subprocess.SubprocessError) as exc:
        yield Finding("git", State.NOTE, f"{program} does not run: {exc}", "reinstall git")
    else:
        yield Finding("git", State.OK, f"{answer.stdout.strip().removeprefix('git version ')}, {program}")


def agent_programs(config: Config) -> Iterator[Finding]:
    """One agent is enough, unless the settings name another one that is not there."""
    agents = asyncio.run(make_agents(config).describe())
    for agent in agents:
        if agent.available:
            yield Finding(agent.name, State.OK, f"{agent.version}, {agent.path}")
            yield login(agent)
        else:
            is_needed = agent.is_wanted or not any(other.available for other in agents)
            state = State.WRONG if is_needed else State.NOTE
            yield Finding(agent.name, state, agent.problem or "not available")


def login(agent: AgentInfo) -> Finding:
    subject = f"{agent.name} login"
    if agent.credentials:
        return Finding(subject, State.OK, ", ".join(agent.credentials))
    return Finding(subject, State.NOTE, "no credentials found", agent.login)


def codex_sandbox(config: Config) -> Iterator[Finding]:
    """Try it in a home that is gone afterwards: nothing is left behind that the server could not write to."""
    if make_agents(config).get("codex").find() is None:
        return
    with tempfile.TemporaryDirectory(prefix="agentsrv-doctor-") as home:
        environment = {**config.environment, "CODEX_HOME": home}
        codex = make_agents(replace(config, environment=environment)).get("codex")
        try:
            asyncio.run(codex.check(TurnOptions(permission_mode=PermissionMode.ASK)))
        except InvalidInput as exc:
            is_default = config.default_permission_mode is not PermissionMode.BYPASS
            state = State.WRONG if is_default else State.NOTE
            advice = "see docs/operations.md, User namespaces"
            yield Finding("codex sandbox", state, exc.problems[0].message, advice)
        else:
            yield Finding("codex sandbox", State.OK, "commands can be confined")
