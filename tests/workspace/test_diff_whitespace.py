"""Diffs that leave white space out of account are those that git makes with -w, -b and the like."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from agentsrv.api.schemas.git import DiffFileView, DiffView
from agentsrv.workspace.git.diff.answer import diff
from agentsrv.workspace.git.program import configure_libgit2
from agentsrv.workspace.git.protocol import DiffRequest
from agentsrv.workspace.paths import Workspace
from tests.workspace.git_kit import commit, make_repository, run_git, write_files

OPTIONS = {
    "none": [],
    "eol": ["--ignore-space-at-eol"],
    "change": ["--ignore-space-change"],
    "all": ["--ignore-all-space"],
}
PIECES = ["", "", " ", "  ", "\t", "a", "b c", "\tif x:", "é ", "}", "\r", "x  =  1", " \v", "\f"]
SPACES = [" ", "  ", "\t", "\r", ""]
FILES = 60


@pytest.fixture(autouse=True, scope="module")
def libgit2() -> None:
    configure_libgit2()


def text(random: Random) -> str:
    lines = ["".join(random.choices(PIECES, k=random.randint(0, 3))) for _ in range(random.randint(0, 30))]
    return "\n".join(lines) + random.choice(["\n", ""])


def edited(random: Random, before: str) -> str:
    """Mostly white space is changed, and blank lines come and go."""
    lines = before.split("\n")
    for _ in range(random.randint(0, 5)):
        at = random.randrange(len(lines))
        match random.randrange(6):
            case 0:
                lines[at] = "".join(random.choices(PIECES, k=2))
            case 1:
                lines.insert(at, random.choice(["", "", " ", "\t "]))
            case 2 if len(lines) > 1:
                del lines[at]
            case _:
                place = random.randint(0, len(lines[at]))
                lines[at] = lines[at][:place] + random.choice(SPACES) + lines[at][place:].lstrip(" ")
    return "\n".join(lines)


def hunks_of(file: DiffFileView) -> list[str]:
    signs = {"context": " ", "add": "+", "del": "-"}
    found = []
    for hunk in file.hunks:
        found.append(f"@@ -{hunk.old_start},{hunk.old_lines} +{hunk.new_start},{hunk.new_lines} @@")
        found += [
            line.content if line.old_line is line.new_line is None else signs[line.type] + line.content
            for line in hunk.lines
        ]
    return found


def hunks_by_git(root: Path, *options: str) -> dict[str, list[str]]:
    """By file, those with an empty list of which git shows nothing but a head."""
    found: dict[str, list[str]] = {}
    output = run_git(root, "diff", "--no-ext-diff", "HEAD", *options).decode()
    for part in re.split(r"^diff --git a/\S+ b/", output, flags=re.MULTILINE)[1:]:
        name, *lines = part.removesuffix("\n").split("\n")
        start = next((at for at, line in enumerate(lines) if line.startswith("@@ ")), len(lines))
        found[name] = [re.sub(r"^(@@ -\S+ \+\S+ @@).*", _full, line) for line in lines[start:]]
    return found


def _full(head: re.Match[str]) -> str:
    return re.sub(r"([-+]\d+)(?= )", r"\1,1", head[1])


def make_diff(root: Path, **options: Any) -> DiffView:
    request = msgspec.convert({"type": "diff", "path": str(root), **options}, DiffRequest)
    return msgspec.json.decode(diff(Workspace(root.parent), request) + b',"timestamp":""}', type=DiffView)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("blank", [False, True])
@pytest.mark.parametrize("whitespace", list(OPTIONS))
def test_what_white_space_does_not_count_for_is_what_git_leaves_out(
    tmp_path: Path, whitespace: str, blank: bool, seed: int
) -> None:
    """The same files and the same hunks, line for line."""
    random = Random(seed)
    before = {f"f{number}": text(random) for number in range(FILES)}
    root = make_repository(tmp_path / "repo", dict(before))
    write_files(root, {name: edited(random, content) for name, content in before.items()})
    write_files(root, {"new": text(random), "blank": "\n \n\n"})
    (root / "f0").unlink()
    run_git(root, "add", "--intent-to-add", "--all")
    options = [*OPTIONS[whitespace], *(["--ignore-blank-lines"] if blank else [])]

    found = make_diff(root, ignore_whitespace=whitespace, ignore_blank_lines=blank)

    expected = hunks_by_git(root, *options)
    ours = {file.new_path or file.old_path or "": hunks_of(file) for file in found.files}
    assert expected == {name: lines for name, lines in ours.items() if lines or name in expected}
    assert {name for name, lines in ours.items() if not lines} <= {"f0", "new", "blank"}
    for file in found.files:
        signs = [line.type for hunk in file.hunks for line in hunk.lines]
        assert (signs.count("add"), signs.count("del")) == (file.additions, file.deletions)


def test_a_mode_that_changed_is_told_though_only_white_space_did(tmp_path: Path) -> None:
    """Only what has not changed otherwise is left out."""
    root = make_repository(tmp_path / "repo", {"a": "x\n", "b": "x\n"})
    write_files(root, {"a": " x\n", "b": " x\n"})
    (root / "a").chmod(0o755)

    assert ["a"] == [file.new_path for file in make_diff(root, ignore_whitespace="all").files]
    commit(root)
    assert ["a"] == [
        file.new_path
        for file in make_diff(root, base="HEAD~1", head="HEAD", ignore_whitespace="all", summary=True).files
    ]
