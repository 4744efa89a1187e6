"""Sessions that work in git worktrees, through a real server: made once, kept, and removed without loss."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.model_api import ModelApi
from tests.fakes.responses_api import ResponsesApi
from tests.kit import Answer, Event, Server, cwd_of, is_alive, script, wait_until
from tests.workspace.git_kit import commit, commit_id, make_repository, run_git, write_files


@pytest.fixture
def repo(server: Server) -> Path:
    files = {"a": "a\n", "sub/b": "b\n", ".gitignore": "ignored\n"}
    return make_repository(server.workspace / "repo", dict(files))


def prompt(server: Server, text: str = "hi", session: str = "s", **options: Any) -> list[Event]:
    """One turn in a worktree; its events."""
    fields = {"use_worktree": True, "cwd": "workspaces/repo", **options}
    return server.generate(text, session, **fields).rest()


def agent_cwd(events: list[Event]) -> str:
    """Where the agent says that it is."""
    return str(next(event.json["cwd"] for event in events if event.json.get("subtype") == "init"))


def session_of(server: Server, session: str = "s") -> dict[str, Any]:
    answer: dict[str, Any] = server.ask("GET", f"/sessions/{session}").json
    return answer


def worktree(server: Server, name: str = "s") -> Path:
    return server.workspace.parent / ".worktrees/repo" / name


def branches(repo: Path) -> list[str]:
    return run_git(repo, "branch", "--format=%(refname:short)").decode().split()


def is_untouched(server: Server, repo: Path) -> bool:
    """Is there no worktree, no branch, no directory of any but what is in the trash?"""
    shelves = server.workspace.parent / ".worktrees"
    rest = [path for path in shelves.glob("*/*") if not path.name.startswith(".trash-")]
    return not rest and branches(repo) == ["main"] and not (repo / ".git/worktrees").exists()


def test_a_session_works_in_a_worktree_of_its_own(server: Server, repo: Path) -> None:
    """Its agent is there, the log says so right after my prompt, and the session shows it."""
    events = prompt(server)
    path = str(worktree(server))

    notice = {"type": "system", "subtype": "worktree_init", "cwd": path, "git_root": str(repo)}
    assert events[1].json == notice
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    assert (agent_cwd(events), events[-1].json["status"]) == (path, "completed")
    session = session_of(server)
    assert (session["cwd"], session["worktree"]) == (path, path)
    assert branches(repo) == ["main", "session/s"]


def test_later_turns_stay_there(server: Server, repo: Path) -> None:
    """With the flag or without, naming the old directory or the new one or none: one worktree, one notice."""
    prompt(server)
    path = str(worktree(server))
    for options in ({"use_worktree": False}, {"cwd": path}, {"cwd": path, "use_worktree": False}, {}):
        events = prompt(server, script("echo"), **options)
        assert events[-1].json["status"] == "completed"
    elsewhere = server.generate("hi", use_worktree=True, cwd="workspaces")

    assert (elsewhere.status, elsewhere.json["code"]) == (409, "cwd_mismatch")
    notices = [event for event in server.history() if event.json.get("subtype") == "worktree_init"]
    assert [event.id for event in notices] == [2]
    assert os.listdir(worktree(server).parent) == ["s"]


def test_a_session_that_was_made_before(server: Server, repo: Path) -> None:
    """POST /sessions, and the first prompt in the background asks for the worktree, in a subdirectory."""
    body = {"sessionId": "s", "cwd": "workspaces/repo/sub"}
    assert server.ask("POST", "/sessions", body).json["worktree"] is None
    job = server.ended_job(server.start_job("hi", use_worktree=True))

    assert job["status"] == "completed"
    session = session_of(server)
    assert (session["cwd"], session["worktree"]) == (f"{worktree(server)}/sub", str(worktree(server)))
    assert agent_cwd(server.history()) == f"{worktree(server)}/sub"


def test_a_session_that_has_worked_elsewhere_stays_there(server: Server, repo: Path) -> None:
    """Its conversation is about the directory in which it began."""
    prompt(server, use_worktree=False)
    answer = server.generate("hi", use_worktree=True)

    assert (answer.status, answer.json["code"]) == (409, "worktree_mismatch")
    assert is_untouched(server, repo)
    assert prompt(server, use_worktree=False)[-1].json["status"] == "completed"


def test_fifty_first_prompts_make_one(server: Server, repo: Path) -> None:
    """All at once for one session: one is served, the others are told that it is busy or exists."""
    body = {"session_id": "s", "prompt": script("hang"), "background": True}
    body |= {"use_worktree": True, "cwd": "workspaces/repo"}
    connections = [server.send("POST", "/generate/v2", body) for _ in range(50)]
    answers = [Answer(connection) for connection in connections]

    assert [answer.status for answer in answers].count(202) == 1
    assert {answer.status for answer in answers} == {202, 409}
    assert (branches(repo), os.listdir(worktree(server).parent)) == (["main", "session/s"], ["s"])
    server.stop().body()


def test_several_sessions_side_by_side(server: Server, repo: Path) -> None:
    """Each in its own worktree of the same repository."""
    streams = [
        server.generate(script("sleep 0.2"), f"s{n}", use_worktree=True, cwd=str(repo)) for n in range(6)
    ]
    found = [agent_cwd(stream.rest()) for stream in streams]

    assert found == [str(worktree(server, f"s{n}")) for n in range(6)]


def test_a_killed_server_finds_it_again(server: Server, repo: Path) -> None:
    """kill -9 while the agent works: it works on, there, and so does the next turn, also with a new process."""
    with server.generate(script("rate 100 50 300"), use_worktree=True, cwd=str(repo)) as stream:
        task_id = stream.headers["X-Task-Id"]
        agent = stream.until(lambda event: event.json.get("subtype") == "init").json["pid"]
        server.kill9()
    server.start()
    assert (is_alive(agent), cwd_of(agent)) == (True, str(worktree(server)))
    assert server.ended_job(task_id)["status"] == "completed"
    server.terminate()
    server.start()

    assert agent_cwd(prompt(server)) == str(worktree(server))
    assert branches(repo) == ["main", "session/s"]


def test_a_server_that_is_killed_while_it_makes_one(server: Server, repo: Path) -> None:
    """kill -9 in the middle: the next attempt has the same name, and all files."""
    write_files(repo, {f"many/{n}": "x\n" for n in range(8000)})
    commit(repo)
    body = {"session_id": "s", "prompt": "hi", "use_worktree": True, "cwd": str(repo)}
    with closing(server.send("POST", "/generate/v2", body)):
        wait_until((worktree(server) / ".git").exists)
        server.kill9()
    server.start()
    assert server.ask("GET", "/sessions/s").status == 404
    events = prompt(server)

    assert agent_cwd(events) == str(worktree(server))
    assert run_git(worktree(server), "status", "--porcelain") == b""
    assert branches(repo) == ["main", "session/s"]


def test_a_prompt_that_cannot_be_stored_leaves_nothing(server: Server, repo: Path) -> None:
    """The worktree was made and the turn could not be opened: it is gone again, and the next try works."""
    server.ask("GET", "/sessions").body()
    with closing(sqlite3.connect(server.database)) as db:
        db.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON turns BEGIN SELECT RAISE(ABORT, 'no more turns'); END"
        )
        refused = server.generate("hi", use_worktree=True, cwd=str(repo))
        refused_with = refused.status, refused.json["code"]
        db.execute("DROP TRIGGER refuse")

    assert refused_with[0] >= 400
    assert is_untouched(server, repo)
    assert server.ask("GET", "/sessions/s").status == 404
    assert prompt(server)[-1].json["status"] == "completed"


@pytest.mark.parametrize(
    ("cwd", "status", "code"),
    [
        ("workspaces", 400, "no_repository"),
        ("workspaces/repo/.git", 400, "no_repository"),
        ("workspaces/bare.git", 400, "no_repository"),
        ("workspaces/empty", 400, "no_commits"),
        ("workspaces/broken", 422, "repository_unreadable"),
        ("/", 403, "outside_workspace"),
    ],
)
def test_where_no_worktree_can_be_made(server: Server, repo: Path, cwd: str, status: int, code: str) -> None:
    """The client learns why before the stream begins; there is no session, and the id is free."""
    make_repository(server.workspace / "empty")
    run_git(server.workspace, "init", "--quiet", "--bare", "bare.git")
    (make_repository(server.workspace / "broken", {"a": ""}) / ".git/HEAD").write_text("nonsense")
    answer = server.generate("hi", use_worktree=True, cwd=cwd)

    assert (answer.status, answer.json["code"]) == (status, code)
    assert server.ask("GET", "/sessions/s").status == 404
    assert is_untouched(server, repo)
    assert server.generate("hi").rest()[-1].json["status"] == "completed"


def test_a_branch_of_that_name(server: Server, repo: Path) -> None:
    """It is somebody's and stays as it is; the session has another one."""
    run_git(repo, "branch", "session/s")
    events = prompt(server)

    assert agent_cwd(events) == str(worktree(server, "s-2"))
    assert branches(repo) == ["main", "session/s", "session/s-2"]


