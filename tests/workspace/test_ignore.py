"""What is untracked and what is ignored: as git itself says, for any patterns."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from random import Random

import pygit2
import pytest

from agentsrv.workspace.git.diff.contents import WorkingTree
from agentsrv.workspace.git.untracked import Untracked
from tests.workspace.git_kit import make_repository, run_git, write_files

NAMES = [
    "a",
    "b",
    "ab",
    "lib",
    "x.log",
    "keep.log",
    "build",
    "A",
    "b c",
    "#h",
    "!n",
    "a.b",
    "[x]",
    "\u00e9",
    "log",
]
# fmt: off
ATOMS = [
    "*", "?", "**", "**/", "/**", "/", "a", "b", "ab", "lib", "x", ".log", "*.log", "build", "keep.log", "log", "A",
    "[ab]", "[!a]", "[a-c]", "[^b]", "[]a]", "[]-a]", "[a\\]b]", "[", "[a-", "[[:alpha:]]", "[[:foo:]]", "[[:alpha]",
    "\\a", "\\*", "\\ ", " ", "b c", "\u00e9", "!", "#",
]
# fmt: on


def pattern(random: Random) -> str:
    text = "".join(random.choice(ATOMS) for _ in range(random.randint(1, 4)))
    start = random.choice(["", "", "", "!", "/", "!/"])
    end = random.choice(["", "", "", "/", " ", "\\ ", "\r", "\t"])
    return start + text + end


def patterns(random: Random) -> str:
    lines = [pattern(random) for _ in range(random.randint(1, 6))]
    return "\n".join(lines) + random.choice(["", "\n"])


def fill(directory: Path, random: Random, depth: int = 2) -> None:
    """Files and directories with names that patterns are about, and `.gitignore` files among them."""
    directory.mkdir()
    for name in random.sample(NAMES, random.randint(1, 5)):
        if depth and random.random() < 0.5:
            fill(directory / name, random, depth - 1)
        else:
            (directory / name).write_text("x")
    if random.random() < 0.4 or depth == 2:
        (directory / ".gitignore").write_text(patterns(random), newline="")


def status(root: Path) -> set[bytes]:
    """What git says: `? ` and `! ` before paths, directories with a slash at their end."""
    options = ["--porcelain=v2", "-z", "--untracked-files=all", "--ignored=matching"]
    return {line for line in run_git(root, "status", *options).split(b"\0") if line[:1] in (b"?", b"!")}


def ours(root: Path) -> set[bytes]:
    repo = pygit2.Repository(str(root))
    with closing(WorkingTree(repo.workdir)) as tree:
        found = Untracked(repo, tree, time.monotonic() + 60)
        untracked, all_found = set(found.paths()), set(found.paths(with_ignored=True))
    return {b"? " + path for path in untracked} | {b"! " + path for path in all_found - untracked}


@pytest.mark.tools
@pytest.mark.parametrize("seed", range(5))
def test_what_is_untracked_and_ignored_is_what_git_says(tmp_path: Path, seed: int) -> None:
    """Two hundred set-ups a time: nested files, negations, anchors, classes, escapes, `info/exclude`, tracked files."""
    random, root = Random(seed), make_repository(tmp_path / "repo")
    for number in range(200):
        fill(root / f"set-up {number}", random)
    (root / ".git/info/exclude").write_text(patterns(random))
    files = sorted(path for path in root.rglob("*") if path.is_file() and ".git" not in path.parts)
    tracked = "\n".join(str(path.relative_to(root)) for path in random.sample(files, len(files) // 10))
    run_git(
        root,
        "add",
        "--force",
        "--pathspec-from-file=-",
        stdin=f"{tracked}\n".encode(),
        environment={"GIT_LITERAL_PATHSPECS": "1"},
    )

    assert status(root) == ours(root)


def test_what_has_been_hidden_by_others_rules(tmp_path: Path) -> None:
    """A directory that a file above ignores and one in it does not; a file taken out of a pattern."""
    root = make_repository(tmp_path / "repo", {".gitignore": "lib/\n*.log\n"})
    write_files(
        root, {"frontend/.gitignore": "!lib/\n", "frontend/lib/x.ts": "", "logs/.gitignore": "!keep.log\n"}
    )
    write_files(root, {"logs/keep.log": "", "logs/other.log": "", "lib/y.ts": ""})

    assert ours(root) >= {b"? frontend/lib/x.ts", b"? logs/keep.log", b"! logs/other.log", b"! lib/"}


def test_repositories_in_a_repository_are_shown_as_one(tmp_path: Path) -> None:
    """Whether their `.git` is a directory or a file; one that only looks like it is looked into."""
    root = make_repository(tmp_path / "repo", {"a": "a"})
    make_repository(root / "inner", {"b": "b"})
    run_git(root, "worktree", "add", "--quiet", "linked")
    (root / "plain/.git").mkdir(parents=True)
    write_files(root, {"plain/c": "c"})

    assert {b"? inner/", b"? linked/", b"? plain/c"} == ours(root)
    assert status(root) == ours(root)


def test_rules_that_are_not_on_disk_count(tmp_path: Path) -> None:
    """A `.gitignore` that a sparse checkout has left out; and a relative `core.excludesFile` begins at the root."""
    root = make_repository(
        tmp_path / "repo", {"d/.gitignore": "*.o\n", "d/x": "x", "e/x": "x", "mine": "*.p\n"}
    )
    run_git(root, "sparse-checkout", "set", "e")
    run_git(root, "config", "core.excludesFile", "mine")
    write_files(root, {"d/a.o": "", "d/b": "", "e/c.p": ""})

    assert {b"! d/a.o", b"? d/b", b"! e/c.p"} == ours(root)
    assert status(root) == ours(root)


def test_a_submodule_is_never_ignored(tmp_path: Path) -> None:
    """It is tracked, whatever the rules say."""
    root = make_repository(tmp_path / "repo", {".gitignore": "lib/\n"})
    make_repository(root / "lib", {"x": "x"})
    run_git(root, "add", "--force", "lib")
    write_files(root, {"lib/new": ""})

    assert set() == status(root) == ours(root)
