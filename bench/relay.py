"""The floor of an event's processor time: an asyncio program that passes agents' bytes on to sockets, no more.

`python -m bench.relay PORT PROGRAM AGENTS` is that program; it takes the prompt on its standard input.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench import floor
from bench.client import TIMEOUT_S


def relaying(program: Path, prompt: str, agents: int) -> tuple[subprocess.Popen[str], list[socket.socket]]:
    """The program at work, and a connection for each of its agents."""
    with socket.create_server(("127.0.0.1", 0), backlog=agents) as listening:
        listening.settimeout(TIMEOUT_S)
        port = listening.getsockname()[1]
        command = [sys.executable, "-m", "bench.relay", str(port), str(program), str(agents)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
        assert process.stdin is not None
        with process.stdin as stdin:
            stdin.write(prompt)
        return process, [listening.accept()[0] for _ in range(agents)]


def drain(connections: list[socket.socket], on_data: Callable[[socket.socket, bytes], None]) -> None:
    """Read each to its end."""
    waiting = selectors.DefaultSelector()
    for connection in connections:
        waiting.register(connection, selectors.EVENT_READ, connection)
    while waiting.get_map():
        for key, _ in waiting.select(TIMEOUT_S):
            if data := os.read(key.fd, 1 << 16):
                on_data(key.data, data)
            else:
                waiting.unregister(key.fileobj)
                key.data.close()


async def relay(port: int, program: Path, agents: int, prompt: str) -> None:
    loop = asyncio.get_running_loop()
    ends = [loop.create_future() for _ in range(agents)]
    for ended in ends:
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        agent = floor.start(program)
        agent.prompt(prompt)
        assert agent.process.stdout is not None
        fd = agent.process.stdout.fileno()
        loop.add_reader(fd, partial(_pass_on, fd, connection, agent, ended))
    await asyncio.gather(*ends)


def _pass_on(fd: int, connection: socket.socket, agent: floor.Piped, ended: asyncio.Future[None]) -> None:
    data = os.read(fd, 1 << 16)
    connection.sendall(data)
    if floor.IDLE in data[-400:]:
        asyncio.get_running_loop().remove_reader(fd)
        connection.close()
        agent.end()
        ended.set_result(None)


if __name__ == "__main__":
    asyncio.run(relay(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.stdin.read()))
