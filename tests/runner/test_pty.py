"""An agent that has a terminal: a shell."""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import termios
from pathlib import Path

from agentsrv.runner.attach import attach
from agentsrv.runner.handle import RunnerHandle
from agentsrv.runner.records import AgentExit
from agentsrv.runner.spec import RunnerSpec
from tests.kit import THREADS
from tests.runner.conftest import TIMEOUT_S, Lab, is_alive, until


async def start(lab: Lab, script: str, *, orphan_s: float = 30.0) -> tuple[RunnerHandle, int]:
    """A shell that runs `script`, and the master of its terminal."""
    plain = lab.spec("/bin/sh", "-c", script, env={"PATH": "/usr/bin:/bin"}, orphan_s=orphan_s)
    fields = {name: getattr(plain, name) for name in RunnerSpec.__struct_fields__}
    handle = await lab.zygote.spawn(RunnerSpec(**fields | {"pty": (100, 30)}))
    return handle, handle.take_pty()


async def read_to(master: int, end: bytes) -> bytes:
    output = b""
    async with asyncio.timeout(TIMEOUT_S):
        while end not in output:
            try:
                output += os.read(master, 4096)
            except BlockingIOError:
                await asyncio.sleep(0.005)
    return output


async def test_it_is_a_terminal_of_its_own(lab: Lab) -> None:
    """The right size, the controlling terminal of a new session, with the job in the foreground."""
    handle, master = await start(
        lab, "stty size; tty; ps -o pid=,sid=,tpgid= -p $$; echo the-end; read x; exit 5"
    )
    shown = (await read_to(master, b"the-end")).decode()
    pid = str(handle.pid)

    assert "30 100\r\n/dev/pts/" in shown
    assert [pid, pid, pid] == shown.split("\r\n")[2].split()
    os.write(master, b"\n")
    assert (5, "exited") == ((ended := await handle.wait_exit()).code, ended.reason)
    os.close(master)


async def test_a_character_is_erased_whole(lab: Lab) -> None:
    """Backspace in a program that reads lines takes an umlaut away, not half of it."""
    handle, master = await start(lab, "echo ready; read x; printf '<%s>' $x | od -c | head -1")
    await read_to(master, b"ready")
    os.write(master, "aü\x7fb\n".encode())

    assert b"<   a   b   >" in await read_to(master, b">")
    await handle.wait_exit()
    os.close(master)


async def test_the_next_server_gets_the_same_terminal(lab: Lab) -> None:
    """Not a copy: what one has not read, the other reads; and the size is what it was."""
    handle, master = await start(lab, "echo ready; read x; echo got $x; read x")
    await read_to(master, b"ready")
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", 20, 70, 0, 0))
    os.write(master, b"this\n")
    os.close(master)
    handle.detach()
    again = await attach(handle.directory, THREADS.processes, expects_pty=True)
    assert isinstance(again, RunnerHandle)
    assert again.has_pty
    master = again.take_pty()

    assert b"got this" in await read_to(master, b"got this")
    assert (20, 70) == struct.unpack("4H", fcntl.ioctl(master, termios.TIOCGWINSZ, bytes(8)))[:2]
    assert handle.pid == again.pid
    os.close(master)
    await again.kill()


async def test_the_end_is_a_hangup(lab: Lab) -> None:
    """A shell that ignores TERM is told by HUP; it need not wait for KILL."""
    handle, master = await start(lab, "trap '' TERM; echo ready; while :; do sleep 100; done")
    await read_to(master, b"ready")
    os.close(master)
    async with asyncio.timeout(TIMEOUT_S):
        ended = await handle.kill(2 * TIMEOUT_S)

    assert (1, "killed") == (ended.signal, ended.reason)


async def test_without_a_server_it_ends(lab: Lab) -> None:
    """After its time, with all that it started."""
    handle, master = await start(lab, "sleep 1000 & echo ready; read x", orphan_s=0.2)
    await read_to(master, b"ready")
    os.close(master)
    handle.detach()
    await until(lambda: not lab.left_behind())
    await until((handle.directory / "exit").exists)

    assert not is_alive(handle.pid)
    ended = await attach(handle.directory, THREADS.processes, expects_pty=True)
    assert isinstance(ended, AgentExit)
    assert "orphaned" == ended.reason


async def test_it_is_not_inherited(lab: Lab) -> None:
    """What the server starts meanwhile does not hold the terminal open."""
    handle, master = await start(lab, "read x")

    assert not os.get_inheritable(master)
    os.close(master)
    await handle.kill()


async def test_no_descriptor_is_left(lab: Lab, tmp_path: Path) -> None:
    """Not of a terminal that nobody took, nor of a program that does not start."""
    handle, master = await start(lab, "read x")
    os.close(master)
    before = len(os.listdir("/proc/self/fd"))
    handle.detach()
    again = await attach(handle.directory, THREADS.processes, expects_pty=True)
    assert isinstance(again, RunnerHandle)
    again.detach()
    last = await attach(handle.directory, THREADS.processes, expects_pty=True)
    assert isinstance(last, RunnerHandle)
    await last.kill()
    last.detach()
    await until(lambda: len(os.listdir("/proc/self/fd")) <= before)