def test_the_diff_of_what_the_agent_did(server: Server, repo: Path) -> None:
    """GET /git/diff of the session's directory shows the worktree's changes, not those of the repository."""
    prompt(server)
    write_files(worktree(server), {"a": "changed\n"})
    write_files(repo, {"sub/b": "mine\n"})
    diff = server.ask("GET", f"/git/diff?path={session_of(server)['cwd']}").json

    assert [file["newPath"] for file in diff["files"]] == ["a"]
    listed = server.ask("GET", "/git/repositories").json["repositories"]
    assert [item["path"] for item in listed if item["isWorktree"]] == [str(worktree(server))]


def test_files_in_it_are_files_of_the_workspace(server: Server, repo: Path) -> None:
    """They can be written to through the API; a search of the whole workspace does not find each file twice."""
    prompt(server)
    put = server.ask("PUT", "/filesystem/content?path=.worktrees/repo/s/a", "x")
    found = server.ask("GET", "/filesystem/search?q=b&includeFiles=true").json["entries"]

    assert (put.status, (worktree(server) / "a").read_text()) == (200, '"x"')
    lines = server.ask("GET", "/filesystem/grep?q=b&path=.worktrees/repo/s").json["matches"]

    assert [line["path"] for line in lines] == [".worktrees/repo/s/sub/b"]
    assert "workspaces/repo/sub/b" in [entry["path"] for entry in found]
    assert not any(".worktrees" in entry["path"] for entry in found)


