"""What an agent has said on stderr before it ended, for people."""

from __future__ import annotations

import re

MAX_LINES = 8
MAX_CHARACTERS = 1500

CONTROLS = re.compile(
    r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)


def lines_of(stderr: str) -> list[str]:
    """Its lines that say something, without colours and other controls."""
    return [line.strip() for line in CONTROLS.sub("", stderr).splitlines() if line.strip()]


def last_words(stderr: str) -> str:
    """The last lines; empty when there are none."""
    words = "\n".join(lines_of(stderr)[-MAX_LINES:])
    return words if len(words) <= MAX_CHARACTERS else f"…{words[-MAX_CHARACTERS:]}"
