"""The server is killed while somebody looks: all that stays with it comes back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Open
from tests.cli.kit import environment, handles_interrupts
from tests.conftest import ServerMaker
from tests.kit import Server, script, wait_until

ASK = 'ask 1 Bash {"command": "touch x"}'
AWAY = "connecting again: "
"""Then comes the address; or what a server in front says of the one that is lost."""


@pytest.fixture
def server(make_server: ServerMaker) -> Server:
    """One for each test: it is killed."""
    server = make_server()
    server.workspace.mkdir(parents=True, exist_ok=True)
    return server


def test_a_lost_server_is_told_in_one_line(server: Server, open_window: Open, tmp_path: Path) -> None:
    """What is drawn below says why, from its beginning on; then the turn goes on where it was."""
    go = tmp_path / "go"
    window = open_window("run", script("say one", f"rate 1 {go} 100", "say two"), cols=40)
    window.shows("one\nrunning")
    server.kill9()
    window.shows(f"one\n{AWAY}")
    server.start()
    window.shows("one\nrunning")
    go.touch()

    assert window.ended() == 0
    assert "two\ncompleted" in window.text


@pytest.mark.at_home("a list is told by the server that is asked, and goes on without another one")
@pytest.mark.parametrize("words", [("answer", "--watch"), ("ps", "--watch"), ("attach", "s")], ids=" ".join)
def test_who_stays_is_there_when_it_comes_back(
    server: Server, open_window: Open, words: tuple[str, ...]
) -> None:
    """Says so meanwhile, and shows what is asked afterwards."""
    server.generate("hello").rest()
    window = open_window(*words, cols=120)
    window.shows({"answer": "nothing waits", "ps": "nothing runs", "attach": "\ncompleted"}[words[0]])
    server.kill9()
    window.shows(AWAY)
    server.start()
    server.start_job(script(ASK), permission_mode="ask")
    window.shows("touch x")
    window.type("\x03")

    assert window.ended() == 130


def test_in_a_pipe_it_is_told_on_stderr(server: Server, tmp_path: Path) -> None:
    """stdout has the answer alone, also over a restart."""
    go = tmp_path / "go"
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "agentsrv",
            "run",
            script("say one", f"rate 1 {go} 100", "say two"),
            "-s",
            "s",
        ],
        env=environment(server, tmp_path),
        cwd=server.workspace,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_until(lambda: server.ask("GET", "/generate/v2/jobs").json["count"])
        assert process.stderr is not None
        assert process.stdout is not None
        wait_until(lambda: handles_interrupts(process.pid))
        server.kill9()
        assert AWAY in process.stderr.readline()
        server.start()
        go.touch()
        assert (0, "two\n") == (process.wait(60), process.stdout.read())
