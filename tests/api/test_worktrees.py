"""`use_worktree` and the routes of worktrees: what they refuse, and how."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentsrv.config import Config
from tests.api.kit import Server
from tests.workspace.git_kit import make_repository


@pytest.fixture
def repo(config: Config) -> Path:
    return make_repository(config.workspace_base / "repo", {"a": "a\n"})


@pytest.mark.parametrize(
    ("cwd", "status", "code"),
    [
        (None, 400, "no_repository"),
        ("workspaces", 400, "no_repository"),
        ("repo/.git/hooks", 400, "no_repository"),
        ("repo/a", 400, "invalid_input"),
        ("repo/none", 400, "invalid_input"),
        ("..", 403, "outside_workspace"),
        ("/etc", 403, "outside_workspace"),
        ("out", 403, "outside_workspace"),
        ("elsewhere", 403, "outside_workspace"),
    ],
)
async def test_no_worktree_and_no_session(
    server: Server, repo: Path, cwd: str | None, status: int, code: str
) -> None:
    """A real status before the stream; nothing is stored, nothing is made."""
    (repo.parent / "out").symlink_to("/etc")
    (repo.parent / "elsewhere").mkdir()
    (repo.parent / "elsewhere/.git").write_text("gitdir: /etc\n")
    answer = await server.generate(use_worktree=True, **({} if cwd is None else {"cwd": cwd}))

    assert (answer.status, answer.json["code"]) == (status, code)
    assert (await server.ask("GET", "/sessions")).json["count"] == 0
    assert not (repo.parent / ".worktrees").exists()


async def test_the_field_is_named(server: Server, repo: Path) -> None:
    """And what to do about it."""
    answer = await server.generate(use_worktree=True)

    assert [problem["path"] for problem in answer.json["details"]] == ["use_worktree"]
    assert "leave out use_worktree" in answer.json["error"]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("repo", 404, "worktree_not_found"),
        ("", 404, "worktree_not_found"),
        (".worktrees/repo/none", 404, "worktree_not_found"),
        ("../x", 403, "outside_workspace"),
        ("/etc", 403, "outside_workspace"),
    ],
)
async def test_nothing_but_worktrees_is_removed(
    server: Server, repo: Path, path: str, status: int, code: str
) -> None:
    """Not even with force."""
    answer = await server.ask("DELETE", "/git/worktrees", params={"path": path, "force": "true"})

    assert (answer.status, answer.json["code"]) == (status, code)
    assert (repo / "a").exists()


async def test_a_workspace_without_worktrees(server: Server, repo: Path) -> None:
    """The list is empty, and a session that has none says so."""
    await server.ask("POST", "/sessions", json={"sessionId": "s", "cwd": "repo"})

    assert (await server.ask("GET", "/sessions/s")).json["worktree"] is None
    listed = (await server.ask("GET", "/git/worktrees")).json
    assert (listed["worktrees"], listed["count"]) == ([], 0)
    assert (await server.ask("DELETE", "/sessions/s?worktree=remove")).status == 200
    assert (repo / "a").exists()


async def test_the_notice_is_a_message_in_either_format(server: Server, repo: Path) -> None:
    """What the log says of the worktree is part of the conversation, for clients of ACP too."""
    task_id = await server.start(use_worktree=True, cwd="repo")
    await server.end_of(task_id)
    stream = await server.ask("GET", f"/generate/v2/jobs/{task_id}/stream?format=acp")
    messages = (await server.ask("GET", "/sessions/s/messages")).json["messages"]

    assert '"worktree_init"' in stream.text
    assert ["user", "worktree_init"] == [message.get("subtype", message["type"]) for message in messages[:2]]
