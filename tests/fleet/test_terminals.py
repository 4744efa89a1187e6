"""Terminals of a fleet: at home on one server, shown through any."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, WSServerHandshakeError

from tests.fleet.kit import FleetOfServers
from tests.kit import KEY, Server, wait_until
from tests.terminal_client import TerminalClient, get_token, terminal

pytestmark = pytest.mark.tools


@pytest.fixture
async def client() -> AsyncIterator[ClientSession]:
    async with ClientSession() as client:
        yield client


def url_of(server: Server, token: str) -> str:
    return f"http://127.0.0.1:{server.port}/ws/terminal?token={token}"


async def connect(client: ClientSession, server: Server, token: str) -> int:
    """Open a terminal with `token` and see its shell greet; the status of the handshake."""
    try:
        async with client.ws_connect(url_of(server, token)) as ws:
            await TerminalClient(ws, is_binary=False).message("info")
            return 101
    except WSServerHandshakeError as exc:
        return exc.status


async def test_a_token_opens_one_terminal_on_all_servers(
    home: Server, door: Server, client: ClientSession
) -> None:
    """A token that I have used on one server is refused by the other, and the other way round."""
    first, second = [await get_token(client, server.port, KEY) for server in (home, door)]

    assert [await connect(client, server, first) for server in (home, door, home)] == [101, 401, 401]
    assert [await connect(client, server, second) for server in (door, home, door)] == [101, 401, 401]


async def test_a_terminal_is_used_through_another_server(
    home: Server, door: Server, client: ClientSession
) -> None:
    """I type into a terminal through a door; it is listed, resized and ended through it, too."""
    token = await get_token(client, door.port, KEY)
    async with client.ws_connect(url_of(door, token)) as ws:
        shell = TerminalClient(ws, is_binary=False)
        await shell.type("echo $((6 * 7))\n")
        assert "42" in await shell.shows("42")
        listed = door.ask("GET", "/terminals").json["terminals"]
        assert listed == home.ask("GET", "/terminals").json["terminals"]
        assert [door.ask("DELETE", f"/terminals/{one['terminalId']}").status for one in listed] == [
            200
        ] * len(listed)


async def test_client_that_leaves_a_terminal_has_left_it_at_home(
    home: Server, door: Server, client: ClientSession
) -> None:
    """Its socket through another server just breaks: its home knows that nobody looks any more, and keeps the shell."""
    async with terminal(client, door.port, KEY, "left") as shell:
        await shell.message("info")
        assert [1] == clients_of(home, "left")
        shell.abort()
        wait_until(lambda: clients_of(home, "left") == [0])
    assert 200 == door.ask("DELETE", "/terminals/left").status


def clients_of(server: Server, name: str) -> list[int]:
    listed = server.ask("GET", "/terminals").json["terminals"]
    return [one["clients"] for one in listed if one["terminalId"] == name]


async def test_without_redis_terminals_go_on_and_open(
    home: Server, door: Server, client: ClientSession, standing: FleetOfServers
) -> None:
    """Redis goes away under an open terminal: it works on, and new ones open."""
    async with client.ws_connect(url_of(door, await get_token(client, door.port, KEY))) as ws:
        shell = TerminalClient(ws, is_binary=False)
        await shell.message("info")
        standing.redis.stop()
        await shell.type("echo $((6 * 7))\n")

        assert "42" in await shell.shows("42")
        assert await connect(client, home, await get_token(client, home.port, KEY)) == 101
