"""Sessions, agents, the environment and health over HTTP."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from typing import Any

import pytest

from agentsrv.app import make_app
from agentsrv.config import Config, networks
from tests.api.kit import Server, serve
from tests.api.test_activity import ASK, watch


async def test_a_session_keeps_the_id_that_the_client_chose(server: Server) -> None:
    """POST /sessions answers 201 with the session; GET gives the same."""
    made = await server.ask("POST", "/sessions", json={"sessionId": "my-session-1", "name": "first"})
    found = await server.ask("GET", made.headers["Location"])

    assert made.status == 201
    assert (found.json["id"], found.json["name"], found.json["isStreaming"]) == (
        "my-session-1",
        "first",
        False,
    )
    assert found.json == made.json


async def test_only_one_of_many_gets_an_id(server: Server) -> None:
    """50 POSTs of the same id at once: one 201, the others 409."""
    posts = [server.ask("POST", "/sessions", json={"sessionId": "x"}) for _ in range(50)]
    statuses = sorted([answer.status for answer in await asyncio.gather(*posts)])

    assert statuses == [201] + [409] * 49


async def test_lists_come_in_pages_newest_first(server: Server) -> None:
    """`limit` and `nextCursor` walk over all sessions, each once."""
    for number in range(5):
        await server.ask("POST", "/sessions", json={"sessionId": f"s{number}"})
    seen: list[str] = []
    cursor = ""
    while cursor is not None:
        page = (await server.ask("GET", f"/sessions?limit=2{cursor and '&cursor='}{cursor}")).json
        seen += [session["id"] for session in page["sessions"]]
        cursor = page["nextCursor"]

    assert sorted(seen) == ["s0", "s1", "s2", "s3", "s4"]


async def test_parameters_that_nobody_knows_are_ignored(server: Server) -> None:
    """Also those that come twice; what a route knows may come once."""
    known = await server.ask("GET", "/sessions?limit=5&limit=5")

    assert (await server.ask("GET", "/sessions?trace=1&trace=2")).status == 200
    assert known.json["details"][0]["path"] == "limit"


@pytest.mark.parametrize("name", ["\u202eevil", "two\nlines", "ü" * 200, "<script>alert(1)</script>", " "])
async def test_a_name_is_stored_exactly(server: Server, name: str) -> None:
    """Whatever 200 characters a name has, they come back."""
    await server.ask("POST", "/sessions", json={"sessionId": "s"})
    await server.ask("PUT", "/sessions/s", json={"name": name})

    assert (await server.ask("GET", "/sessions/s")).json["name"] == name


async def test_a_deleted_session_is_gone(server: Server) -> None:
    """DELETE answers once; after that the session is 404."""
    await server.generate()
    deleted = await server.ask("DELETE", "/sessions/s")

    assert (deleted.json["deleted"], deleted.json["sessionId"]) == (True, "s")
    assert (await server.ask("DELETE", "/sessions/s")).status == 404
    assert (await server.ask("GET", "/sessions/s/messages")).status == 404


async def test_a_session_at_work_is_deleted_only_by_force(server: Server) -> None:
    """409 while a turn runs; `force=true` stops it first."""
    await server.start("SCRIPT: hang")

    assert (await server.ask("DELETE", "/sessions/s")).json["code"] == "session_busy"
    assert (await server.ask("DELETE", "/sessions/s?force=true")).status == 200


async def test_messages_are_whole_and_in_order(server: Server) -> None:
    """The conversation without deltas and notices: the prompt first, then the answer."""
    await server.generate("hello")
    found = (await server.ask("GET", "/sessions/s/messages")).json
    types = [message["type"] for message in found["messages"]]
    first = (await server.ask("GET", "/sessions/s/messages?limit=1")).json

    assert types[0] == "user"
    assert "assistant" in types
    assert "command_lifecycle" not in types
    assert (first["count"], first["messages"]) == (1, found["messages"][:1])


@pytest.mark.parametrize("format", ["native", "acp"])
@pytest.mark.parametrize("order", ["", "&before=1000000"])
async def test_messages_say_when_they_came(server: Server, format: str, order: str) -> None:
    """For who asks: a conversation is shown with its times, and is else the same."""
    await server.generate("hello")
    path = f"/sessions/s/messages?format={format}{order}"
    plain = (await server.ask("GET", path)).json["messages"]
    timed = (await server.ask("GET", f"{path}&times=true")).json["messages"]
    times = [message.pop("receivedAt") for message in timed]

    assert timed == plain
    assert times == sorted(times)
    assert all(re.fullmatch(r"2\d{3}-\d\d-\d\dT.{12}Z", time) for time in times)


@pytest.mark.parametrize("format", ["native", "acp"])
async def test_messages_come_in_pages(server: Server, format: str) -> None:
    """Each page begins where the one before has ended; behind the last one there is nothing."""
    await server.generate("SCRIPT: say one\nSCRIPT: say two")
    path = f"/sessions/s/messages?format={format}"
    found, after = [], 0
    while (page := (await server.ask("GET", f"{path}&limit=1&after={after}")).json)["messages"]:
        found += page["messages"]
        after = page["lastEventId"]

    assert found == (await server.ask("GET", path)).json["messages"]
    assert page["lastEventId"] == after


async def test_agents_say_what_they_can(server: Server) -> None:
    """GET /agents names every agent, and whether it can be used."""
    found = (await server.ask("GET", "/agents")).json

    assert [agent["name"] for agent in found["agents"]] == ["claude-code", "codex"]
    assert found["agents"][0]["available"] is True


async def test_the_environment_tells_presence_and_never_values(server: Server) -> None:
    """Present and not empty is true; spaces around names do not matter; no value leaves."""
    answer = await server.ask("GET", "/env/OPENAI_API_KEY,%20ANTHROPIC_API_KEY,EMPTY")

    assert answer.json == {"OPENAI_API_KEY": False, "ANTHROPIC_API_KEY": True, "EMPTY": False}
    assert "sk-secret" not in answer.text


@pytest.mark.parametrize(
    "names", ["lower", "A-B", "A=B", "A,,B", ",", "%20", "", "%D9%A3", "%00", "A" * 1025, "A/B", "A%0AB"]
)
async def test_bad_names_of_variables_are_listed(server: Server, names: str) -> None:
    """400, and `invalid` holds those that are wrong."""
    answer = await server.ask("GET", f"/env/{names}")

    assert (answer.status, len(answer.json["invalid"]) > 0) == (400, True)


async def test_sixty_five_names_are_too_many(server: Server) -> None:
    """At most 64 names."""
    names = [f"N{number}" for number in range(65)]

    assert (await server.ask("GET", "/env/" + ",".join(names))).json["invalid"] == ["N64"]


@pytest.mark.parametrize("path", ["/health", "/health/"])
async def test_health_needs_no_key_and_tells_little(server: Server, path: str) -> None:
    """Whoever asks learns that it is well: no path, no variable, no agent."""
    answer = await server.ask("GET", path, key=None)

    assert answer.status == 200
    assert answer.json.keys() - {"fleet"} == {"status", "timestamp", "version", "database", "redis"}
    assert answer.json["status"] == "healthy"


async def test_sessions_are_put_away_and_taken_back(server: Server) -> None:
    """What I am done with leaves my list, and is still there."""
    for name in ("done", "open"):
        await server.ask("POST", "/sessions", json={"sessionId": name})
    put_away = await server.ask("PUT", "/sessions/done", json={"archived": True})

    async def names(query: str) -> list[str]:
        return [each["id"] for each in (await server.ask("GET", f"/sessions?{query}")).json["sessions"]]

    assert put_away.json["archivedAt"]
    assert await names("archived=true") == ["done"]
    assert await names("archived=false") == ["open"]
    assert sorted(await names("")) == ["done", "open"]
    assert (await server.ask("PUT", "/sessions/done", json={"name": "x"})).json["archivedAt"]
    assert (await server.ask("PUT", "/sessions/done", json={"archived": False})).json["archivedAt"] is None


async def test_sessions_of_a_directory_are_listed(server: Server) -> None:
    """I see what was done where."""
    here = (await server.ask("POST", "/sessions", json={"sessionId": "here"})).json["cwd"]

    assert (await server.ask("GET", "/sessions", params={"cwd": here})).json["count"] == 1
    assert (await server.ask("GET", "/sessions", params={"cwd": here + "/x"})).json["count"] == 0


@pytest.mark.parametrize("format_", ["native", "acp"])
async def test_messages_are_read_backwards_page_by_page(server: Server, format_: str) -> None:
    """I see the newest messages first, and scroll back to the first one: none is missing, none comes twice."""
    for _ in range(3):
        await server.end_of(await server.start("SCRIPT: say one\nSCRIPT: say two"))

    async def page(query: str) -> Any:
        return (await server.ask("GET", f"/sessions/s/messages?format={format_}&{query}")).json

    whole = (await page(""))["messages"]
    end = (await server.ask("GET", "/generate/v2/jobs?session_id=s")).json["jobs"][0]["lastEventId"]
    found: list[Any] = []
    before = 10**9
    while (part := await page(f"before={before}&limit=2"))["count"]:
        assert len(part["eventIds"]) == part["count"]
        assert part["eventIds"][0] == part["firstEventId"]
        assert part["upToEventId"] == min(before - 1, end)
        found = part["messages"] + found
        before = part["firstEventId"]

    assert len(whole) >= 9
    assert found == whole
    assert part["firstEventId"] == 0
    assert (await page("before=5&after=1"))["code"] == "invalid_input"


@pytest.mark.parametrize("order", ["", "&before=1000000"])
async def test_messages_come_with_what_was_asked_and_answered(server: Server, order: str) -> None:
    """For who asks: a conversation that is read again shows its questions where they were."""
    async with watch(server) as (watching, _):
        task = await server.start(ASK, permission_mode="ask")
        asked = (await watching.until(lambda message: message["type"] == "permission"))["permission"]
    body = {"decision": "deny", "message": "Not now."}
    await server.ask("POST", f"/generate/v2/jobs/{task}/permissions/{asked['requestId']}", json=body)
    await server.end_of(task)
    path = f"/sessions/s/messages?format=acp{order}"
    plain = (await server.ask("GET", path)).json["messages"]
    whole = (await server.ask("GET", f"{path}&questions=true")).json["messages"]
    request, resolved = [one for one in whole if one not in plain]

    assert [one for one in whole if one in plain] == plain
    assert (request["type"], request["input"]) == ("permission_request", {"command": "ls"})
    assert (resolved["decision"], resolved["message"]) == ("deny", "Not now.")


async def test_behind_a_prefix_links_have_it(config: Config) -> None:
    """`PUBLIC_URL` says how clients reach the server: `Location` and the OpenAPI document lead there."""
    public = replace(config, public_url="https://example.com/agents")
    async with serve(make_app(public)) as server:
        made = await server.ask("POST", "/sessions", json={"sessionId": "s"})
        job = await server.generate(background=True)
        document = (await server.ask("GET", "/openapi.json")).json

    assert made.headers["Location"] == "/agents/sessions/s"
    assert job.headers["Location"].startswith("/agents/generate/v2/jobs/")
    assert document["servers"] == [{"url": "https://example.com/agents"}]


@pytest.mark.parametrize(
    ("trusted", "told", "prefix"),
    [
        ("127.0.0.1,::1", "/agents/", "/agents"),
        ("10.0.0.0/8", "/agents", ""),
        ("127.0.0.0/8,::1", "//evil.example", ""),
        ("127.0.0.0/8,::1", "https://evil.example", ""),
    ],
)
async def test_a_trusted_proxy_says_what_links_begin_with(
    config: Config, trusted: str, told: str, prefix: str
) -> None:
    """`X-Forwarded-Prefix` counts from an address in TRUSTED_PROXIES alone, and only where it is a path."""
    async with serve(make_app(replace(config, trusted_proxies=networks(trusted)))) as server:
        headers = {"X-Forwarded-Prefix": told}
        made = await server.ask("POST", "/sessions", json={"sessionId": "s"}, headers=headers)
        document = (await server.ask("GET", "/openapi.json", headers=headers)).json

    assert made.headers["Location"] == f"{prefix}/sessions/s"
    assert document["servers"] == [{"url": prefix or "/"}]
