"""MCP and ACP in a fleet: whichever server is asked, work is done at a session's home, and begins where it is taken."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from tests.fleet.kit import FleetOfServers, fleet_of, home_of, servers_of, wait_for_peers
from tests.kit import KEY, Answer, Server, script, wait_until, write_fake_agent

pytestmark = pytest.mark.tools

HELLO = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": 1}}
LISTING = {"jsonrpc": "2.0", "id": 2, "method": "session/list"}
PAGE = 50
"""Of ACP."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetOfServers]:
    """`a` and `b` take new sessions, `door` does not."""
    directory: Path = tmp_path_factory.mktemp("faces")
    with fleet_of(directory, write_fake_agent(directory / "claude")) as fleet:
        wait_for_peers(*fleet.start_all("a", "b", door={"ACCEPTS_SESSIONS": "false"}))
        yield fleet


@pytest.fixture
def servers(fleet: FleetOfServers) -> list[Server]:
    return [fleet.servers[name] for name in ("a", "b", "door")]


def call(server: Server, tool: str, **arguments: Any) -> dict[str, Any]:
    """What a tool of MCP has found."""
    params = {"name": tool, "arguments": arguments}
    answer = server.ask("POST", "/mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
    assert 200 == answer.status, answer.json
    found: dict[str, Any] = json.loads(answer.json["result"]["content"][0]["text"])
    return found


def test_prompt_of_mcp_is_waited_for_anywhere(servers: list[Server]) -> None:
    """Under an id of mine or none: it begins where sessions are taken, and every server knows of the job."""
    door = servers[2]
    for more in ({}, {"session_id": "of-mcp"}):
        job = call(door, "send_prompt", prompt=script("say hello"), **more)
        assert home_of(door, job["session_id"]) in {"a", "b"}
        assert ["completed"] * 3 == [
            call(server, "wait", task_id=job["task_id"])["status"] for server in servers
        ]
    again = [
        call(server, "send_prompt", prompt=script("say more"), session_id="of-mcp") for server in servers[:1]
    ]
    assert "completed" == call(servers[1], "wait", task_id=again[0]["task_id"])["status"]


def test_refused_call_of_mcp_leaves_its_id_free(fleet: FleetOfServers, servers: list[Server]) -> None:
    """Nothing is claimed for a call that is not carried out."""
    for server in servers:
        assert "agent" in str(
            call(server, "send_prompt", prompt="no", session_id="free-of-mcp", agent="none")
        )
        ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        assert 200 == server.ask("POST", "/mcp", ping, X_Session_Id="free-of-mcp").status
    assert 0 == fleet.redis.do("HEXISTS", "{agentsrv}:homes", "s:free-of-mcp")


def say(server: Server, message: dict[str, Any], **headers: str) -> Answer:
    return server.ask("POST", "/acp", message, **headers)


def test_connection_of_acp_is_found_from_all(servers: list[Server]) -> None:
    """A client over HTTP, each of whose requests arrives somewhere else: its connection is with one server."""
    for opened_at, read_at in zip(servers, servers[::-1], strict=True):
        id_ = say(opened_at, HELLO).headers["Acp-Connection-Id"]
        named = {"Acp_Connection_Id": id_}
        with read_at.ask("GET", "/acp", Accept="text/event-stream", **named) as stream:
            assert [202] * 3 == [say(server, LISTING, **named).status for server in servers]
            assert ["sessions"] * 3 == [next(iter(event.json["result"])) for event in stream.take(3)]
        assert 202 == servers[0].ask("DELETE", "/acp", **named).status
        assert [404] * 3 == [say(server, LISTING, **named).status for server in servers]


@pytest.mark.parametrize("header", [{}, {"X-Session-Id": "of-acp"}])
async def test_socket_of_acp_is_where_sessions_are_taken(
    servers: list[Server], client: ClientSession, header: dict[str, str]
) -> None:
    """Through a door an editor makes its session elsewhere; with the header the socket is with that session's home."""
    door = servers[2]
    door.ask("POST", "/sessions", {"sessionId": "of-acp", "server": "b"}).close()
    url = f"http://127.0.0.1:{door.port}/acp"
    async with client.ws_connect(url, headers={"Authorization": f"Bearer {KEY}", **header}) as ws:

        async def asked(message: dict[str, Any]) -> dict[str, Any]:
            await ws.send_json(message)
            answer: dict[str, Any] = await ws.receive_json()
            return answer

        await asked(HELLO)
        if header:
            listed = (await asked(LISTING))["result"]["sessions"]
            assert "of-acp" in [one["sessionId"] for one in listed]
            return
        # Each server has a workspace of its own, and the socket is with one of them.
        params = [{"cwd": str(server.workspace), "mcpServers": []} for server in servers[:2]]
        new = {"jsonrpc": "2.0", "id": 2, "method": "session/new"}
        answers = [await asked({**new, "params": each}) for each in params]
    [made] = [answer["result"] for answer in answers if "result" in answer]
    assert home_of(door, made["sessionId"]) in {"a", "b"}


def test_sessions_of_mcp_are_those_of_all(fleet: FleetOfServers, servers: list[Server]) -> None:
    """Page by page, each from another server: everything once, the newest first; who is away is named."""
    made = make_sessions(servers[2], "listed", 6)
    found: list[str] = []
    page = call(servers[0], "list_sessions", limit=2)
    while True:
        assert [] == page["unreachable"]
        found += [one["session_id"] for one in page["sessions"]]
        if page["next_cursor"] is None:
            break
        page = call(servers[len(found) % 3], "list_sessions", limit=2, cursor=page["next_cursor"])

    assert (made[::-1], len(set(found))) == ([name for name in found if name in made], len(found))
    assert "invalid_input" == call(servers[2], "list_sessions", cursor="nonsense")["code"]
    for name in ("a", "b"):
        with being_away(fleet, name):
            assert [name] == call(servers[2], "list_sessions")["unreachable"]


async def test_sessions_of_acp_are_those_of_all(
    fleet: FleetOfServers, servers: list[Server], client: ClientSession
) -> None:
    """The same; what a session is about is told with it, and one that is elsewhere is refused by its home's name."""
    made = make_sessions(servers[2], "edited", PAGE + 2)
    assert "completed" == servers[0].generate(script("say hello"), made[-1]).rest()[-1].json["status"]
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    for server in servers[:2] * 10:
        page = (await ask(client, server, "session/list", **cursor))["result"]
        assert {"agentsrv": {"unreachable": []}} == page["_meta"]
        found += page["sessions"]
        if "nextCursor" not in page:
            break
        cursor = {"cursor": page["nextCursor"]}

    ids = [one["sessionId"] for one in found]
    assert (made[::-1], len(set(ids))) == ([name for name in ids if name in made], len(ids))
    assert "say hello" in found[ids.index(made[-1])]["title"]
    assert [] == (await ask(client, servers[0], "session/list", cwd="/none"))["result"]["sessions"]
    home = home_of(servers[2], made[0])
    for method in ("load", "resume", "delete", "fork", "set_mode", "close"):
        refused = await ask(client, servers[home == "a"], f"session/{method}", sessionId=made[0])
        assert {"code": "session_elsewhere", "server": home} == refused["error"]["data"], method
    with being_away(fleet, "b"):
        page = (await ask(client, servers[0], "session/list"))["result"]
        assert {"agentsrv": {"unreachable": ["b"]}} == page["_meta"]


async def ask(client: ClientSession, server: Server, method: str, **params: Any) -> dict[str, Any]:
    """The answer on a connection of its own."""
    url = f"http://127.0.0.1:{server.port}/acp"
    async with client.ws_connect(url, headers={"Authorization": f"Bearer {KEY}"}) as ws:
        await ws.send_json(HELLO)
        await ws.receive_json()
        await ws.send_json({"jsonrpc": "2.0", "id": 2, "method": method, "params": params})
        answer: dict[str, Any] = await ws.receive_json()
        return answer


def make_sessions(server: Server, name: str, count: int) -> list[str]:
    """On both, in turn."""
    made = [f"{name}-{n}" for n in range(count)]
    for n, id_ in enumerate(made):
        assert 201 == server.ask("POST", "/sessions", {"sessionId": id_, "server": "ab"[n % 2]}).status
    return made


@contextmanager
def being_away(fleet: FleetOfServers, name: str) -> Iterator[None]:
    fleet.servers[name].kill9()
    try:
        yield
    finally:
        fleet.servers[name].start()
        wait_for_peers(*fleet.servers.values())


@pytest.fixture
async def client() -> Any:
    async with ClientSession() as client:
        yield client


def test_where_nobody_takes_sessions_none_is_made(tmp_path: Path, fake_agent: Path) -> None:
    """A fleet of doors: what would make a session is refused, whatever it speaks."""
    with fleet_of(tmp_path, fake_agent) as fleet:
        door = fleet.start("door", ACCEPTS_SESSIONS="false")
        wait_until(lambda: not servers_of(door)["door"]["accepts"])
        params = {"name": "send_prompt", "arguments": {"prompt": "Hello"}}
        refused = [
            door.ask("POST", "/sessions", {}),
            door.generate("Hello"),
            door.ask("POST", "/mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}),
            say(door, HELLO),
        ]
        assert [(503, "no_server")] * 4 == [(answer.status, answer.json["code"]) for answer in refused]
        assert 200 == door.ask("POST", "/mcp", {"jsonrpc": "2.0", "id": 1, "method": "ping"}).status
