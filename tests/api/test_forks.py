"""Forks over HTTP, with a scripted agent."""

from __future__ import annotations

import asyncio

import pytest

from tests.api.kit import Server


async def test_fork_of_nothing_is_not_found(server: Server) -> None:
    """A session that is not there, or whose id cannot be one."""
    answers = [await server.ask("POST", f"/sessions/{name}/fork", json={}) for name in ("none", "-x")]

    assert [(answer.status, answer.json["code"]) for answer in answers] == [(404, "session_not_found")] * 2


async def test_fork_needs_no_body(server: Server) -> None:
    """The server chooses the id; the answer says where the fork is."""
    await server.ask("POST", "/sessions", json={"sessionId": "source", "name": "mine", "model": "opus"})
    made = await server.ask("POST", "/sessions/source/fork")
    found = await server.ask("GET", made.headers["Location"])

    assert (made.status, found.json) == (201, made.json)
    assert (made.json["name"], made.json["model"], made.json["forkedFrom"]) == ("", "opus", None)


async def test_only_one_of_many_forks_gets_an_id(server: Server) -> None:
    """20 forks of the same id at once: one 201, the others 409; the source's own id is taken, too."""
    await server.ask("POST", "/sessions", json={"sessionId": "source"})
    ids = ["fork"] * 20 + ["source"]
    forks = [server.ask("POST", "/sessions/source/fork", json={"sessionId": name}) for name in ids]
    answers = await asyncio.gather(*forks)

    assert sorted(answer.status for answer in answers) == [201] + [409] * 20
    assert {answer.json["code"] for answer in answers if answer.status == 409} == {"session_exists"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"sessionId": "../x"}, "sessionId"),
        ({"sessionId": "filesystem"}, "sessionId"),
        ({"sessionId": None}, "sessionId"),
        ({"name": ""}, "name"),
        ({"name": 1}, "name"),
        ({"model": "--resume"}, "model"),
    ],
)
async def test_bad_fields_of_a_fork_are_named(server: Server, body: dict[str, object], field: str) -> None:
    """400 with the field, and no session is made."""
    await server.ask("POST", "/sessions", json={"sessionId": "source"})
    refused = await server.ask("POST", "/sessions/source/fork", json=body)

    assert (refused.status, refused.json["details"][0]["path"]) == (400, field)
    assert (await server.ask("GET", "/sessions")).json["count"] == 1