def test_deleting_a_session_keeps_its_worktree(server: Server, repo: Path) -> None:
    """It is listed as nobody's, and can be removed on its own."""
    prompt(server)
    [before] = server.ask("GET", "/git/worktrees").json["worktrees"]
    taken = server.ask("DELETE", "/git/worktrees?path=.worktrees/repo/s")
    assert (taken.status, taken.json["code"]) == (409, "worktree_in_use")
    assert server.ask("DELETE", "/sessions/s").status == 200
    [after] = server.ask("GET", "/git/worktrees").json["worktrees"]

    assert (before["sessionId"], after["sessionId"]) == ("s", None)
    assert (after["path"], after["branch"], after["isDirty"]) == (str(worktree(server)), "session/s", False)
    removed = server.ask("DELETE", f"/git/worktrees?path={after['path']}")
    assert (removed.status, removed.json["branch"]) == (200, "session/s")
    assert is_untouched(server, repo)


def test_deleting_a_session_with_its_worktree(server: Server, repo: Path) -> None:
    """Directory, branch and session are gone; a new session of that name may have one again."""
    prompt(server)
    answer = server.ask("DELETE", "/sessions/s?worktree=remove")

    assert answer.status == 200, answer.json
    assert is_untouched(server, repo)
    assert server.ask("GET", "/sessions/s").status == 404
    assert agent_cwd(prompt(server)) == str(worktree(server))


