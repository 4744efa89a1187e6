"""What would be lost with a worktree: what git says has changed there, and nothing that it calls clean."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pygit2
import pytest

from agentsrv.workspace.git.losses import changes_in
from agentsrv.workspace.git.program import configure_libgit2
from tests.workspace.git_kit import commit, make_repository, run_git, write_files

LARGE = b"large\n" * 1000
POINTER = (
    f"version https://git-lfs.github.com/spec/v1\noid sha256:{hashlib.sha256(LARGE).hexdigest()}\nsize 6000\n"
)


@pytest.fixture(autouse=True, scope="module")
def libgit2() -> None:
    configure_libgit2()


def committed(root: Path, files: dict[str, str | bytes]) -> None:
    write_files(root, files)
    commit(root)
    for name in files:
        os.utime(root / name, (1, 1))


def with_lfs(root: Path, content: bytes) -> None:
    committed(root, {".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n", "a.bin": POINTER})
    (root / "a.bin").write_bytes(content)


def nothing(root: Path) -> None:
    """Only touched."""
    os.utime(root / "a", (1, 1))


def lfs_in_place(root: Path) -> None:
    """What `git lfs` puts in the place of its pointers."""
    with_lfs(root, LARGE)


def lfs_changed(root: Path) -> None:
    with_lfs(root, LARGE[:-2] + b"x\n")


def lfs_executable(root: Path) -> None:
    with_lfs(root, LARGE)
    (root / "a.bin").chmod(0o755)


def encoded(root: Path) -> None:
    committed(
        root, {".gitattributes": "*.txt working-tree-encoding=GBK\n", "a.txt": "一二三\n".encode("gbk")}
    )


def encoded_and_changed(root: Path) -> None:
    encoded(root)
    write_files(root, {"a.txt": "一二四\n".encode("gbk")})


def renamed_in_case(root: Path) -> None:
    run_git(root, "config", "core.ignorecase", "true")
    (root / "a").rename(root / "A")


def left_out(root: Path) -> None:
    """By a sparse checkout, whose rules for what is ignored there count all the same."""
    committed(root, {"d/.gitignore": "*.o\n", "d/x": "x\n", "e/x": "x\n"})
    run_git(root, "sparse-checkout", "set", "e")
    write_files(root, {"d/y.o": "o"})


def removed_and_left_out(root: Path) -> None:
    left_out(root)
    (root / "e/x").unlink()


def new_where_it_is_left_out(root: Path) -> None:
    left_out(root)
    write_files(root, {"d/z": "z"})


def staged_and_gone(root: Path) -> None:
    write_files(root, {"n": "n\n"})
    run_git(root, "add", "n")
    (root / "n").unlink()


def work_in_a_submodule(root: Path) -> None:
    make_repository(root / "lib", {"x": "x\n"})
    commit(root)
    write_files(root / "lib", {"new": "n\n"})


@pytest.mark.parametrize(
    ("state", "is_changed"),
    [
        (nothing, False),
        (lfs_in_place, False),
        (lfs_changed, True),
        (lfs_executable, True),
        (encoded, False),
        (encoded_and_changed, True),
        (renamed_in_case, True),
        (left_out, False),
        (removed_and_left_out, True),
        (new_where_it_is_left_out, True),
        (staged_and_gone, True),
        (work_in_a_submodule, True),
    ],
)
def test_what_git_calls_clean_can_go(
    tmp_path: Path, state: Callable[[Path], object], *, is_changed: bool
) -> None:
    """Neither is a removal refused where `git status` is empty, nor is anything lost that it shows."""
    root = make_repository(tmp_path / "repo", {"a": "a\n"})
    state(root)

    assert is_changed == bool(changes_in(pygit2.Repository(str(root))))
    if state not in (lfs_in_place, lfs_executable):  # Git needs a program to see these as they are.
        assert is_changed == bool(run_git(root, "status", "--porcelain"))
