"""ACP over HTTP: the official TypeScript client, and messages of nobody's."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest

from agentsrv.access import Caller
from agentsrv.api.acp_http import IDLE_S, MAX_CONNECTIONS, MAX_STREAMS, HttpConnection
from agentsrv.api.keys import ACP_HTTP, KEYRING
from agentsrv.app import make_app
from agentsrv.errors import NotFound
from agentsrv.model import Scope
from tests.api.kit import KEY as APP_KEY
from tests.api.kit import Server as AppServer
from tests.api.kit import make_config, serve
from tests.faces.test_acp import ASK
from tests.kit import KEY, ROOT, Server, script

CLIENT = ROOT / "tests/e2e/browser/acp.mjs"
MODULES = CLIENT.parent / "node_modules"
RUN_TIMEOUT_S = 240
HELLO = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": 1}}


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[AppServer]:
    async with serve(make_app(make_config(tmp_path))) as server:
        yield server


@pytest.mark.tools
async def test_typescript_sdk_drives_a_session(shared_server: Server) -> None:
    """It opens one, is asked, sees what the agent says; another client of the same kind loads it and sees the same."""
    asked = await drive(shared_server, prompt=script("say Hello", ASK, "say bye"))
    loaded = await drive(shared_server, load=asked["sessionId"], until="bye")

    assert (asked["reason"], asked["options"][0], len(asked["asked"])) == ("end_turn", "mode", 1)
    assert loaded["said"] == asked["said"]
    assert "Hello" in asked["said"]


@pytest.mark.nightly
async def test_acpx_drives_a_session(shared_server: Server, tmp_path: Path) -> None:
    """The command-line client of all agents starts `agentsrv acp`, answers what is asked, and prints what is said."""
    bridge = f"{sys.executable} -m agentsrv acp --url http://127.0.0.1:{shared_server.port}"
    options = ("--agent", bridge, "--cwd", str(shared_server.workspace), "--approve-all", "--format", "quiet")
    environment = {"AGENTSRV_API_KEY": KEY, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    # It wants a newer Node than many machines have for some of its packages, so it is in no project of ours.
    await run("npm", "install", "--silent", "--ignore-scripts", "--prefix", str(tmp_path), "acpx@0.19.1")
    program = ("node", str(tmp_path / "node_modules/acpx/dist/cli.js"), *options)
    printed = await run(*program, "exec", script("say Hello", "say bye"), environment=environment)

    assert (b"Hello" in printed, b"bye" in printed) == (True, True)


async def drive(server: Server, **task: Any) -> Any:
    task |= {"url": f"http://127.0.0.1:{server.port}/acp", "cwd": str(server.workspace)}
    task["headers"] = {"Authorization": f"Bearer {KEY}"}
    return json.loads(await run("node", str(CLIENT), json.dumps(task)))


async def run(*argv: str, environment: dict[str, str] | None = None) -> bytes:
    """What a program of the node world prints."""
    if shutil.which(argv[0]) is None or not (MODULES / "@agentclientprotocol").exists():
        pytest.fail("clients of ACP are not installed; `python3 dev.py tools` does it")
    pipe = asyncio.subprocess.PIPE
    env = {**os.environ, **(environment or {})}  # noqa: TID251
    process = await asyncio.create_subprocess_exec(*argv, stdout=pipe, stderr=pipe, env=env)
    try:
        printed, errors = await asyncio.wait_for(process.communicate(), RUN_TIMEOUT_S)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    assert (process.returncode, errors) == (0, b"")
    return printed


async def test_answers_come_on_the_streams(app: AppServer) -> None:
    """`initialize` is answered at once, all else on the connection's stream, until the connection is ended."""
    connection = await opened(app)
    reading = await app.client.get(url_of(app), headers=auth({**connection, "Accept": "text/event-stream"}))
    posted = await post(app, {"jsonrpc": "2.0", "id": "a", "method": "session/list"}, connection)
    answer = await first_message(reading)
    ended = await app.ask("DELETE", "/acp", headers=connection)
    rest = await reading.read()

    assert (posted.status, answer["id"], answer["result"]) == (202, "a", {"sessions": []})
    assert (ended.status, rest.strip()) == (202, b"")
    assert (await post(app, HELLO | {"method": "session/list"}, connection)).status == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"not json", 400),
        (b"7", 400),
        (b" [" + json.dumps(HELLO).encode() + b"]", 501),
        (b"[" * 100_000, 501),
        (b'{"jsonrpc":"2.0","id":{"a":1},"method":"session/list"}', 400),
        (b'{"jsonrpc":"2.0","id":"%s","method":"session/list"}' % (b"x" * 1000), 400),
        (b'{"jsonrpc":"2.0","id":1e300,"method":"session/list"}', 400),
        (b'{"jsonrpc":"2.0","id":1,"method":7}', 400),
        (b'{"jsonrpc":"1.0","id":1,"method":"session/list"}', 400),
        (b'{"jsonrpc":"2.0","id":1,"method":"session/list","params":[]}', 400),
        (json.dumps(HELLO).encode(), 400),
    ],
)
async def test_hostile_message_gets_an_error(app: AppServer, body: bytes, status: int) -> None:
    """At once, and the connection goes on."""
    connection = await opened(app)
    refused = await app.ask(
        "POST", "/acp", headers={**connection, "Content-Type": "application/json"}, data=body
    )
    after = await post(app, {"jsonrpc": "2.0", "id": 2, "method": "session/list"}, connection)

    assert (refused.status, "error" in refused.json, after.status) == (status, True, 202)


