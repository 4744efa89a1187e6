"""What a session keeps for its user: notes to find it by, and what its prompts ask for when they do not say."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from tests.kit import Server, script


def create(server: Server, session: str, **options: Any) -> Any:
    answer = server.ask("POST", "/sessions", {"sessionId": session, **options})
    assert answer.status == 201
    return answer.json


def found(server: Server, **query: str) -> list[str]:
    text = "&".join(f"{name}={quote(value)}" for name, value in query.items())
    return [view["id"] for view in server.ask("GET", f"/sessions?{text}").json["sessions"]]


def test_sessions_are_found_by_their_notes(server: Server) -> None:
    """By a tag, by a note, by both; what is changed or deleted is not found any more."""
    create(server, "a", tags=["red", "big", "red"], metadata={"ticket": "A=1"})
    create(server, "b", tags=["red"])
    made = server.ask("GET", "/sessions/a").json

    assert (made["tags"], made["metadata"]) == (["red", "big"], {"ticket": "A=1"})
    assert sorted(found(server, tag="red")) == ["a", "b"]
    assert found(server, metadata="ticket=A=1") == found(server, tag="red", metadata="ticket=A=1") == ["a"]
    assert found(server, tag="red", agent="codex") == found(server, tag="re") == []
    server.ask("PUT", "/sessions/a", {"tags": ["blue"], "metadata": {}}).close()
    server.ask("DELETE", "/sessions/b").close()
    assert (found(server, tag="blue"), found(server, tag="red"), found(server, metadata="ticket=A=1")) == (
        ["a"],
        [],
        [],
    )


def test_pages_of_a_tag_follow_each_other(server: Server) -> None:
    """Newest first, each once."""
    for name in "abc":
        create(server, name, tags=["x"])
    first = server.ask("GET", "/sessions?tag=x&limit=2").json
    second = server.ask("GET", f"/sessions?tag=x&limit=2&cursor={first['nextCursor']}").json

    views = [*first["sessions"], *second["sessions"]]
    assert sorted(view["id"] for view in views) == ["a", "b", "c"]
    assert second["nextCursor"] is None


def test_prompts_ask_for_what_the_session_keeps(server: Server) -> None:
    """Mode, effort and MCP servers are the session's unless the prompt names others; null takes them back."""
    servers = {"one": {"command": "true", "env": {"TOKEN": "secret"}}}
    view = create(server, "s", permission_mode="ask", effort="high", mcp_servers=servers)
    arguments = echoed(server)
    server.ask("PUT", "/sessions/s", {"effort": None, "mcp_servers": None}).close()
    later = echoed(server, permission_mode="bypass")

    assert (view["permissionMode"], view["effort"], view["mcpServers"]) == ("ask", "high", ["one"])
    assert {"--permission-mode=default", "--effort=high", "--mcp-config"} <= set(arguments)
    assert not {"--effort=high", "--mcp-config"} & set(later)


def echoed(server: Server, **options: Any) -> list[str]:
    """The arguments with which the agent was started."""
    events = server.generate(script("echo"), **options).rest()
    return next(event.json["argv"] for event in events if "argv" in event.json)


def test_notes_that_do_not_fit_are_refused_by_name(server: Server) -> None:
    for field, value in (
        ("tags", ["a,b"]),
        ("tags", [""]),
        ("metadata", {"a b": "c"}),
        ("metadata", {"a": 1}),
    ):
        refused = server.ask("POST", "/sessions", {"sessionId": "s", field: value})
        assert refused.status == 400
        assert field in str(refused.json["details"])
