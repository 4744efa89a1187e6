"""From the text of a patch to JSON."""

from __future__ import annotations

from base64 import b64encode
from difflib import unified_diff

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from agentsrv.api.schemas.git import DiffHunkView
from agentsrv.workspace.git.diff.hunks import Hunks, count_lines, render, replacement, without_head
from tests.workspace.patches import check_hunk


def decoded(hunks: Hunks) -> list[DiffHunkView]:
    found = msgspec.json.decode("".join(hunks.json), type=list[DiffHunkView])
    for hunk in found:
        check_hunk(hunk)
    return found


def test_every_line_has_its_numbers() -> None:
    """Context on both sides, the others on theirs; a header without a count means one line."""
    patch = b"diff --git a/a b/a\n--- a/a\n+++ b/a\n@@ -3,2 +3 @@ heading\n same\n-gone\n@@ -9 +8,2 @@\n-x\n+y\n+z\n"
    first, second = decoded(render(without_head(patch)))

    assert [("context", "same", 3, 3), ("del", "gone", 4, None)] == [
        (line.type, line.content, line.old_line, line.new_line) for line in first.lines
    ]
    assert (9, 1, 8, 2) == (second.old_start, second.old_lines, second.new_start, second.new_lines)


def test_a_patch_without_hunks() -> None:
    """Only the mode changed."""
    assert [] == decoded(render(without_head(b"diff --git a/a b/a\nold mode 100644\n")))


def test_a_replacement_is_all_of_both() -> None:
    """As one hunk; the end that is missing is said on its side."""
    [hunk] = decoded(render(replacement(b"a\nb", b"c\n")))

    assert ["a", "b", "\\ No newline at end of file", "c"] == [line.content for line in hunk.lines]


@given(st.text(st.characters(codec="utf-8")))
def test_text_arrives_as_it_was(content: str) -> None:
    """Whatever characters a line consists of."""
    hunks = render(replacement(b"", content.encode()))
    shown = [line.content for hunk in decoded(hunks) for line in hunk.lines if line.new_line is not None]

    assert (content.removesuffix("\n").split("\n") if content else []) == shown
    assert hunks.is_exact


@given(st.binary(max_size=60))
def test_bytes_arrive_as_they_were(content: bytes) -> None:
    """Lines that are not UTF-8 carry themselves as base64."""
    hunks = render(replacement(content, b""))
    expected = content.removesuffix(b"\n").split(b"\n") if content else []
    shown = [line for hunk in decoded(hunks) for line in hunk.lines if line.old_line is not None]

    assert [b64encode(line).decode() if not is_utf8(line) else line.decode() for line in expected] == [
        line.content if line.content_base64 is msgspec.UNSET else line.content_base64 for line in shown
    ]
    assert is_utf8(content) == hunks.is_exact
    assert len(expected) == count_lines(content)


@given(st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("abc")))
def test_any_patch_is_understood(old: list[str], new: list[str]) -> None:
    """Also those of another program than ours."""
    patch = "\n".join(unified_diff(old, new, lineterm="")).encode()

    decoded(render(without_head(b"\n" + patch)))


def is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True