async def test_connection_is_of_who_has_opened_it(app: AppServer) -> None:
    """Another key, an id that was made up, none at all, and a session that is not the message's are refused."""
    _, key = await app.app[KEYRING].add("other", {Scope.ADMIN})
    connection = await opened(app)
    listing = {"jsonrpc": "2.0", "id": 2, "method": "session/list"}
    made_up = {"Acp-Connection-Id": "x" * 5000}
    stream = {**connection, "Accept": "text/event-stream"}

    assert (await app.ask("POST", "/acp", key=key, json=listing, headers=connection)).status == 404
    assert (await app.ask("GET", "/acp", key=key, headers=stream)).status == 404
    assert (await app.ask("DELETE", "/acp", key=key, headers=connection)).status == 404
    assert (await post(app, listing, made_up)).json["code"] == "unknown_connection"
    assert (await post(app, listing, {})).status == 400
    other = {**connection, "Acp-Session-Id": "one"}
    assert (await post(app, {**listing, "params": {"sessionId": "two"}}, other)).status == 400
    assert (await app.ask("GET", "/acp", headers={"Accept": "application/json"})).status == 406
    assert (await app.ask("POST", "/acp", headers={"Content-Type": "text/plain"}, data=b"{}")).status == 415
    assert (await app.ask("POST", "/acp", key="wrong", json=HELLO)).status == 401


async def test_connections_and_their_streams_are_bounded(app: AppServer) -> None:
    """The idlest makes room, one that has a stream stays, and a connection has so many sessions."""
    read = await opened(app)
    reading = await app.client.get(url_of(app), headers=auth({**read, "Accept": "text/event-stream"}))
    first = last = await opened(app)
    for _ in range(MAX_CONNECTIONS):
        last = await opened(app)
    listing = {"jsonrpc": "2.0", "id": 2, "method": "session/list"}
    statuses = [(await post(app, listing, connection)).status for connection in (read, first, last)]
    loading = {"jsonrpc": "2.0", "id": 2, "method": "session/close"}
    full = [
        (await post(app, {**loading, "params": {"sessionId": f"s{number}"}}, last)).status
        for number in range(MAX_STREAMS + 1)
    ]
    reading.close()

    assert statuses == [202, 404, 202]
    assert (full[0], full[-1]) == (202, 429)


async def test_closed_sessions_make_room_for_others(app: AppServer) -> None:
    """A client may work for months, and hold on to the streams of all sessions that it has closed, or to none."""
    connection = await opened(app)
    readings = []
    for number in range(MAX_STREAMS + 2):
        headers = auth({**connection, "Acp-Session-Id": f"s{number}", "Accept": "text/event-stream"})
        reading = await app.client.get(url_of(app), headers=headers)
        closing = {"jsonrpc": "2.0", "id": number, "method": "session/close"}
        posted = await post(app, {**closing, "params": {"sessionId": f"s{number}"}}, connection)
        assert (posted.status, (await first_message(reading))["id"]) == (202, number)
        readings.append(reading)
        if number % 2:
            reading.close()
    rest = await asyncio.wait_for(readings[0].read(), 30)
    for reading in readings:
        reading.close()

    assert rest.strip() == b""


def noted(connection: HttpConnection, kept: WeakSet[HttpConnection]) -> HttpConnection:
    kept.add(connection)
    return connection


async def test_ten_thousand_connections_are_bounded(app: AppServer) -> None:
    """Of as many as are opened a few are kept; ids that were made up keep nothing."""
    connections = app.app[ACP_HTTP]
    caller = Caller("somebody", frozenset({Scope.ADMIN}), b"")
    kept = WeakSet[HttpConnection]()
    for number in range(10_000):
        await connections.open(noted(connections.make(caller), kept))
        with pytest.raises(NotFound, match="no such connection"):
            connections.get(f"made-up-{number}", caller)
    gc.collect()

    assert len(kept) == MAX_CONNECTIONS


async def test_idle_connection_is_ended_and_one_that_is_read_is_not(app: AppServer) -> None:
    """After a minute without a stream or a message; its client begins anew."""
    read, idle = await opened(app), await opened(app)
    reading = await app.client.get(url_of(app), headers=auth({**read, "Accept": "text/event-stream"}))
    listing = {"jsonrpc": "2.0", "id": 2, "method": "session/list"}
    await app.app[ACP_HTTP].end_idle()
    before = [(await post(app, listing, connection)).status for connection in (read, idle)]
    await app.app[ACP_HTTP].end_idle(0.0)
    after = [(await post(app, listing, connection)).status for connection in (read, idle)]
    reading.close()

    assert (IDLE_S, before, after) == (60, [202, 202], [202, 404])


async def opened(app: AppServer) -> dict[str, str]:
    """A new connection, as the header that names it."""
    answer = await post(app, HELLO, {})
    assert answer.json["result"]["protocolVersion"] == 1
    return {"Acp-Connection-Id": answer.headers["Acp-Connection-Id"]}


async def post(app: AppServer, message: Any, headers: dict[str, str]) -> Any:
    return await app.ask("POST", "/acp", json=message, headers=headers)


def url_of(app: AppServer) -> str:
    return f"http://127.0.0.1:{app.port}/acp"


def auth(headers: dict[str, str]) -> dict[str, str]:
    return {"Authorization": f"Bearer {APP_KEY}", **headers}


async def first_message(reading: Any) -> Any:
    async with asyncio.timeout(30):
        while not (line := await reading.content.readline()).startswith(b"data: "):
            assert line
    return json.loads(line.removeprefix(b"data: "))
