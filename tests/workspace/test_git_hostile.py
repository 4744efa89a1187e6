"""Repositories that want to run something, or to call somebody: looking at them does neither."""

from __future__ import annotations

import json
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from agentsrv.errors import Forbidden, Unprocessable
from agentsrv.workspace.git.ignore import MAX_FILE_BYTES, MAX_LINES
from agentsrv.workspace.git.protocol import (
    DiffRequest,
    FindRepositories,
    FindWorktrees,
    MakeWorktree,
    RemoveWorktree,
    Request,
    TakeSnapshot,
)
from agentsrv.workspace.git.workers import GitWorkers
from agentsrv.workspace.paths import Workspace
from tests.kit import THREADS
from tests.workspace.git_kit import commit, make_repository, run_git, write_files

HOOKS = """
applypatch-msg pre-applypatch post-applypatch pre-commit prepare-commit-msg commit-msg post-commit pre-rebase
post-checkout post-merge pre-push pre-receive update post-receive post-update reference-transaction
push-to-checkout pre-auto-gc post-rewrite sendemail-validate fsmonitor-watchman post-index-change
"""

CONFIGURATION = """
[core]
    fsmonitor = {script}
    hooksPath = {hooks}
    sshCommand = {script}
    gitProxy = {script}
    pager = {script}
    editor = {script}
    askPass = {script}
    alternateRefsCommand = {script}
    untrackedCache = true
    autocrlf = true
    attributesFile = {directory}/attributes
    excludesFile = {directory}/excludes
[extensions]
    partialClone = origin
[remote "origin"]
    url = {url}
    promisor = true
    partialclonefilter = blob:none
    uploadpack = {script}
    receivepack = {script}
    vcs = canary
    proxy = http://{address}
[remote "ext"]
    url = "ext::{script}"
[credential]
    helper = "!{script}"
[diff]
    external = {script}
    tool = canary
[diff "canary"]
    command = {script}
    textconv = {script}
    cachetextconv = true
    binary = true
    xfuncname = "(a+)+$"
[difftool "canary"]
    cmd = {script}
[filter "canary"]
    clean = {script}
    smudge = {script}
    process = {script}
    required = true
[filter "lfs"]
    clean = {script}
    smudge = {script}
    process = {script}
    required = true
[merge "canary"]
    driver = {script}
[gpg]
    program = {script}
[alias]
    diff = "!{script}"
    status = "!{script}"
[uploadpack]
    packObjectsHook = {script}
[submodule "mod"]
    url = {url}
    update = "!{script}"
    active = true
[trace2]
    normalTarget = {directory}/CANARY-trace
    eventTarget = {directory}/CANARY-trace
[init]
    templateDir = {hooks}
[http]
    proxy = http://{address}
    cookieFile = {directory}/CANARY-cookies
[url "{url}"]
    insteadOf = file
[protocol]
    allow = always
[include]
    path = {directory}/included
[includeIf "gitdir:/"]
    path = {directory}/included
"""


class Trap:
    """A repository whose every setting leaves a canary or makes a connection when something acts on it."""

    def __init__(self, base: Path) -> None:
        self.directory = base / "trap"
        self.directory.mkdir()
        self.canary = self.directory / "CANARY"
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(0.2)
        script = self.directory / "script"
        script.write_text(f"#!/bin/sh\ntouch {self.canary}\n")
        script.chmod(0o755)
        self.root = make_repository(base / "repo", {"a": "a\n", "b.txt": "b\r\n", "gone": "g\n"})
        self._set(script)

    def _set(self, script: Path) -> None:
        hooks = self.root / ".git/hooks"
        address = "{}:{}".format(*self.listener.getsockname())
        settings = CONFIGURATION.format(
            script=script, hooks=hooks, directory=self.directory, url=f"http://{address}/x", address=address
        )
        (self.directory / "included").write_text(
            f"[core]\n\tfsmonitor = {script}\n[diff]\n\texternal = {script}\n"
        )
        (self.directory / "attributes").write_text("* diff=canary filter=canary merge=canary\n")
        write_files(
            self.root,
            {
                ".gitattributes": "* diff=canary filter=canary merge=canary text\n*.txt filter=lfs diff=lfs\n",
                ".gitmodules": f'[submodule "mod"]\n\tpath = mod\n\turl = http://{address}\n\tupdate = !{script}\n',
                ".lfsconfig": f"[lfs]\n\turl = http://{address}\n",
                "$(touch CANARY)": "x\n",
                "`touch CANARY`": "x\n",
                ";touch CANARY": "x\n",
                "--output=CANARY": "x\n",
            },
        )
        commit(self.root)
        write_files(self.root, {"a": "changed\n", "new": "n\n", "b.txt": "c\r\n", "moved": "g\n"})
        (self.root / "gone").unlink()
        inner = make_repository(self.root / "inner", {"x": "x\n"})
        # Last of all: what prepares the trap must not spring it.
        for git in (self.root / ".git", inner / ".git"):
            with open(git / "config", "a") as file:
                file.write(settings)
        for name in HOOKS.split():
            (hooks / name).unlink(missing_ok=True)
            (hooks / name).symlink_to(script)

    def has_sprung(self) -> bool:
        try:
            self.listener.accept()[0].close()
        except TimeoutError:
            return any(path.name.startswith("CANARY") for path in self.root.parent.rglob("CANARY*"))
        return True


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[Trap]:
    trap = Trap(tmp_path)
    yield trap
    trap.listener.close()


