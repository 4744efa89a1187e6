"""Cuts terminal output into control sequences, as ECMA-48 and xterm ("XTerm Control Sequences") have them. Pure.

In one pass whose time is proportional to the length, whatever the output is: no part of the expression below is looked
at twice (each repetition is possessive, and takes what has no end, too).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum, auto
from typing import NamedTuple

CONTROLS = bytes([*range(0x18), 0x19, *range(0x1C, 0x20), 0x7F])
"""What does not end a sequence in which it stands: all but CAN, SUB and ESC. A terminal obeys it right there."""
KEPT_CONTROLS = bytes(range(0x08, 0x10))
"""Backspace, tabulators, line feeds, carriage return, the two shifts. Others ring (BEL), ask (ENQ) or mean nothing."""
ALL_BUT_KEPT = bytes(set(range(256)) - set(KEPT_CONTROLS))

UTF8 = (
    rb"(?:\xc2[\xa0-\xbf]|[\xc3-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}"
    rb"|\xed[\x80-\x9f][\x80-\xbf]|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}|\xf4[\x80-\x8f][\x80-\xbf]{2})"
)
"""One character beyond ASCII; not U+0080 to U+009F, which are control characters."""
TORN = rb"(?:[\xc2-\xf4]|[\xe0-\xef][\x80-\xbf]|[\xf0-\xf4][\x80-\xbf]{2})\Z"
"""A character that the next read completes."""
HARMLESS = rb"\x1b\[[0-9;:]{0,99}+[@-MPSXZ`abdefgmrsu]"
"""The everyday sequences, which move, erase and colour."""

BROKEN_OFF = rb"(?:\x1b(?:\[[\x20-\x3f]*+)?+|\xc2\x9b[\x20-\x3f]*+)(?=[\x18\x1a\x1b])"
IDLE = rb"(?:[\x00-\x07\x10-\x1a\x1c-\x1f\x7f]++|" + BROKEN_OFF + rb")++"
"""Control characters that nothing is to be said of, and sequences that the next character breaks off."""
NO_CHARACTER = rb"(?:(?!" + UTF8 + rb"|\xc2[\x80-\x9f]|" + TORN + rb")[\x80-\xff])++"

INSIDE = rb"[\x00-\x17\x19\x1c-\x1f\x7f]*+"
TEXT = rb"(?:[\x00-\x06\x08-\x17\x19\x1c-\x7f]++|" + UTF8 + rb"++|(?!\xc2[\x80-\x9f])[\x80-\xff])*+"
TEXT_WITH_BELLS = TEXT.replace(rb"\x00-\x06\x08-\x17", rb"\x00-\x17")
ESC = rb"\x1b" + INSIDE

TOKEN = re.compile(
    rb"(?P<plain>(?:[\x08-\x0f\x20-\x7e]++|" + UTF8 + rb"++|" + HARMLESS + rb")++)"
    rb"|(?P<idle>" + IDLE + rb")"
    rb"|(?P<csi>" + ESC + rb"\[|\xc2\x9b)(?P<body>[\x00-\x17\x19\x1c-\x3f\x7f]*+)(?P<final>[\x40-\x7e])?+"
    rb"|(?P<osc>" + ESC + rb"\]|\xc2\x9d)(?P<text>" + TEXT + rb")(?P<end>\x07|\x1b\\|\xc2\x9c)?+"
    rb"|(?P<string>" + ESC + rb"[PX^_]|\xc2[\x90\x98\x9e\x9f])(?P<content>" + TEXT_WITH_BELLS + rb")"
    rb"(?P<stop>\x1b\\|\xc2\x9c)?+"
    rb"|(?P<esc>" + ESC + rb")(?P<between>[\x00-\x17\x19\x1c-\x2f\x7f]*+)(?P<which>[\x30-\x7e])?+"
    rb"|(?P<c1>\xc2[\x80-\x9f])"
    rb"|(?P<torn>" + TORN + rb")"
    rb"|(?P<invalid>" + NO_CHARACTER + rb")"
)  # fmt: skip
INTRODUCERS = {b"\xc2\x90": b"\x1bP", b"\xc2\x98": b"\x1bX", b"\xc2\x9e": b"\x1b^", b"\xc2\x9f": b"\x1b_"}


class Kind(Enum):
    PLAIN = auto()
    """Text and harmless sequences; `body` is all of it."""
    CSI = auto()
    """`body`: prefix, parameters, intermediates; `final`."""
    OSC = auto()
    """`body`: the text; `final`: what has ended it."""
    STRING = auto()
    """DCS, SOS, PM, APC. `final`: what has ended it."""
    ESCAPE = auto()
    """`body`: intermediates; `final`."""
    TORN = auto()
    """The beginning of a character at the end of the output."""
    IDLE = auto()
    """What says nothing, or must not be said again: bells, ENQ, sequences that were broken off."""
    INVALID = auto()
    """Bytes that are no characters."""


class Sequence(NamedTuple):
    """One piece of output, up to the place `end`. `final` is empty when it was broken off.

    `controls`: those that stand within the sequence and that a terminal obeys before it; of `body` they are no part.
    `introducer` is in the seven-bit form.
    """

    kind: Kind
    body: bytes
    final: bytes
    introducer: bytes
    controls: bytes
    end: int


def sequences(output: bytes) -> Iterator[Sequence]:
    """All of `output`, in order."""
    for found in TOKEN.finditer(output):
        yield _sequence(found)


def _sequence(found: re.Match[bytes]) -> Sequence:
    end = found.end()
    match found.lastgroup:
        case "plain":
            return Sequence(Kind.PLAIN, found[0], b"", b"", b"", end)
        case "final" | "body":
            return _clean(
                Kind.CSI, b"\x1b[", found["csi"] + found["body"], found["body"], found["final"], end
            )
        case "end" | "text":
            return _clean(Kind.OSC, b"\x1b]", found["osc"], found["text"], found["end"], end)
        case "stop" | "content":
            head = found["string"]
            introducer = INTRODUCERS.get(head) or b"\x1b" + head[-1:]
            return _clean(Kind.STRING, introducer, head, found["content"], found["stop"], end)
        case "which" | "between":
            return _clean(
                Kind.ESCAPE, b"\x1b", found["esc"] + found["between"], found["between"], found["which"], end
            )
        case "c1":
            # ESC and the character 0x40 lower.
            return Sequence(Kind.ESCAPE, b"", bytes([found[0][1] - 0x40]), b"\x1b", b"", end)
        case "torn":
            return Sequence(Kind.TORN, found[0], b"", b"", b"", end)
        case "invalid":
            return Sequence(Kind.INVALID, found[0], b"", b"", b"", end)
        case _:
            return Sequence(Kind.IDLE, b"", b"", b"", b"", end)


def _clean(
    kind: Kind, introducer: bytes, head: bytes, body: bytes, final: bytes | None, end: int
) -> Sequence:
    """`head`: where terminals obey control characters. In a string they do not."""
    controls = head.translate(None, ALL_BUT_KEPT)
    return Sequence(kind, body.translate(None, CONTROLS), final or b"", introducer, controls, end)
