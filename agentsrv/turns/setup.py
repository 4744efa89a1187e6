"""The command that makes a new worktree ready for work, such as `npm ci`: what runs it, and what it has said.

It comes from who sends the prompt or runs the server, never from the repository. It has the environment that
terminals have, and ends with its process group.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from msgspec import Struct

from agentsrv.config import Config
from agentsrv.errors import Unprocessable
from agentsrv.jsontext import dump
from agentsrv.programs import child_environment
from agentsrv.threads import Pool
from agentsrv.users import User

MAX_OUTPUT_BYTES = 16 * 1024
"""The end of what it has written."""
STEP_S = 1.0


class WorktreeWish(Struct, frozen=True):
    """What a client wants of a worktree. `setup` None: the server's own; empty: nothing is run."""

    base: str | None = None
    branch: str | None = None
    copy: tuple[str, ...] = ()
    setup: tuple[str, ...] | None = None
    setup_timeout_s: float | None = None


NO_WISH = WorktreeWish()


class WorktreeSetup:
    def __init__(self, config: Config, pool: Pool) -> None:
        self._config = config
        self._pool = pool

    async def run(self, cwd: str, wish: WorktreeWish) -> list[bytes]:
        """The event that tells of it; none when there is nothing to run.

        Raises Unprocessable (`worktree_setup_failed`).
        """
        command = self._config.worktree_setup if wish.setup is None else wish.setup
        if not command:
            return []
        timeout_s = wish.setup_timeout_s or self._config.worktree_setup_timeout_s
        environment = child_environment(self._config.environment, self._config.agent_env)
        if self._pool.user is not None:
            environment |= self._pool.user.variables()
        began = time.monotonic()
        problem, output = await self._pool.run(_run, command, cwd, environment, timeout_s, self._pool.user)
        if problem is not None:
            raise Unprocessable(
                f"the worktree was not made: {command[0]} {problem}. It said last: {output[-2000:] or '(nothing)'}",
                code="worktree_setup_failed",
            )
        event = {"type": "system", "subtype": "worktree_setup", "command": list(command), "output": output}
        return [dump(event | {"duration_ms": round((time.monotonic() - began) * 1000)})]


def _run(
    command: Sequence[str], cwd: str, environment: Mapping[str, str], timeout_s: float, user: User | None
) -> tuple[str | None, str]:
    """What went wrong, and the end of the output."""
    try:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **({} if user is None else user.popen()),
        )
    except OSError as exc:
        return f"cannot be started ({exc.strerror})", ""
    assert process.stdout is not None
    with process:
        try:
            output, is_over = _read(process, process.stdout.fileno(), time.monotonic() + timeout_s)
        finally:
            # What it has left in the background would hold the worktree.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
    text = output.decode("utf-8", "replace")
    if not is_over:
        return f"was not ready within {timeout_s:g} s", text
    return (None if code == 0 else f"ended with exit code {code}"), text


def _read(process: subprocess.Popen[bytes], descriptor: int, deadline: float) -> tuple[bytes, bool]:
    """The end of what it writes, and whether it has ended by then; what it has started may go on writing."""
    poll, output, is_open = select.poll(), b"", True
    poll.register(descriptor, select.POLLIN)
    while time.monotonic() < deadline:
        if is_open and poll.poll(STEP_S * 1000):
            data = os.read(descriptor, 64 * 1024)
            is_open = bool(data)
            output = (output + data)[-MAX_OUTPUT_BYTES:]
        elif process.poll() is not None:
            return output, True
        elif not is_open:
            with suppress(subprocess.TimeoutExpired):
                process.wait(min(STEP_S, max(deadline - time.monotonic(), 0)))
    return output, False