@pytest.fixture
async def workers(tmp_path: Path) -> AsyncIterator[GitWorkers]:
    workers = GitWorkers(Workspace(tmp_path), {"PATH": "/usr/bin:/bin"}, THREADS.processes)
    yield workers
    await workers.close()


REQUESTS: list[Request] = [
    DiffRequest(path="repo"),
    DiffRequest(path="repo", summary=True),
    DiffRequest(path="repo", staged=True),
    DiffRequest(path="repo", base="HEAD~1", head="HEAD"),
    DiffRequest(path="repo", base="HEAD~1", merge_base=True),
    DiffRequest(path="repo/inner"),
    FindRepositories(),
]


async def test_nothing_of_a_repository_runs_and_nobody_is_called(trap: Trap, workers: GitWorkers) -> None:
    """Hooks, filters, drivers, monitors, helpers, remotes, includes, names: all set, none acted upon."""
    answers = [json.loads(await workers.ask(request) + b"}") for request in REQUESTS]

    assert {"a", "new", "moved", "b.txt", "inner"} <= {file["newPath"] for file in answers[0]["files"]}
    assert ["+changed"] == [
        "+" + line["content"]
        for file in answers[0]["files"]
        if file["newPath"] == "a"
        for line in file["hunks"][0]["lines"]
        if line["type"] == "add"
    ]
    assert not trap.has_sprung()


async def test_objects_that_were_promised_are_not_fetched(trap: Trap, workers: GitWorkers) -> None:
    """A partial clone would ask its remote for them; here they are missing."""
    blob = run_git(trap.root.parent / "trap", "hash-object", "--stdin", stdin=b"a\n").decode().strip()
    (trap.root / ".git/objects" / blob[:2] / blob[2:]).unlink()
    answer = json.loads(await workers.ask(DiffRequest(path="repo")) + b"}")

    assert [True] == [file["unreadable"] for file in answer["files"] if file["newPath"] == "a"]
    assert not trap.has_sprung()


def test_the_trap_works(trap: Trap) -> None:
    """The git program does fall into it: otherwise these tests would show nothing."""
    run_git(trap.root, "diff", check=False)

    assert trap.has_sprung()


async def test_making_a_worktree_runs_nothing_either(trap: Trap, workers: GitWorkers) -> None:
    """Files come as they were committed: what a filter would make of them, none makes. Nor when it is removed."""
    writers = GitWorkers(
        Workspace(trap.root.parent), {"PATH": "/usr/bin:/bin"}, THREADS.processes, may_write=True
    )
    run_git(trap.root, "config", "filter.canary.required", "true")
    made = json.loads(await writers.ask(MakeWorktree(cwd=str(trap.root), session_id="s")) + b"}")
    path = Path(made["path"])
    [listed] = json.loads(await workers.ask(FindWorktrees()) + b"}")["worktrees"]
    await workers.ask(DiffRequest(path=made["path"]))

    assert ("session/s", False) == (listed["branch"], listed["isDirty"])
    assert ["g\r\n", "x\r\n"] == [(path / name).read_bytes().decode() for name in ("gone", "$(touch CANARY)")]
    await writers.ask(RemoveWorktree(path=made["path"]))
    await writers.close()
    assert not path.exists()
    assert not trap.has_sprung()


async def test_taking_a_snapshot_runs_nothing_either(trap: Trap) -> None:
    """Of what is changed and what is new; the worker can write nowhere but into the repository."""
    writers = GitWorkers(
        Workspace(trap.root.parent), {"PATH": "/usr/bin:/bin"}, THREADS.processes, may_write=True
    )
    (trap.root / "new-file").write_text("x\n")
    await writers.ask(TakeSnapshot(path=str(trap.root), session_id="s", turn_id="t", moment="start"))
    await writers.close()

    assert list((trap.root / ".git/refs/agentsrv").rglob("*"))
    assert not trap.has_sprung()


