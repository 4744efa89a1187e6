"""The server's end: what it learns when runners die, and how a new server takes over."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agentsrv.model import RunnerId
from agentsrv.runner import sweep as sweeping
from agentsrv.runner.attach import attach
from agentsrv.runner.child import frames
from agentsrv.runner.handle import RunnerHandle
from agentsrv.runner.records import AgentExit, RunnerMeta, boot_id, read_meta
from agentsrv.runner.sweep import sweep
from tests.kit import THREADS
from tests.runner.conftest import Lab, is_alive, printed, until

ECHO = "import sys\nfor line in sys.stdin: print('got ' + line, end='', flush=True)"
SAYS_RUNNER = "import os, time; print(os.getppid(), flush=True); time.sleep(60)"
WITH_CHILD_THAT_HIDES = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork():
        os._exit(0)
    print(os.getpid(), flush=True)
time.sleep(60)
"""


IMPOSTOR = """
import os, socket
words, base = input().split(" ")
os.chdir(base + "/" + os.environ["AGENTSRV_RUNNER"])
os.unlink("sock")
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind("sock")
    listener.listen()
    print("ready", flush=True)
    server, _ = listener.accept()
    server.sendall(bytes.fromhex(words))
    while words.endswith("ff"):
        server.sendall(bytes(1 << 20))
    server.recv(100)
    input()
"""


async def attached(directory: Path) -> RunnerHandle:
    handle = await attach(directory, THREADS.processes)
    assert isinstance(handle, RunnerHandle)
    return handle


def runner_of(handle: RunnerHandle) -> int:
    meta = read_meta(handle.directory)
    assert meta is not None
    return meta.runner_pid


async def test_another_server_takes_over_the_same_process(lab: Lab) -> None:
    """After a crash of the server the agent goes on, and the next server talks to the same pid."""
    first = await lab.start(ECHO)
    first.send("one", b"one\n")
    await printed(first)
    first.detach()
    second = await attached(first.directory)
    second.send("two", b"two\n")
    assert await printed(second, 2) == ["got one", "got two"]
    assert second.pid == first.pid
    await second.kill()


async def test_message_that_is_sent_again_by_the_next_server_is_not_repeated(lab: Lab) -> None:
    """A server that does not know whether its predecessor's prompt arrived just sends it again."""
    first = await lab.start(ECHO)
    first.send("turn-1", b"prompt\n")
    first.detach()
    second = await attached(first.directory)
    second.send("turn-1", b"prompt\n")
    second.send("turn-2", b"next\n")
    assert await printed(second, 2) == ["got prompt", "got next"]
    await second.kill()


async def test_opening_comes_first(lab: Lab) -> None:
    """What an agent's input begins with is there before any message, whatever its size, and comes once."""
    opening = "\u00e9".encode() * 100_000
    first = await lab.start(ECHO, opening=opening + b"\n")
    first.send("one", b"one\n")
    first.detach()
    second = await attached(first.directory)
    assert await printed(second, 2) == [f"got {opening.decode()}", "got one"]
    await second.kill()


async def test_large_message_of_a_server_that_goes_is_delivered(lab: Lab) -> None:
    """A server that stops right after it has sent 8 MB to a busy agent has sent them all, in their order."""
    first = await lab.start(
        "import sys; print('up', flush=True); lines = sys.stdin.buffer;"
        "print(len(lines.readline()), flush=True); lines.read()"
    )
    await printed(first)
    first.send("one", b"x" * (8 << 20))
    first.send("two", b"y\n")
    first.detach()
    assert await printed(first, 2) == ["up", str((8 << 20) + 2)]
    await (await attached(first.directory)).kill()


