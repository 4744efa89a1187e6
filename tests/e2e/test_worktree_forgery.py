"""Worktrees whose agents write what they like into git's directories: what the database knows counts, not that."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.kit import Server
from tests.workspace.git_kit import commit, commit_id, make_repository, run_git, write_files


@pytest.fixture
def repo(server: Server) -> Path:
    return make_repository(server.workspace / "repo", {"a": "a\n"})


def prompt(server: Server, session: str = "s", cwd: str = "workspaces/repo") -> None:
    events = server.generate("hi", session, use_worktree=True, cwd=cwd).rest()
    assert events[-1].json["status"] == "completed"


def worktree(server: Server, name: str = "s") -> Path:
    return server.workspace.parent / ".worktrees/repo" / name


def branches(repo: Path) -> list[str]:
    return run_git(repo, "branch", "--format=%(refname:short)").decode().split()


def forge(mine: Path, git_dir: Path, branch: str) -> None:
    """As an agent of the session `s`: lead its worktree to a git directory, and say there which branch is its own."""
    (mine / ".git").write_text(f"gitdir: {git_dir}\n")
    (git_dir / "gitdir").write_text(f"{mine}/.git\n")
    (git_dir / "agentsrv").write_text(json.dumps({"session": "s", "branch": branch}))
    (git_dir / "HEAD").write_text(f"ref: refs/heads/{branch}\n")


def test_no_branch_of_another_session_goes_with_mine(server: Server, repo: Path) -> None:
    """The agent names another session's worktree in another repository as its own: that one's branch stays."""
    other = make_repository(server.workspace / "other", {"o": "o\n"})
    run_git(repo, "branch", "session/s")
    prompt(server)
    prompt(server, session="s-2", cwd="workspaces/other")
    tip = commit_id(other, "session/s-2")
    forge(worktree(server, "s-2"), other / ".git/worktrees/s-2", "session/s-2")
    answer = server.ask("DELETE", "/sessions/s?worktree=remove&force=true")

    assert answer.status == 200, answer.json
    assert commit_id(other, "session/s-2") == tip


@pytest.mark.parametrize("gone", [False, True])
def test_no_branch_of_mine_goes_with_a_session(server: Server, repo: Path, gone: bool) -> None:
    """It is called as the worktree's own might have been; the session may be gone by then."""
    run_git(repo, "branch", "session-s")
    prompt(server)
    forge(worktree(server), repo / ".git/worktrees/s", "session-s")
    if gone:
        assert server.ask("DELETE", "/sessions/s").status == 200
        answer = server.ask("DELETE", f"/git/worktrees?path={worktree(server)}&force=true")
    else:
        answer = server.ask("DELETE", "/sessions/s?worktree=remove&force=true")

    assert answer.status == 200, answer.json
    assert branches(repo) == ["main", "session-s"]


def test_no_branch_of_another_repository_is_moved(server: Server, repo: Path) -> None:
    """A merge goes where the worktree was made, or nowhere."""
    other = make_repository(server.workspace / "other", {"o": "o\n"})
    run_git(other, "worktree", "add", "--quiet", "-b", "wild", str(server.workspace / "s"))
    write_files(server.workspace / "s", {"o": "wild\n"})
    commit(server.workspace / "s")
    prompt(server)
    tip = commit_id(other)
    forge(worktree(server), other / ".git/worktrees/s", "wild")
    run_git(worktree(server), "reset", "--quiet", "--hard")
    run_git(worktree(server), "clean", "--quiet", "-fd")
    answer = server.ask("POST", "/sessions/s/merge")

    assert (answer.status, answer.json["code"]) == (409, "merge_blocked")
    assert commit_id(other) == tip


def test_a_worktree_is_not_a_leftover_of_another_session(server: Server, repo: Path) -> None:
    """It says that it was not finished, and whose it is not: a session of that name begins, and it stays."""
    prompt(server, session="s-2")
    git_dir = repo / ".git/worktrees/s-2"
    (git_dir / "agentsrv").write_text('{"session": "s", "branch": "session/s-2"}')
    (git_dir / "locked").write_text("initializing")
    prompt(server)

    assert (worktree(server, "s-2") / "a").exists()
    assert branches(repo) == ["main", "session/s", "session/s-2"]


def test_the_branch_of_a_worktree_of_before_stays(server: Server, repo: Path) -> None:
    """The database of an earlier server does not say which was made for it."""
    prompt(server)
    with closing(sqlite3.connect(server.database)) as db:
        db.execute("DELETE FROM worktrees")
        db.commit()

    assert server.ask("DELETE", "/sessions/s?worktree=remove").status == 200
    assert (branches(repo), worktree(server).exists()) == (["main", "session/s"], False)