def test_the_trap_works_for_worktrees_too(trap: Trap) -> None:
    """The git program runs what it finds when it makes one."""
    run_git(trap.root, "worktree", "add", "../tree", check=False)

    assert trap.has_sprung()


async def test_a_bare_repository_in_disguise(tmp_path: Path, workers: GitWorkers) -> None:
    """A folder of a repository that looks like a bare one is a folder: its configuration is not read."""
    root = make_repository(tmp_path / "repo", {"docs/readme": "r\n"})
    run_git(tmp_path, "init", "--quiet", "--bare", "repo/docs/evil")
    config = root / "docs/evil/config"
    config.write_text(f"[core]\n\tbare = false\n\tworktree = /etc\n\tfsmonitor = touch {tmp_path}/CANARY\n")
    write_files(root, {"docs/readme": "changed\n"})
    answer = json.loads(await workers.ask(DiffRequest(path="repo/docs/evil")) + b"}")

    assert str(root) == answer["repoPath"]
    assert "docs/readme" in [file["newPath"] for file in answer["files"]]
    assert not (tmp_path / "CANARY").exists()


async def test_reading_changes_nothing(trap: Trap, workers: GitWorkers) -> None:
    """No index is refreshed, no lock or object is written."""
    before = snapshot(trap.root)
    for request in REQUESTS:
        await workers.ask(request)

    assert before == snapshot(trap.root)


def snapshot(root: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file."""
    found = {}
    for path in root.rglob("*"):
        state = path.lstat()
        if stat.S_ISREG(state.st_mode):
            found[str(path)] = (state.st_size, state.st_mtime_ns)
    return found


@pytest.mark.parametrize("part", ["directory of objects", "object", "pack"])
async def test_links_below_objects_lead_nowhere_else(tmp_path: Path, part: str) -> None:
    """Another repository's objects, outside of the workspace, are not shown as this one's."""
    secret = make_repository(tmp_path / "outside/repo", {"secret": "s"})
    root = make_repository(tmp_path / "base/repo", {"a": "a"})
    objects, theirs = root / ".git/objects", secret / ".git/objects"
    [first, *_] = [path for path in theirs.iterdir() if len(path.name) == 2]
    match part:
        case "directory of objects":
            (objects / "zz").symlink_to(first)
        case "object":
            (objects / "zz").mkdir()
            (objects / "zz/x").symlink_to(next(first.iterdir()))
        case _:
            run_git(secret, "repack", "-adq")
            (objects / "pack/pack-x.pack").symlink_to(next((theirs / "pack").glob("*.pack")))
    workers = GitWorkers(Workspace(tmp_path / "base"), {}, THREADS.processes)
    try:
        with pytest.raises(Forbidden):
            await workers.ask(DiffRequest(path="repo"))
    finally:
        await workers.close()


@pytest.mark.parametrize("name", [".gitignore", "sub/.gitignore", ".git/info/exclude", ".gitattributes"])
@pytest.mark.parametrize("content", [b"*a*b*c text\n" * (MAX_LINES + 1), b"x" * (MAX_FILE_BYTES + 1)])
async def test_patterns_beyond_use_are_told(
    tmp_path: Path, workers: GitWorkers, name: str, content: bytes
) -> None:
    """Neither left out without a word nor worked on until the time is over."""
    root = make_repository(tmp_path / "repo", {"a": "a"})
    write_files(root, {"sub/a": "a", "a": "changed"})
    (root / name).write_bytes(content)
    with pytest.raises(Unprocessable, match="lines or 1 MiB of patterns") as caught:
        await workers.ask(DiffRequest(path="repo"))

    assert caught.value.code == "repository_too_large"


async def test_many_patterns_count_as_for_git(tmp_path: Path, workers: GitWorkers) -> None:
    """As many as may be: what they hide is hidden."""
    root = make_repository(tmp_path / "repo", {"a": "a"})
    write_files(root, {"x19999y": "", "shown": ""})
    (root / ".gitignore").write_text("".join(f"*{number}y\n" for number in range(MAX_LINES)))
    answer = json.loads(await workers.ask(DiffRequest(path="repo")) + b"}")

    assert [".gitignore", "shown"] == [file["newPath"] for file in answer["files"]]
