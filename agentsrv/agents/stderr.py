"""What an agent has said on stderr before it ended, for people."""

from __future__ import annotations

import re

MAX_LINES = 8
MAX_CHARACTERS = 1500

CONTROLS = re.compile(
    r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)?|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
)


def lines_of(stderr: str) -> list[str]:
    """Its lines that say something, without colours and other controls; of one written over, the last state."""
    lines = (line.rstrip("\r").rpartition("\r")[2].strip() for line in CONTROLS.sub("", stderr).split("\n"))
    return [line for line in lines if line]


def error_in(stderr: str) -> str | None:
    """From its last line that says that it is an error on: what follows is why."""
    lines = lines_of(stderr)
    errors = [number for number, text in enumerate(lines) if text.lower().startswith("error")]
    return "\n".join(lines[errors[-1] :][:MAX_LINES])[:MAX_CHARACTERS] if errors else None


def last_words(stderr: str) -> str:
    """The last lines; empty when there are none."""
    words = "\n".join(lines_of(stderr)[-MAX_LINES:])
    return words if len(words) <= MAX_CHARACTERS else f"…{words[-MAX_CHARACTERS:]}"
