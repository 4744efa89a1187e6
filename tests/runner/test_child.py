"""What a runner does for its agent, and what it does to the processes that an agent leaves behind."""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentsrv.runner.attach import attach
from agentsrv.runner.child import tree
from agentsrv.runner.child.frames import Frames, frame
from agentsrv.runner.records import AgentExit
from tests.kit import THREADS
from tests.runner.conftest import TIMEOUT_S, Lab, is_alive, printed, until

IGNORES_TERM = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"

DAEMON = """
import os, signal, time
started, starting = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        print(os.getpid(), flush=True)
        os.write(starting, b"1")
        time.sleep(60)
    os._exit(0)
os.wait()
os.read(started, 1)
"""
"""In a session of its own, an orphan, and with the agent's stdout and stderr open."""

NEW_SESSION_IGNORES_TERM = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(os.getpid(), flush=True)
time.sleep(60)
"""

STOPS_ITSELF = """
import os, signal, time
print(os.getpid(), flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
time.sleep(60)
"""

HOPS = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), flush=True)
if os.fork():
    time.sleep(60)
while True:
    if os.fork():
        os._exit(0)
"""
"""Never the same process for longer than a fork takes, each an orphan."""

BREEDS = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), flush=True)
for _ in range(200):
    if os.fork() == 0:
        os.setsid()
        time.sleep(60)
    time.sleep(0.001)
time.sleep(60)
"""


@pytest.mark.parametrize(
    "script", [DAEMON + "time.sleep(60)", NEW_SESSION_IGNORES_TERM, STOPS_ITSELF, HOPS, BREEDS]
)
async def test_kill_ends_the_whole_tree(lab: Lab, script: str) -> None:
    """Stop means that nothing of the agent runs any more, wherever it has hidden itself."""
    handle = await lab.start(script)
    await printed(handle)
    exit = await handle.kill(grace_s=0.1)
    assert lab.left_behind() == []
    assert (exit.reason, exit.survivors) == ("killed", 0)


async def test_kill_of_an_agent_that_ignores_term_takes_the_grace_and_no_longer(lab: Lab) -> None:
    """TERM, the grace, KILL: and the answer comes soon after that."""
    handle = await lab.start(IGNORES_TERM)
    await printed(handle)
    started_at = time.monotonic()
    exit = await handle.kill(grace_s=0.5)
    assert exit == AgentExit(None, signal.SIGKILL, "killed")
    assert 0.5 <= time.monotonic() - started_at < 15


async def test_agent_that_obeys_term_may_clean_up(lab: Lab) -> None:
    """TERM comes first, to the agent and its children, and its exit code is kept."""
    handle = await lab.start(
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(print('bye') or 7));"
        "print(1, flush=True); time.sleep(60)"
    )
    await printed(handle)
    assert await handle.kill() == AgentExit(7, None, "killed")
    assert await printed(handle, 2) == ["1", "bye"]


async def test_killing_again_is_fine_and_the_sooner_kill_wins(lab: Lab) -> None:
    """Two stops at once, and one after the end, all get the same answer."""
    handle = await lab.start(IGNORES_TERM)
    await printed(handle)
    started_at = time.monotonic()
    exits = await asyncio.gather(handle.kill(grace_s=30), handle.kill(grace_s=0.1), handle.kill(grace_s=30))
    assert time.monotonic() - started_at < 15
    assert {*exits, await handle.kill()} == {AgentExit(None, signal.SIGKILL, "killed")}


async def test_daemon_that_an_agent_leaves_is_ended_with_it(lab: Lab) -> None:
    """A daemon that holds stdout and stderr does not hide the agent's exit, and does not stay."""
    handle = await lab.start(DAEMON)
    exit = await handle.wait_exit()
    daemon = int((await printed(handle))[0])
    assert not is_alive(daemon)
    assert (exit.code, exit.reason) == (0, "exited")


async def test_daemon_that_ignores_term_is_killed_soon(lab: Lab) -> None:
    """The exit of the agent is known soon, whatever it leaves and however long its own grace is."""
    handle = await lab.start(DAEMON.replace("SIG_DFL", "SIG_IGN"), grace_s=60)
    await printed(handle)
    started_at = time.monotonic()
    exit = await handle.wait_exit()
    assert (exit.reason, lab.left_behind()) == ("exited", [])
    assert time.monotonic() - started_at < 15


async def test_agent_that_is_killed_from_outside_is_known_to_be_so(lab: Lab) -> None:
    """Out of memory, or an operator's kill -9: the signal is in the record."""
    handle = await lab.start("import time; time.sleep(60)")
    os.kill(handle.pid, signal.SIGKILL)
    assert await handle.wait_exit() == AgentExit(None, signal.SIGKILL, "exited")


