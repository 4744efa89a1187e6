"""A server whose agents and terminals are another user (AGENT_USER)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import ClientSession

from tests.fakes.model_api import ModelApi
from tests.kit import KEY, Server, script
from tests.terminal_client import terminal

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")

AGENT, SERVER = 54321, 54320
RIGHTS = "+setuid,+setgid,+kill,+chown"
AS_USER = (
    "setpriv", f"--reuid={SERVER}", f"--regid={SERVER}", "--clear-groups",
    f"--inh-caps={RIGHTS}", f"--ambient-caps={RIGHTS}", f"--bounding-set=-all,{RIGHTS}",
)  # fmt: skip
"""Not root: a user with no right but those that it takes."""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user can reach; what tests get else is root's alone."""
    path = Path(tempfile.mkdtemp(prefix="agentsrv-user-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(params=["root", "user"])
def server(
    request: pytest.FixtureRequest, place: Path, model: ModelApi, real_claude: Path
) -> Iterator[Server]:
    """One server is root, the other one is not; both have agents that are a third user."""
    for name, owner in (
        ("home", AGENT),
        ("base", AGENT),
        ("state", SERVER if request.param == "user" else 0),
    ):
        (place / name).mkdir()
        os.chown(place / name, owner, owner)
    if request.param == "user":
        os.chown(place, SERVER, SERVER)
    settings = {
        "AGENT_USER": f"{AGENT}:{AGENT}",
        "TERMINAL_SHELL": "/bin/sh",
        "ANTHROPIC_BASE_URL": model.url,
        "ANTHROPIC_API_KEY": "fake-model-key",
        "PYTHONPATH": f"{Path(__file__).parents[2]}:{sysconfig.get_path('purelib')}",
    }
    command = (*AS_USER, readable_python()) if request.param == "user" else (sys.executable,)
    server = Server(place, real_claude, settings, command=command)
    try:
        yield server.start()
    finally:
        server.close()


def readable_python() -> str:
    """One that another user can run: that of a developer may lie in a home of their own."""
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        again = "import os, sys; os.execv(sys.executable, [sys.executable, '-c', ''])"
        if subprocess.run([*AS_USER, python, "-c", again], capture_output=True, check=False).returncode == 0:
            return python
    pytest.skip("no Python here that another user could run")


def test_a_session_of_another_user_remembers_and_survives(server: Server) -> None:
    """Prompts, the agent's own memory, a killed server, stop: all as ever; what the agent makes is its own."""
    base = str(server.directory / "base")
    ends = [server.generate(script("text hello"), cwd=base).rest()[-1].json["status"] for _ in range(2)]
    assert 201 == server.ask("POST", "/sessions/s/fork", {"sessionId": "fork"}).status
    ends.append(server.generate(script("text hello"), "fork").rest()[-1].json["status"])
    job = server.start_job(script("bash tail -f /dev/null"), cwd=base)
    server.follow(job).until(lambda event: event.type == "assistant")
    owners = {Path(f"/proc/{pid}").stat().st_uid for pid in server.agents()}
    server.kill9()
    server.start()

    assert ["completed", "completed", "completed", "running"] == [*ends, server.job(job)["status"]]
    assert (200, {AGENT}) == (server.stop().status, owners)
    transcripts = (server.home / ".claude" / "projects").glob("*/*.jsonl")
    assert [AGENT, AGENT] == [transcript.stat().st_uid for transcript in transcripts]


async def test_a_terminal_of_another_user_sees_nothing_of_the_server(server: Server) -> None:
    """Not its state, not its memory, and it cannot end it."""
    async with ClientSession() as client, terminal(client, server.port, KEY, "t") as shell:
        await shell.type(
            f"id -u; kill -9 {server.pid}; ls {server.directory}/state; cat /proc/{server.pid}/environ\n"
        )
        await shell.type("echo the $((40 + 2)) end\n")
        shown = await shell.shows("the 42 end")

    assert f"{AGENT}\r\n" in shown
    assert 3 == shown.lower().count("not permitted") + shown.lower().count("permission denied")
    assert server.process is not None
    assert server.process.poll() is None


def test_agents_have_none_of_the_servers_rights(server: Server) -> None:
    """They read neither its spools nor its `.env` nor what lies beside them, see no names, and have no capability."""
    (env_file := server.directory / ".env").write_text("API_KEY=x")
    env_file.chmod(0o600)
    job = server.start_job(script("bash tail -f /dev/null"), cwd=str(server.directory / "base"))
    server.follow(job).until(lambda event: event.type == "assistant")
    runners = server.directory / "state" / "runners"
    [spool] = [path for path in runners.glob("*/out") if path.stat().st_size]
    as_agent = ["setpriv", f"--reuid={AGENT}", f"--regid={AGENT}", "--clear-groups", "cat"]
    private = [env_file, spool, spool.with_name("meta"), spool.with_name("sock"), server.database, runners]
    read = [subprocess.run([*as_agent, path], capture_output=True, check=False) for path in private]
    agents = [pid for pid in server.processes() if Path(f"/proc/{pid}").stat().st_uid == AGENT]
    capabilities = {
        line for pid in agents for line in status_of(pid) if line.startswith(("CapEff", "CapAmb"))
    }
    server.stop().body()

    assert [b"Permission denied" in done.stderr or b"Is a directory" in done.stderr for done in read] == [
        True
    ] * 6
    assert [path.stat().st_mode & 0o777 for path in (runners.parent, runners)] == [0o711] * 2
    assert {line.split()[1] for line in capabilities} == {"0" * 16}


def status_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/status").read_text().splitlines()


def test_files_and_git_are_used_as_that_user(server: Server) -> None:
    """What is uploaded belongs to the agent, and the server reads nothing that the agent may not."""
    secret = server.directory / "base" / "secret"
    secret.write_text("of root alone")
    secret.chmod(0o600)
    written = server.ask("PUT", "/filesystem/content?path=file.txt", {"x": 1})
    refused = server.ask("GET", "/filesystem/content?path=secret")
    file = (server.directory / "base/file.txt").stat()

    assert (201, 403, AGENT, AGENT) == (written.status, refused.status, file.st_uid, file.st_gid)
    assert 200 == server.ask("GET", "/git/repositories").status


def test_without_the_right_the_server_says_which(place: Path) -> None:
    """It does not start, and does not run agents as itself instead."""
    server = Server(place, Path("/bin/true"), {"AGENT_USER": f"{AGENT}:{AGENT}"})
    command = ("setpriv", "--bounding-set=-setuid", "--inh-caps=-setuid", sys.executable)
    server.command = command
    with pytest.raises(AssertionError, match="may not become that user"):
        server.start()
    assert server.ended() == 78
