"""Settings that say what does not count as a change: ignored submodules, names that differ only in case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from agentsrv.workspace.git.diff.ignored_submodules import _modules
from agentsrv.workspace.git.program import configure_libgit2
from tests.workspace.git_kit import (
    RawChange,
    commit,
    copy_tree,
    make_repository,
    raw_changes,
    run_git,
    write_files,
)
from tests.workspace.test_diff_equals_git import described, index_with_all, make_diff


@pytest.fixture(autouse=True, scope="module")
def libgit2() -> None:
    configure_libgit2()


@pytest.fixture(scope="module")
def with_submodule(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a submodule, to be copied."""
    base = tmp_path_factory.mktemp("submodule")
    library = make_repository(base / "library", {"x": "x\n"})
    root = make_repository(base / "repo", {"a": "a\n"})
    local = ("-c", "protocol.file.allow=always")
    run_git(root, *local, "submodule", "--quiet", "add", "--name", 'the "lib"', str(library), "lib")
    commit(root)
    return root


IGNORE = ["all", "dirty", "untracked", "none"]


def uncounted(changes: list[RawChange]) -> list[RawChange]:
    """Git shows the line `-dirty` and does not count it."""
    return [replace(change, additions=None, deletions=None) for change in changes]


@pytest.mark.parametrize("seed", range(24))
def test_submodules_are_ignored_as_git_does(tmp_path: Path, with_submodule: Path, seed: int) -> None:
    """By .gitmodules, by the repository's settings, for all; whatever has changed in them and wherever one looks."""
    random = Random(seed)
    root = tmp_path / "repo"
    copy_tree(with_submodule, root)
    settings: list[list[str]] = [
        ["-f", ".gitmodules", 'submodule.the "lib".ignore'],
        ['submodule.the "lib".ignore'],
        ["diff.ignoreSubmodules"],
    ]
    for setting in random.sample(settings, random.randint(1, 2)):
        run_git(root, "config", *setting, random.choice(IGNORE))
    commit(root)
    steps: list[Callable[[], object]] = [
        lambda: write_files(root, {"lib/x": f"{random.random()}\n"}),
        lambda: commit(root / "lib"),
        lambda: run_git(root, "add", "lib"),
        lambda: write_files(root, {"a": f"{random.random()}\n"}),
    ]
    for _ in range(3):
        random.choice(steps)()
        assert uncounted(raw_changes(root, "HEAD")) == uncounted(described(make_diff(root)))
        assert raw_changes(root, "--cached") == described(make_diff(root, staged=True))
    commit(root)
    assert raw_changes(root, "HEAD~1", "HEAD") == described(make_diff(root, base="HEAD~1", head="HEAD"))


def test_the_file_of_submodules_is_read_as_git_reads_it() -> None:
    """Quotation marks, comments, capitals, several in one."""
    content = b'# x\n[submodule "a \\"b\\\\"]\n\tPath = "x y" ; c\n ignore=all# c\n[core]\n path = no\n'
    content += b'[Submodule "c"] path = d \n'

    assert {b'a "b\\': {b"path": b"x y", b"ignore": b"all"}, b"c": {b"path": b"d"}} == _modules(content)


@pytest.mark.parametrize("seed", range(8))
def test_names_that_differ_in_case_alone(tmp_path: Path, seed: int) -> None:
    """`core.ignorecase` on a file system that tells them apart: what git says, for the index and the working tree."""
    random = Random(seed)
    root = make_repository(
        tmp_path / "repo", {"Foo": "1\n", "dir/A": "2\n", "dir/b": "3\n", "Zed/q/R": "4\n"}
    )
    run_git(root, "config", "core.ignorecase", "true")
    for name in random.sample(["Foo", "dir/A", "dir", "Zed/q", "dir/b"], 2):
        if (path := root / name).exists():
            path.rename(path.with_name(path.name.swapcase()))
    if random.random() < 0.5:
        write_files(root, {"new": "n\n", "foo": "changed\n"})

    assert raw_changes(root, "--cached", environment=index_with_all(root)) == described(make_diff(root))
