"""What can make a text look like another one is the same to everybody who shows it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from agentsrv.agents.questions import DECEPTIVE
from agentsrv.cli.safe import UNSAFE

LINES = {"\t", "\n"}
"""Where a text may have several lines they stay."""

CONSOLE = Path(__file__).parents[1] / "console" / "src" / "text" / "visible.ts"


def of_the_console() -> re.Pattern[str]:
    """The console's set as it stands in its source, in Python's spelling."""
    (pattern,) = re.findall(r"/(\[.+\])/gu;", CONSOLE.read_text())
    return re.compile(re.sub(r"\\u\{?([0-9a-f]+)\}?", lambda found: f"\\U{found[1]:0>8}", pattern))


SETS = {"titles of questions": DECEPTIVE, "the command line": UNSAFE, "the console": of_the_console()}


EVERY_CHARACTER = "".join(map(chr, range(sys.maxunicode + 1)))


def members(pattern: re.Pattern[str]) -> set[str]:
    return set(pattern.findall(EVERY_CHARACTER))


@pytest.mark.parametrize("name", SETS)
def test_the_same_characters_are_shown_as_codes(name: str) -> None:
    """Each set was written down by itself, for its layer knows no other."""
    assert members(SETS[name]) | LINES == members(DECEPTIVE) | LINES
