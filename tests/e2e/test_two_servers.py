"""Two servers with one API key and one real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, WSServerHandshakeError

from tests.conftest import ServerMaker
from tests.kit import KEY, Server, script
from tests.redis_server import real_redis, redis_url
from tests.terminal_client import TerminalClient, get_token

pytestmark = pytest.mark.tools


@pytest.fixture
async def client() -> AsyncIterator[ClientSession]:
    async with ClientSession() as client:
        yield client


async def connect(client: ClientSession, server: Server, token: str) -> int:
    """Open a terminal with `token` and see its shell greet; the status of the handshake."""
    url = f"http://127.0.0.1:{server.port}/ws/terminal?token={token}"
    try:
        async with client.ws_connect(url) as ws:
            await TerminalClient(ws, is_binary=False).message("info")
            return 101
    except WSServerHandshakeError as exc:
        return exc.status


def redis_health(server: Server) -> tuple[str, dict[str, Any]]:
    health = server.ask("GET", "/health").json
    return health["status"], health["redis"]


async def test_a_token_opens_one_terminal_on_all_servers(
    make_server: ServerMaker, client: ClientSession, tmp_path: Path
) -> None:
    """A token that I have used on one server is refused by the other, and the other way round."""
    with real_redis(tmp_path) as url:
        one, two = make_server(REDIS_URL=url), make_server(REDIS_URL=url)
        first, second = [await get_token(client, server.port, KEY) for server in (one, two)]

        assert [await connect(client, server, first) for server in (one, two, one)] == [101, 401, 401]
        assert [await connect(client, server, second) for server in (one, two, two)] == [101, 401, 401]


async def test_redis_may_go_away_and_come_back(
    make_server: ServerMaker, client: ClientSession, tmp_path: Path
) -> None:
    """Without Redis prompts work and no terminal opens; the server says so, and recovers by itself."""
    server = make_server(REDIS_URL=redis_url(tmp_path))
    token = await get_token(client, server.port, KEY)

    assert redis_health(server) == ("degraded", {"configured": True, "connected": False})
    assert await connect(client, server, token) == 503
    assert server.generate(script("echo")).rest()[-1].json["status"] == "completed"
    with real_redis(tmp_path) as url:
        assert redis_health(server) == ("healthy", {"configured": True, "connected": True})
        # What was refused had not been used.
        assert [await connect(client, server, token) for _ in range(2)] == [101, 401]
        assert url == server.settings["REDIS_URL"]
    assert redis_health(server)[0] == "degraded"
    assert await connect(client, server, await get_token(client, server.port, KEY)) == 503


async def test_an_open_terminal_does_not_need_redis(
    make_server: ServerMaker, client: ClientSession, tmp_path: Path
) -> None:
    """Redis goes away under an open terminal: it works on."""
    with real_redis(tmp_path) as url:
        server = make_server(REDIS_URL=url)
        token = await get_token(client, server.port, KEY)
        ws = await client.ws_connect(f"http://127.0.0.1:{server.port}/ws/terminal?token={token}")
    async with ws:
        shell = TerminalClient(ws, is_binary=False)
        await shell.type("echo $((6 * 7))\n")

        assert "42" in await shell.shows("42")