async def test_message_that_nobody_will_take_is_not_kept(lab: Lab) -> None:
    """Its runner was stopped and then killed: the megabytes that it had not read are gone with it."""
    handle = await lab.start("input()")
    await until(lambda: read_meta(handle.directory))
    runner = runner_of(handle)
    os.kill(runner, signal.SIGSTOP)
    message = b"x" * (8 << 20)
    held = sys.getrefcount(message)
    handle.send("one", message)
    os.kill(runner, signal.SIGKILL)
    await handle.wait_exit()

    assert sys.getrefcount(message) == held


async def test_half_a_message_of_a_dying_server_is_not_delivered(lab: Lab) -> None:
    """A prompt reaches the agent whole or not at all."""
    first = await lab.start(ECHO)
    assert first._transport is not None
    first._transport.write(b"M\x00\x00\x00\x0c\x00\x01a" + b"half")
    first.detach()
    second = await attached(first.directory)
    second.send("a", b"whole\n")
    assert await printed(second) == ["got whole"]
    await second.kill()


async def test_newest_connection_wins(lab: Lab) -> None:
    """A new server need not wait for the old one to be noticed dead; the old one is told."""
    first = await lab.start(ECHO)
    second = await attached(first.directory)
    assert await first.wait_exit() == AgentExit(None, None, "replaced")
    first.send("lost", b"lost\n")
    second.send("kept", b"kept\n")
    assert await printed(second) == ["got kept"]
    await second.kill()


CALLS_ITS_RUNNER = """
import os, socket, sys
os.chdir(input())
with socket.socket(socket.AF_UNIX) as runner:
    if "--by-child" in sys.argv and os.fork():
        os.wait()
    else:
        runner.connect("sock")
        if "--by-child" in sys.argv:
            os._exit(0)
    print(runner.recv(100), flush=True)
input()
"""


@pytest.mark.parametrize("how", ["--itself", "--by-child"])
async def test_agent_does_not_get_to_its_own_runner(lab: Lab, how: str) -> None:
    """It could take itself out of its server's hands: who connects last has them."""
    argv = (sys.executable, "-I", "-S", "-c", CALLS_ITS_RUNNER, how)
    handle = await lab.zygote.spawn(lab.spec(*argv))
    handle.send("1", os.fsencode(handle.directory) + b"\n")

    assert ["b''"] == await printed(handle)
    handle.send("2", b"\n")
    assert "exited" == (await handle.wait_exit()).reason


async def test_exit_that_no_server_saw_is_found_later(lab: Lab) -> None:
    """An agent that ended while the server was away has a record of how."""
    handle = await lab.start("import os, sys; sys.stdin.readline(); os.write(2, b'no credit'); sys.exit(3)")
    handle.send("one", b"go on\n")
    handle.detach()
    await until(lambda: (handle.directory / "exit").exists())
    assert await attach(handle.directory, THREADS.processes) == AgentExit(3, None, "exited", "no credit")


async def test_killed_runner_takes_its_agent_with_it(lab: Lab) -> None:
    """The agent dies with its runner, what hid is found by the cookie, and the server is told."""
    handle = await lab.start(WITH_CHILD_THAT_HIDES)
    hidden = int((await printed(handle))[0])
    os.kill(runner_of(handle), signal.SIGKILL)
    exit = await handle.wait_exit()
    assert (exit, is_alive(handle.pid), is_alive(hidden)) == (
        AgentExit(None, None, "runner_lost"),
        False,
        False,
    )


async def test_runner_that_was_killed_while_no_server_was_there(lab: Lab) -> None:
    """The next server finds what is left, ends it, and says that the runner was lost."""
    handle = await lab.start(WITH_CHILD_THAT_HIDES)
    hidden = int((await printed(handle))[0])
    runner = runner_of(handle)
    handle.detach()
    os.kill(runner, signal.SIGKILL)
    await until(lambda: not is_alive(runner))
    assert await attach(handle.directory, THREADS.processes) == AgentExit(None, None, "runner_lost")
    assert not is_alive(hidden)


