"""Worktrees for sessions: as git itself would make them, and nothing lost when they go."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agentsrv.errors import AgentsrvError
from agentsrv.workspace.git import shelf as shelf_module
from agentsrv.workspace.git import worktrees as worktrees_module
from agentsrv.workspace.git.program import configure_libgit2
from agentsrv.workspace.git.protocol import (
    DiffRequest,
    DiscardWorktree,
    FindRepositories,
    FindWorktrees,
    FoundWorktrees,
    Made,
    MadeWorktree,
    MakeWorktree,
    RemovedWorktree,
    RemoveWorktree,
    Request,
    Worktree,
)
from agentsrv.workspace.git.shelf import Shelf
from agentsrv.workspace.git.workers import GitWorkers
from agentsrv.workspace.paths import Workspace
from tests.kit import THREADS
from tests.workspace.git_child import GitChildren
from tests.workspace.git_kit import commit, commit_id, make_repository, run_git, write_files


class Worktrees:
    """What a server does with worktrees below `base`, by `git`: workers, or what does as they do."""

    def __init__(self, base: Path, git: GitWorkers | None = None) -> None:
        self.base = base
        self._git = git or GitChildren(Workspace(base))
        self._made = dict[str, Made | None]()

    async def ask(self, request: Request) -> Any:
        return msgspec.json.decode(await self._git.ask(request) + b"}")

    async def make(self, cwd: str = "repo", session_id: str = "s") -> MadeWorktree:
        request = MakeWorktree(cwd=str(self.base / cwd), session_id=session_id)
        made = msgspec.convert(await self.ask(request), MadeWorktree)
        self._made[made.path] = made.made
        return made

    async def refused(self, cwd: str = "repo", session_id: str = "s") -> str:
        """The code of the error."""
        with pytest.raises(AgentsrvError) as caught:
            await self.make(cwd, session_id)
        return caught.value.code

    async def discard(self, cwd: str = "repo", session_id: str = "s") -> None:
        await self.ask(DiscardWorktree(cwd=str(self.base / cwd), session_id=session_id))

    async def remove(self, path: str | Path, *, force: bool = False) -> RemovedWorktree:
        request = RemoveWorktree(path=str(path), made=self._made.get(str(path)), force=force)
        return msgspec.convert(await self.ask(request), RemovedWorktree)

    async def kept(self, path: str | Path) -> str:
        """Why it is not removed."""
        with pytest.raises(AgentsrvError) as caught:
            await self.remove(path)
        assert Path(path).is_dir()
        return "; ".join(problem.message for problem in caught.value.problems) or caught.value.code

    async def listed(self) -> list[Worktree]:
        return msgspec.convert(await self.ask(FindWorktrees()), FoundWorktrees).worktrees

    def branches(self, repo: str = "repo") -> list[str]:
        return run_git(self.base / repo, "branch", "--format=%(refname:short)").decode().split("\n")[:-1]

    def known(self, repo: str = "repo") -> list[str]:
        """The linked worktrees that git knows, from the base on."""
        lines = run_git(self.base / repo, "worktree", "list", "--porcelain").decode().splitlines()
        paths = [Path(line.split(" ", 1)[1]) for line in lines if line.startswith("worktree ")]
        return [str(path.relative_to(self.base)) for path in paths[1:]]

    def is_clean(self) -> bool:
        """Is there nothing but `main`, and perhaps what is in the trash?"""
        rest = [path for path in self.base.glob(".worktrees/*/*") if not path.name.startswith(".trash-")]
        return (self.branches(), self.known(), rest) == (["main"], [], [])

    def trash(self) -> list[Path]:
        return sorted(self.base.glob(".worktrees/*/.trash-*"))


@pytest.fixture
def worktrees(tmp_path: Path) -> Worktrees:
    return Worktrees(tmp_path)


@pytest.fixture
async def by_workers(tmp_path: Path) -> AsyncIterator[Worktrees]:
    """By processes as a server starts them."""
    workers = GitWorkers(Workspace(tmp_path), {}, THREADS.processes, may_write=True)
    yield Worktrees(tmp_path, workers)
    await workers.close()


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "repo", {"a": "a\n", "sub/b": "b\n", ".gitignore": "ignored\n"})


@pytest.fixture
def here(unprivileged: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace to work on in this process, which keeps its own right to write."""
    monkeypatch.setattr(shelf_module, "restrict_writes", lambda directories: True)
    configure_libgit2()
    return Workspace(unprivileged)


