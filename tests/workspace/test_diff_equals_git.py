"""Diffs of generated repositories are those that git makes, and turn what was into what is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from agentsrv.api.schemas.git import DiffView
from agentsrv.workspace.git.diff.answer import diff
from agentsrv.workspace.git.program import configure_libgit2
from agentsrv.workspace.git.protocol import DiffRequest
from agentsrv.workspace.paths import Workspace
from tests.workspace.git_kit import Blobs, Generator, RawChange, make_repository, raw_changes, run_git
from tests.workspace.patches import changed, check_hunk, new_path, old_path

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


def numbers(often: int, at_night: int) -> list[object]:
    """The first seeds of tests: those of every run, and those of a night."""
    night = [
        pytest.param(first, marks=pytest.mark.nightly) for first in range(often, at_night, SEEDS_PER_TEST)
    ]
    return [*range(0, often, SEEDS_PER_TEST), *night]


def seeds(first: int) -> range:
    return range(first, first + SEEDS_PER_TEST)


@pytest.mark.parametrize("first", numbers(80, 400))
def test_diffs_are_those_of_git(tmp_path: Path, first: int) -> None:
    """Whatever a repository has been through: the same files, renames and counts as git, and hunks that are true."""
    for seed in seeds(first):
        root = tmp_path / f"r{seed}"
        generator = start(root, seed)
        with Blobs(root) as blobs:
            generator.change(generator.random.randint(0, 8))
            run_git(root, "add", "--all")
            check(blobs, ("--cached",), staged=True)
            check(blobs, ("HEAD",))
            check(blobs, ("-C90%", "--cached"), staged=True, copies=True)

            generator.change(generator.random.randint(0, 8))
            # Untracked files count as added. What git says with all of them added is what must come out.
            added = index_with_all(root)
            check(blobs, ("--cached",), added)

            run_git(root, "commit", "--quiet", "--allow-empty", "--message", "second", environment=added)
            check(blobs, ("HEAD~1", "HEAD"), base="HEAD~1", head="HEAD")


def start(root: Path, seed: int) -> Generator:
    """A repository with one commit."""
    make_repository(root)
    generator = Generator(root, seed)
    random = generator.random
    if random.random() < 0.3:
        with (root / ".git/config").open("a") as config:
            config.write(f"\tautocrlf = {random.choice(['true', 'input', 'false'])}\n")
    if random.random() < 0.4:
        (root / ".gitattributes").write_text(random.choice(ATTRIBUTES))
    if random.random() < 0.15:
        generator.add_submodule()
    generator.populate(random.randint(0, 14))
    run_git(root, "add", "--all")
    run_git(root, "commit", "--quiet", "--allow-empty", "--message", "first")
    return generator


def index_with_all(root: Path) -> Mapping[str, str]:
    """Another index, with all that there is: as a variable for git."""
    index = root.parent / f"{root.name}.index"
    shutil.copy2(root / ".git/index", index)
    environment = {"GIT_INDEX_FILE": str(index)}
    run_git(root, "add", "--all", environment=environment)
    return environment


def check(
    blobs: Blobs, arguments: tuple[str, ...], environment: Mapping[str, str] | None = None, **options: object
) -> None:
    """Compare our diff with git's, which has `environment`; and what each file was and is with its hunks."""
    root = blobs.root
    ours = make_diff(root, context=1 + len(os.listdir(root)) % 6, **options)
    expected = raw_changes(root, *arguments, environment=environment)
    assert expected == described(ours)
    for change, file in zip(expected, ours.files, strict=True):
        for hunk in file.hunks:
            check_hunk(hunk)
        if not file.binary and change.is_known:
            old, new = blobs.sides(change)
            assert new == changed(old, file)


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
