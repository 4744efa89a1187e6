"""Text of others, made safe for a terminal: what would be obeyed is shown instead."""

from __future__ import annotations

import re

UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and newline
    # What hides text, turns its direction, or has no width.
    "\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff\ud800-\udfff]"
)


def visible(text: str) -> str:
    """`text`, in which nothing moves the cursor, colours, hides or turns around. Lines end with `\\n` alone."""
    return UNSAFE.sub(_shown, text.replace("\r\n", "\n"))


def one_line(text: str, limit: int = 200) -> str:
    """`visible` text in one line, cut where it is longer than `limit`."""
    line = " ".join(visible(text).split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


def _shown(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x20:
        return f"^{chr(code + 64)}"
    return "^?" if code == 0x7F else f"<U+{code:04X}>"
