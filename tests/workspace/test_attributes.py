"""Attributes are those that git gives a file, and so is what becomes of its content."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pygit2
import pytest

from agentsrv.workspace.git.attributes import AttributeFiles
from agentsrv.workspace.git.program import configure_libgit2
from tests.workspace.git_kit import make_repository, raw_changes, run_git, write_files
from tests.workspace.test_diff_equals_git import described, make_diff

NAMES = ["a.t", "b.t", "sub/c.t", "sub/d.b", "x y.t", "sub/deep/a.t", "!a.t", 'q"t', "A.T", "é.t"]
PATTERNS = [
    "*", "*.t", "a*", "/a.t", "sub/*", "sub/**", "[ab].t", "**/c.t", '"x y.t"', "x y.t", "sub", "sub/", "!a.t",
    "\\!a.t", '"q\\"t"', '"\\141.t"', "deep/a.t", "[[:upper:]]*", "é*", '"open', "d?b", "\\a.t",
]  # fmt: skip
WORDS = [
    "text", "-text", "!text", "text=auto", "eol=lf", "crlf", "-diff", "diff=x", "binary", "-binary", "!binary", "mine",
    "ident", "a=b=c", "=bad", "-a=b", "--x", "eol=", "two words",
]  # fmt: skip
ASKED = ["text", "eol", "crlf", "diff", "binary", "mine", "ident", "a", "merge"]


@pytest.fixture(autouse=True, scope="module")
def libgit2() -> None:
    configure_libgit2()


def attributes(random: Random, *, has_macros: bool) -> str:
    lines = [
        random.choice(PATTERNS)
        + random.choice([" ", "\t"])
        + " ".join(random.choices(WORDS, k=random.randint(0, 3)))
        for _ in range(random.randint(1, 5))
    ]
    macros = ["[attr]mine -diff ident", "[attr] bad", "# comment", "", "  *.b text"]
    lines += random.sample(macros, 2) if has_macros or random.random() < 0.2 else []
    random.shuffle(lines)
    return random.choice(["\n", "\n", "\r\n"]).join(lines) + "\n"


@pytest.mark.parametrize("seed", range(40))
def test_a_file_has_the_attributes_that_git_says(tmp_path: Path, seed: int) -> None:
    """Of patterns of every kind, in every place, with macros; from the index when it is not on disk."""
    random = Random(seed)
    root = make_repository(tmp_path / "repo", dict.fromkeys(NAMES, "x\n"))
    places = [".gitattributes", "sub/.gitattributes", "sub/deep/.gitattributes", ".git/info/attributes"]
    for place in random.sample(places, 3):
        write_files(root, {place: attributes(random, has_macros="sub" not in place)})
    if random.random() < 0.5:
        run_git(root, "add", "--all")
        (root / "sub/.gitattributes").unlink(missing_ok=True)
    asked = b"".join(os.fsencode(name) + b"\0" for name in NAMES)
    output = run_git(root, "check-attr", "-z", "--stdin", *ASKED, stdin=asked).split(b"\0")[:-1]
    expected = {(path, name): value for path, name, value in zip(*[iter(output)] * 3, strict=True)}

    repo = pygit2.Repository(str(root))
    files = AttributeFiles(repo, repo.path, lambda path: read(root, repo, path))
    words = {True: b"set", False: b"unset", None: b"unspecified"}
    for (path, name), value in expected.items():
        ours = files.of(path).get(name)
        assert value == (ours if isinstance(ours, bytes) else words[ours]), (path, name)


def read(root: Path, repo: pygit2.Repository, path: bytes) -> bytes:
    file = root / os.fsdecode(path)
    if file.exists():
        return file.read_bytes()
    known = os.fsdecode(path) in repo.index
    return bytes(repo.odb.read(repo.index[os.fsdecode(path)].id)[1]) if known else b""


def test_attributes_that_were_changed_count_at_once(tmp_path: Path) -> None:
    """Those in the index do not go on beside them."""
    root = make_repository(
        tmp_path / "repo", {".gitattributes": "*.t working-tree-encoding=UTF-16\n", "x": "x\n"}
    )
    write_files(root, {".gitattributes": "!a.t binary\n", "new.t": "1\n2\n", "x": "y\n"})
    run_git(root, "add", "--intent-to-add", "new.t")

    assert raw_changes(root, "HEAD") == described(make_diff(root))
