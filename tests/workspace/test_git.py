"""Finding the repositories of a workspace."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from agentsrv.workspace.git import repositories
from agentsrv.workspace.git.program import configure_libgit2
from agentsrv.workspace.git.repositories import Repository, discover
from agentsrv.workspace.paths import Workspace
from tests.workspace.git_kit import commit, make_repository, run_git


@pytest.fixture(autouse=True, scope="module")
def libgit2() -> None:
    configure_libgit2()


def found_in(base: Path) -> dict[str, Repository]:
    found, is_truncated = discover(Workspace(base))
    assert not is_truncated
    return {item.relative_path: item for item in found}


def test_a_repository_is_known_by_name_branch_and_commit(tmp_path: Path) -> None:
    """`head` is the commit, `root` the repository itself."""
    root = make_repository(tmp_path / "group/repo", {"a": "a\n"})
    head = run_git(root, "rev-parse", "HEAD").decode().strip()
    found = found_in(tmp_path)["group/repo"]

    assert ("repo", str(root), str(root), "main", head) == (
        found.name,
        found.path,
        found.root,
        found.branch,
        found.head,
    )
    assert (False, False, None) == (found.is_worktree, found.is_submodule, found.problem)


def test_the_workspace_may_be_a_repository_itself(tmp_path: Path) -> None:
    """And hold others."""
    make_repository(tmp_path, {"a": "a\n"})
    make_repository(tmp_path / "inner", {"a": "a\n"})

    assert [".", "inner"] == sorted(found_in(tmp_path))


def test_a_detached_head_has_no_branch_and_an_unborn_one_no_commit(tmp_path: Path) -> None:
    """Null stands for what is not there."""
    detached = make_repository(tmp_path / "detached", {"a": "a\n"})
    run_git(detached, "checkout", "--quiet", "--detach")
    make_repository(tmp_path / "unborn")
    found = found_in(tmp_path)

    assert (None, True) == (found["detached"].branch, found["detached"].head is not None)
    assert ("main", None) == (found["unborn"].branch, found["unborn"].head)


def test_branches_with_slashes_and_other_alphabets(tmp_path: Path) -> None:
    """The whole name, without `refs/heads/`."""
    root = make_repository(tmp_path / "repo", {"a": "a\n"})
    run_git(root, "checkout", "--quiet", "-b", "feature/日本")

    assert "feature/日本" == found_in(tmp_path)["repo"].branch


def test_linked_worktrees_belong_to_their_root(tmp_path: Path) -> None:
    """Beside it, inside it, and in a folder that is not searched."""
    root = make_repository(tmp_path / "z-repo", {"a": "a\n"})
    for path in ("beside", "z-repo/inside", "node_modules/hidden"):
        run_git(root, "worktree", "add", "--quiet", str(tmp_path / path))
    repositories, _ = discover(Workspace(tmp_path))

    assert [
        ("z-repo", False, None),
        ("beside", True, "beside"),
        ("node_modules/hidden", True, "hidden"),
        ("z-repo/inside", True, "inside"),
    ] == [
        (item.relative_path, item.is_worktree, item.branch if item.is_worktree else None)
        for item in repositories
    ]
    assert {str(root)} == {item.root for item in repositories}


def test_worktrees_of_a_bare_repository(tmp_path: Path) -> None:
    """The bare repository is no root of its own, but theirs."""
    source = make_repository(tmp_path / "source", {"a": "a\n"})
    run_git(tmp_path, "clone", "--quiet", "--bare", str(source), "bare")
    run_git(tmp_path / "bare", "worktree", "add", "--quiet", str(tmp_path / "bare/tree"), "main")
    found = found_in(tmp_path)

    assert ["bare/tree", "source"] == sorted(found)
    assert (True, str(tmp_path / "bare")) == (found["bare/tree"].is_worktree, found["bare/tree"].root)


def test_submodules_are_marked(tmp_path: Path) -> None:
    """Also those that have kept a `.git` of their own; a worktree is none."""
    library = make_repository(tmp_path / "library", {"a": "a\n"})
    project = make_repository(tmp_path / "project", {"a": "a\n"})
    for name in ("absorbed", "old/style"):
        run_git(
            project, "-c", "protocol.file.allow=always", "submodule", "add", "--quiet", str(library), name
        )
    commit(project)
    old = project / "old/style"
    (old / ".git").unlink()
    (project / ".git/modules/old/style").rename(old / ".git")
    run_git(project, "config", "--file", str(old / ".git/config"), "--unset", "core.worktree")
    found = found_in(tmp_path)

    assert {"library": False, "project": False, "project/absorbed": True, "project/old/style": True} == {
        path: item.is_submodule for path, item in found.items()
    }
    assert (False, str(project / "absorbed")) == (
        found["project/absorbed"].is_worktree,
        found["project/absorbed"].root,
    )


@pytest.mark.parametrize("bomb", ["\n" * 500_000, "path = a" + " " * 500_000 + "b"])
def test_a_gitmodules_that_is_a_bomb_takes_no_time(tmp_path: Path, bomb: str) -> None:
    """It is read line by line, however much nothing is in it."""
    make_repository(tmp_path / "project/inner", {"a": "a\n"})
    make_repository(tmp_path / "project")
    (tmp_path / "project/.gitmodules").write_text(f"{bomb}\n\tpath = inner \n")
    started = time.process_time()

    assert found_in(tmp_path)["project/inner"].is_submodule
    assert time.process_time() - started < 2


def test_folders_of_others_are_not_searched(tmp_path: Path) -> None:
    """Neither `node_modules` and `.venv`, nor behind links, nor the server's own."""
    for path in ("node_modules/x", ".venv/src/x", "state/x"):
        make_repository(tmp_path / path, {"a": "a\n"})
    real = make_repository(tmp_path / "real", {"a": "a\n"})
    (tmp_path / "link").symlink_to(real)
    (tmp_path / "loop").symlink_to(".")
    repositories, _ = discover(Workspace(tmp_path, private=(tmp_path / "state",)))

    assert ["real"] == [item.relative_path for item in repositories]