# Making


async def test_a_worktree_is_one_to_git_too(by_workers: Worktrees, repo: Path) -> None:
    """Its own directory and branch, at the commit of HEAD, with all files and nothing to commit."""
    worktrees = by_workers
    made = await worktrees.make()
    path = Path(made.path)

    assert (str(worktrees.base / ".worktrees/repo/s"), "session/s") == (made.path, made.branch)
    assert made.cwd == made.path
    assert b"" == run_git(path, "status", "--porcelain", "--ignored")
    assert run_git(repo, "rev-parse", "main") == run_git(path, "rev-parse", "HEAD")
    assert b"session/s\n" == run_git(path, "branch", "--show-current")
    assert [".worktrees/repo/s"] == worktrees.known()
    assert b"" == run_git(repo, "worktree", "prune", "--dry-run", "--verbose")
    assert b"" == run_git(repo, "fsck", "--no-progress", check=True)


async def test_changes_in_one_are_not_in_the_other(worktrees: Worktrees, repo: Path) -> None:
    """Git commits in the worktree, and the repository's own working tree stays as it was."""
    made = await worktrees.make()
    write_files(Path(made.path), {"a": "changed\n"})
    commit(Path(made.path))
    tip = commit_id(Path(made.path))

    assert "a\n" == (repo / "a").read_text()
    assert b"" == run_git(repo, "status", "--porcelain")
    assert tip == run_git(repo, "rev-parse", "session/s").decode().strip()


async def test_a_subdirectory_stays_one(worktrees: Worktrees, repo: Path) -> None:
    """Who worked in `sub` works in the worktree's `sub`; also when no commit has that directory."""
    (repo / "new/deep").mkdir(parents=True)
    first = await worktrees.make("repo/sub", "one")
    second = await worktrees.make("repo/new/deep", "two")

    assert (f"{first.path}/sub", f"{second.path}/new/deep") == (first.cwd, second.cwd)
    assert Path(first.cwd, "b").exists()
    assert Path(second.cwd).is_dir()


async def test_a_link_in_the_commit_is_not_followed(worktrees: Worktrees, repo: Path) -> None:
    """Where a directory of the working tree is a link in the commit, nobody is led away by it."""
    (repo / "link").symlink_to("/tmp")
    commit(repo)
    (repo / "link").unlink()
    (repo / "link").mkdir()

    assert "not_a_directory" == await worktrees.refused("repo/link")
    assert worktrees.is_clean()


async def test_a_worktree_of_a_worktree(worktrees: Worktrees, repo: Path) -> None:
    """It begins at that one's commit, and belongs to the same repository."""
    first = await worktrees.make()
    write_files(Path(first.path), {"a": "changed\n"})
    commit(Path(first.path))
    tip = commit_id(Path(first.path))
    main = run_git(repo, "rev-parse", "main")
    second = await worktrees.make(".worktrees/repo/s/sub", "t")

    assert str(worktrees.base / ".worktrees/repo/t/sub") == second.cwd
    assert tip == run_git(Path(second.path), "rev-parse", "HEAD").decode().strip()
    assert main == run_git(repo, "rev-parse", "main")


async def test_a_submodule_has_worktrees_of_its_own(worktrees: Worktrees, repo: Path, tmp_path: Path) -> None:
    """In the repository that it is, not in the one around it; and in that one submodules are empty."""
    library = make_repository(tmp_path / "library", {"l": "l\n"})
    run_git(repo, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(library), "mod")
    commit(repo)
    inner = await worktrees.make("repo/mod")
    outer = await worktrees.make("repo", "t")

    assert (True, str(tmp_path / ".worktrees/mod/s")) == (Path(inner.path, "l").exists(), inner.path)
    assert [] == os.listdir(Path(outer.path, "mod"))
    assert b"" == run_git(Path(outer.path), "status", "--porcelain")