async def test_what_a_killed_agent_leaves_has_no_say_any_more(lab: Lab) -> None:
    """A launcher is killed: its real program cannot go on as if it were the agent, not even to say goodbye."""
    handle = await lab.start(
        "import os, signal, time\n"
        "if os.fork() == 0:\n"
        "    signal.signal(15, lambda *_: print('bye', flush=True))\n"
        "    print(1, flush=True)\n"
        "time.sleep(60)"
    )
    await printed(handle)
    os.kill(handle.pid, signal.SIGKILL)

    assert (await handle.wait_exit()).signal == signal.SIGKILL
    assert (await printed(handle), lab.left_behind()) == (["1"], [])


async def test_200_mb_of_stderr_cost_nothing(lab: Lab) -> None:
    """stderr is drained and its end is kept; the agent is not blocked by it and the runner does not grow."""
    handle = await lab.start(
        "import os\nfor _ in range(200): os.write(2, b'x' * (1 << 20))\n"
        "os.write(2, b'the end'); print(open(f'/proc/{os.getppid()}/statm').read().split()[1])"
    )
    exit = await handle.wait_exit()
    runner_bytes = int((await printed(handle))[0]) * os.sysconf("SC_PAGESIZE")
    assert exit.stderr_tail.endswith("xxx" + "the end")
    assert len(exit.stderr_tail) == 16 * 1024
    assert runner_bytes < 40 << 20


async def test_stderr_can_be_read_while_the_agent_runs(lab: Lab) -> None:
    """What an agent complains about is to be seen before it ends."""
    handle = await lab.start(
        "import os, time; os.write(2, b'not logged in'); print(1, flush=True); time.sleep(60)"
    )
    await printed(handle)
    async with asyncio.timeout(TIMEOUT_S):
        while await handle.stderr_tail() != "not logged in":
            pass
    assert (await handle.kill()).stderr_tail == await handle.stderr_tail() == "not logged in"


async def test_message_larger_than_the_pipe_arrives_whole_while_other_commands_work(lab: Lab) -> None:
    """8 MB for an agent that does not read yet: nobody waits, and later it gets every byte."""
    handle = await lab.start(
        "import hashlib, sys; print(1, flush=True); sys.stdin.buffer.readline();"
        f"print(hashlib.sha256(sys.stdin.buffer.read({8 << 20})).hexdigest())"
    )
    prompt = os.urandom(8 << 20)
    handle.send("one", b"\n" + prompt)
    assert await handle.stderr_tail() == ""
    await handle.wait_exit()
    assert await printed(handle, 2) == ["1", hashlib.sha256(prompt).hexdigest()]


async def test_agent_that_never_reads_its_message_can_be_killed(lab: Lab) -> None:
    """A full stdin does not stand in the way of a stop."""
    handle = await lab.start("import time; time.sleep(60)")
    handle.send("one", b"x" * (8 << 20))
    assert (await handle.kill()).reason == "killed"


async def test_message_to_an_agent_that_closed_its_stdin_is_dropped(lab: Lab) -> None:
    """It is the agent's right; the runner lives on and tells the exit."""
    handle = await lab.start("import os, time; os.close(0); print(1, flush=True); time.sleep(60)")
    await printed(handle)
    for number in range(3):
        handle.send(str(number), b"x" * 100_000)
    assert await handle.stderr_tail() == ""
    assert (await handle.kill()).signal == signal.SIGTERM


async def test_messages_arrive_once_and_in_order(lab: Lab) -> None:
    """A message that is sent again under its id is not given to the agent again."""
    handle = await lab.zygote.spawn(lab.spec("/bin/cat"))
    for message_id in ("a", "b", "a", "c", "b"):
        handle.send(message_id, message_id.encode() + b"\n")
    assert await printed(handle, 3) == ["a", "b", "c"]
    await handle.kill()


async def test_a_prompt_is_not_given_again_after_any_number_of_replies(lab: Lab) -> None:
    """Each line of an agent may ask for a reply; a server that was killed sends the prompt again all the same."""
    handle = await lab.zygote.spawn(lab.spec("/bin/cat"))
    handle.send("prompt", b"the prompt\n")
    for number in range(20_000):
        handle.send(f"reply-{number}", b".\n")
    for number in range(20_000):
        handle.send(f"permission-{number}", b".\n")
    handle.send("prompt", b"the prompt\n")
    handle.send("last", b"the end\n")
    await until(lambda: (handle.directory / "out").read_bytes().endswith(b"the end\n"))
    await handle.kill()

    assert (handle.directory / "out").read_bytes().count(b"the prompt") == 1


async def test_agent_that_outruns_its_reader_is_ended_at_the_quota(lab: Lab) -> None:
    """A runaway agent does not fill the disk: it ends with a reason that says so."""
    handle = await lab.start(
        "import os, time\nos.write(1, b'x' * (3 << 20)); time.sleep(60)", quota_bytes=1 << 20
    )
    assert (await handle.wait_exit()).reason == "quota"