def test_broken_repositories_are_listed_with_their_problem(tmp_path: Path) -> None:
    """And hide no other."""
    make_repository(tmp_path / "fine", {"a": "a\n"})
    (tmp_path / "empty/.git").mkdir(parents=True)
    (tmp_path / "file").mkdir()
    (tmp_path / "file/.git").write_text("gitdir: /nowhere\n")
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe/.git")
    (tmp_path / "link").mkdir()
    (tmp_path / "link/.git").symlink_to("/")
    (tmp_path / "chain/links").mkdir(parents=True)
    (tmp_path / "chain/.git").write_text("gitdir: links/0\n")
    for number in range(2000):
        (tmp_path / f"chain/links/{number}").symlink_to(str(number + 1))

    problems = {path: item.problem is not None for path, item in found_in(tmp_path).items()}
    assert {
        "chain": True, "empty": True, "file": True, "fine": False, "link": True, "pipe": True
    } == problems  # fmt: skip


def test_odd_names(tmp_path: Path) -> None:
    """Names are never commands, and need not be UTF-8."""
    for name in (b"$(touch CANARY)", b"new\nline", b"caf\xe9", b"-rf", "日本".encode()):
        make_repository(Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)))

    assert {"$(touch CANARY)", "new\nline", "caf�", "-rf", "日本"} == set(found_in(tmp_path))
    assert not (tmp_path / "CANARY").exists()


@pytest.mark.parametrize(
    ("limit", "value"), [("MAX_DIRECTORIES", 3), ("MAX_REPOSITORIES", 2), ("MAX_DEPTH", 0)]
)
def test_a_search_that_is_cut_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    """Too many folders, too many repositories, too deep."""
    for number in range(5):
        make_repository(tmp_path / f"r{number}/deeper")
    monkeypatch.setattr(repositories, limit, value)
    found, is_truncated = discover(Workspace(tmp_path))

    assert is_truncated
    assert len(found) < 5


def test_a_search_that_takes_too_long_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found until then is listed."""
    monkeypatch.setattr(repositories, "MAX_SECONDS", -1.0)

    assert ([], True) == discover(Workspace(tmp_path))
