"""What has changed inside submodules, file by file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from agentsrv.api.schemas.git import DiffView
from agentsrv.workspace.git.diff.answer import diff
from agentsrv.workspace.git.program import configure_libgit2
from agentsrv.workspace.git.protocol import DiffRequest
from agentsrv.workspace.paths import Workspace
from tests.workspace.git_kit import commit, make_repository, run_git, write_files


@pytest.fixture(autouse=True, scope="module")
def libgit2() -> None:
    configure_libgit2()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with the submodule `lib`, which has the submodule `lib/deep`."""
    deep = make_repository(tmp_path / "deep", {"d": "d\n"})
    lib = make_repository(tmp_path / "lib", {"x": "x\n", "y": "y\n"})
    add_submodule(lib, deep, "deep")
    root = make_repository(tmp_path / "repo", {"a": "a\n"})
    add_submodule(root, lib, "lib")
    run_git(root, "-c", "protocol.file.allow=always", "submodule", "update", "--init", "--recursive", "-q")
    return root


def add_submodule(root: Path, source: Path, name: str) -> None:
    run_git(root, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(source), name)
    commit(root)


def changed(root: Path, **options: Any) -> list[tuple[str, str | None, int, int]]:
    request = msgspec.convert(
        {"type": "diff", "path": str(root), "submodules": "contents", **options}, DiffRequest
    )
    body = diff(Workspace(root.parent), request) + b',"timestamp":""}'
    files = msgspec.json.decode(body, type=DiffView).files
    return [(file.status, file.new_path or file.old_path, file.additions, file.deletions) for file in files]


def test_work_in_a_submodule_is_seen_at_every_depth(root: Path) -> None:
    """Also new files, in a submodule that has nothing else to tell."""
    write_files(root, {"lib/x": "X\n", "lib/deep/new": "1\n2\n", "a": "A\n"})

    assert changed(root) == [
        ("modified", "a", 1, 1),
        ("modified", "lib", 1, 1),
        ("added", "lib/deep/new", 2, 0),
        ("modified", "lib/x", 1, 1),
    ]
    assert changed(root, paths=["lib/deep"]) == [("added", "lib/deep/new", 2, 0)]
    assert changed(root, staged=True) == []


def test_commits_of_a_submodule_are_compared(root: Path) -> None:
    """Between two commits, in the index, and with what is not committed on top."""
    write_files(root, {"lib/y": "Y\n"})
    commit(root / "lib")
    commit(root)
    expected = [("modified", "lib", 1, 1), ("modified", "lib/y", 1, 1)]

    assert changed(root, base="HEAD~1", head="HEAD") == expected
    assert changed(root, base="HEAD~1", staged=True) == expected
    write_files(root, {"lib/x": "X\n"})
    assert changed(root, base="HEAD~1") == [
        ("modified", "lib", 1, 1),
        ("modified", "lib/x", 1, 1),
        ("modified", "lib/y", 1, 1),
    ]


def test_a_submodule_that_came_or_went_or_is_not_there(root: Path) -> None:
    """All of its files have come; of one that is not checked out only its commit is told."""
    assert [path for _, path, _, _ in changed(root, base="HEAD~1")] == [
        ".gitmodules",
        "lib",
        "lib/.gitmodules",
        "lib/deep",
        "lib/deep/d",
        "lib/x",
        "lib/y",
    ]
    run_git(root, "submodule", "--quiet", "deinit", "--force", "lib")
    assert changed(root) == []
    assert [path for _, path, _, _ in changed(root, base="HEAD~1")] == [".gitmodules", "lib"]


def test_a_commit_that_a_submodule_has_not_got_is_told_as_its_name(root: Path) -> None:
    """What is shallow or was rewritten cannot be compared; the rest is."""
    write_files(root, {"a": "A\n"})
    run_git(root, "update-index", "--cacheinfo", f"160000,{'1' * 40},lib")

    assert [path for _, path, _, _ in changed(root, staged=True)] == ["lib"]
    assert [path for _, path, _, _ in changed(root)] == ["a"]
