"""Starting agents."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from agentsrv.errors import StartupError
from agentsrv.model import RunnerId
from agentsrv.runner.attach import attach
from agentsrv.runner.records import AgentExit
from agentsrv.runner.spec import RunnerError
from agentsrv.runner.zygote import Zygote
from tests.kit import THREADS, environ_of
from tests.runner.conftest import Lab, is_alive, until


async def test_agent_runs_with_exactly_the_given_environment(lab: Lab) -> None:
    """An agent sees the variables it was given, the cookie, and nothing of the server's."""
    spec = lab.spec("/bin/cat", "/proc/self/environ", env={"PATH": "/bin", "LANG": "C.UTF-8"})
    handle = await lab.zygote.spawn(spec)
    await handle.wait_exit()
    variables = (handle.directory / "out").read_bytes().split(b"\0")
    assert sorted(variables) == [b"", f"AGENTSRV_RUNNER={spec.id}".encode(), b"LANG=C.UTF-8", b"PATH=/bin"]


async def test_environment_and_arguments_that_are_not_utf8_arrive_unchanged(lab: Lab) -> None:
    """Names and values are bytes to the kernel, and stay the bytes they were."""
    odd = os.fsdecode(b"caf\xe9")
    handle = await lab.zygote.spawn(lab.spec("/bin/sh", "-c", 'echo "$0 $V"', odd, env={"V": odd}))
    await handle.wait_exit()
    assert (handle.directory / "out").read_bytes() == b"caf\xe9 caf\xe9\n"


