"""What must be known of terminal output to show its end to somebody who has not seen its beginning. Pure.

Only control sequences matter here, in the forms of ECMA-48 and of xterm ("XTerm Control Sequences").
"""

from __future__ import annotations

import re

RESET = b"\x1bc"
"""RIS: the terminal forgets all that it was told."""

ALTERNATE_SCREENS = frozenset({47, 1047, 1049})
MODES = ALTERNATE_SCREENS | {1, 5, 6, 7, 25, 1000, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 2004}
"""Private modes that programs switch and that a new viewer's terminal must have, too: cursor keys, reverse,
origin, wrap, cursor, mouse, focus, bracketed paste, and the screen that full-screen programs draw on."""

MODE_SWITCH = re.compile(rb"\x1b(?:\[\?([0-9;]{1,100})([hl])|c)")
"""Bounded: a number of thousands of digits is none that Python reads."""

CSI = rb"(?:\x1b\[|\xc2\x9b)"
OSC = rb"(?:\x1b\]|\xc2\x9d)"
DCS = rb"(?:\x1bP|\xc2\x90)"
"""Each in seven bits, and in the eight of which UTF-8 makes two bytes."""
TEXT = rb"(?:(?!\xc2\x9c)[^\x07\x1b])*"
STRING_END = rb"(?:\x07|\x1b\\|\xc2\x9c|(?=\x1b))"
"""The last one: what begins next ends a string, too."""

NOT_TO_BE_REPEATED = re.compile(
    rb"(?:\x1bZ|\xc2\x9a|"  # DECID
    + CSI + rb"[?>=]?[0-9;]*[cn]|"  # DA, DSR
    + CSI + rb"\??[0-9;]*\$p|"  # DECRQM
    + CSI + rb">[0-9]*q|"  # XTVERSION
    + CSI + rb"\?[0-9;]*m|"  # XTQMODKEYS
    + CSI + rb"\?u|"  # keyboard protocol
    + CSI + rb"(?:1[1345689]|2[01])[0-9;]*t|"  # window reports
    + CSI + rb"[01]?x|"  # DECREQTPARM
    + OSC + rb"(?:4|5|1[0-9])[0-9;]*;\?" + STRING_END + rb"|"  # colours
    + OSC + rb"52;" + TEXT + STRING_END + rb"|"  # clipboard
    + DCS + rb"[$+]q" + TEXT + STRING_END + rb")"  # DECRQSS, XTGETTCAP
)  # fmt: skip
"""Questions: the viewer's terminal would answer them now, as if typed, to a program that has stopped waiting.
And the clipboard: what was copied an hour ago must not replace what is in it."""


def find_sane_start(output: bytes) -> int:
    """Where to cut: the first place where no control sequence and no character is torn apart.

    That is after a line's end, else at an escape, else at the start of a character.
    """
    newline = output.find(b"\n")
    if newline >= 0:
        return newline + 1
    escape = output.find(b"\x1b")
    if escape >= 0:
        return escape
    start = 0
    while start < len(output) and output[start] & 0xC0 == 0x80:
        start += 1
    return start


def repeatable(output: bytes) -> bytes:
    """`output` without what must not happen twice."""
    return NOT_TO_BE_REPEATED.sub(b"", output)


class Modes:
    """Which private modes some output has switched, and how."""

    def __init__(self, sequence: bytes = b"") -> None:
        self._switched: dict[int, bool] = {}
        self.feed(sequence)

    def feed(self, output: bytes) -> None:
        """Take note of what is switched in `output`, which must not begin or end inside a sequence."""
        if b"\x1b" not in output:
            return
        for found in MODE_SWITCH.finditer(output):
            if found[1] is None:
                self._switched.clear()
                continue
            for number in map(int, filter(None, found[1].split(b";"))):
                if number in MODES:
                    self._switched[number] = found[2] == b"h"

    def sequence(self) -> bytes:
        """Brings a terminal that was reset into these modes. At most some 200 bytes."""
        # The screen comes first: with 1049 the cursor is saved, and what follows is on that screen.
        ordered = sorted(self._switched.items(), key=lambda mode: mode[0] not in ALTERNATE_SCREENS)
        return b"".join(b"\x1b[?%d%c" % (number, b"h" if is_on else b"l") for number, is_on in ordered)

    @property
    def is_full_screen(self) -> bool:
        """A program draws on the alternate screen."""
        return any(self._switched.get(number) for number in ALTERNATE_SCREENS)