async def test_line_ends_modes_links_and_names(worktrees: Worktrees, repo: Path) -> None:
    """All that git itself would check out, the same."""
    write_files(repo, {"crlf.txt": "a\nb\n", ".gitattributes": "*.txt text eol=crlf\n"})
    os.makedirs(os.fsencode(repo) + b"/caf\xe9")
    with open(os.fsencode(repo) + b"/caf\xe9/x\ny", "w") as file:
        file.write("odd")
    (repo / "run").write_text("#!/bin/sh\n")
    (repo / "run").chmod(0o755)
    (repo / "away").symlink_to("/etc/passwd")
    commit(repo)
    path = Path((await worktrees.make()).path)

    assert b"" == run_git(path, "status", "--porcelain")
    assert b"a\r\nb\r\n" == (path / "crlf.txt").read_bytes()
    assert (0o755, "/etc/passwd") == ((path / "run").stat().st_mode & 0o755, os.readlink(path / "away"))


async def test_a_detached_head_a_bare_main_and_packed_branches(worktrees: Worktrees, repo: Path) -> None:
    """Whatever the repository looks like, HEAD is where the worktree begins."""
    run_git(repo, "checkout", "--quiet", "--detach")
    run_git(repo, "pack-refs", "--all")
    detached = await worktrees.make()
    run_git(worktrees.base, "clone", "--quiet", "--bare", "repo", "bare.git")
    run_git(worktrees.base / "bare.git", "worktree", "add", "--quiet", "../linked", "main")
    linked = await worktrees.make("linked", "t")

    assert b"" == run_git(Path(detached.path), "status", "--porcelain")
    assert str(worktrees.base / ".worktrees/bare.git/t") == linked.path
    assert b"session/t\n" == run_git(Path(linked.path), "branch", "--show-current")
    assert "session/s" == (await worktrees.remove(detached.path)).branch


async def test_a_base_that_is_a_repository_itself(tmp_path: Path) -> None:
    """It does not see its own worktrees as untracked files."""
    base = make_repository(tmp_path / "base", {"a": "a\n"})
    worktrees = Worktrees(base)
    made = await worktrees.make(".")
    diff = await worktrees.ask(DiffRequest(path=""))

    assert str(base / ".worktrees/base/s") == made.path
    assert (b"", []) == (run_git(base, "status", "--porcelain"), diff["files"])


@pytest.mark.parametrize(
    ("session_id", "branch"),
    [
        ("a..b", "session/a_.b"),
        ("a...", "session/a___"),
        ("x.lock", "session/x_lock"),
        ("v1.", "session/v1_"),
        ("v1.2-rc.lock.x", "session/v1.2-rc.lock.x"),
        ("a" * 128, "session/" + "a" * 128),
    ],
)
async def test_ids_that_are_no_names_of_branches(
    worktrees: Worktrees, repo: Path, session_id: str, branch: str
) -> None:
    """Git would not take them; a name close to it is used."""
    made = await worktrees.make(session_id=session_id)

    assert branch == made.branch
    assert f"{branch}\n".encode() == run_git(Path(made.path), "branch", "--show-current")


@pytest.mark.parametrize(
    ("existing", "branch"),
    [
        (["session/s"], "session/s-2"),
        (["session/s", "session/s-2"], "session/s-3"),
        (["session/s/below"], "session/s-2"),
        (["session"], "session-s"),
        (["session", "session-s"], "session-s-2"),
    ],
)
async def test_a_branch_of_that_name_is_left_alone(
    worktrees: Worktrees, repo: Path, existing: list[str], branch: str
) -> None:
    """It is somebody's. Another name is found, and theirs stays where it was."""
    old = run_git(repo, "rev-parse", "HEAD")
    for name in existing:
        run_git(repo, "branch", name)
    write_files(repo, {"a": "later\n"})
    commit(repo)
    made = await worktrees.make()

    assert branch == made.branch
    assert [old] * len(existing) == [run_git(repo, "rev-parse", name) for name in existing]
    await worktrees.remove(made.path)
    assert sorted(["main", *existing]) == sorted(worktrees.branches())


async def test_a_branch_is_not_moved_through_a_linked_worktree(worktrees: Worktrees, repo: Path) -> None:
    """Also where the session works in a worktree whose commit is another one."""
    run_git(repo, "branch", "session/t")
    first = await worktrees.make()
    write_files(Path(first.path), {"a": "changed\n"})
    commit(Path(first.path))
    made = await worktrees.make(".worktrees/repo/s", "t")

    assert "session/t-2" == made.branch
    assert run_git(repo, "rev-parse", "main") == run_git(repo, "rev-parse", "session/t")


