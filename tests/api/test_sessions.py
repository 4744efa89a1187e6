"""Sessions, agents, the environment and health over HTTP."""

from __future__ import annotations

import asyncio

import pytest

from tests.api.kit import Server


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
    assert set(answer.json) == {"status", "timestamp", "version", "database", "redis"}
    assert answer.json["status"] == "healthy"
