"""What a tab key does, in the real shells."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.kit import command, environment
from tests.cli.window import Window
from tests.kit import Server, script, wait_until

SHELLS = {
    "bash": ("bash", "--noprofile", "--norc", "-i"),
    "zsh": ("zsh", "-f", "-i"),
    "fish": ("fish", "--no-config", "-i"),
}
"""As they are without anybody's own settings."""


class Shell:
    """Our completions in a window."""

    def __init__(self, window: Window) -> None:
        self.window = window
        window.type("source ./completion; echo com''plete\n")
        window.shows("\ncomplete\n")

    def completes(self, typed: str, last: str) -> None:
        """A tab behind `typed` makes `last` of its last word."""
        self.window.type(f"agentsrv {typed}\t")
        self.window.shows(" ".join(["agentsrv", *typed.split()[:-1], last]))
        self.window.type("\x15")  # Ctrl-U: a line is begun anew


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> Iterator[Shell]:
    program = tmp_path / "bin" / "agentsrv"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m agentsrv "$@"\n')
    program.chmod(0o755)
    (tmp_path / "completion").write_text(command(server, "completion", request.param).stdout)
    variables = environment(server, tmp_path, TERM="xterm")
    variables["PATH"] = f"{program.parent}:{variables['PATH']}"
    window = Window(cwd=tmp_path, environment=variables, cols=150, program=SHELLS[request.param])
    yield Shell(window)
    window.close()


@pytest.mark.tools
def test_words_are_completed(shell: Shell) -> None:
    """Commands, options and what may follow them."""
    shell.completes("comp", "completion")
    shell.completes("run --if-b", "--if-busy")
    shell.completes("run --if-busy st", "steer")
    shell.completes("answer x de", "deny")
    shell.completes("keys rev", "revoke")


@pytest.mark.tools
def test_ids_are_completed(shell: Shell, server: Server, session: str) -> None:
    """Of sessions and jobs where one is meant, of questions where they are answered."""
    job = server.start_job(script('ask 1 Bash {"command": "x"}'), session, permission_mode="ask")
    wait_until(lambda: server.job(job)["status"] == "waiting_for_approval")
    [asked] = server.ask("GET", f"/generate/v2/jobs/{job}/permissions").json["permissions"]

    shell.completes(f"logs {session[:-2]}", session)
    shell.completes(f"run -s {session[:-2]}", session)
    shell.completes(f"wait {job[:-2]}", job)
    shell.completes(f"answer {asked['requestId'][:-2]}", asked["requestId"])


def test_where_no_id_is_meant_none_is_offered(server: Server, session: str) -> None:
    """`ids` knows what each command takes."""
    task_id = server.start_job("hello", session)
    server.ended_job(task_id)
    offered = {of: command(server, "ids", of).stdout.split() for of in ("run", "logs", "answer")}

    assert {of for of, ids in offered.items() if session in ids} == {"run", "logs"}
    assert {of for of, ids in offered.items() if task_id in ids} == {"logs"}


@pytest.mark.parametrize("of", ["bash", "zsh", "fish"])
def test_every_command_is_known(server: Server, of: str) -> None:
    """Made from the parser, so none is missing; what only programs use is not offered."""
    told = command(server, "completion", of).stdout

    for word in ("run", "ps", "logs", "answer", "attach", "diff", "serve", "if-busy"):
        assert word in told
    assert " ids" not in command(server, "--help").stdout
