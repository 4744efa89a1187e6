"""A worktree made ready by a command, merged, and cleared away when it is old, through a real server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.kit import Answer, Server, script
from tests.workspace.git_kit import commit, commit_id, make_repository, run_git, write_files


@pytest.fixture
def repo(server: Server) -> Path:
    return make_repository(server.workspace / "repo", {"a": "a\n", ".gitignore": ".env\nmade\n"})


def start(server: Server, session: str = "s", **worktree: Any) -> Answer:
    return server.generate("hi", session, cwd="workspaces/repo", worktree=worktree)


def path_of(server: Server, session: str = "s") -> Path:
    return server.workspace.parent / ".worktrees/repo" / session


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_command_makes_it_ready_before_the_agent_begins(server: Server, repo: Path) -> None:
    """In the worktree, with the files that were copied; the log says what it has said, and it has no secret."""
    (repo / ".env").write_text("X=1\n")
    code = "import os; open('made', 'w').write(open('.env').read()); print('ready', 'API_KEY' in os.environ)"
    events = start(server, copy=[".env"], setup=python(code)).rest()

    assert events[1].json["copied"] == [".env"]
    told = events[2].json
    assert (told["subtype"], told["command"], told["output"]) == (
        "worktree_setup",
        python(code),
        "ready False\n",
    )
    assert (path_of(server) / "made").read_text() == "X=1\n"
    assert events[-1].json["status"] == "completed"


@pytest.mark.parametrize(
    ("setup", "reason"),
    [
        (python("print('no space'); raise SystemExit(3)"), "exit code 3. It said last: no space"),
        (["/nonexistent"], "cannot be started"),
        (python("import time; print('slow', flush=True); time.sleep(600)"), "not ready within 2 s"),
    ],
)
def test_one_that_fails_leaves_nothing(server: Server, repo: Path, setup: list[str], reason: str) -> None:
    """No session, no worktree, no branch; the answer says what it has said."""
    answer = start(server, setup=setup, setup_timeout=2)

    error = answer.json

    assert (answer.status, error["code"]) == (422, "worktree_setup_failed")
    assert reason in error["error"]
    assert server.ask("GET", "/sessions/s").status == 404
    assert run_git(repo, "branch", "--format=%(refname:short)") == b"main\n"
    assert not path_of(server).exists()


def test_its_commits_are_merged_back(server: Server, repo: Path) -> None:
    """All of them or, with a conflict, none; never while a turn runs."""
    start(server).rest()
    write_files(path_of(server), {"a": "A\n"})
    commit(path_of(server))
    tip = commit_id(path_of(server))
    server.start_job(script("hang"))
    busy = server.ask("POST", "/sessions/s/merge")
    server.stop()
    done = server.ask("POST", "/sessions/s/merge", {"how": "merge"}).json

    assert (busy.status, busy.json["code"]) == (409, "session_busy")
    assert (done["merged"], done["commit"], done["into"]) == (True, tip, "main")
    assert server.ask("POST", "/sessions/s/merge").json["merged"] is False
    for tree in (repo, path_of(server)):
        write_files(tree, {"a": f"{tree}\n"})
        commit(tree)
    conflict = server.ask("POST", "/sessions/s/merge").json
    assert (conflict["code"], [each["path"] for each in conflict["details"]]) == ("merge_conflicts", ["a"])
    server.generate("hi", "plain").rest()
    assert server.ask("POST", "/sessions/plain/merge").json["code"] == "no_worktree"


def test_old_worktrees_whose_sessions_are_gone_are_cleared_away(server: Server, repo: Path) -> None:
    """Not those of sessions, not those that were used, and with changes only when forced; first, what would be."""
    for session in ("living", "clean", "dirty"):
        start(server, session).rest()
    write_files(path_of(server, "dirty"), {"new": "n\n"})
    for session in ("clean", "dirty"):
        server.ask("DELETE", f"/sessions/{session}")

    def clean_up(**body: Any) -> tuple[list[str], list[str]]:
        found = server.ask("POST", "/git/worktrees/clean-up", body).json
        return tuple([Path(each["path"]).name for each in found[kind]] for kind in ("removed", "kept"))  # type: ignore[return-value]

    assert clean_up() == ([], [])
    assert clean_up(olderThanDays=0, dryRun=True) == (["clean"], ["dirty"])
    assert clean_up(olderThanDays=0) == (["clean"], ["dirty"])
    assert clean_up(olderThanDays=0, force=True) == (["dirty"], [])
    listed = server.ask("GET", "/git/worktrees").json["worktrees"]
    assert [Path(each["path"]).name for each in listed] == ["living"]
    assert listed[0]["lastUsedAt"].endswith("Z")


def test_what_does_not_go_together_is_refused(server: Server, repo: Path) -> None:
    """Where it begins twice, a command that is none, a field that nobody knows."""
    wishes: list[dict[str, Any]] = [
        {"base": "main", "branch": "x"},
        {"setup": [""]},
        {"setup": ["a\0"]},
        {"bad": 1},
    ]
    for wish in wishes:
        assert start(server, **wish).status == 400