async def test_a_place_that_is_taken(worktrees: Worktrees, repo: Path) -> None:
    """Another session's worktree, and what somebody has put there, stay."""
    (worktrees.base / ".worktrees/repo/s").mkdir(parents=True)
    (worktrees.base / ".worktrees/repo/s/mine").write_text("mine")
    await worktrees.make(session_id="s-2")
    made = await worktrees.make()

    assert str(worktrees.base / ".worktrees/repo/s-3") == made.path
    assert "mine" == (worktrees.base / ".worktrees/repo/s/mine").read_text()


# What cannot be


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("plain", "no_repository"),
        ("repo/.git", "no_repository"),
        ("repo/.git/refs", "no_repository"),
        ("bare.git", "no_repository"),
        ("hidden", "no_repository"),
        ("empty", "no_commits"),
        ("broken", "repository_unreadable"),
        ("shallow", "repository_unreadable"),
        ("gone", "no_repository"),
    ],
)
async def test_where_no_worktree_can_be_made(worktrees: Worktrees, repo: Path, path: str, code: str) -> None:
    """The answer says why, and nothing has been made."""
    base = worktrees.base
    (base / "plain").mkdir()
    run_git(base, "init", "--quiet", "--bare", "bare.git")
    run_git(make_repository(base / "hidden", {"a": ""}), "config", "core.bare", "true")
    make_repository(base / "empty")
    (make_repository(base / "broken", {"a": ""}) / ".git/HEAD").write_text("nonsense")
    shallow = make_repository(base / "shallow", {"a": "content\n"})
    blob = run_git(shallow, "hash-object", "a").decode().strip()
    (shallow / ".git/objects" / blob[:2] / blob[2:]).unlink()

    assert code == await worktrees.refused(path)
    assert worktrees.is_clean()
    if path == "shallow":
        assert (["main"], []) == (worktrees.branches(path), worktrees.known(path))


@pytest.mark.parametrize(
    "planted",
    [
        "worktrees",
        "refs/heads",
        "refs/heads/session",
        "logs/refs/heads",
        "../../.worktrees",
        "../../.worktrees/repo",
    ],
)
async def test_links_lead_no_write_away(worktrees: Worktrees, tmp_path: Path, planted: str) -> None:
    """A repository, or a workspace, with a link where something is to be made: nothing is made behind it."""
    base = tmp_path / "base"
    inside, outside = Worktrees(base), tmp_path / "outside"
    repo = make_repository(base / "repo", {"a": "a\n"})
    link = repo / ".git" / planted
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.exists():
        link.rename(outside)
    else:
        outside.mkdir()
    before = sorted(outside.rglob("*"))
    link.symlink_to(outside)
    code = await inside.refused()

    assert code in {"outside_workspace", "not_a_directory", "permission_denied"}
    assert before == sorted(outside.rglob("*"))


def test_a_repository_that_may_not_be_written_to(here: Workspace) -> None:
    """The answer says so; of what was begun nothing is left."""
    repo = make_repository(here.base / "repo", {"a": "a\n"})
    (repo / ".git/refs/heads").chmod(0o500)
    with pytest.raises(AgentsrvError) as caught:
        worktrees_module.make(here, MakeWorktree(cwd=str(repo), session_id="s"))
    (repo / ".git/refs/heads").chmod(0o700)

    assert "permission_denied" == caught.value.code
    assert Worktrees(here.base).is_clean()


async def test_a_full_disk(tmp_path: Path) -> None:
    """It does not fit: the client is told that the disk is full, and all of it is gone again."""
    base = tmp_path / "base"
    base.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(base)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    worktrees = Worktrees(base)
    try:
        make_repository(base / "repo", {f"f{n}": b"x" * 400_000 for n in range(5)})
        code = await worktrees.refused()

        assert "storage_full" == code
        assert worktrees.is_clean()
    finally:
        subprocess.run(["umount", "-l", str(base)], check=True)


# What a crash leaves


