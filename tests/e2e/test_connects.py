"""A flood of connections to terminals."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
from aiohttp import ClientSession, TCPConnector, WSServerHandshakeError

from tests.conftest import ServerMaker
from tests.kit import KEY, Server, open_files, wait_for_at_most
from tests.terminal_client import TerminalClient, get_token, terminal

SECRET = "terminal-secret-0123456789abcdefghij"
CONNECTS = 1000
ROUNDS = 5
AT_ONCE = 50
POOL_THREADS = min(32, (os.cpu_count() or 1) + 4)


def token_for(terminal_id: str, made: dict[str, Any], *, key: str = SECRET) -> str:
    """A token like one that the server has made; most of the work of the flood is not to be its own."""
    now = int(time.time())
    own = {"exp": now + 60, "iat": now, "jti": uuid.uuid4().hex, "terminalId": terminal_id}
    return jwt.encode({**made, **own}, key, "HS256")


def flood(made: dict[str, Any]) -> Iterator[str]:
    """Tokens: of ten, six are forged, two are for terminals that would be too many, two for one that runs."""
    for number in range(CONNECTS):
        match number % 10:
            case 0 | 5:
                yield token_for("shared", made)
            case 1 | 6:
                yield token_for(f"more-{number}", made)
            case _:
                yield token_for("shared", made, key="x" * 40)


async def connect(client: ClientSession, server: Server, token: str) -> int:
    """The status of the handshake; an open socket is closed at once."""
    try:
        async with client.ws_connect(f"http://127.0.0.1:{server.port}/ws/terminal?token={token}"):
            return 101
    except WSServerHandshakeError as exc:
        return exc.status


async def connect_all(client: ClientSession, server: Server) -> Counter[int]:
    token = await get_token(client, server.port, KEY)
    tokens = flood(jwt.decode(token, options={"verify_signature": False}))

    async def work() -> Counter[int]:
        return Counter([await connect(client, server, token) for token in tokens])

    return sum(await asyncio.gather(*(work() for _ in range(AT_ONCE))), Counter())


async def use(client: ClientSession, server: Server, shell: TerminalClient, stop: asyncio.Event) -> int:
    """Work with the server in the ordinary way until told to stop; how often it answered."""
    rounds = 0
    while not stop.is_set() or rounds == 0:
        rounds += 1
        await shell.type(f"echo $(({rounds} * 1000003))\n")
        await shell.shows(str(rounds * 1000003))
        async with client.get(f"http://127.0.0.1:{server.port}/health") as answer:
            assert (answer.status, (await answer.json())["status"]) == (200, "healthy")
    return rounds


def counts(server: Server) -> tuple[int, int, int]:
    threads = len(list(Path(f"/proc/{server.pid}/task").iterdir()))
    return len(open_files(server.pid)), threads, len(server.processes())


async def test_a_flood_of_connections_leaves_nothing_behind(make_server: ServerMaker) -> None:
    """Thousands of connects, good and bad, each gets its answer; who works meanwhile is served, and nothing is left."""
    server = make_server(TERMINAL_JWT_SECRET=SECRET, MAX_TERMINALS="2")
    async with (
        ClientSession(connector=TCPConnector(limit=AT_ONCE, force_close=True)) as flooder,
        ClientSession() as client,
        terminal(client, server.port, KEY, "mine") as shell,
        terminal(client, server.port, KEY, "shared") as other,
    ):
        await shell.message("info")
        await other.message("info")
        stop = asyncio.Event()
        stop.set()
        await use(client, server, shell, stop)
        await connect_all(flooder, server)
        files, threads, processes = counts(server)
        stop.clear()
        user = asyncio.create_task(use(client, server, shell, stop))  # noqa: TID251
        answers = [await connect_all(flooder, server) for _ in range(ROUNDS)]
        stop.set()

        assert answers == [{101: 200, 401: 600, 429: 200}] * ROUNDS
        assert await user > ROUNDS
        # asyncio starts the threads of its pool as it needs them.
        wait_for_at_most((files, threads + POOL_THREADS, processes), lambda: counts(server))
