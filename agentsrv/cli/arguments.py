"""What may be typed: every command with its options. Nothing but the standard library is imported for it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NoReturn

from agentsrv import __version__

EPILOG = (
    "exit codes: 0 completed; 1 the job failed; 2 wrong command line; 3 a question waits; 4 cancelled or interrupted; "
    "5 the server refused; 69 server away; 77 key refused; 78 no configuration; 124 --timeout; 130 Ctrl-C; 143 SIGTERM"
)


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Who wants objects gets one for this mistake, too."""
        if not {"--json", "--jsonl"} & set(sys.argv):
            super().error(message)
        self.exit(2, json.dumps({"error": message, "code": "usage"}) + "\n")


class Commands:
    """Adds commands to a parser. `home` is the module of a command, `function` what is called there."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        self, name: str, help: str | None, *, home: str, function: str, **defaults: Any
    ) -> argparse.ArgumentParser:
        """Without `help` it is not in the list of commands: programs use it."""
        shown: dict[str, Any] = {} if help is None else {"help": help}
        command = self._commands.add_parser(name, description=help, **shown)
        command.set_defaults(home=home, function=function, **defaults)
        return command

    def of_server(self, name: str, help: str) -> argparse.ArgumentParser:
        """A command for whoever runs the server."""
        return self.add(name, help, home="operate", function=name)

    def of_user(self, name: str, help: str | None, *, has_json: bool = True) -> argparse.ArgumentParser:
        """A command for whoever uses one: all of them say which, and how to write."""
        command = self.add(name, help, home="cli.start", function="run", command=name)
        add_server(command)
        command.add_argument("--plain", action="store_true", help="lines only, for screen readers")
        if has_json:
            formats = command.add_mutually_exclusive_group()
            formats.add_argument("--json", action="store_true", help="one object at the end")
            formats.add_argument("--jsonl", action="store_true", help="objects as they come")
        return command


def command_line() -> argparse.ArgumentParser:
    parser = Parser(
        prog="agentsrv", description="Coding-agent command lines as a durable HTTP service.", epilog=EPILOG
    )
    parser.add_argument("--version", action="version", version=f"agentsrv {__version__}")
    parser.add_argument(
        "--env-file",
        type=Path,
        default=Path(".env"),
        metavar="FILE",
        help="settings that the environment does not give (default: .env)",
    )
    commands = Commands(parser)
    add_run(commands)
    add_looking(commands)
    add_attach(commands)
    add_acp(commands)
    add_ending(commands)
    add_changes(commands)
    add_servers(commands)
    add_operating(commands)
    return parser


def add_server(command: argparse.ArgumentParser) -> None:
    command.add_argument("--url", help="the server (default: AGENTSRV_URL, or the one of `agentsrv login`)")
    command.add_argument(
        "--key-file", type=Path, metavar="FILE", help="holds the key (default: AGENTSRV_API_KEY)"
    )


def add_run(commands: Commands) -> None:
    command = commands.of_user("run", "start a job and show it")
    command.add_argument("prompt", nargs="?", help="what to do; what is piped in is appended")
    where = command.add_mutually_exclusive_group()
    where.add_argument(
        "-s", "--session", type=identifier, metavar="ID", help="the conversation (default: a new one)"
    )
    where.add_argument(
        "-c", "--continue", dest="resume", action="store_true", help="go on with the last session"
    )
    command.add_argument("--agent", help="claude-code or codex")
    command.add_argument("--model", help="the agent's name of it")
    command.add_argument("--effort", help="low, medium, high, xhigh or max")
    command.add_argument(
        "--cwd", metavar="DIR", help="where it works (default: here, when the server is here)"
    )
    command.add_argument("--worktree", action="store_true", help="in a git worktree of its own")
    command.add_argument(
        "--trust", action="store_true", help="the settings and hooks of the repository count in this session"
    )
    mode = command.add_mutually_exclusive_group()
    mode.add_argument("--ask", action="store_true", help="ask before it changes something")
    mode.add_argument(
        "--mode", choices=["bypass", "accept_edits", "ask", "plan"], help="what it may do unasked"
    )
    command.add_argument(
        "--image", action="append", type=Path, default=[], metavar="FILE", help="a picture; may be repeated"
    )
    command.add_argument(
        "--if-busy",
        choices=["reject", "queue", "steer"],
        default="reject",
        help="while a turn runs in the session",
    )
    command.add_argument("--schema", type=Path, metavar="FILE", help="a JSON schema that the result must fit")
    command.add_argument(
        "--max-budget", type=dollars, metavar="USD", help="the agent stops when it gets there"
    )
    command.add_argument("--timeout", type=seconds, metavar="S", help="stop it after so many seconds")
    command.add_argument("-d", "--detach", action="store_true", help="print the ids and leave it alone")
    questions = command.add_mutually_exclusive_group()
    questions.add_argument(
        "--no-input", action="store_true", help="ask nothing here: a question ends this, exit 3"
    )
    questions.add_argument("--deny", action="store_true", help="deny what it asks")
    command.add_argument("--keep", action="store_true", help="SIGTERM and --timeout only leave")


def add_looking(commands: Commands) -> None:
    command = commands.of_user("ps", "show the sessions in which something happens")
    command.add_argument("-a", "--all", action="store_true", help="all sessions")
    command.add_argument("--watch", action="store_true", help="again and again")
    command.add_argument("-q", "--quiet", action="store_true", help="only their ids")

    command = commands.of_user("logs", "show the transcript of a session or job")
    command.add_argument(
        "id", type=identifier, metavar="ID", help="a session, a job, or how one of them begins"
    )
    command.add_argument("-f", "--follow", action="store_true", help="stay for what comes")
    command.add_argument("--since", type=event_id, metavar="N", help="only what came after event N")
    command.add_argument("--full", action="store_true", help="also thoughts, and whole prompts and edits")
    command.add_argument("--raw", action="store_true", help="the agent's own lines")

    command = commands.of_user("answer", "answer the questions that wait")
    command.add_argument(
        "id", nargs="?", type=identifier, metavar="ID", help="of a question, a job or a session"
    )
    command.add_argument("decision", nargs="?", choices=["allow", "deny"])
    command.add_argument("--always", action="store_true", help="do not ask for this again in its session")
    command.add_argument("-m", "--message", metavar="WHY", help="for the agent, with a denial")
    command.add_argument("--watch", action="store_true", help="stay for the questions that come")
    command.add_argument("--list", action="store_true", help="only show them")

    command = commands.of_user("wait", "wait for jobs to end")
    command.add_argument("ids", nargs="+", type=identifier, metavar="ID")
    command.add_argument("--timeout", type=seconds, metavar="S", help="not longer than so many seconds")


def add_acp(commands: Commands) -> None:
    command = commands.of_user("acp", "be an agent for an editor (ACP on stdin and stdout)", has_json=False)
    command.set_defaults(json=False, jsonl=False)
    command.add_argument("--agent", help="which agent works in new sessions (default: the server's)")
    command.add_argument("--cwd", metavar="DIR", help="where, on the server (default: what the editor says)")


def add_attach(commands: Commands) -> None:
    command = commands.of_user(
        "attach", "a session in this terminal; with --terminal a shell", has_json=False
    )
    command.set_defaults(json=False, jsonl=False)
    command.add_argument(
        "id", nargs="?", type=identifier, metavar="ID", help="the session (default: a shell)"
    )
    command.add_argument("--key", help="the API key; `ps` shows it to everybody, so rather use --key-file")
    command.add_argument("--terminal", metavar="ID", help="which shell (default: a new one)")
    command.add_argument("--cwd", metavar="DIR", help="where a new shell begins, in the server's workspace")
    command.add_argument("--read-only", action="store_true", help="only watch")
    command.add_argument(
        "--detach-key",
        type=control_key,
        default="^]",
        metavar="KEY",
        help="leaves a shell (default: ^], Ctrl-])",
    )


def add_ending(commands: Commands) -> None:
    command = commands.of_user("stop", "end what runs, and wait until it is gone")
    command.add_argument("ids", nargs="*", type=identifier, metavar="ID")
    command.add_argument("--all", action="store_true", help="everything that runs")

    command = commands.of_user("rm", "delete sessions with their history")
    command.add_argument("ids", nargs="+", type=identifier, metavar="ID")
    command.add_argument("--worktree", action="store_true", help="their worktrees, too")
    command.add_argument(
        "--force", action="store_true", help="also what runs, and what is only in a worktree"
    )

    command = commands.of_user("fork", "a new session that goes on from another one")
    command.add_argument("id", type=identifier, metavar="ID")
    command.add_argument("--name", help="what the new one is called")
    command.add_argument("--as", dest="new_id", metavar="ID", help="the id of the new one")


def add_changes(commands: Commands) -> None:
    command = commands.of_user("diff", "what a session has changed, as a patch")
    command.add_argument("id", type=identifier, metavar="ID")
    command.add_argument("--stat", action="store_true", help="how many lines, by file")
    command.add_argument("--name-only", action="store_true", help="only the paths")
    command.add_argument(
        "--base", metavar="REV", help="compare with this (default: where a worktree began, or HEAD)"
    )
    command.add_argument("--exit-code", action="store_true", help="1 when there is a difference")

    command = commands.of_user("merge", "take what a session has committed in its worktree into a branch")
    command.add_argument("id", type=identifier, metavar="ID")
    command.add_argument(
        "--into", metavar="BRANCH", help="which (default: the one that the repository is on)"
    )
    command.add_argument(
        "--how",
        choices=["merge", "squash", "rebase"],
        default="merge",
        help="one commit of two parents, or of all, or each",
    )
    command.add_argument("-m", "--message", metavar="TEXT", help="of the commit that is made")

    command = commands.of_user("open", "show the server's console in a browser", has_json=False)
    command.set_defaults(json=False, jsonl=False)
    command.add_argument("id", nargs="?", type=identifier, metavar="ID")
    command.add_argument("--print", action="store_true", help="only print the address")
    command.add_argument("--qr", action="store_true", help="print it for the camera of a phone, too")


def add_servers(commands: Commands) -> None:
    command = commands.add("login", "keep the key of a server", home="cli.servers", function="login")
    command.add_argument(
        "address", nargs="?", metavar="URL", help="the server (default: the one that is meant here)"
    )
    command = commands.add("logout", "forget the key of a server", home="cli.servers", function="logout")
    command.add_argument("address", nargs="?", metavar="URL", help="the server (default: the current one)")
    command = commands.add(
        "servers", "show the servers whose keys are kept", home="cli.servers", function="servers"
    )
    command.add_argument("use", nargs="?", metavar="URL", help="make this one the current one")
    command.add_argument("--json", action="store_true")
    command = commands.add(
        "completion", "print the completions of a shell", home="cli.completion", function="completion"
    )
    command.add_argument("shell", choices=["bash", "zsh", "fish"])
    command = commands.of_user("ids", help=None, has_json=False)
    command.set_defaults(json=False, jsonl=False)
    command.add_argument("of", metavar="COMMAND", help="print what its ID may be")


def add_operating(commands: Commands) -> None:
    command = commands.of_server("serve", "start the server")
    command.add_argument("--init", action="store_true", help="make an API key first when there is none")
    command = commands.of_server("migrate", "bring the database up to date (serve does it by itself)")
    command.add_argument("--status", action="store_true", help="only say which migrations are applied")
    command.add_argument(
        "--compact", action="store_true", help="also give free space back; no server may run"
    )
    commands.of_server("doctor", "check this machine and say what to do")
    command = commands.of_server("token", "print a new API key")
    command.add_argument("--write", action="store_true", help="also keep it in the env file")
    command = commands.of_server("keys", "add, list or revoke named keys; also while the server runs")
    command.add_argument("action", choices=["add", "list", "revoke"])
    command.add_argument("name", nargs="?", help="what the key is called")
    command.add_argument(
        "--scope", default="read,prompt,answer",
        help="what it may do, separated by commas: read, prompt, answer, files, terminals, admin (%(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--expires", metavar="90d", help="when it ends, in minutes (m), hours (h) or days (d)"
    )
    command = commands.of_server(
        "agents", "install an agent that does not come with the server, or log it in"
    )
    command.add_argument("action", choices=["install", "login"])
    command.add_argument("name", help="which one, such as gemini")
    command.add_argument("--python", metavar="PATH", type=Path, help="for an agent that needs a newer Python")
    command = commands.of_server("fleet", "list the servers of a fleet, or forget one that never comes back")
    command.add_argument("action", choices=["list", "forget"])
    command.add_argument("name", nargs="?", help="the SERVER_NAME of the one to forget")


def seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError("must be a number of seconds")
    return value


def event_id(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError("must be the number of an event")
    return value


def identifier(text: str) -> str:
    """A variable that is not set would be the beginning of every id."""
    if not text:
        raise argparse.ArgumentTypeError("is empty")
    return text


def dollars(text: str) -> float:
    """`nan` and `inf` are no numbers in JSON: the server would hear of no budget."""
    value = float(text)
    if not 0 < value <= 1e6:
        raise argparse.ArgumentTypeError("must be a number of dollars")
    return value


def control_key(text: str) -> int:
    """`^]` is 29."""
    code = ord(text[1].upper()) - 64 if len(text) == 2 and text[0] == "^" else -1
    if not 0 < code < 32:
        raise argparse.ArgumentTypeError("must be a control key, such as ^] or ^O")
    return code
