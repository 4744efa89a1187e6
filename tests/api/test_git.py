"""Git over HTTP: what comes back, what a bad request gets, and that the server itself is not held up."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from agentsrv.api.keys import CONFIG
from agentsrv.api.schemas.git import DiffView, RepositoryList
from agentsrv.workspace.git.workers import REQUEST_TIMEOUT_S
from tests.api.kit import KEY, Answer, Serve, Server, make_config
from tests.workspace.git_kit import make_repository, run_git, write_files

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory, serving: Serve) -> AsyncIterator[Server]:
    """One server for all: starting a git worker is the slow part."""
    config = make_config(tmp_path_factory.mktemp("git"))
    base = config.workspace_base
    repo = make_repository(
        base / "repo", {"a.txt": "one\ntwo\n", "sub/b.txt": "b\n", "gone.txt": "x\ny\nz\n"}
    )
    run_git(repo, "worktree", "add", "--quiet", "--detach", str(base / "linked"))
    write_files(repo, {"a.txt": "one\n2\n", "new.txt": "new", "moved.txt": "x\ny\nz\n"})
    (repo / "gone.txt").unlink()
    (base / "plain").mkdir()
    run_git(base, "init", "--quiet", "--bare", "bare.git")
    (base / "out").symlink_to("/")
    (base / "own").symlink_to(config.state_dir)
    broken = make_repository(base / "broken", {"a": "a\n"})
    (broken / ".git/index").write_bytes(b"DIRC garbage")
    async with serving(config) as running:
        yield running


async def get(server: Server, route: str, **query: Any) -> Answer:
    return await server.ask("GET", route, params=query)


async def diff(server: Server, **query: Any) -> DiffView:
    answer = await get(server, "/git/diff", **{"path": "repo", **query})
    assert answer.status == 200, answer.text
    return msgspec.json.decode(answer.text, type=DiffView)


async def test_changes_come_by_file_hunk_and_line(server: Server) -> None:
    """A changed line is a deleted and an added one, each with the number that it has on its side."""
    found = await diff(server)
    file = next(file for file in found.files if file.new_path == "a.txt")

    assert ("repo", "HEAD", None) == (found.relative_path, found.base, found.head)
    assert ("modified", 1, 1) == (file.status, file.additions, file.deletions)
    assert [("context", "one", 1, 1), ("del", "two", 2, None), ("add", "2", None, 2)] == [
        (line.type, line.content, line.old_line, line.new_line) for line in file.hunks[0].lines
    ]


async def test_untracked_files_are_added_and_found_as_renames(server: Server) -> None:
    """What an agent has moved without telling git is a rename; a missing last newline is said."""
    found = await diff(server)

    assert [("modified", "a.txt"), ("renamed", "moved.txt"), ("added", "new.txt")] == [
        (file.status, file.new_path) for file in found.files
    ]
    assert ("gone.txt", 100) == (found.files[1].old_path, found.files[1].similarity)
    assert [("add", "new", 1), ("context", "\\ No newline at end of file", None)] == [
        (line.type, line.content, line.new_line) for line in found.files[2].hunks[0].lines
    ]


async def test_a_summary_counts_and_has_no_hunks(server: Server) -> None:
    """`summary=true` is for large diffs: the same files and counts without lines."""
    whole, short = await diff(server), await diff(server, summary="true")

    assert [(file.new_path, file.additions, file.deletions) for file in whole.files] == [
        (file.new_path, file.additions, file.deletions) for file in short.files
    ]
    assert [] == [hunk for file in short.files for hunk in file.hunks]


async def test_paths_limit_a_diff_to_files_and_folders(server: Server) -> None:
    """`paths` may come several times; nothing in it is a pattern."""
    found = await server.ask("GET", "/git/diff?path=repo&paths=a.txt&paths=sub&paths=*")

    assert ["a.txt"] == [file["newPath"] for file in found.json["files"]]


async def test_a_subdirectory_shows_the_whole_repository(server: Server) -> None:
    """As `git diff` does."""
    assert (await diff(server, path="repo/sub")).repo_path == (await diff(server)).repo_path


async def test_repositories_come_first_then_their_worktrees(server: Server) -> None:
    """A broken one is listed with what is wrong; a bare one and plain folders are not."""
    answer = await get(server, "/git/repositories")
    found = msgspec.json.decode(answer.text, type=RepositoryList)

    base = server.app[CONFIG].workspace_base
    assert [
        ("broken", False, str(base / "broken"), "main"),
        ("repo", False, str(base / "repo"), "main"),
        ("linked", True, str(base / "repo"), None),
    ] == [(item.relative_path, item.is_worktree, item.root, item.branch) for item in found.repositories]
    assert (3, False) == (found.count, found.truncated)


BAD_REVISIONS = [
    "--output=CANARY", "-O/etc/passwd", "--no-index", "--ext-diff", "HEAD;touch CANARY", "$(touch CANARY)",
    "`touch CANARY`", "HEAD\ntouch", "nope", "HEAD:a.txt", ":/change", "HEAD^{/change}", "HEAD..HEAD", "HEAD~99",
    "HEAD^9", "@{u}", "0" * 40, "deadbeef", "a" * 1024, "refs/heads/*", " HEAD", "é", "^HEAD",
    "HEAD^{blob}", "HEAD^{", "~", "^", "@{", "HEAD~" + "9" * 30, "HEAD" + "^" * 500,
]  # fmt: skip


@pytest.mark.parametrize("revision", BAD_REVISIONS)
@pytest.mark.parametrize("field", ["base", "head"])
async def test_what_is_no_revision_is_refused(server: Server, field: str, revision: str) -> None:
    """It is looked up, never an option or a command: 400 that names the field, and no file appears."""
    answer = await get(server, "/git/diff", **{"path": "repo", field: revision})

    assert (400, "unknown_revision", field) == (
        answer.status,
        answer.json["code"],
        answer.json["details"][0]["path"],
    )
    assert [] == list(server.app[CONFIG].workspace_base.rglob("CANARY*"))


BAD_PATHS = [
    ("/etc", 403), ("..", 403), ("../..", 403), ("out", 403), ("out/etc", 403), ("own", 403), ("missing", 404),
    ("plain", 404), ("repo/.git", 404), ("repo/.git/refs", 404), ("bare.git", 404), ("repo/a.txt", 400), ("-C", 404),
    ("broken", 422), ("a\0b", 400), ("x" * 4097, 400), ("y" * 300, 400), ("repo\n", 404), ("", 404), (".", 404),
]  # fmt: skip


@pytest.mark.parametrize(("path", "status"), BAD_PATHS)
async def test_a_path_without_a_repository(server: Server, path: str, status: int) -> None:
    """Outside is 403, not a repository 404, a damaged one 422; the message names the path or the field."""
    answer = await get(server, "/git/diff", path=path)

    assert (status, True) == (answer.status, bool(answer.json["error"])), answer.text


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("context=-1", "context"), ("context=1001", "context"), ("context=1.5", "context"), ("context=x", "context"),
        ("context=1e9", "context"), ("context=NaN", "context"), ("context=", "context"), ("staged=yes", "staged"),
        ("staged=1", "staged"), ("summary=2", "summary"), ("merge_base=x", "merge_base"), ("base=a&base=b", "base"),
        ("head=HEAD&staged=true", "staged"), ("paths=../x", "paths"), ("paths=/etc", "paths"), ("paths=a%00", "paths"),
        ("paths=", "paths.0"), ("path=repo&path=repo", "path"),
    ],
)  # fmt: skip
async def test_a_wrong_parameter_is_named(server: Server, query: str, field: str) -> None:
    """400, and `details` says which one."""
    prefix = "" if "path=" in query else "path=repo&"
    answer = await server.ask("GET", f"/git/diff?{prefix}{query}")

    assert (400, field) == (answer.status, answer.json["details"][0]["path"]), answer.text


async def test_head_may_stand_without_base(server: Server) -> None:
    """`base` is HEAD then, as everywhere."""
    assert [] == (await diff(server, head="HEAD")).files


async def test_both_routes_need_a_key(server: Server) -> None:
    """401 before anything is looked at."""
    for path in ("/git/diff?path=repo", "/git/repositories"):
        assert (await server.ask("GET", path, key=None)).status == 401


async def test_head_requests_get_headers_alone(server: Server) -> None:
    """HEAD says how long the answer would be."""
    answer = await server.ask("HEAD", "/git/diff?path=repo&summary=true")

    assert (200, "") == (answer.status, answer.text)
    assert int(answer.headers["Content-Length"]) > 100


async def test_the_server_answers_others_meanwhile(server: Server) -> None:
    """While a large diff is made and sent, the event loop works for a few milliseconds at a time at most."""
    base = server.app[CONFIG].workspace_base
    big = make_repository(
        base / "big", {f"f{n}": "".join(f"{n} {i}\n" for i in range(100)) for n in range(300)}
    )
    write_files(big, {f"f{n}": "".join(f"{i} {n}\n" for i in range(100)) for n in range(300)})
    steps: list[float] = []

    async def watch() -> None:
        while True:
            started = time.thread_time()
            await asyncio.sleep(0.001)
            steps.append(time.thread_time() - started)

    watcher = asyncio.get_running_loop().create_task(watch())
    answer = await get(server, "/git/diff", path="big")
    watcher.cancel()

    assert len(answer.json["files"]) == 300
    assert sorted(steps)[int(len(steps) * 0.95)] < 0.05


async def test_a_client_that_leaves_stops_the_work(server: Server) -> None:
    """Nobody waits for the answer any more, so the worker is free for others at once."""
    slow = make_repository(server.app[CONFIG].workspace_base / "slow", {"a": "a\n"})
    os.mkfifo(slow / ".gitignore")
    question = f"GET /git/diff?path=slow HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n\r\n"
    for _ in range(4):
        async with server.connection() as (_, writer):
            writer.write(question.encode())
            await writer.drain()

    async with asyncio.timeout(1.5 * REQUEST_TIMEOUT_S):  # two by two, they would take twice that
        assert [] == (await diff(server, path="linked")).files
