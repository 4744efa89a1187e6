"""What whoever runs the server types: `agentsrv serve | migrate | doctor | token | keys | agents | fleet`."""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import shlex
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from agentsrv import dotenv, linux
from agentsrv.config import OWN_SECRETS, PLACEHOLDER_KEY, Config
from agentsrv.errors import StartupError

if TYPE_CHECKING:
    from agentsrv.agents.contract import AgentInfo

# What a command needs is imported when it runs: `token` does not wait for the HTTP stack.


def serve(arguments: argparse.Namespace) -> int:
    environment = read_environment(arguments.env_file)
    new_key = make_missing_key(environment, arguments.env_file) if arguments.init else None
    config = replace(Config.from_env(environment), env_file=arguments.env_file.absolute())
    forget_secrets()
    linux.keep_privileges()

    from agentsrv import logs

    logs.set_up(config.log_level, config.log_format)
    for warning in config.warnings(at_start=True):
        logging.getLogger("agentsrv").warning(warning)

    from agentsrv import serve as server
    from agentsrv.doctor import agents_without_login

    without_login = agents_without_login(config) if arguments.init else []

    def on_ready(url: str) -> None:
        told = f"agentsrv listening on {url}\n"
        if arguments.init and dotenv.load(arguments.env_file).get("API_KEY") == environment["API_KEY"]:
            told += f"{first_steps(url, new_key, arguments.env_file, without_login)}\n"
        with suppress(BrokenPipeError):  # a server works also where nobody reads this
            print(told, end="", flush=True)

    return server.serve(config, on_ready)


def migrate(arguments: argparse.Namespace) -> int:
    from agentsrv.store import migrate as migrations

    path = config_without_key(read_environment(arguments.env_file)).database_path
    if not arguments.status:
        migrations.migrate(path)
    if arguments.compact:
        migrations.compact(path)
    status = migrations.status(path)
    for state in ("applied", "pending", "unknown"):
        for name in getattr(status, state):
            print(f"{state:8} {name}")
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    from agentsrv.doctor import examine, table

    environment = read_environment(arguments.env_file)
    findings = examine(environment, config_without_key(environment))
    print(table(findings))
    return 1 if any(finding.is_wrong for finding in findings) else 0


def token(arguments: argparse.Namespace) -> int:
    if arguments.write:
        file: Path = arguments.env_file
        if not is_missing(dotenv.load(file).get("API_KEY", "")):
            raise StartupError(f"{file} holds an API_KEY already: take it out first")
        key = new_key_in(file)
    else:
        key = new_key()
    print(key)
    return 0


def keys(arguments: argparse.Namespace) -> int:
    from agentsrv import keys_command

    print(keys_command.run(arguments, config_without_key(read_environment(arguments.env_file))))
    return 0


def agents(arguments: argparse.Namespace) -> int:
    from agentsrv import agents_command

    print(agents_command.run(arguments, config_without_key(read_environment(arguments.env_file))))
    return 0


def fleet(arguments: argparse.Namespace) -> int:
    from agentsrv import fleet_command

    print(fleet_command.run(arguments, config_without_key(read_environment(arguments.env_file))))
    return 0


def read_environment(env_file: Path) -> dict[str, str]:
    """The process's variables over those of the env file. A blank variable counts as not set."""
    environment = dotenv.load(env_file)
    environment.update((name, value) for name, value in os.environ.items() if value.strip())
    return environment


def forget_secrets() -> None:
    """The configuration has them now: no child process shall inherit them, and nobody read them in /proc."""
    from agentsrv import hardening

    for name in OWN_SECRETS:
        os.environ.pop(name, None)
    hardening.hide_secrets()


def config_without_key(environment: dict[str, str]) -> Config:
    """For commands that nobody calls over the network."""
    return Config.from_env({**environment, "API_KEY": new_key()})


def make_missing_key(environment: dict[str, str], env_file: Path) -> str | None:
    """Put a new API key into the file and into `environment` when there is none; returns it."""
    if not is_missing(environment.get("API_KEY", "")):
        return None
    environment["API_KEY"] = new_key_in(env_file)
    return environment["API_KEY"]


def is_missing(key: str) -> bool:
    return key.strip() in ("", PLACEHOLDER_KEY)


def new_key() -> str:
    return secrets.token_urlsafe(32)


def new_key_in(env_file: Path) -> str:
    key = new_key()
    try:
        dotenv.store(env_file, "API_KEY", key)
    except OSError as exc:
        raise StartupError(f"cannot keep the new API key in {env_file}: {exc.strerror}") from exc
    return key


def first_steps(url: str, key: str | None, env_file: Path, without_login: Sequence[AgentInfo]) -> str:
    """What to do next. The key is shown when it is new: later, only where it is."""
    url = url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    kept = f"kept in {env_file} (readable by you alone)"
    named = f"The API key is {kept}." if key is None else f"A new API key was made and is {kept}:\n\n  {key}"
    shown = key or f"$(sed -n 's/^API_KEY=//p' {env_file})"
    missing = "".join(f"\n{agent.name} has no credentials: {agent.login}." for agent in without_login)
    needed = "".join(f"  {line}\n" for line in to_be_told(url, shown, env_file))
    return f"""
{named}
{missing}
Try it from another terminal, in this directory:

{needed}  agentsrv run "Which files are here?"

or with nothing but curl:

  curl -N {url}/generate/v2 -H "Authorization: Bearer {shown}" -H "Content-Type: application/json" \
-d '{{"session_id": "hello", "prompt": "Which files are here?"}}'

In a browser: {url}/console/ shows everything, {url}/docs the HTTP API.
"""


def to_be_told(url: str, key: str, env_file: Path) -> list[str]:
    """What another shell has to know first, as far as it does not: where the command is, and this server."""
    from agentsrv.client.servers import ConfigurationError, find_server

    lines = []
    program = Path(sys.argv[0]).absolute()
    if program.name == "agentsrv" and shutil.which("agentsrv") is None:
        lines.append(f"export PATH={shlex.quote(str(program.parent))}:$PATH")
    others = {name: value for name, value in os.environ.items() if name not in ("HOST", "PORT")}
    with suppress(ConfigurationError):
        if find_server(env_file=env_file, environment=others).url != url:
            lines.append(f'export AGENTSRV_URL={shlex.quote(url)} AGENTSRV_API_KEY="{key}"')
    return lines
