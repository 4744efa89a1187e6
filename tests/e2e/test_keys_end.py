"""A key that ends while it is in use: what is open under it is closed, and what agents do goes on."""

from __future__ import annotations

import json
import socket
from contextlib import suppress

import pytest
from aiohttp import ClientSession, WSServerHandshakeError

from tests.kit import KEY, Server, script
from tests.terminal_client import get_token, terminal

pytestmark = pytest.mark.at_home(
    "a server knows the named keys that it has made, and closes what they have opened"
)

CLOSES_WITHIN_S = 10


@pytest.fixture
def device(server: Server) -> tuple[str, str]:
    """The id and the key of one that was made over HTTP."""
    made = server.ask("POST", "/auth/tokens", {"name": "phone"}).json
    return made["id"], made["token"]


def revoke(server: Server, key_id: str) -> None:
    assert server.ask("DELETE", f"/auth/tokens/{key_id}").status == 200


def opened(
    server: Server, token: str, asked: str, rest: bytes = b"\r\n", answer: bytes = b""
) -> socket.socket:
    """A connection that has begun a request, and has seen `answer`."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=CLOSES_WITHIN_S)
    head = f"{asked} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
    connection.sendall(head.encode() + rest)
    seen = b""
    while answer not in seen:
        more = connection.recv(65536)
        assert more, seen
        seen += more
    return connection


def is_closed(connection: socket.socket) -> bool:
    """Waits for the end of what the server sends; a time-out is an error."""
    with suppress(ConnectionResetError):
        while connection.recv(65536):
            pass
    return True


def test_streams_and_uploads_are_closed(server: Server, device: tuple[str, str]) -> None:
    """Of this key alone; the agent whose stream it was works on to its end."""
    key_id, token = device
    job = server.start_job(script("sleep 3", "text done"))
    other = server.follow(job)
    path = f"/generate/v2/jobs/{job}/stream"
    stream = opened(server, token, f"GET {path}", answer=b"retry: 1000")
    half = b"Content-Length: 9\r\n\r\nhalf"
    upload = opened(server, token, "PUT /filesystem/content?path=workspaces/x", half)
    with stream, upload:
        revoke(server, key_id)
        closed = [is_closed(stream), is_closed(upload)]

    assert closed == [True, True]
    assert server.ended_job(job)["status"] == "completed"
    assert other.rest()[-1].json["done"] is True
    assert not (server.workspace / "workspaces" / "x").exists()


async def test_sockets_of_terminals_are_closed(server: Server, device: tuple[str, str]) -> None:
    """Whoever has the key's token types nothing more, and opens nothing; the shell stays for others."""
    key_id, token = device
    async with ClientSession() as client, terminal(client, server.port, token, "shared") as shell:
        await shell.type("echo $((6*7))\r")
        await shell.shows("42")
        kept = await get_token(client, server.port, token, terminalId="shared")
        revoke(server, key_id)
        await shell.closed()
        with pytest.raises(WSServerHandshakeError) as refused:
            await client.ws_connect(f"http://127.0.0.1:{server.port}/ws/terminal?token={kept}")
        async with terminal(client, server.port, KEY, "shared") as again:
            await again.shows("42")

    assert refused.value.status == 401


async def test_sockets_of_other_protocols_are_closed(server: Server, device: tuple[str, str]) -> None:
    """ACP, in the middle of a conversation."""
    key_id, token = device
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        ClientSession() as client,
        client.ws_connect(f"http://127.0.0.1:{server.port}/acp", headers=headers) as acp,
    ):
        await acp.send_str(
            json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": 1}})
        )
        answered = (await acp.receive_json())["id"]
        revoke(server, key_id)
        await acp.receive()

    assert answered == 1
    assert acp.closed
