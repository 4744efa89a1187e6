"""Agents that run as another user than the server (AGENT_USER)."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from msgspec.structs import replace

from agentsrv.runner.handle import RunnerHandle
from agentsrv.runner.records import AgentExit
from agentsrv.users import User, acting_as, parse
from tests.runner.conftest import Lab, is_alive, printed, until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")

AGENT = User("agent", 54321, 54322, (54322, 54323), "")

DAEMON = "(setsid sleep 60 & echo $!); sleep 60"


async def start(lab: Lab, script: str, pty: tuple[int, int] | None = None) -> RunnerHandle:
    spec = lab.spec("/bin/sh", "-c", script, env={"PATH": os.defpath})
    return await lab.zygote.spawn(replace(spec, user=AGENT, pty=pty))


async def test_agent_is_that_user_and_nothing_more(lab: Lab) -> None:
    """Its uid, its groups, and no right of the server's."""
    handle = await start(lab, "id -u; id -G; grep -E 'Cap(Inh|Prm|Eff|Amb)' /proc/self/status")
    await handle.wait_exit()
    uid, groups, *capabilities = await printed(handle, 6)

    assert ("54321", {"54322", "54323"}) == (uid, set(groups.split()))
    assert {"0" * 16} == {line.split()[1] for line in capabilities}


async def test_agent_cannot_touch_its_runner_or_its_files(lab: Lab) -> None:
    """Neither signal it, nor look into it, nor read or list its directory."""
    handle = await start(
        lab,
        f"cd /; kill -0 $PPID && echo signalled; cat /proc/$PPID/environ && echo seen;"
        f"ls {lab.base} && echo listed; echo end",
    )
    await handle.wait_exit()

    assert ["end"] == await printed(handle)


async def test_agent_can_open_its_own_pipes_and_terminal(lab: Lab) -> None:
    """`/dev/stderr` and the name that `tty` tells work as for any user."""
    piped = await start(lab, "echo trouble > /dev/stderr")
    shown = await start(lab, 'echo trouble > "$(tty)"', pty=(80, 24))
    master = shown.take_pty()
    exits = [(await piped.wait_exit()), (await shown.wait_exit())]
    try:
        assert b"trouble\r\n" == os.read(master, 100)
    finally:
        os.close(master)

    assert ["trouble\n", ""] == [exit.stderr_tail for exit in exits]


async def test_whole_tree_of_another_user_is_ended(lab: Lab) -> None:
    """TERM and KILL reach it, also what has left the session."""
    handle = await start(lab, "trap '' TERM; " + DAEMON)
    daemon = int((await printed(handle))[0])
    exit = await handle.kill(0.1)

    assert (AgentExit(None, signal.SIGKILL, "killed"), False) == (exit, is_alive(daemon))


async def test_what_a_killed_runner_leaves_is_found(lab: Lab) -> None:
    """By its cookie, though it is another user's and the server may not look into all processes."""
    handle = await start(lab, DAEMON)
    daemon = int((await printed(handle))[0])
    runner = int(Path(f"/proc/{handle.pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(runner, signal.SIGKILL)
    exit = await handle.wait_exit()

    assert ("runner_lost", 0) == (exit.reason, exit.survivors)
    await until(lambda: not is_alive(daemon))


def test_files_are_made_in_the_name_of_that_user(tmp_path: Path) -> None:
    """In the block; before and after it the server is who it was."""
    tmp_path.chmod(0o777)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    names = [("before", None), ("within", AGENT), ("after", None)]
    for name, user in names:
        with acting_as(user):
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)

    assert [0, 54321, 0] == [(tmp_path / name).stat().st_uid for name, _ in names]
    assert 54322 == (tmp_path / "within").stat().st_gid


@pytest.mark.parametrize(
    ("text", "problem"),
    [("root", "root"), ("0", "root"), ("0:0", "root"), ("no such user", "a user of this system")],
)
def test_a_user_that_cannot_be_meant_is_an_error(text: str, problem: str) -> None:
    """A name, a uid, or uid:gid; never root."""
    with pytest.raises(ValueError, match=problem):
        parse(text)


def test_users_are_found_by_name_and_by_number() -> None:
    """A user of the system comes with its groups and its home; numbers need no entry."""
    assert parse("nobody") == parse("65534")
    assert (12345, 12346, (12346,), "") == (lambda user: (*user.ids, user.home))(parse("12345:12346"))