@pytest.mark.parametrize("work", ["file", "commit"])
def test_work_is_not_deleted_by_the_way(server: Server, repo: Path, work: str) -> None:
    """409 says what would be lost, and session and worktree stay and work; force deletes it all."""
    prompt(server)
    write_files(worktree(server), {"new": "n\n"})
    if work == "commit":
        commit(worktree(server))
    refused = server.ask("DELETE", "/sessions/s?worktree=remove")
    error = refused.json
    reason = {"file": "1 untracked: new", "commit": "commits on no other branch: 1"}[work]

    assert (refused.status, error["code"]) == (409, "worktree_has_changes")
    assert (reason in error["error"], [reason]) == (True, [item["message"] for item in error["details"]])
    assert prompt(server)[-1].json["status"] == "completed"
    assert server.ask("DELETE", "/sessions/s?worktree=remove&force=true").status == 200
    assert is_untouched(server, repo)


def test_a_running_turn_is_stopped_before_its_worktree_goes(server: Server, repo: Path) -> None:
    """Only with force; the agent's processes are gone then as well."""
    job = server.generate(script("child setsid", "hang"), use_worktree=True, cwd=str(repo))
    child = job.until(lambda event: event.type == "fake").json["pid"]
    assert server.ask("DELETE", "/sessions/s?worktree=remove").json["code"] == "session_busy"
    assert server.ask("DELETE", "/sessions/s?worktree=remove&force=true").status == 200

    assert not is_alive(child)
    assert is_untouched(server, repo)


def test_a_fork_works_in_the_same_worktree(server: Server, repo: Path) -> None:
    """So the worktree cannot go while one of the two is there."""
    prompt(server)
    fork = server.ask("POST", "/sessions/s/fork", {"sessionId": "f"}).json
    assert fork.get("worktree") == str(worktree(server)), fork
    refused = server.ask("DELETE", "/sessions/s?worktree=remove&force=true")

    assert (refused.status, refused.json["code"]) == (409, "worktree_in_use")
    assert server.ask("DELETE", "/sessions/f").status == 200
    assert server.ask("DELETE", "/sessions/s?worktree=remove").status == 200


@pytest.mark.parametrize("how", ["rm", "git", "git, and on another branch"])
def test_a_worktree_that_is_gone_is_made_again(server: Server, repo: Path, how: str) -> None:
    """A prompt is told how: then the agent goes on in the same place, on its branch, with what it had committed."""
    before = agent_cwd(prompt(server, cwd="workspaces/repo/sub"))
    write_files(worktree(server), {"new": "n\n"})
    commit(worktree(server))
    tip = commit_id(worktree(server))
    if how == "rm":
        shutil.rmtree(worktree(server))
    else:
        run_git(repo, "worktree", "remove", "--force", str(worktree(server)))
    wish: dict[str, Any] = {"worktree": {"branch": "fix"}} if "another" in how else {}
    run_git(repo, "branch", "fix", "session/s")
    refused, fork = server.generate("hi"), server.ask("POST", "/sessions/s/fork")
    events = prompt(server, cwd="workspaces/repo/sub", **wish)

    assert (refused.status, fork.status) == (400, 400)
    assert "send the prompt with use_worktree" in refused.json["error"]
    assert (events[1].json["subtype"], events[1].json["restored"]) == ("worktree_init", True)
    assert agent_cwd(events) == before == str(worktree(server) / "sub")
    assert run_git(worktree(server), "rev-parse", "HEAD").decode().strip() == tip
    assert run_git(worktree(server), "status", "--porcelain", "--branch") == b"## %b\n" % (
        b"fix" if wish else b"session/s"
    )
    assert [path.name for path in worktree(server).parent.iterdir()] == ["s"]
    assert run_git(repo, "worktree", "prune", "-v") == b""
    assert server.ask("POST", "/sessions/s/fork").status == 201


