"""`GET /activity`: what a list on a screen is kept up to date by."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from tests.api.kit import KEY, TIMEOUT_S, Server

ASK = 'SCRIPT: ask 1 Bash {"command": "ls"}'


class Watching:
    """The messages of one stream, as they come."""

    def __init__(self, lines: AsyncIterator[bytes]) -> None:
        self._lines = lines

    async def until(self, is_it: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        async with asyncio.timeout(TIMEOUT_S):
            async for line in self._lines:
                if line.startswith(b"data: "):
                    message: dict[str, Any] = json.loads(line[6:])
                    if is_it(message):
                        return message
        raise AssertionError("the stream ended")


@asynccontextmanager
async def watch(server: Server) -> AsyncIterator[tuple[Watching, dict[str, Any]]]:
    """A stream, and the snapshot that it began with."""
    url = f"http://127.0.0.1:{server.port}/activity"
    async with server.client.get(url, headers={"Authorization": f"Bearer {KEY}"}) as answer:
        watching = Watching(aiter(answer.content))
        yield watching, await watching.until(lambda message: message["type"] == "snapshot")


def has_status(status: str) -> Callable[[dict[str, Any]], bool]:
    return lambda message: message["type"] == "session" and message["session"]["status"] == status


async def test_a_session_is_told_from_its_first_prompt_to_its_end(server: Server) -> None:
    """It runs, waits for an answer, goes on, is idle with its last job, and is deleted."""
    async with watch(server) as (watching, snapshot):
        assert (snapshot["sessions"], snapshot["permissions"]) == ([], [])
        task = await server.start(f"SCRIPT: say hi\n{ASK}", permission_mode="ask")
        asked = (await watching.until(lambda message: message["type"] == "permission"))["permission"]
        waiting = await watching.until(has_status("waiting"))
        path = f"/generate/v2/jobs/{task}/permissions/{asked['requestId']}"
        await server.ask("POST", path, json={"decision": "allow"})
        resolved = await watching.until(lambda message: message["type"] == "permission_resolved")
        idle = await watching.until(has_status("idle"))
        await server.ask("DELETE", "/sessions/s")
        gone = await watching.until(lambda message: message["type"] == "session_deleted")

    assert waiting["session"]["preview"] == f"SCRIPT: say hi\n{ASK}"
    assert waiting["session"]["pendingPermissions"] == 1
    assert (resolved["taskId"], resolved["requestId"]) == (task, asked["requestId"])
    assert (idle["session"]["lastJob"]["taskId"], idle["session"]["lastJob"]["status"]) == (task, "completed")
    assert ("costUsd" in waiting["session"], idle["session"]["costUsd"]) == (False, 0.25)
    assert gone["sessionId"] == "s"


async def test_who_comes_later_sees_how_things_stand(server: Server) -> None:
    """The snapshot has what runs, what has failed, and all that is asked."""
    await server.start(ASK, session_id="asks", permission_mode="ask")
    failed = await server.start("SCRIPT: exit 3", session_id="fails")
    await server.ask("GET", f"/generate/v2/jobs/{failed}?wait=30")
    async with watch(server) as (watching, snapshot):
        if not snapshot["permissions"]:
            await watching.until(lambda message: message["type"] == "permission")
    async with watch(server) as (_, snapshot):
        found = {session["id"]: session["status"] for session in snapshot["sessions"]}

    assert found == {"asks": "waiting", "fails": "failed"}
    assert [asked["sessionId"] for asked in snapshot["permissions"]] == ["asks"]


async def test_what_a_user_changes_is_told(server: Server) -> None:
    """A session that is made, renamed or forked."""
    async with watch(server) as (watching, _):
        await server.ask("POST", "/sessions", json={"sessionId": "s"})
        await watching.until(lambda message: message.get("session", {}).get("id") == "s")
        await server.ask("PUT", "/sessions/s", json={"name": "Tidy"})
        await watching.until(lambda message: message.get("session", {}).get("name") == "Tidy")
        await server.ask("POST", "/sessions/s/fork", json={"sessionId": "f"})
        await watching.until(lambda message: message.get("session", {}).get("id") == "f")


async def test_the_tool_that_runs_is_told(server: Server) -> None:
    """A list shows what an agent is doing, while it does it, and how far its log has come."""
    content = [{"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "make"}}]
    line = json.dumps({"type": "assistant", "message": {"id": "m", "role": "assistant", "content": content}})
    async with watch(server) as (watching, _):
        await server.start(f"SCRIPT: raw {line}\nSCRIPT: hang")
        busy = await watching.until(lambda message: message.get("session", {}).get("doing") == "Bash")
        await server.ask("DELETE", "/generate/s/stop")
        ended = await watching.until(has_status("idle"))

    assert 0 < busy["session"]["lastEventId"] <= ended["session"]["lastEventId"]
    assert ended["session"]["lastEventId"] == ended["session"]["lastJob"]["lastEventId"]
    assert "doing" not in ended["session"]


async def test_what_waits_and_what_is_put_away_is_told(server: Server) -> None:
    """How many prompts wait, how a long one begins, and when a session went to the archive."""
    async with watch(server) as (watching, _):
        await server.start("SCRIPT: hang\n" + "x" * 500)
        await server.start("next", if_busy="queue")
        busy = await watching.until(lambda message: message.get("session", {}).get("queued") == 1)
        await server.ask("PUT", "/sessions/s", json={"archived": True})
        put_away = await watching.until(lambda message: message.get("session", {}).get("archivedAt"))

    assert (busy["session"]["status"], len(busy["session"]["preview"])) == ("running", 200)
    assert put_away["session"]["id"] == "s"