async def test_a_leftover_gives_way(worktrees: Worktrees, repo: Path) -> None:
    """Made, and never heard of again: the next attempt begins at today's commit, under the same name."""
    await worktrees.make()
    write_files(repo, {"a": "later\n"})
    commit(repo)
    tip = commit_id(repo)
    made = await worktrees.make()

    assert (".worktrees/repo/s", "session/s") == (
        str(Path(made.path).relative_to(worktrees.base)),
        made.branch,
    )
    assert tip == run_git(Path(made.path), "rev-parse", "HEAD").decode().strip()
    assert [".worktrees/repo/s"] == worktrees.known()


@pytest.mark.parametrize("stage", ["branch", "directory", "files"])
async def test_half_a_worktree_gives_way(worktrees: Worktrees, repo: Path, stage: str) -> None:
    """Killed in the middle: whatever was there already is taken for what it is."""
    made = await worktrees.make()
    git_dir = repo / ".git/worktrees/s"
    (git_dir / "locked").write_text("initializing\n")
    if stage == "files":
        Path(made.path, "a").unlink()
    else:
        subprocess.run(["rm", "-r", made.path], check=True)
    if stage == "branch":
        run_git(repo, "update-ref", "-d", "refs/heads/session/s")
    again = await worktrees.make()

    assert made == again
    assert b"" == run_git(Path(again.path), "status", "--porcelain")
    assert not (git_dir / "locked").exists()


@pytest.mark.parametrize("kept", ["a", "new", "ignored"])
async def test_a_leftover_with_something_in_it_stays(worktrees: Worktrees, repo: Path, kept: str) -> None:
    """It may be of an earlier session of that name, and hold work: the new one goes beside it."""
    first = await worktrees.make()
    write_files(Path(first.path), {kept: "work"})
    second = await worktrees.make()

    assert "session/s-2" == second.branch
    assert "work" == Path(first.path, kept).read_text()


async def test_undoing_is_for_what_was_made_for_that_session(worktrees: Worktrees, repo: Path) -> None:
    """Others stay, also when they have nothing to lose; undoing twice is fine."""
    await worktrees.make(session_id="s-2")
    await worktrees.make()
    await worktrees.discard()
    await worktrees.discard()

    assert [".worktrees/repo/s-2"] == worktrees.known()
    assert ["main", "session/s-2"] == worktrees.branches()


async def test_many_at_once(by_workers: Worktrees, repo: Path) -> None:
    """Each session has its own, though names overlap and workers share a repository."""
    worktrees = by_workers
    ids = ["s", "s-2", "t..u", "t_.u"]
    made = await asyncio.gather(*(worktrees.make(session_id=session_id) for session_id in ids))

    assert len(ids) == len({one.path for one in made}) == len({one.branch for one in made})
    assert sorted(str(Path(one.path).relative_to(worktrees.base)) for one in made) == sorted(
        worktrees.known()
    )
    await asyncio.gather(*(worktrees.remove(one.path) for one in made))
    assert worktrees.is_clean()