def test_a_worktree_whose_branch_is_gone_too(server: Server, repo: Path) -> None:
    """It is not made of something else unless I say what; and nothing is left behind."""
    prompt(server)
    run_git(repo, "worktree", "remove", str(worktree(server)))
    run_git(repo, "branch", "-D", "session/s")
    refused = server.generate("hi", use_worktree=True)
    is_clean = is_untouched(server, repo)
    events = prompt(server, worktree={"base": "main"})

    assert (refused.status, refused.json["details"][0]["path"]) == (400, "worktree.branch")
    assert is_clean
    assert (events[-1].json["status"], branches(repo)) == ("completed", ["main", "session/s"])


def test_a_worktree_that_cannot_be_made_ready_again_stays_gone(server: Server, repo: Path) -> None:
    """Its branch does not go with the attempt."""
    prompt(server)
    shutil.rmtree(worktree(server))
    failed = server.generate("hi", worktree={"setup": ["false"]})

    assert (failed.status, failed.json["code"]) == (422, "worktree_setup_failed")
    assert (worktree(server).exists(), branches(repo)) == (False, ["main", "session/s"])
    assert prompt(server)[-1].json["status"] == "completed"


def test_a_worktree_that_is_gone_is_no_obstacle(server: Server, repo: Path) -> None:
    """The session can be deleted with it."""
    prompt(server)
    run_git(repo, "worktree", "remove", "--force", str(worktree(server)))

    assert server.ask("DELETE", "/sessions/s?worktree=remove").status == 200


def test_a_full_disk(server: Server, repo: Path) -> None:
    """The repository does not fit a second time: 507 before the stream begins, and all is gone again."""
    small = server.workspace / "small"
    small.mkdir()
    shelves = server.workspace.parent / ".worktrees"
    shelves.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(shelves)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        write_files(repo, {f"large{n}": os.urandom(300_000) for n in range(5)})
        commit(repo)
        answer = server.generate("hi", use_worktree=True, cwd=str(repo))

        assert (answer.status, answer.json["code"]) == (507, "storage_full")
        assert is_untouched(server, repo)
    finally:
        subprocess.run(["umount", "-l", str(shelves)], check=True)


def real_turn(server: Server, agent: str, *steps: str) -> list[Event]:
    repo = server.workspace / "repo"
    return server.generate(script(*steps), agent=agent, use_worktree=True, cwd=str(repo)).rest()


def test_claude_works_and_remembers_there(claude_server: Server, model: ModelApi) -> None:
    """The real CLI changes files of the worktree, and a new process goes on with the conversation."""
    make_repository(claude_server.workspace / "repo", {"a": "a\n"})
    real_turn(claude_server, "claude-code", "bash pwd > made", "text a memorable answer")
    claude_server.terminate()
    claude_server.start()
    events = real_turn(claude_server, "claude-code", "text and another")

    assert (worktree(claude_server) / "made").read_text() == f"{worktree(claude_server)}\n"
    assert events[-1].json["status"] == "completed"
    assert "a memorable answer" in str(model.requests[-1].body["messages"])


def test_codex_works_and_remembers_there(codex_server: Server, responses: ResponsesApi) -> None:
    """So does the other one."""
    make_repository(codex_server.workspace / "repo", {"a": "a\n"})
    real_turn(codex_server, "codex", "bash pwd > made", "text a memorable answer")
    codex_server.terminate()
    codex_server.start()
    events = real_turn(codex_server, "codex", "text and another")

    assert (worktree(codex_server) / "made").read_text() == f"{worktree(codex_server)}\n"
    assert events[-1].json["status"] == "completed"
    assert "a memorable answer" in str(responses.requests[-1].body)
