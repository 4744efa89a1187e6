"""`agentsrv doctor`: what this machine offers the server, and what to do where it is not right."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from agentsrv.agents.contract import AgentInfo
from agentsrv.config import Config
from agentsrv.errors import StartupError
from agentsrv.fleet.connect import ping
from agentsrv.services import make_agents
from agentsrv.store.migrate import status
from agentsrv.threads import Threads
from agentsrv.users import User, acting_as, missing_rights, require_rights

GIT_TIMEOUT_S = 5.0
ROOM_BYTES = 2**20
"""With less than this a new database cannot be made."""


class State(StrEnum):
    OK = "ok"
    NOTE = "note"  # works, though something optional is not there
    WRONG = "WRONG"


class Finding(Struct, frozen=True):
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
        agent_user,
        workspace,
        database,
        redis,
        port,
        git,
        agent_programs,
        agent_checks,
    ]
    return [*settings(environment), *(finding for check in checks for finding in check(config))]


def table(findings: list[Finding]) -> str:
    """Columns for a terminal; advice stands under its line."""
    width = max(len(finding.subject) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.state:5}  {finding.subject:{width}}  {finding.detail}")
        if finding.advice:
            lines.append(f"{'':5}  {'':{width}}  -> {finding.advice}")
    return "\n".join(lines)


def settings(environment: Mapping[str, str]) -> Iterator[Finding]:
    try:
        config = Config.from_env(environment)
        make_agents(config, Threads(usable_user(config)))
    except StartupError as exc:
        yield Finding("settings", State.WRONG, str(exc))
        return
    yield Finding("settings", State.OK, "valid, API key set")
    for warning in config.warnings():
        yield Finding("settings", State.NOTE, warning)


def agent_user(config: Config) -> Iterator[Finding]:
    if (user := config.agent_user) is None:
        return
    try:
        require_rights(user)
    except StartupError as exc:
        yield Finding("agent user", State.WRONG, str(exc))
        return
    with acting_as(user):
        found = writable_directory("agent user", Path(config.environment.get("HOME", "/")), "AGENT_USER")
    detail = f"{user.name}, at home in {found.detail}"
    yield replace(found, detail=detail if found.state is State.OK else f"{user.name}: {found.detail}")


def usable_user(config: Config) -> User | None:
    """AGENT_USER, when this process may become that user."""
    return None if missing_rights() else config.agent_user


def workspace(config: Config) -> Iterator[Finding]:
    with acting_as(usable_user(config)):
        yield writable_directory("workspace", config.workspace_base, "WORKSPACE_BASE_PATH")
    yield writable_directory("state", config.state_dir, "STATE_DIR")


def writable_directory(subject: str, path: Path, variable: str) -> Finding:
    """`path`, or the nearest directory above it that exists: the rest is made at the start."""
    existing = next((place for place in (path, *path.parents) if os.path.exists(place)), path)
    if not os.path.isdir(existing) or not os.access(existing, os.W_OK | os.X_OK, effective_ids=True):
        advice = f"make it one, or set {variable} to another"
        return Finding(subject, State.WRONG, f"{existing} is not a writable directory", advice)
    if is_full(existing):
        advice = f"free some space, or set {variable} to another"
        return Finding(subject, State.WRONG, f"the disk that holds {existing} is full", advice)
    missing = "" if existing == path else " (will be made)"
    return Finding(subject, State.OK, f"{path}{missing}")


def is_full(path: Path) -> bool:
    """Some file systems do not tell how large they are."""
    found = os.statvfs(path)
    return found.f_blocks > 0 and found.f_bavail * found.f_frsize < ROOM_BYTES


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
    elif asyncio.run(ping(config.redis_url)):
        yield Finding("redis", State.OK, "answers")
    else:
        yield Finding("redis", State.WRONG, "does not answer", "start it, or unset REDIS_URL")


def port(config: Config) -> Iterator[Finding]:
    if config.host.startswith("unix:"):
        return  # `serve` makes it, in place of one that nobody listens on
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
    agents = asyncio.run(make_agents(config, Threads(usable_user(config))).describe())
    for agent in agents:
        if agent.available:
            yield Finding(agent.name, State.OK, f"{agent.version}, {agent.path}")
            yield login(agent)
        else:
            is_needed = agent.is_wanted or not any(other.available for other in agents)
            state = State.WRONG if is_needed else State.NOTE
            yield Finding(agent.name, state, agent.problem or "not available")


def agents_without_login(config: Config) -> list[AgentInfo]:
    """Those that are installed, and can do nothing."""
    agents = asyncio.run(make_agents(config, Threads(usable_user(config))).describe())
    return [agent for agent in agents if agent.available and not agent.credentials]


def login(agent: AgentInfo) -> Finding:
    subject = f"{agent.name} login"
    if agent.credentials:
        return Finding(subject, State.OK, ", ".join(agent.credentials))
    return Finding(subject, State.NOTE, "no credentials found", agent.login)


def agent_checks(config: Config) -> Iterator[Finding]:
    for check in asyncio.run(make_agents(config, Threads(usable_user(config))).diagnose()):
        trouble = State.WRONG if check.is_needed else State.NOTE
        yield Finding(check.subject, State.OK if check.is_well else trouble, check.detail, check.advice)
