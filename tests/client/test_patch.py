"""`Diff.patch()` is what `git apply` takes: applied, it gives the tree that the diff describes."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from agentsrv.client import Diff
from agentsrv.client.patch import is_untold
from agentsrv.workspace.git.diff.answer import diff
from agentsrv.workspace.git.program import configure_libgit2
from agentsrv.workspace.git.protocol import DiffRequest
from agentsrv.workspace.paths import Workspace
from tests.client.kit import client_of
from tests.kit import Server
from tests.workspace.git_kit import Generator, make_repository, run_git, write_files

SEEDS_PER_TEST = 15


@pytest.fixture(autouse=True, scope="module")
def libgit2() -> None:
    configure_libgit2()


@pytest.mark.parametrize("first", range(0, 60, SEEDS_PER_TEST))
def test_a_patch_makes_the_tree_that_it_is_about(tmp_path: Path, first: int) -> None:
    """Odd names, modes, links, renames, type changes, missing newlines, bytes that are not UTF-8."""
    for seed in range(first, first + SEEDS_PER_TEST):
        root = tmp_path / f"r{seed}"
        make_repository(root)
        generator = Generator(root, seed)
        generator.populate(12)
        commit(root, "first")
        generator.change(6)
        commit(root, "second")

        assert run_git(root, "rev-parse", "HEAD^{tree}") == applied(root, read_diff(root)), f"seed {seed}"


def commit(root: Path, message: str) -> None:
    run_git(root, "add", "--all")
    run_git(root, "commit", "--quiet", "--allow-empty", "--message", message)


def read_diff(root: Path) -> Diff:
    request = msgspec.convert(
        {"type": "diff", "path": str(root), "base": "HEAD~1", "head": "HEAD"}, DiffRequest
    )
    return msgspec.json.decode(diff(Workspace(root.parent), request) + b"}", type=Diff)


def applied(root: Path, found: Diff) -> bytes:
    """The tree after the patch; what it does not tell, binary files, is taken over."""
    index = {"GIT_INDEX_FILE": str(root.parent / "patched-index")}
    run_git(root, "read-tree", "HEAD~1", environment=index)
    if patch := found.patch():
        run_git(root, "apply", "--cached", "--whitespace=nowarn", stdin=patch, environment=index)
    assert found.incomplete == [file.path for file in found.files if is_untold(file)]
    changed = run_git(root, "diff-index", "--cached", "-z", "--name-only", "HEAD", environment=index)
    left = [path for path in changed.split(b"\0") if path]
    told = [file for file in found.files if not is_untold(file)]
    assert not {os.fsdecode(path) for path in left} & {file.new_path for file in told if not file.new_uri}
    for path in left:
        entry = run_git(root, "ls-tree", "-z", "HEAD", "--", b":(literal)" + path)
        line = (
            entry.replace(b" blob ", b" ").replace(b" commit ", b" ")
            or b"0 " + b"0" * 40 + b"\t" + path + b"\0"
        )
        run_git(root, "update-index", "-z", "--index-info", stdin=line, environment=index)
    return run_git(root, "write-tree", environment=index)


async def test_the_working_tree_as_a_patch(server: Server) -> None:
    """What has not been committed, over HTTP."""
    root = make_repository(server.workspace / "app", {"a.txt": "one\ntwo\n", "b c.txt": "x"})
    write_files(root, {"a.txt": "one\n2\n", "b c.txt": "y\n", "new/empty": "", "picture": b"\0\1"})
    async with client_of(server) as client:
        found = await client.git.diff("workspaces/app")

    assert ["picture"] == found.incomplete
    run_git(root, "stash", "--include-untracked")
    run_git(root, "apply", stdin=found.patch())
    assert "one\n2\n" == (root / "a.txt").read_text()
    assert "y\n" == (root / "b c.txt").read_text()
    assert (root / "new" / "empty").exists()