def test_another_worker_is_faster_at_a_name(here: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look for a free name and its use somebody else takes it: the next one is used."""
    repo = make_repository(here.base / "repo", {"a": "a\n"})
    free_name = Shelf.free_name

    def taken_at_once(shelf: Shelf, session_id: str) -> tuple[str, str]:
        monkeypatch.setattr(Shelf, "free_name", free_name)
        name, branch = free_name(shelf, session_id)
        shelf.git_directory(name).mkdir(parents=True)
        return name, branch

    monkeypatch.setattr(Shelf, "free_name", taken_at_once)
    made = worktrees_module.make(here, MakeWorktree(cwd=str(repo), session_id="s"))
    assert "session/s-2" == made.branch


# Removing


async def test_nothing_is_left_of_one_that_is_removed(worktrees: Worktrees, repo: Path) -> None:
    """Directory, branch, and what git knew of it; ignored files go with it."""
    made = await worktrees.make()
    write_files(Path(made.path), {"ignored": "x"})
    removed = await worktrees.remove(made.path)

    assert RemovedWorktree(path=made.path, branch="session/s") == removed
    assert worktrees.is_clean()
    assert not (repo / ".git/worktrees").exists()
    assert not (repo / ".git/refs/heads/session").exists()


async def test_what_has_changed_keeps_it(worktrees: Worktrees, repo: Path) -> None:
    """Changed, staged, deleted and untracked files are named; force removes it all the same."""
    made = await worktrees.make()
    path = Path(made.path)
    write_files(path, {"a": "changed\n", "new/x": "n", "staged": "s"})
    run_git(path, "add", "staged")
    (path / "sub/b").unlink()

    assert "3 changed: a, staged, sub/b; 1 untracked: new/x" == await worktrees.kept(path)
    await worktrees.remove(path, force=True)
    assert worktrees.is_clean()


async def test_commits_of_its_own_keep_it(worktrees: Worktrees, repo: Path) -> None:
    """Until they are on another branch, local or remote, or a tag."""
    made = await worktrees.make()
    write_files(Path(made.path), {"a": "changed\n"})
    commit(Path(made.path))

    assert "commits on no other branch: 1" == await worktrees.kept(made.path)
    run_git(repo, "update-ref", "refs/remotes/origin/x", "session/s")
    assert "session/s" == (await worktrees.remove(made.path)).branch


async def test_a_commit_on_no_branch_keeps_it(worktrees: Worktrees, repo: Path) -> None:
    """Made with a detached head; its own branch has nothing new."""
    made = await worktrees.make()
    run_git(Path(made.path), "checkout", "--quiet", "--detach")
    commit(Path(made.path))

    assert "commits on no other branch: 1" == await worktrees.kept(made.path)


async def test_a_branch_that_somebody_else_uses_stays(worktrees: Worktrees, repo: Path) -> None:
    """The worktree had moved on to another branch, and its own is checked out elsewhere."""
    made = await worktrees.make()
    run_git(Path(made.path), "checkout", "--quiet", "-b", "feature")
    run_git(repo, "checkout", "--quiet", "session/s")
    removed = await worktrees.remove(made.path)

    assert removed.branch is None
    assert ["feature", "main", "session/s"] == worktrees.branches()


@pytest.mark.parametrize("state", ["merge", "locked", "unfinished"])
async def test_what_is_in_the_middle_of_something_stays(worktrees: Worktrees, repo: Path, state: str) -> None:
    """A merge that is not finished, git's own lock, and a worktree that is being made."""
    made = await worktrees.make()
    match state:
        case "merge":
            (repo / ".git/worktrees/s/MERGE_HEAD").write_bytes(run_git(repo, "rev-parse", "main"))
            reason = "a merge, rebase or the like is not finished"
        case "locked":
            run_git(repo, "worktree", "lock", made.path)
            reason = "it is locked (git worktree unlock)"
        case _:
            (repo / ".git/worktrees/s/locked").write_text("initializing\n")
            reason = "it is not finished"

    assert reason == await worktrees.kept(made.path)
    await worktrees.remove(made.path, force=True)
    assert worktrees.is_clean()


def test_folders_without_rights_are_removed(here: Workspace) -> None:
    """Package managers make their caches read-only."""
    repo = make_repository(here.base / "repo", {".gitignore": "cache\n"})
    made = worktrees_module.make(here, MakeWorktree(cwd=str(repo), session_id="s"))
    write_files(Path(made.path), {"cache/module/file": "x"})
    (Path(made.path) / "cache/module").chmod(0o500)
    worktrees_module.remove(here, RemoveWorktree(path=made.path, made=made.made, for_good=True))

    assert Worktrees(here.base).is_clean()


@pytest.mark.parametrize(
    "path",
    [
        "repo",
        ".worktrees",
        ".worktrees/repo",
        ".worktrees/repo/s/sub",
        ".worktrees/repo/none",
        "link",
        "../x",
        "",
    ],
)
async def test_nothing_else_is_removed(worktrees: Worktrees, repo: Path, path: str) -> None:
    """Only what stands where worktrees of sessions are made, whatever is asked for."""
    await worktrees.make()
    (worktrees.base / "link").symlink_to(repo)
    with pytest.raises(AgentsrvError) as caught:
        await worktrees.remove(path, force=True)

    assert caught.value.code in {"worktree_not_found", "outside_workspace"}
    assert (True, [".worktrees/repo/s"]) == ((repo / ".git").is_dir(), worktrees.known())


@pytest.mark.parametrize("target", ["repo/.git", "repo/.git/worktrees/other", "/etc"])
async def test_a_pointer_that_lies_harms_nobody(worktrees: Worktrees, repo: Path, target: str) -> None:
    """The worktree claims another git directory: that one stays, and only the worktree's own files go."""
    other = await worktrees.make(session_id="other")
    made = await worktrees.make()
    (Path(made.path) / ".git").write_text(f"gitdir: {worktrees.base / target}\n")

    assert "it is no worktree to git any more" in await worktrees.kept(made.path)
    await worktrees.remove(made.path, force=True)
    assert (True, False) == ((repo / ".git/HEAD").exists(), Path(made.path).exists())
    assert b"" == run_git(Path(other.path), "status", "--porcelain")


async def test_an_owner_that_lies_harms_nobody(worktrees: Worktrees, repo: Path) -> None:
    """What says whose it is names another branch: that is not removed, not even with force."""
    made = await worktrees.make()
    run_git(repo, "branch", "precious")
    (repo / ".git/worktrees/s/agentsrv").write_text('{"session":"s","branch":"precious"}')
    removed = await worktrees.remove(made.path, force=True)

    assert removed.branch == "session/s"
    assert worktrees.branches() == ["main", "precious"]


# Finding


async def test_all_are_listed(worktrees: Worktrees, repo: Path) -> None:
    """By path, with branch, commit, and whether something is not committed; also what git has forgotten."""
    clean, dirty = await worktrees.make(), await worktrees.make(session_id="t")
    write_files(Path(dirty.path), {"a": "changed\n"})
    (worktrees.base / ".worktrees/repo/stray").mkdir()
    head = run_git(repo, "rev-parse", "HEAD").decode().strip()
    found = {item.relative_path.rpartition("/")[2]: item for item in await worktrees.listed()}

    assert (clean.path, str(repo), "session/s", head, False, None) == (
        found["s"].path,
        found["s"].root,
        found["s"].branch,
        found["s"].head,
        found["s"].is_dirty,
        found["s"].problem,
    )
    assert (True, None) == (found["t"].is_dirty, found["stray"].is_dirty)
    assert found["stray"].problem


async def test_a_diff_of_a_worktree(worktrees: Worktrees, repo: Path) -> None:
    """What has changed in it, against its own HEAD."""
    made = await worktrees.make()
    write_files(Path(made.path), {"a": "changed\n"})
    diff = await worktrees.ask(DiffRequest(path=made.path))

    assert (made.path, ["a"]) == (diff["repoPath"], [file["newPath"] for file in diff["files"]])


async def test_they_are_among_the_repositories(worktrees: Worktrees, repo: Path) -> None:
    """As worktrees of their repository; what lies in them is not searched."""
    made = await worktrees.make()
    make_repository(Path(made.path) / "inner", {"x": "x"})
    answer = await worktrees.ask(FindRepositories())

    assert [("repo", False, str(repo)), (".worktrees/repo/s", True, str(repo))] == [
        (item["relativePath"], item["isWorktree"], item["root"]) for item in answer["repositories"]
    ]


async def test_what_was_removed_is_in_the_trash_for_some_days(worktrees: Worktrees, repo: Path) -> None:
    """Files and commits, also when it was forced; after a week the next removal takes them away for good."""
    made = await worktrees.make()
    write_files(Path(made.path), {"new": "work of hours"})
    commit = run_git(Path(made.path), "rev-parse", "HEAD")
    await worktrees.remove(made.path, force=True)
    [kept] = worktrees.trash()
    [reference] = run_git(repo, "for-each-ref", "--format=%(refname)", "refs/agentsrv").decode().split()

    assert (kept / "new").read_text() == "work of hours"
    assert run_git(repo, "rev-parse", reference) == commit

    kept.rename(kept.with_name(".trash-1000000000-s"))
    run_git(repo, "update-ref", "refs/agentsrv/removed/1000000000-s", reference)
    await worktrees.remove((await worktrees.make(session_id="t")).path)
    names = run_git(repo, "for-each-ref", "--format=%(refname)", "refs/agentsrv").decode()
    assert [path.name.partition("-")[2].partition("-")[2] for path in worktrees.trash()] == ["t"]
    assert "1000000000" not in names


async def test_a_forged_owner_file_takes_no_branch_of_others(worktrees: Worktrees, repo: Path) -> None:
    """What an agent writes there is believed as far as the worktree's own name says the same."""
    one, other = await worktrees.make(), await worktrees.make(session_id="other")
    forged = msgspec.json.encode({"session": "s", "branch": other.branch})
    (repo / ".git/worktrees/s/agentsrv").write_bytes(forged)
    run_git(repo, "worktree", "remove", "--force", other.path)
    await worktrees.remove(one.path, force=True)

    assert other.branch in worktrees.branches()


async def test_a_deep_tree_is_no_hindrance(
    worktrees: Worktrees, repo: Path, deepen: Callable[[Path, int], None]
) -> None:
    """Twelve hundred levels: it goes as a whole, and out of the trash too."""
    made = await worktrees.make()
    deepen(Path(made.path), 1200)
    await worktrees.remove(made.path)
    assert worktrees.is_clean()

    [kept] = worktrees.trash()
    old = kept.rename(kept.with_name(".trash-1000000000-s"))
    await worktrees.remove((await worktrees.make(session_id="t")).path)
    assert not old.exists()


async def test_what_a_killed_removal_left_goes_with_the_next(worktrees: Worktrees, repo: Path) -> None:
    """Its files had been put aside already; nobody sees them, and they do not stay."""
    made = await worktrees.make()
    aside = worktrees.base / ".worktrees/repo/.agentsrv-removed-0123"
    write_files(aside, {"deep/file": "x"})

    assert [made.path] == [item.path for item in await worktrees.listed()]
    await worktrees.remove(made.path)
    assert worktrees.is_clean()


# Agents that are up to no good


async def test_a_link_to_another_worktree_is_not_followed(worktrees: Worktrees, repo: Path) -> None:
    """An agent that puts a link in its worktree's place does not have another session's removed."""
    mine, theirs = await worktrees.make(session_id="a"), await worktrees.make(session_id="b")
    os.rename(mine.path, f"{mine.path}-moved")
    os.symlink(theirs.path, mine.path)
    with pytest.raises(AgentsrvError) as caught:
        await worktrees.remove(mine.path, force=True)

    assert "worktree_not_found" == caught.value.code
    assert Path(theirs.path, "a").exists()
    assert "session/b" in worktrees.branches()


@pytest.mark.parametrize(
    "owner",
    [
        '{"session": "s", "branch": "session/../main"}',
        '{"session": "s", "branch": "main"}',
        '{"session": "s", "branch": "session/%s"}' % ("x" * 900),
        '{"session": "s", "branch": "session/%s"}' % ("x" * 9000),
        '{"session": "s", "branch": "session/s", "x": %s}' % ("[" * 400 + "]" * 400),
        '{"session": "s", "branch": "session/s", "x": %s}' % ("[" * 8000 + "]" * 8000),
    ],
    ids=["path", "main", "long", "too long", "deep", "too deep"],
)
async def test_a_forged_owner_does_no_harm(worktrees: Worktrees, repo: Path, owner: str) -> None:
    """Whatever an agent writes there: others get worktrees, this one can be removed, no other branch goes with it."""
    made = await worktrees.make()
    write_files(Path(made.path), {"a": "not to be discarded\n"})
    (repo / ".git/worktrees/s/agentsrv").write_text(owner)
    await worktrees.make(session_id="other")
    await worktrees.make()
    await worktrees.remove(made.path, force=True)

    assert not Path(made.path).exists()
    assert "main" in worktrees.branches()


async def test_a_link_where_the_session_was_to_work(worktrees: Worktrees, repo: Path) -> None:
    """It is followed, as it is without a worktree."""
    (worktrees.base / "link").symlink_to(repo / "sub")

    assert str(worktrees.base / ".worktrees/repo/s/sub") == (await worktrees.make("link")).cwd


@pytest.mark.parametrize("name", [".git/shallow", ".git/info/grafts", ".git/refs/heads/main"])
async def test_a_pipe_in_a_repository_hides_that_one_alone(
    worktrees: Worktrees, repo: Path, name: str
) -> None:
    """libgit2 would wait for ever for somebody to write to it. The others are listed nevertheless."""
    make_repository(worktrees.base / "other", {"a": "a\n"})
    (repo / name).unlink(missing_ok=True)
    os.mkfifo(repo / name)
    answer = await worktrees.ask(FindRepositories())
    problems = {found["name"]: found["problem"] for found in answer["repositories"]}

    assert problems["other"] is None
    assert "damaged" in problems["repo"]
