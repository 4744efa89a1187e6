"""What one turn has changed, and what all of a session have, through a real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.kit import Answer, Server, script
from tests.workspace.git_kit import make_repository, run_git, write_files


@pytest.fixture
def repo(server: Server) -> Path:
    return make_repository(server.workspace / "repo", {"a": "a\n", "b": "b\n"})


def working(server: Server, **options: Any) -> str:
    """A job that runs until it is stopped; its id."""
    return server.start_job(script("hang"), cwd="workspaces/repo", **options)


def ask(server: Server, **query: str) -> Answer:
    return server.ask("GET", f"/git/diff?{urlencode(query)}")


def changed(server: Server, **query: str) -> list[str]:
    answer = ask(server, **query)
    assert answer.status == 200, answer.json
    return [file["newPath"] or file["oldPath"] for file in answer.json["files"]]


def snapshots(repo: Path) -> bytes:
    return run_git(repo, "for-each-ref", "refs/agentsrv/snapshots")


def test_each_turn_shows_what_it_has_changed(server: Server, repo: Path) -> None:
    """Not what I had changed before or have changed since; while it runs, what it has changed until now."""
    write_files(repo, {"mine": "1\n"})
    first = working(server)
    write_files(repo, {"a": "A\n", "mine": "2\n"})
    assert changed(server, base=f"turn:{first}", head=f"turn:{first}") == ["a", "mine"]
    server.stop()
    write_files(repo, {"between": "1\n"})
    second = working(server)
    write_files(repo, {"b": "B\n"})
    server.stop()

    assert changed(server, base=f"turn:{first}", head=f"turn:{first}") == ["a", "mine"]
    assert changed(server, base=f"turn:{second}", head=f"turn:{second}") == ["b"]
    assert changed(server, base="session:s") == ["a", "b", "between", "mine"]
    assert changed(server, base="session:s", head="HEAD", path="workspaces/repo") == ["mine"]


def test_a_server_that_was_killed_knows_how_the_turn_began(server: Server, repo: Path) -> None:
    """Snapshots lie in the repository; the end of the turn is taken by the server that sees it."""
    job = working(server)
    server.kill9()
    write_files(repo, {"a": "A\n"})
    server.start()
    server.stop()
    write_files(repo, {"b": "B\n"})

    assert changed(server, base=f"turn:{job}", head=f"turn:{job}") == ["a"]


def test_a_session_in_a_worktree_begins_with_its_first_turn(server: Server, repo: Path) -> None:
    """Its snapshots are those of the worktree, and go with the session; with or without the worktree."""
    job = working(server, use_worktree=True)
    write_files(server.workspace.parent / ".worktrees/repo/s", {"a": "A\n"})
    server.stop()

    assert changed(server, base=f"turn:{job}") == ["a"]
    assert server.ask("DELETE", "/sessions/s?worktree=remove&force=true").status == 200
    assert snapshots(repo) == b""


def test_what_has_no_snapshot_says_so(server: Server, repo: Path) -> None:
    """A session that had no turn, one that nobody knows, a job that nobody knows, a directory without git."""
    server.ask("POST", "/sessions", {"sessionId": "new", "cwd": "workspaces/repo"})
    server.generate("hi", "plain").rest()
    found = [
        (answer.status, answer.json["code"])
        for answer in (
            ask(server, base="session:new"),
            ask(server, base="session:none"),
            ask(server, base="turn:none"),
            ask(server, base="session:plain"),
            ask(server, base="turn:", path="workspaces/repo"),
        )
    ]

    assert found == [
        (404, "no_snapshot"),
        (404, "session_not_found"),
        (404, "job_not_found"),
        (404, "not_a_repository"),
        (404, "no_snapshot"),
    ]


def test_a_turn_that_did_not_begin_leaves_none(server: Server, repo: Path) -> None:
    """An agent that cannot be started, or a message that came before."""
    working(server)
    before = snapshots(repo)
    assert server.generate("hi", cwd="workspaces/repo").status == 409
    server.stop()

    assert before.split()[2] == b"refs/agentsrv/snapshots/s"
    assert server.ask("DELETE", "/sessions/s").status == 200
    assert snapshots(repo) == b""
