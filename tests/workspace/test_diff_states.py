"""What an index can hold and a working tree can turn into: shown as git shows it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from agentsrv.workspace.git.program import configure_libgit2
from tests.workspace.git_kit import commit, make_repository, raw_changes, run_git, write_files
from tests.workspace.test_diff_equals_git import described, index_with_all, make_diff

State = Callable[[Path], object]


@pytest.fixture(autouse=True, scope="module")
def libgit2() -> None:
    configure_libgit2()


def announced(root: Path) -> None:
    write_files(root, {"new": "n\n", "gone": "g\n"})
    run_git(root, "add", "--intent-to-add", "new", "gone")
    (root / "gone").unlink()


def assumed_unchanged(root: Path) -> None:
    run_git(root, "update-index", "--assume-unchanged", "a")
    run_git(root, "update-index", "--skip-worktree", "b", "sub/c")
    write_files(root, {"a": "A\n", "b": "B\n"})
    (root / "sub/c").unlink()


def without_modes(root: Path) -> None:
    run_git(root, "config", "core.fileMode", "false")
    run_git(root, "update-index", "--chmod=+x", "b")
    write_files(root, {"new": "n\n"})
    for name in ("a", "new"):
        (root / name).chmod(0o755)


def without_links(root: Path) -> None:
    for name in ("same", "other"):
        (root / name).symlink_to("a")
    commit(root)
    run_git(root, "config", "core.symlinks", "false")
    for name, target in (("same", "a"), ("other", "b")):
        (root / name).unlink()
        (root / name).write_text(target)


def index_of_version_4(root: Path) -> None:
    run_git(root, "update-index", "--index-version", "4")
    write_files(root, {"a": "A\n", "new": "n\n"})


def cached_untracked(root: Path) -> None:
    write_files(root, {"new": "n\n"})
    run_git(root, "update-index", "--untracked-cache")
    run_git(root, "status")
    write_files(root, {"newer": "n\n", "sub/new": "n\n"})


def ignored_though_tracked(root: Path) -> None:
    write_files(root, {".gitignore": "a\nb\n", "a": "A\n"})
    run_git(root, "rm", "--quiet", "--cached", "b")


def a_branch_without_history(root: Path) -> None:
    run_git(root, "checkout", "--quiet", "--orphan", "other")
    (root / "b").unlink()


def a_file_for_a_directory(root: Path) -> None:
    shutil.rmtree(root / "sub")
    write_files(root, {"sub": "c\n"})


def a_directory_for_a_file(root: Path) -> None:
    (root / "a").unlink()
    write_files(root, {"a/x": "a\n"})


def a_repository_for_a_file(root: Path) -> None:
    (root / "a").unlink()
    make_repository(root / "a", {"x": "x"})


def submodule(root: Path) -> None:
    make_repository(root / "lib", {"x": "x\n"})
    commit(root)


def a_file_for_a_submodule(root: Path) -> None:
    submodule(root)
    shutil.rmtree(root / "lib")
    write_files(root, {"lib": "l\n"})


def a_link_for_a_submodule(root: Path) -> None:
    submodule(root)
    shutil.rmtree(root / "lib")
    (root / "lib").symlink_to("sub")


def a_submodule_that_is_not_there(root: Path) -> None:
    submodule(root)
    shutil.rmtree(root / "lib")
    (root / "lib").mkdir()


@pytest.mark.parametrize(
    "state",
    [
        announced, assumed_unchanged, without_modes, without_links, index_of_version_4, cached_untracked,
        ignored_though_tracked, a_branch_without_history, a_file_for_a_directory, a_directory_for_a_file,
        a_repository_for_a_file, a_file_for_a_submodule, a_link_for_a_submodule, a_submodule_that_is_not_there,
    ],
)  # fmt: skip
def test_a_state_is_shown_as_git_shows_it(tmp_path: Path, state: State) -> None:
    """In the index, and in the working tree, of which git says it when all is added."""
    root = make_repository(tmp_path / "repo", {"a": "a\n", "b": "b\n", "sub/c": "c\n"})
    state(root)

    assert raw_changes(root, "--cached") == described(make_diff(root, staged=True))
    assert raw_changes(root, "--cached", environment=index_with_all(root)) == described(make_diff(root))
