"""Git's choice of renames, rule by rule. That it is git's is shown by `test_diff_equals_git.py`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import pytest

import agentsrv.workspace.git.diff.renames as renames_module
from agentsrv.workspace.git.diff.renames import MAX_SCORE, find_renames

REGULAR, LINK = 0o100644, 0o120000


@dataclass(frozen=True)
class File:
    path: bytes
    content: bytes | None
    mode: int = REGULAR

    def key(self) -> bytes | None:
        return None if self.content is None else hashlib.sha1(self.content).digest()

    def size(self) -> int:
        return len(self.content or b"")

    def read(self) -> bytes | None:
        return self.content

    def is_binary(self) -> bool:
        return b"\0" in (self.content or b"")


def text(first: int, last: int) -> bytes:
    return b"".join(b"line %04d\n" % number for number in range(first, last))


def renames(old: list[File], new: list[File], kept: set[int] | None = None) -> dict[bytes, tuple[bytes, int]]:
    """New name -> old name and percentage."""
    found = find_renames(old, new, kept)
    return {new[n].path: (old[o].path, score * 100 // MAX_SCORE) for n, (o, score) in found.items()}


def test_equal_content_is_a_rename_and_the_same_name_wins() -> None:
    """Of two that are equal, the one that only moved to another folder."""
    old = [File(b"a", b"x\n"), File(b"b", b"x\n")]

    assert {b"new/b": (b"b", 100), b"z": (b"a", 100)} == renames(
        old, [File(b"new/b", b"x\n"), File(b"z", b"x\n")]
    )


def test_similar_content_counts_from_90_percent_on() -> None:
    """Measured in bytes of lines that both have, against the larger one."""
    old = [File(b"a", text(0, 100))]

    assert {b"b": (b"a", 90)} == renames(old, [File(b"b", text(10, 110))])
    assert {} == renames(old, [File(b"b", text(11, 111))])


def test_the_most_similar_pair_wins() -> None:
    """Not the first one."""
    old = [File(b"a", text(0, 100)), File(b"b", text(4, 100))]

    assert {b"c": (b"b", 98)} == renames(old, [File(b"c", text(5, 100))])


def test_a_unique_base_name_wins_over_a_better_match() -> None:
    """Git looks at these first, and asks for 95 %."""
    old = [File(b"dir/name", text(0, 100)), File(b"other", text(2, 102))]

    assert {b"new/name": (b"dir/name", 96)} == renames(old, [File(b"new/name", text(4, 104))])


def test_links_are_renamed_only_when_they_are_equal() -> None:
    """And never become files."""
    link = File(b"link", b"target", LINK)

    assert {b"moved": (b"link", 100)} == renames([link], [File(b"moved", b"target", LINK)])
    assert {} == renames([link], [File(b"file", b"target")])


def test_what_cannot_be_read_resembles_nothing() -> None:
    """A missing object is no rename of another missing one."""
    assert {} == renames([File(b"a", None)], [File(b"b", None)])


def test_copies_are_looked_for_when_asked() -> None:
    """A source that is kept may have several destinations."""
    source, copies = File(b"a", text(0, 100)), [File(b"b", text(0, 100)), File(b"c", text(1, 100))]

    assert {b"b": (b"a", 100), b"c": (b"a", 99)} == renames([source], copies, kept={0})


def test_work_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit only equal files are renames."""
    monkeypatch.setattr(renames_module, "MAX_WORK", 50)
    old = [File(b"a", text(0, 100)), File(b"b", b"same\n")]

    assert {b"d": (b"b", 100)} == renames(old, [File(b"c", text(1, 100)), File(b"d", b"same\n")])
