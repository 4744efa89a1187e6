"""Agents that are started before anybody asks them something."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

from tests.conftest import ServerMaker
from tests.kit import Server, is_alive, wait_until


def create(server: Server, session: str = "s", **options: Any) -> None:
    assert server.ask("POST", "/sessions", {"sessionId": session, **options}).status == 201


def agents(server: Server, count: int) -> list[int]:
    wait_until(lambda: len(server.agents()) == count)
    return server.agents()


def pid_of(server: Server, session: str = "s", **options: Any) -> int:
    events = server.generate("hi", session, **options).rest()
    pid: int = next(event.json["pid"] for event in events if event.json.get("subtype") == "init")
    assert events[-1].json["status"] == "completed"
    return pid


def test_first_prompt_finds_its_agent_running(server: Server) -> None:
    """A session that was made `warm` has its agent before its first prompt."""
    create(server, warm=True)
    (warm,) = agents(server, 1)

    assert pid_of(server) == warm
    assert [event.id for event in server.history()] == list(range(1, len(server.history()) + 1))


def test_prompt_that_comes_while_its_agent_starts(server: Server) -> None:
    """It does not start a second one."""
    create(server, warm=True)
    pid = pid_of(server)

    assert agents(server, 1) == [pid]


def test_every_session_can_be_warm(make_server: ServerMaker) -> None:
    """WARM_SESSIONS starts the agent of each new one, within the limit; `warm: false` says no."""
    server = make_server(WARM_SESSIONS="true", MAX_WARM_AGENTS="1")
    create(server, "cold", warm=False)
    create(server, "a")
    (first,) = agents(server, 1)
    create(server, "b")
    wait_until(lambda: not is_alive(first))

    assert agents(server, 1) == [pid_of(server, "b")]


def test_warm_agent_that_nobody_asks_is_ended(make_server: ServerMaker) -> None:
    """It idles like any other; the session works without it."""
    server = make_server(AGENT_IDLE_TIMEOUT="0.2")
    create(server, warm=True)
    wait_until(lambda: server.agents() == [] and runners(server) == 0)

    pid_of(server)


def runners(server: Server) -> int:
    with closing(sqlite3.connect(server.database)) as db:
        return int(db.execute("SELECT count(*) FROM runners").fetchone()[0])


def test_other_options_replace_the_warm_agent(server: Server) -> None:
    """The first prompt wants another model: it gets it, and the agent that was started ahead is ended."""
    create(server, warm=True)
    (warm,) = agents(server, 1)

    assert pid_of(server, model="other") != warm
    assert not is_alive(warm)


def test_deleted_session_leaves_no_warm_agent(server: Server) -> None:
    """Deleted in the moment in which its agent starts."""
    create(server, warm=True)
    assert server.ask("DELETE", "/sessions/s").status == 200

    assert agents(server, 0) == []
