"""Finds a runner again, after a restart of the server."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

from agentsrv.model import RunnerId
from agentsrv.runner.child.tree import peer_pid
from agentsrv.runner.handle import RunnerHandle
from agentsrv.runner.records import SPOILED, AgentExit
from agentsrv.runner.sweep import clean_up_after, kill_process
from agentsrv.threads import Pool

ATTACH_TIMEOUT_S = 5.0


async def attach(directory: Path, processes: Pool, *, expects_pty: bool = False) -> RunnerHandle | AgentExit:
    """Find the runner of `directory` again, after a restart of the server.

    `processes` clears up what is left of one. `expects_pty`: its agent has a terminal. Returns how the agent
    ended when it has. When the runner is gone without a record, or does not answer within 5 s, what is left of
    its tree is killed and the reason is `runner_lost`. The newest connection to a runner wins: an older handle's
    `exited` resolves with `replaced`.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connect(connection, directory)
    except BaseException as exc:
        connection.close()
        if isinstance(exc, OSError) and exc.errno in SPOILED:  # Nobody is there, or takes calls.
            return await processes.run(clean_up_after, directory)
        raise
    runner_pid = peer_pid(connection)
    handle = RunnerHandle(RunnerId(directory.name), directory, processes)
    try:
        async with asyncio.timeout(ATTACH_TIMEOUT_S):
            await handle.open(connection, expects_pty=expects_pty)
    except (TimeoutError, ConnectionError):
        handle.detach()
        kill_process(runner_pid)
        return await processes.run(clean_up_after, directory)
    except BaseException:
        handle.detach()
        raise
    if handle.exited.done():
        handle.detach()
        return handle.exited.result()
    return handle


def connect(connection: socket.socket, directory: Path) -> None:
    """Connect to `directory/sock` without blocking. By a descriptor, for paths of over 108 bytes."""
    connection.setblocking(False)
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        connection.connect(f"/proc/self/fd/{fd}/sock")
    finally:
        os.close(fd)
