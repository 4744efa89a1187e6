"""OpenAI's protocols in a fleet: responses and conversations are where their session is, whichever server is asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.kit import FleetOfServers, fleet_of, wait_for_peers
from tests.kit import Answer, Server, script, write_fake_agent

pytestmark = pytest.mark.tools

RESPONSES, COMPLETIONS = "/openai/v1/responses", "/openai/v1/chat/completions"
CONVERSATIONS = "/openai/v1/conversations"
SERVER = "X-Agentsrv-Server"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetOfServers]:
    """`a` and `b` take new sessions, `door` does not."""
    directory: Path = tmp_path_factory.mktemp("openai")
    with fleet_of(directory, write_fake_agent(directory / "claude")) as fleet:
        wait_for_peers(*fleet.start_all("a", "b", door={"ACCEPTS_SESSIONS": "false"}))
        yield fleet


@pytest.fixture
def servers(fleet: FleetOfServers) -> list[Server]:
    return [fleet.servers[name] for name in ("a", "b", "door")]


def say(server: Server, word: str, path: str = RESPONSES, *, headers: Any = (), **more: Any) -> Answer:
    prompt = script(f"say {word}")
    words: dict[str, Any] = (
        {"input": prompt} if path == RESPONSES else {"messages": [{"role": "user", "content": prompt}]}
    )
    return server.ask("POST", path, {"model": "claude-code", **words, **more}, **dict(headers))


def test_response_goes_on_wherever_it_is_asked_for(servers: list[Server]) -> None:
    """By the response before it, or by its conversation; all of it is told, and deleted, by any server."""
    a, b, door = servers
    assert 201 == door.ask("POST", "/sessions", {"sessionId": "s", "server": "a"}).status
    first = say(b, "one", session_id="s").json
    conversation = first["conversation"]
    second = say(door, "two", previous_response_id=first["id"])
    third = say(b, "three", conversation=conversation["id"])
    fourth = say(door, "four", conversation=conversation)

    assert ["a"] * 3 == [answer.headers[SERVER] for answer in (second, third, fourth)]
    assert [conversation] * 3 == [answer.json["conversation"] for answer in (second, third, fourth)]
    for path in (
        f"{RESPONSES}/{first['id']}",
        f"{RESPONSES}/{first['id']}?stream=true",
        f"{CONVERSATIONS}/{conversation['id']}",
        f"{CONVERSATIONS}/{conversation['id']}/items?limit=100",
    ):
        told = [(answer.status, answer.headers[SERVER], answer.body()) for answer in ask_all(servers, path)]
        assert [(200, "a")] * 3 == [one[:2] for one in told], path
        assert 1 == len({body for _, _, body in told}), path
    assert 409 == b.ask("DELETE", f"{RESPONSES}/{first['id']}").status
    assert 200 == b.ask("DELETE", f"{CONVERSATIONS}/{conversation['id']}").status
    assert [404] * 3 == [answer.status for answer in ask_all(servers, f"{RESPONSES}/{first['id']}")]
    assert 404 == say(a, "five", conversation=conversation).status


def ask_all(servers: list[Server], path: str) -> list[Answer]:
    return [server.ask("GET", path) for server in servers]


@pytest.mark.parametrize("path", [RESPONSES, COMPLETIONS])
@pytest.mark.parametrize(
    "name",
    ["session_id", "metadata", "user", "X_Session_Id", "X_OpenWebUI_Chat_Id", "Idempotency_Key"],
)
def test_conversation_has_one_home_whatever_names_it(servers: list[Server], path: str, name: str) -> None:
    """Each client has its own way to say which conversation it means; each server finds the same one."""
    value = f"{name}-{path[-9:]}".replace("/", "-")
    more: dict[str, Any] = {"metadata": {"session_id": value}} if name == "metadata" else {name: value}
    if name[0].isupper():
        # What Open WebUI does not stream is no part of its chat.
        more = {"headers": {name: value}, "stream": name == "X_OpenWebUI_Chat_Id"}
    answers = []
    for server in servers:
        answers.append(say(server, "hello", path, **more))
        answers[-1].body()  # Its turn has ended then.

    assert [200] * 3 == [answer.status for answer in answers]
    assert 1 == len({(answer.headers["X-Session-Id"], answer.headers[SERVER]) for answer in answers})


def test_conversation_is_made_where_sessions_are_taken(servers: list[Server]) -> None:
    """A door opens none of its own, with a body or without, and gives none of its own an answer."""
    door = servers[2]
    made = [door.ask("POST", CONVERSATIONS, *body) for body in ((), ({"metadata": {"a": "b"}},))]
    said = [say(door, "hello", path) for path in (RESPONSES, COMPLETIONS)]

    assert [200] * 4 == [answer.status for answer in made + said]
    assert {"a", "b"} >= {answer.headers[SERVER] for answer in made + said}
    assert made[1].json["metadata"] == {"a": "b"}


def test_what_is_refused_leaves_its_id_free(fleet: FleetOfServers, servers: list[Server]) -> None:
    """And is told in OpenAI's words, by whichever server it is."""
    wrong: list[dict[str, Any]] = [{"model": "nothing"}, {"model": 7}, {"on_disconnect": "x"}]
    for server in servers:
        for path in (RESPONSES, COMPLETIONS):
            for one in wrong:
                answer = say(server, "no", path, session_id="free", **one)
                assert 400 == answer.status
                assert {"message", "type", "code", "param"} == set(answer.json["error"])
    assert 0 == fleet.redis.do("HEXISTS", "{agentsrv}:homes", "s:free")