async def test_agent_without_a_server_is_ended_after_the_linger(lab: Lab) -> None:
    """A server that never comes back does not leave agents running for ever."""
    handle = await lab.start("import time; time.sleep(60)", orphan_s=0.1)
    handle.detach()
    await until(lambda: (handle.directory / "exit").exists())
    exit = await attach(handle.directory, THREADS.processes)
    assert exit == AgentExit(None, signal.SIGTERM, "orphaned")


async def test_agent_whose_directory_was_deleted_is_ended_when_its_server_goes(lab: Lab) -> None:
    """Nobody could ever find it again."""
    handle = await lab.start("import time; time.sleep(60)")
    await until((handle.directory / "meta").exists)
    shutil.rmtree(handle.directory)
    handle.detach()
    await until(lambda: not lab.left_behind())


async def test_linger_can_be_changed(lab: Lab) -> None:
    """In a turn an agent may wait longer for its server than between turns."""
    patient, impatient = [await lab.start("import time; time.sleep(60)", orphan_s=1) for _ in range(2)]
    patient.set_linger(math.inf)
    impatient.set_linger(0.05)
    patient.detach()
    impatient.detach()
    await until(lambda: (impatient.directory / "exit").exists())
    assert is_alive(patient.pid)
    back = await attach(patient.directory, THREADS.processes)
    assert not isinstance(back, AgentExit)
    await back.kill()


async def test_runner_that_is_asked_by_a_signal_ends_its_agent(lab: Lab) -> None:
    """A machine that shuts down sends TERM to everything: agents get it too, and the exit is recorded."""
    handle = await lab.start("import os, time; print(os.getppid(), flush=True); time.sleep(60)")
    os.kill(int((await printed(handle))[0]), signal.SIGTERM)
    assert await handle.wait_exit() == AgentExit(None, signal.SIGTERM, "killed")


async def test_idle_runner_sleeps(lab: Lab) -> None:
    """Warm agents cost no processor time: a runner that has started wakes up every few seconds at most."""
    handle = await lab.start("import os, time; print(os.getppid(), flush=True); time.sleep(60)")
    runner = int((await printed(handle))[0])

    def wake_ups() -> int:
        status = Path(f"/proc/{runner}/status").read_text()
        return int(status.partition("voluntary_ctxt_switches:")[2].split()[0])

    counts = [wake_ups()]
    while len(counts) < 5 and (len(counts) < 2 or counts[-1] - counts[-2] > 4):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await handle.wait_exit()
        counts.append(wake_ups())
    assert counts[-1] - counts[-2] <= 4
    await handle.kill()


def test_frames_do_not_depend_on_how_the_bytes_arrive() -> None:
    """A message may come byte by byte or many at once."""
    stream = frame(b"M", b"hello") + frame(b"Z") + frame(b"K", b"\0" * 8)
    frames = Frames()
    one_by_one = [found for byte in stream for found in frames.feed(bytes([byte]))]
    assert one_by_one == list(Frames().feed(stream)) == [(b"M", b"hello"), (b"Z", b""), (b"K", b"\0" * 8)]


def test_descendants_without_proc_children_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a kernel without that file the whole of /proc is searched instead."""
    read_end, write_end = os.pipe()
    pid = os.posix_spawn(
        "/bin/sh", ["sh", "-c", "(sleep 60 & echo; wait); :"], {}, file_actions=[(2, write_end, 1)]
    )
    os.read(read_end, 1)
    fast = set(tree.descendants(pid))
    monkeypatch.setattr(tree, "HAS_PROC_CHILDREN", False)
    slow = set(tree.descendants(pid))
    for each in (pid, *fast):
        os.kill(each, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(read_end)
    os.close(write_end)
    assert (fast, len(fast)) == (slow, 2)


HIDES_PROCESSES = 'mount -t proc -o "hidepid=$0" proc /proc || exit 77; exec "$@"'

SERVER_AND_RUNNER = """
import os, signal, socket, sys
sys.path.insert(0, sys.argv[1])
from agentsrv import linux
from agentsrv.runner.child import tree
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
linux.forbid_inspection()
ours, server = socket.socketpair()
if os.fork() == 0:
    agent = os.fork() or signal.pause()
    try:
        print(tree.descendants(os.getpid()) == [agent], tree.is_own(ours), flush=True)
    finally:
        os.kill(agent, signal.SIGKILL)
        os._exit(0)
os.wait()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
@pytest.mark.parametrize("hidepid", ["1", "2"])
def test_server_that_proc_hides_is_one(hidepid: str) -> None:
    """Where users see no processes but those that they may look into, the next server still gets to its agents."""
    script = (sys.executable, "-I", "-c", SERVER_AND_RUNNER, str(Path(__file__).parents[2]))
    command = ("unshare", "--mount", "sh", "-c", HIDES_PROCESSES, hidepid, *script)
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode == 77 or done.stderr.startswith("unshare"):
        pytest.skip("no mounts here")

    assert (done.stdout, done.stderr) == ("True False\n", "")
