"""The command line: `agentsrv serve | attach | migrate | doctor | token`. The only reader of `os.environ`.

Exit codes: 0; 1 when `doctor` found something wrong; 2 for a wrong command line; 78 (EX_CONFIG) when it
cannot start, with one line on stderr that says why.
"""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import sys
from dataclasses import replace
from pathlib import Path

from agentsrv import __version__, dotenv
from agentsrv.config import OWN_SECRETS, PLACEHOLDER_KEY, Config
from agentsrv.errors import StartupError

EX_CONFIG = 78

# What a command needs is imported when it runs: `--version` and `token` do not wait for the HTTP stack.


def main() -> None:
    arguments = command_line().parse_args()
    try:
        sys.exit(arguments.run(arguments))
    except StartupError as exc:
        print(f"agentsrv: {' '.join(str(exc).split())}", file=sys.stderr)
        sys.exit(EX_CONFIG)
    except KeyboardInterrupt:
        sys.exit(130)


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="agentsrv", description="Coding-agent command lines as a durable HTTP service."
    )
    parser.add_argument("--version", action="version", version=f"agentsrv {__version__}")
    parser.add_argument(
        "--env-file",
        type=Path,
        default=Path(".env"),
        metavar="FILE",
        help="settings that the environment does not give (default: .env)",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("serve", help="start the server")
    command.add_argument("--init", action="store_true", help="make an API key first when there is none")
    command.set_defaults(run=serve_command)

    command = commands.add_parser("attach", help="show a terminal of a server in this one")
    command.add_argument("--url", help="the server (default: the one that HOST and PORT name)")
    command.add_argument("--key", help="the API key (default: API_KEY, which `ps` does not show)")
    command.add_argument("--terminal", metavar="ID", help="which one (default: a new one)")
    command.add_argument("--cwd", metavar="DIR", help="where a new one begins, in the server's workspace")
    command.add_argument("--read-only", action="store_true", help="only watch")
    command.add_argument(
        "--detach-key", type=control_key, default="^]", metavar="KEY", help="leaves (default: ^], Ctrl-])"
    )
    command.set_defaults(run=attach_command)

    command = commands.add_parser("migrate", help="bring the database up to date (serve does it by itself)")
    command.add_argument("--status", action="store_true", help="only say which migrations are applied")
    command.set_defaults(run=migrate_command)

    command = commands.add_parser("doctor", help="check this machine and say what to do")
    command.set_defaults(run=doctor_command)

    command = commands.add_parser("token", help="print a new API key")
    command.add_argument("--write", action="store_true", help="also keep it in the env file")
    command.set_defaults(run=token_command)
    return parser


def serve_command(arguments: argparse.Namespace) -> int:
    environment = read_environment(arguments.env_file)
    new_key = make_missing_key(environment, arguments.env_file) if arguments.init else None
    config = replace(Config.from_env(environment), env_file=arguments.env_file.absolute())
    forget_secrets()

    from agentsrv import logs

    logs.set_up(config.log_level, config.log_format)
    for warning in config.warnings():
        logging.getLogger("agentsrv").warning(warning)

    from agentsrv.serve import serve

    def on_ready(url: str) -> None:
        print(f"agentsrv listening on {url}", flush=True)
        if new_key:
            print(first_steps(url, new_key, arguments.env_file), flush=True)

    serve(config, on_ready)
    return 0


def attach_command(arguments: argparse.Namespace) -> int:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise StartupError("attach needs a terminal; stdin or stdout is none")
    environment = read_environment(arguments.env_file)
    config = config_without_key(environment)
    key = arguments.key or environment.get("API_KEY", "").split(",")[0].strip()
    if is_missing(key):
        raise StartupError("there is no API key: set API_KEY, or give --key")

    from agentsrv.attach import Target, attach

    target = Target(
        url=(arguments.url or local_url(config)).rstrip("/"),
        key=key,
        terminal_id=arguments.terminal or f"attach-{secrets.token_hex(4)}",
        cwd=arguments.cwd,
        is_read_only=arguments.read_only,
    )
    left = attach(target, detach_key=arguments.detach_key)
    if left.message:
        print(f"agentsrv: {left.message}", file=sys.stderr)
    return left.code


def local_url(config: Config) -> str:
    host = f"[{config.host}]" if ":" in config.host else config.host
    return f"http://{host}:{config.port}"


def control_key(text: str) -> int:
    """`^]` is 29."""
    code = ord(text[1].upper()) - 64 if len(text) == 2 and text[0] == "^" else -1
    if not 0 < code < 32:
        raise argparse.ArgumentTypeError("must be a control key, such as ^] or ^O")
    return code


def migrate_command(arguments: argparse.Namespace) -> int:
    from agentsrv.store import migrate as migrations

    path = config_without_key(read_environment(arguments.env_file)).database_path
    if not arguments.status:
        migrations.migrate(path)
    status = migrations.status(path)
    for state in ("applied", "pending", "unknown"):
        for name in getattr(status, state):
            print(f"{state:8} {name}")
    return 0


def doctor_command(arguments: argparse.Namespace) -> int:
    from agentsrv.doctor import examine, table

    environment = read_environment(arguments.env_file)
    findings = examine(environment, config_without_key(environment))
    print(table(findings))
    return 1 if any(finding.is_wrong for finding in findings) else 0


def token_command(arguments: argparse.Namespace) -> int:
    if arguments.write:
        file: Path = arguments.env_file
        if not is_missing(dotenv.load(file).get("API_KEY", "")):
            raise StartupError(f"{file} holds an API_KEY already: take it out first")
        key = new_key_in(file)
    else:
        key = new_key()
    print(key)
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


def first_steps(url: str, key: str, env_file: Path) -> str:
    url = url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    return f"""
A new API key was made and is kept in {env_file} (readable by you alone):

  {key}

Try it from another terminal:

  curl -N {url}/generate/v2 -H "Authorization: Bearer {key}" -H "Content-Type: application/json" \
-d '{{"session_id": "hello", "prompt": "Which files are here?"}}'
"""


if __name__ == "__main__":
    main()