async def test_runner_and_zygote_hold_none_of_the_servers_environment(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secret of the server is not to be read in /proc of a process that the agent could look into."""
    monkeypatch.setenv("API_KEY", "secret-of-the-server")
    zygote = Zygote({"API_KEY": "secret-of-the-server"}, THREADS.processes)
    await zygote.start()
    handle = await zygote.spawn(lab.spec("/bin/sleep", "60"))
    runner = parent_of(handle.pid)
    environments = [environ_of(pid) for pid in (runner, parent_of(runner))]
    await handle.kill()
    await zygote.close()
    # Nothing in it, or not to be read at all.
    assert all(environment in ([], [b""]) for environment in environments)


async def test_runners_cannot_be_looked_into_and_agents_can(lab: Lab) -> None:
    """A key that passes through a runner is not found in its memory; debuggers work in an agent as ever."""
    is_dumpable = "import ctypes; print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), flush=True)"
    program = (
        "from agentsrv import linux\n"
        "from agentsrv.runner.child import zygote\n"
        "zygote.be_zygote = lambda control, umask: print(int(linux.may_be_inspected()))\n"
        "zygote.main()"
    )
    with socket.socket() as control:
        argv = [sys.executable, "-c", program, str(control.fileno()), "1024"]
        seen = subprocess.run(argv, pass_fds=[control.fileno()], capture_output=True, check=True, timeout=60)
    handle = await lab.start(is_dumpable)
    await handle.wait_exit()

    assert (b"0\n", b"1\n") == (seen.stdout, (handle.directory / "out").read_bytes())


async def test_agent_inherits_no_descriptor_but_the_three(lab: Lab) -> None:
    """stdin, stdout, stderr; no socket of the runner, no file of the server."""
    handle = await lab.zygote.spawn(lab.spec("/bin/ls", "/proc/self/fd"))
    await handle.wait_exit()
    # The 3 is the directory that `ls` reads.
    assert (handle.directory / "out").read_text().split() == ["0", "1", "2", "3"]


async def test_agent_starts_with_default_signals_mask_and_umask(lab: Lab) -> None:
    """Nothing is blocked or ignored, whatever Python, the runner or `nohup` did; files get the usual mode."""
    handle = await lab.zygote.spawn(lab.spec("/bin/grep", "-E", "Sig(Blk|Ign)|Umask", "/proc/self/status"))
    await handle.wait_exit()
    status = dict(line.split(":\t") for line in (handle.directory / "out").read_text().splitlines())
    umask = os.umask(0o022)
    os.umask(umask)
    assert status == {"Umask": f"{umask:04o}", "SigBlk": "0" * 16, "SigIgn": "0" * 16}


SPAWN_AN_AGENT = """
import asyncio, sys
from pathlib import Path
from tests.runner.conftest import Lab

async def main():
    lab = Lab(Path(sys.argv[1]))
    await lab.zygote.start()
    agent = await lab.zygote.spawn(lab.spec("/bin/grep", "SigIgn", "/proc/self/status"))
    await agent.wait_exit()
    await lab.zygote.close()

asyncio.run(main())
"""


async def test_agent_has_default_signals_though_make_started_the_server(tmp_path: Path) -> None:
    """GNU make starts programs by posix_spawn(), which leaves ignored what only libc may set back."""
    argv = [sys.executable, "-c", SPAWN_AN_AGENT, str(tmp_path)]
    pid = os.posix_spawn(sys.executable, argv, {})
    assert await asyncio.to_thread(os.waitpid, pid, 0) == (pid, 0)
    (output,) = tmp_path.glob("*/out")
    assert output.read_text().split() == ["SigIgn:", "0" * 16]


async def test_agent_leads_its_own_session(lab: Lab) -> None:
    """An agent that signals its process group does not hit its runner."""
    handle = await lab.start("import os; os.kill(0, 9)")
    assert await handle.wait_exit() == AgentExit(None, signal.SIGKILL, "exited")


async def test_files_of_a_runner_are_private(lab: Lab) -> None:
    """Nobody but the owner can read what an agent says, or talk to its runner."""
    handle = await lab.start("print(1)")
    await handle.wait_exit()
    modes = {path.name: path.stat().st_mode & 0o777 for path in handle.directory.iterdir()}
    assert handle.directory.stat().st_mode & 0o777 == 0o700
    assert modes == {"out": 0o600, "sock": 0o700, "meta": 0o600, "exit": 0o600}


async def test_a_start_that_failed_half_way_can_be_made_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first attempt has left in the directory is no hindrance."""
    spec = lab.spec("/bin/true")
    monkeypatch.chdir(spec.directory)  # A socket's path must be short.
    with socket.socket(socket.AF_UNIX) as left:
        left.bind("sock")
    handle = await lab.zygote.spawn(spec)

    assert 0 == (await handle.wait_exit()).code


@pytest.mark.parametrize(
    ("program", "cwd", "about", "message"),
    [
        ("/no/such/agent", "/", "program", "cannot run /no/such/agent: No such file or directory"),
        ("{tmp}/plain", "/", "program", "cannot run {tmp}/plain: Permission denied"),
        ("/bin/true", "/gone", "cwd", "cannot enter the working directory /gone: No such file or directory"),
        ("{tmp}/script", "/", "program", "cannot run {tmp}/script: the interpreter it names does not exist"),
        ("{tmp}/data", "/", "program", "cannot run {tmp}/data: Exec format error"),
    ],
)
async def test_agent_that_cannot_start_says_why(
    lab: Lab, tmp_path: Path, program: str, cwd: str, about: str, message: str
) -> None:
    """The error names the path and what is wrong with it, and the record stays for a later server."""
    for name, content, mode in (
        ("plain", "", 0o644),
        ("script", "#!/no/interpreter\n", 0o755),
        ("data", "\1\2\3", 0o755),
    ):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(mode)
    spec = lab.spec(program.format(tmp=tmp_path), cwd=cwd)
    with pytest.raises(RunnerError) as caught:
        await lab.zygote.spawn(spec)
    assert (caught.value.about, caught.value.message) == (about, message.format(tmp=tmp_path))
    assert await attach(spec.directory, THREADS.processes) == AgentExit(
        None, None, "exec_failed", message.format(tmp=tmp_path)
    )


async def test_program_whose_name_is_not_utf8_is_told_of(lab: Lab, tmp_path: Path) -> None:
    """The error names it as well as text can."""
    spec = lab.spec(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    message = f"cannot run {tmp_path}/caf\ufffd: No such file or directory"
    with pytest.raises(RunnerError, match=message):
        await lab.zygote.spawn(spec)
    assert await attach(spec.directory, THREADS.processes) == AgentExit(None, None, "exec_failed", message)


async def test_argument_with_a_nul_is_refused(lab: Lab) -> None:
    """It cannot be passed on, and cutting it off would run something else."""
    with pytest.raises(RunnerError, match="cannot run /bin/echo: Invalid argument"):
        await lab.zygote.spawn(lab.spec("/bin/echo", "a\0b"))


async def test_runner_directory_is_used_once(lab: Lab) -> None:
    """Two agents never write to one spool."""
    handle = await lab.start("print(1)")
    await handle.wait_exit()
    spec = lab.spec("/bin/true")
    (spec.directory / "out").touch()
    with pytest.raises(RunnerError, match="File exists"):
        await lab.zygote.spawn(spec)


async def test_runner_whose_directory_is_gone_starts_nothing(lab: Lab) -> None:
    """Who has given an agent up removes its directory: a runner that comes after that leaves nothing behind."""
    spec = lab.spec("/bin/sleep", "60")
    spec.directory.rmdir()
    with pytest.raises(RunnerError, match="No such file or directory"):
        await lab.zygote.spawn(spec)
    assert not spec.directory.exists()
    assert lab.left_behind() == []


async def test_environment_larger_than_a_socket_buffer_arrives(lab: Lab) -> None:
    """A spec may be of any size that the kernel lets an exec have."""
    variables = {f"V{number}": "x" * 100_000 for number in range(8)}
    handle = await lab.zygote.spawn(lab.spec("/bin/cat", "/proc/self/environ", env=variables))
    await handle.wait_exit()
    assert (handle.directory / "out").stat().st_size > 800_000


async def test_spawn_works_again_after_the_zygote_was_killed(lab: Lab) -> None:
    """A killed zygote costs no turn: running agents do not notice and the next one starts."""
    first = await lab.start("import time; print(1, flush=True); time.sleep(60)")
    os.kill(parent_of(parent_of(first.pid)), signal.SIGKILL)
    second, third = [await lab.start("import time; time.sleep(60)") for _ in range(2)]
    assert all(is_alive(handle.pid) for handle in (first, second, third))
    exits = await asyncio.gather(*[handle.kill() for handle in (first, second, third)])
    assert [exit.reason for exit in exits] == ["killed"] * 3


async def test_a_zygote_that_hangs_is_replaced(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who meets it is told after a while; the next one starts."""
    handle = await lab.zygote.spawn(lab.spec("/bin/sleep", "60"))
    zygote = parent_of(parent_of(handle.pid))
    await until(lambda: len(children_of(zygote)) == 2)  # The runner, and the next spare.
    os.kill(zygote, signal.SIGSTOP)
    await lab.zygote.spawn(lab.spec("/bin/true"))
    with monkeypatch.context() as patch:
        patch.setattr("agentsrv.runner.zygote.START_TIMEOUT_S", 0.1)
        with pytest.raises(RunnerError, match="was not started within"):
            await lab.zygote.spawn(lab.spec("/bin/true"))

    assert (await (await lab.zygote.spawn(lab.spec("/bin/true"))).wait_exit()).code == 0


async def test_zygote_killed_under_a_burst_of_spawns_loses_none(lab: Lab) -> None:
    """Requests that were in its queue are asked again."""
    first = await lab.start("import time; time.sleep(60)")
    os.kill(parent_of(parent_of(first.pid)), signal.SIGKILL)
    handles = await asyncio.gather(*[lab.zygote.spawn(lab.spec("/bin/sleep", "60")) for _ in range(10)])
    exits = await asyncio.gather(*[handle.kill() for handle in [first, *handles]])
    assert [exit.signal for exit in exits] == [signal.SIGTERM] * 11


async def test_fifty_spawns_at_once_leak_nothing(lab: Lab) -> None:
    """All of them start; after their end there is no descriptor, process or zombie more than before."""
    await (await lab.start("print(1)")).wait_exit()
    descriptors, children = len(os.listdir("/proc/self/fd")), child_processes()
    handles = await asyncio.gather(*[lab.zygote.spawn(lab.spec("/bin/echo", "hello")) for _ in range(50)])
    exits = await asyncio.gather(*[handle.wait_exit() for handle in handles])
    assert exits == [AgentExit(0, None, "exited")] * 50
    assert {(handle.directory / "out").read_text() for handle in handles} == {"hello\n"}
    await until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)
    await until(lambda: child_processes() <= children)
    assert lab.left_behind() == []


async def test_a_thousand_starts_wait_for_each_other_and_none_fails(lab: Lab) -> None:
    """However many ask at once: each starts in its turn, and none waits longer than the starts before it take."""
    names: list[RunnerId] = []

    async def start() -> AgentExit:
        handle = await lab.zygote.spawn(lab.spec("/bin/true"))
        names.append(handle.id)
        return await handle.wait_exit()

    exits = await asyncio.gather(*[start() for _ in range(1000)])
    late = [abs(lab.ids.index(name) - place) for place, name in enumerate(names)]

    assert [AgentExit(0, None, "exited")] * 1000 == exits
    # A start that the machine holds up is overtaken by those beside it; nobody is forgotten.
    assert max(late) < 100


async def test_no_process_left_is_told_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit of processes the server says which limit it is."""

    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(StartupError, match="Resource temporarily unavailable"):
        await Zygote({}, THREADS.processes).start()


async def test_cancelled_spawn_leaves_no_agent(lab: Lab) -> None:
    """A caller that gives up does not leave an agent behind that nobody knows."""
    for delay_s in (0.0, 0.0003, 0.0006, 0.0012, 0.0025):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                handle = await lab.zygote.spawn(lab.spec("/bin/sleep", "60"))
            await handle.kill()
    await until(lambda: not lab.left_behind())


async def test_zygote_and_spare_end_with_their_server(lab: Lab) -> None:
    """When the server is killed, only runners with agents stay; here it just closes its socket."""
    handle = await lab.start("import time; time.sleep(60)")
    zygote = parent_of(parent_of(handle.pid))
    spare = children_of(zygote)
    await lab.zygote.close()
    await lab.zygote.close()
    await until(lambda: [pid for pid in (zygote, *spare) if is_alive(pid)] == [parent_of(handle.pid)])
    assert (await handle.kill()).reason == "killed"


async def test_zygote_that_cannot_run_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken interpreter is found at the start of the server, not by the first turn."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(StartupError, match="does not run: /bin/false"):
        await Zygote({}, THREADS.processes).start()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def child_processes() -> set[str]:
    return set(Path("/proc/thread-self/children").read_text().split())
