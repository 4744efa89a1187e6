"""Diffs of generated repositories are those that git makes, and turn back into what they describe."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from agentsrv.api.schemas import DiffView
from agentsrv.workspace.diff import diff
from agentsrv.workspace.git_protocol import DiffRequest
from agentsrv.workspace.git_worker import configure_libgit2
from agentsrv.workspace.paths import Workspace
from tests.workspace.git_kit import (
    Generator,
    RawChange,
    copy_tree,
    make_repository,
    raw_changes,
    run_git,
)
from tests.workspace.patches import check_hunk, new_path, old_path, to_patch

SEEDS_PER_TEST = 20
ATTRIBUTES = [
    "* text=auto\n",
    "* text\n",
    "*.1 -text\n*.2 eol=crlf\n",
    "*.1 binary\n* ident\n",
    "*.2 -diff\n*.1 diff\n",
    "a* text=auto eol=crlf\n",
]


@pytest.fixture(autouse=True, scope="module")
def libgit2() -> None:
    configure_libgit2()


@pytest.mark.parametrize("first", range(0, 200, SEEDS_PER_TEST))
def test_diffs_are_those_of_git(tmp_path: Path, first: int) -> None:
    """Whatever a repository has been through: the same files, renames and counts as git, and a true patch."""
    for seed in range(first, first + SEEDS_PER_TEST):
        root = tmp_path / f"r{seed}"
        generator = start(root, seed)
        generator.change(generator.random.randint(0, 8))
        run_git(root, "add", "--all")
        check(root, ("--cached",), staged=True)
        check(root, ("HEAD",))
        check(root, ("-C90%", "--cached"), staged=True, copies=True)

        generator.change(generator.random.randint(0, 8))
        # Untracked files count as added. What git says with all of them added is what must come out.
        added = tmp_path / f"a{seed}"
        copy_tree(root, added)
        run_git(added, "add", "--all")
        check(root, ("--cached",), added)

        run_git(added, "commit", "--quiet", "--allow-empty", "--message", "second")
        check(added, ("HEAD~1", "HEAD"), base="HEAD~1", head="HEAD")


def start(root: Path, seed: int) -> Generator:
    """A repository with one commit."""
    make_repository(root)
    generator = Generator(root, seed)
    random = generator.random
    if random.random() < 0.3:
        run_git(root, "config", "core.autocrlf", random.choice(["true", "input", "false"]))
    if random.random() < 0.4:
        (root / ".gitattributes").write_text(random.choice(ATTRIBUTES))
    if random.random() < 0.15:
        generator.add_submodule()
    generator.populate(random.randint(0, 14))
    run_git(root, "add", "--all")
    run_git(root, "commit", "--quiet", "--allow-empty", "--message", "first")
    return generator


def check(root: Path, arguments: tuple[str, ...], reference: Path | None = None, **options: object) -> None:
    """Compare our diff of `root` with git's diff of `reference`."""
    ours = make_diff(root, context=1 + len(os.listdir(root)) % 6, **options)
    expected = raw_changes(reference or root, *arguments)
    assert expected == described(ours)
    for file in ours.files:
        for hunk in file.hunks:
            check_hunk(hunk)
    if arguments != ("HEAD",):
        base = str(options.get("base", "HEAD"))
        tree = str(options.get("head", ""))
        assert tree_of(reference or root, tree) == applied(reference or root, base, ours, tree)


def make_diff(root: Path, **options: object) -> DiffView:
    request = msgspec.convert({"type": "diff", "path": str(root), **options}, DiffRequest)
    body = diff(Workspace(root.parent), request) + b',"timestamp":""}'
    return msgspec.json.decode(body, type=DiffView)


def described(found: DiffView) -> list[RawChange]:
    return [
        RawChange(
            file.status,
            file.old_mode,
            file.new_mode,
            old_path(found, file),
            new_path(found, file),
            file.similarity,
            None if file.binary else file.additions,
            None if file.binary else file.deletions,
        )
        for file in found.files
    ]


def tree_of(root: Path, revision: str) -> bytes:
    return run_git(root, "rev-parse", revision + "^{tree}") if revision else run_git(root, "write-tree")


def applied(root: Path, base: str, found: DiffView, target: str) -> bytes:
    """The tree that comes out when `found`, made a patch, is applied to `base`. Binaries are taken over."""
    index = {"GIT_INDEX_FILE": str(root.parent / "patched-index")}
    binaries = [file for file in found.files if file.binary]
    run_git(root, "read-tree", base, environment=index)
    for file in binaries:
        put(root, old_path(found, file), "0 " + "0" * 40, index)
    if patch := to_patch(found):
        run_git(root, "apply", "--cached", "--whitespace=nowarn", stdin=patch, environment=index)
    for file in binaries:
        if (path := new_path(found, file)) is not None:
            blob = run_git(root, "rev-parse", "--verify", os.fsencode(target) + b":" + path).decode().strip()
            put(root, path, f"{file.new_mode} {blob}", index)
    return run_git(root, "write-tree", environment=index)


def put(root: Path, path: bytes | None, entry: str, index: dict[str, str]) -> None:
    if path is not None:
        line = b"%b\t%b\0" % (entry.encode(), path)
        run_git(root, "update-index", "-z", "--index-info", stdin=line, environment=index)