async def test_agent_of_a_server_that_died_while_it_started_it_is_not_lost(lab: Lab) -> None:
    """Killed between the request and the answer: the next server finds the agent and gives it the prompt."""
    spec = lab.spec("/bin/cat")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.send(frames.frame(frames.SPEC, spec.encode()))
        socket.send_fds(lab.zygote._running(), [b"1"], [theirs.fileno()])
    await until(lambda: (spec.directory / "meta").exists())
    handle = await attached(spec.directory)
    handle.send("one", b"one\n")
    assert await printed(handle) == ["one"]
    await handle.kill()


async def test_record_cut_short_by_a_power_failure_is_a_lost_runner(lab: Lab, tmp_path: Path) -> None:
    """An empty file where the record should be is no reason for a server not to start."""
    for name in ("exit", "meta"):
        (tmp_path / name).touch()
    assert await attach(tmp_path, THREADS.processes) == AgentExit(None, None, "runner_lost")
    assert read_meta(tmp_path) is None


ODD_RECORDS = [b"{}", b"[]", b'"x"', b'{"reason": 1}', b'{"reason": "exited", "code": "1"}', b"{" * 5000]


@pytest.mark.parametrize("record", ODD_RECORDS)
async def test_odd_record_is_a_lost_runner(lab: Lab, tmp_path: Path, record: bytes) -> None:
    """An agent can write to these files: no server fails to start because of what is in them."""
    for name in ("exit", "meta"):
        (tmp_path / name).write_bytes(record)
    assert await attach(tmp_path, THREADS.processes) == AgentExit(None, None, "runner_lost")
    assert read_meta(tmp_path) is None


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
async def test_what_is_no_record_is_never_waited_for(
    lab: Lab, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    """Nor are pipes, directories and links in their place, the socket's included."""
    for name in ("exit", "meta", "sock"):
        make(tmp_path / name)
    assert await attach(tmp_path, THREADS.processes) == AgentExit(None, None, "runner_lost")
    assert read_meta(tmp_path) is None


@pytest.mark.parametrize("name", ["file", os.fsdecode(b"\xff")])
async def test_stray_that_is_no_directory_is_a_lost_runner(lab: Lab, tmp_path: Path, name: str) -> None:
    """Whatever lies where runners have their directories, under whatever name."""
    (tmp_path / name).touch()
    assert await attach(tmp_path / name, THREADS.processes) == AgentExit(None, None, "runner_lost")


GREETING = frames.frame(frames.READY, b'{"pid": 1, "runner_pid": 1}')


@pytest.mark.parametrize(
    "words",
    [
        frames.FRAME.pack(frames.READY, 0xFFFFFFFF),
        frames.frame(frames.READY, b"[]"),
        frames.frame(frames.READY, b'{"pid": -1, "runner_pid": "x"}'),
        GREETING + frames.frame(frames.EXIT, b"{}"),
        GREETING + frames.FRAME.pack(frames.EXIT, 0xFFFFFFFF),
    ],
)
async def test_who_speaks_nonsense_on_a_runners_socket_is_ended(lab: Lab, words: bytes) -> None:
    """An impostor in the place of a runner costs the server no memory, and its agent's turn gets an end."""
    impostor = await lab.start(IMPOSTOR, opening=f"{words.hex()} {lab.base}\n".encode())
    await printed(impostor)
    found = await attach(impostor.directory, THREADS.processes)
    exit = await found.wait_exit() if isinstance(found, RunnerHandle) else found

    # The runner itself may have been in time to say how its agent ended.
    assert (exit.reason in {"runner_lost", "exited"}, is_alive(impostor.pid)) == (True, False)
    await impostor.kill(0.0)


async def test_attach_that_fails_for_the_servers_own_reasons_kills_nothing(lab: Lab) -> None:
    """A server without a free descriptor cannot attach, but the agent is not to pay for it."""
    handle = await lab.start("import time; time.sleep(60)")
    handle.detach()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            await attach(handle.directory, THREADS.processes)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert is_alive(handle.pid)
    await (await attached(handle.directory)).kill()


async def test_directory_without_a_runner_is_a_lost_runner(lab: Lab, tmp_path: Path) -> None:
    """A server that died before its runner was there finds nothing, and that is an answer."""
    assert await attach(tmp_path / "never", THREADS.processes) == AgentExit(None, None, "runner_lost")


async def test_stopped_runner_is_killed_rather_than_waited_for(lab: Lab) -> None:
    """A runner that does not answer cannot hold up a stop: it goes, and its tree with it."""
    handle = await lab.start(WITH_CHILD_THAT_HIDES)
    hidden = int((await printed(handle))[0])
    os.kill(runner_of(handle), signal.SIGSTOP)
    exit = await handle.kill(grace_s=0.1)
    assert (exit, is_alive(handle.pid), is_alive(hidden)) == (
        AgentExit(None, None, "runner_lost"),
        False,
        False,
    )


async def test_waiting_for_the_exit_can_be_cancelled_without_harm(lab: Lab) -> None:
    """One who stops waiting does not take the answer from the others."""
    handle = await lab.start("import time; time.sleep(60)")
    other = asyncio.gather(handle.wait_exit())
    try:
        async with asyncio.timeout(0.01):
            await handle.wait_exit()
    except TimeoutError:
        pass
    await handle.kill()
    assert (await other)[0] == AgentExit(None, signal.SIGTERM, "killed")


async def test_directory_of_any_depth_works(lab: Lab) -> None:
    """A state directory far longer than the 108 bytes of a socket's address: start and attach work."""
    lab.base = lab.base / ("d" * 100) / ("e" * 100)
    first = await lab.start(ECHO)
    first.detach()
    second = await attached(first.directory)
    assert second.pid == first.pid
    await second.kill()


async def test_meta_says_who_the_runner_is(lab: Lab) -> None:
    """After a restart of the machine nobody takes another process for the agent."""
    handle = await lab.start(SAYS_RUNNER)
    runner = int((await printed(handle))[0])
    assert read_meta(handle.directory) == RunnerMeta(handle.pid, runner, boot_id())
    assert read_meta(handle.directory / "none") is None
    await handle.kill()


@pytest.mark.parametrize(
    ("files", "seen"),
    [
        ({"environ": "A=1\0COOKIE=x\0", "cmdline": "sleep\0"}, ([7], True)),
        ({"environ": "A=1\0", "cmdline": "sleep\0"}, ([], True)),
        ({"environ": "", "cmdline": "zygote\0"}, ([], True)),
        ({"environ": "", "cmdline": "", "stat": "7 (a) b) Z 1 7 7 0 -1 4194316"}, ([], True)),
        ({"environ": "", "cmdline": "", "stat": "7 (kworker) I 2 0 0 0 -1 69238880"}, ([], True)),
        ({"environ": "", "cmdline": "", "stat": "7 (sh) R 1 7 7 0 -1 4194304"}, ([], False)),
    ],
)
def test_process_that_becomes_another_program_is_not_overlooked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], seen: tuple[list[int], bool]
) -> None:
    """In the middle of an exec it carries no cookie that could be seen: who looks for it looks again."""
    (tmp_path / "7").mkdir()
    for name, content in files.items():
        (tmp_path / "7" / name).write_text(content)
    monkeypatch.setattr(sweeping, "PROC", tmp_path)

    assert sweeping.look_for([b"COOKIE=x"]) == seen


async def test_sweep_kills_what_carries_the_cookie_and_nothing_else(lab: Lab) -> None:
    """Ids that are the beginning of another id do not match it."""
    handle = await lab.start("import time; time.sleep(60)")
    shorter = RunnerId(handle.id[:-1])
    assert (await asyncio.to_thread(sweep, [shorter]), is_alive(handle.pid)) == (0, True)
    assert await asyncio.to_thread(sweep, [shorter, handle.id]) == 0
    assert await handle.wait_exit() == AgentExit(None, signal.SIGKILL, "exited")
