"""Conflicts of every kind and in every state: each path is named and flagged, and nothing is an internal error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec
import pytest

from agentsrv.api.schemas.git import DiffView
from agentsrv.workspace.git.diff.answer import diff
from agentsrv.workspace.git.protocol import DiffRequest
from agentsrv.workspace.paths import Workspace
from tests.workspace.git_kit import commit, make_repository, run_git, write_files

FILES = ["a", "b", "dir/c", "dir/d", "e"]
TEXT = "".join(f"line {number}\n" for number in range(20))


def conflicted(root: Path, **fields: bool | list[str]) -> set[str]:
    body = diff(Workspace(root.parent), msgspec.convert({"path": str(root), **fields}, DiffRequest))
    found = msgspec.json.decode(body + b',"timestamp":""}', type=DiffView)
    names = {file.new_path or file.old_path for file in found.files if file.conflicted}
    assert all(file.new_path or file.old_path for file in found.files)
    return {name for name in names if name}


def unmerged(root: Path) -> set[str]:
    listed = run_git(root, "diff", "--name-only", "--diff-filter=U", "-z").decode()
    return set(filter(None, listed.split("\0")))


def change(root: Path, name: str, random: Random, who: str) -> None:
    """What one side does to a file."""
    file = root / name
    match random.randrange(6):
        case 0:
            file.write_text(f"{who}\n{TEXT}")
        case 1:
            file.unlink()
        case 2:
            file.rename(root / f"{name}-{who}")
        case 3:
            file.rename(root / f"{name}-{random.choice('xy')}")
        case 4:
            file.chmod(0o755)
            file.write_text(f"{TEXT}{who}\n")
        case _:
            file.unlink()
            write_files(root, {f"{name}/inside": who})
    write_files(root, {"both": who})


def merge(root: Path) -> None:
    run_git(root, "merge", "theirs", check=False)


def rebase(root: Path) -> None:
    run_git(root, "rebase", "theirs", check=False)


def cherry_pick(root: Path) -> None:
    run_git(root, "cherry-pick", "theirs", check=False)


def stash(root: Path) -> None:
    run_git(root, "checkout", "-q", "--detach", "main~1")
    write_files(root, {"a": f"mine\n{TEXT}", "e": f"mine\n{TEXT}"})
    (root / "b").unlink()
    run_git(root, "stash")
    run_git(root, "checkout", "-q", "theirs")
    run_git(root, "stash", "pop", check=False)


@pytest.mark.parametrize("combine", [merge, rebase, cherry_pick, stash])
@pytest.mark.parametrize("seed", range(6))
def test_every_unmerged_path_is_named_and_flagged(
    tmp_path: Path, seed: int, combine: Callable[[Path], None]
) -> None:
    """Changed, deleted, renamed, made on both sides, a directory in the place of a file: as git lists them."""
    random = Random(seed)
    root = make_repository(tmp_path / "repo", dict.fromkeys(FILES, TEXT))
    for branch in ("theirs", "main"):
        run_git(root, "checkout", "-q", *(["-b"] if branch == "theirs" else []), branch)
        for name in random.sample(FILES, 4):
            change(root, name, random, branch)
        commit(root)
    combine(root)
    wanted = unmerged(root)

    assert wanted == conflicted(root) == conflicted(root, staged=True)
    for name in wanted:
        assert {name} == conflicted(root, paths=[name]) == conflicted(root, paths=[name], staged=True)
