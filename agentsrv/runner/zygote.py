"""The server's end of the zygote: the pre-started process from which runners are forked."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from agentsrv.errors import StartupError
from agentsrv.linux import passing_on
from agentsrv.runner.child.frames import SPEC, frame
from agentsrv.runner.handle import RunnerHandle
from agentsrv.runner.spec import RunnerError, RunnerSpec
from agentsrv.threads import Pool
from agentsrv.users import NEEDED

PROGRAM = Path(__file__).resolve().parent / "child" / "__main__.py"
STARTS_AT_ONCE = 4
"""One is forked, one has been, and the next ones are on their way: more would only wait elsewhere."""
START_TIMEOUT_S = 10.0
END_TIMEOUT_S = 10.0
PASSED_VARIABLES = ("LD_LIBRARY_PATH",)
"""What a Python linked to a libpython in an unusual place needs. Nothing else: runners keep no secrets."""


class Zygote:
    """Starts runners. Restarted at the next spawn when it was killed; runners do not notice.

    `environment` is the server's; see PASSED_VARIABLES. `processes` clears up after runners that were killed.
    Agents may have as many descriptors as this process may when the zygote is made: a server that raises its own
    limit later does not raise theirs.
    """

    def __init__(self, environment: Mapping[str, str], processes: Pool) -> None:
        self._processes = processes
        self._environment = {name: environment[name] for name in PASSED_VARIABLES if name in environment}
        self._descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._turns = asyncio.Semaphore(STARTS_AT_ONCE)
        self._process: subprocess.Popen[bytes] | None = None
        self._killed: list[subprocess.Popen[bytes]] = []
        """Those that are not known to be dead."""
        self._control: socket.socket | None = None

    async def start(self) -> None:
        """Start the process and wait until it answers. Raises StartupError."""
        try:
            control = self._running()
            async with asyncio.timeout(START_TIMEOUT_S):
                sign_of_life = await asyncio.get_running_loop().sock_recv(control, 1)
        except RunnerError as exc:
            raise StartupError(exc.message) from exc
        except TimeoutError:
            sign_of_life = b""
        if not sign_of_life:
            await self.close()
            raise StartupError(f"the process that starts agents does not run: {sys.executable}")

    async def spawn(self, spec: RunnerSpec) -> RunnerHandle:
        """Start an agent under a new runner; return when its program runs.

        Starts wait for each other, in the order in which they were asked for, and however many they are.
        Raises RunnerError when it cannot: the program or the directory is missing, not allowed, ...
        """
        async with self._turns:
            return await self._spawn_again(spec)

    async def close(self) -> None:
        """End the zygote. Runners go on. Closing twice is fine."""
        self._end()
        while self._killed:
            with contextlib.suppress(subprocess.TimeoutExpired):
                await self._processes.run_anyway(self._killed.pop().wait, END_TIMEOUT_S)

    async def _spawn_again(self, spec: RunnerSpec) -> RunnerHandle:
        control = self._running()
        try:
            return await self._spawn(spec, control)
        except ConnectionError:
            # The zygote was killed with the request in its queue. No prompt is sent yet: ask again.
            if self._control is control:  # Otherwise somebody else has restarted it already.
                self._end()
        try:
            return await self._spawn(spec, self._running())
        except ConnectionError as exc:
            raise RunnerError(f"the runner of {spec.argv[0]} died at its start") from exc

    async def _spawn(self, spec: RunnerSpec, control: socket.socket) -> RunnerHandle:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        request = frame(SPEC, spec.encode())
        handle = RunnerHandle(spec.id, spec.directory, self._processes)
        try:
            with theirs:
                # Before the runner has the other end, so that it finds its spec there and need not wait.
                sent = ours.send(request)
                socket.send_fds(control, [b"1"], [theirs.fileno()])
            async with asyncio.timeout(START_TIMEOUT_S):
                await handle.open(ours, request[sent:], expects_pty=spec.pty is not None)
        except BaseException as exc:
            handle.abandon(ours)
            if isinstance(exc, TimeoutError):
                if self._control is control:
                    self._end()  # It hangs, or was stopped: the next request gets a new one.
                raise RunnerError(f"{spec.argv[0]} was not started within {START_TIMEOUT_S:g} s") from exc
            if isinstance(exc, OSError) and not isinstance(exc, ConnectionError):
                raise RunnerError(f"{spec.argv[0]} cannot be started: {exc.strerror}") from exc
            raise
        return handle

    def _running(self) -> socket.socket:
        """The control socket of a living zygote."""
        if self._process is not None and self._process.poll() is not None:
            self._end()
        if self._control is None:
            self._launch()
        assert self._control is not None
        return self._control

    def _launch(self) -> None:
        self._control, theirs = socket.socketpair()
        self._control.setblocking(False)
        # -I -S: no site-packages and no user's modules; -X utf8: paths do not depend on the server's locale.
        argv = [sys.executable, "-I", "-S", "-X", "utf8", str(PROGRAM)]
        with theirs:
            try:
                with passing_on(NEEDED.values()):  # For agents that are another user; no agent keeps them.
                    self._process = subprocess.Popen(
                        [*argv, str(theirs.fileno()), str(self._descriptors)],
                        pass_fds=[theirs.fileno()],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                        cwd="/",
                        env=self._environment,
                        start_new_session=True,
                    )
            except OSError as exc:
                self._end()
                raise RunnerError(
                    f"the system gives no process to start agents from ({exc.strerror}); see `ulimit -u`"
                ) from exc

    def _end(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            self._process.kill()
            self._killed = [each for each in (*self._killed, self._process) if each.poll() is None]
            self._process = None
