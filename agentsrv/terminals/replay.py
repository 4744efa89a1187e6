"""What must be known of terminal output to show its end to somebody who has not seen its beginning. Pure."""

from __future__ import annotations

import re

from agentsrv.terminals.sequences import Kind, Sequence, sequences

RESET = b"\x1bc"
"""RIS: the terminal forgets all that it was told."""

ALTERNATE_SCREENS = frozenset({47, 1047, 1049})
MODES = ALTERNATE_SCREENS | {
    1, 5, 6, 7, 9, 12, 25, 45, 66, 69, 1000, 1002, 1003, 1004, 1005, 1006, 1007, 1015, 1016, 1048, 2004,
}  # fmt: skip
"""Private modes that programs switch and that a new viewer's terminal must have, too: cursor keys, reverse, origin,
wrap, cursor, keypad, margins, mouse, focus, bracketed paste, and the screen that full-screen programs draw on."""
NO_STATE = frozenset({1048})
"""Not modes but acts."""
ANSI_MODES = frozenset({4, 20})
"""Insert, new line. Not: a locked keyboard, local echo."""

ALLOWED_CSI = (
    {bytes([final]) for final in b"@ABCDEFGHIJKLMPSXZ`abdefgmrsu"}
    | {b"?J", b"?K", b">m", b">u", b"<u", b"=u"}
    | {b" q", b"!p", b'"q', b"$r", b"$t", b"$v", b"$x", b"$z", b"${", b"*x", b" @", b" A", b"'}", b"'~"}
    | {b"#{", b"#}", b"#p", b"#q"}
)
"""By prefix, intermediates and final. What draws, or sets what the next keys and characters mean; nothing that answers
(DA, DSR, DECRQM, DECREQTPARM, XTVERSION, reports of any kind), prints, rings, or moves the window."""
TITLE_STACK = frozenset({b"22", b"23"})
CSI = re.compile(rb"([<=>?]?)([0-9;:]*)([\x20-\x2f]*)")
MAX_CSI_BYTES = 128

SET_OSC = frozenset({b"0", b"1", b"2", b"8"})
"""Title, icon's name, link."""
COLOUR_OSC = frozenset({b"4", b"5", *(b"%d" % number for number in range(10, 20))})
"""With a question mark they ask for a colour."""
RESET_OSC = frozenset({b"104", b"105", *(b"%d" % number for number in range(110, 120))})
MAX_OSC_BYTES = 4096

ALLOWED_ESC = frozenset(b"78=>DEHMcno|}~")
CHARSETS = re.compile(rb"[(-+\-./]{1,2}")
LINE_SIZES = frozenset(b"34568")
NO_C1 = dict.fromkeys(range(0x80, 0xA0))
REPLACEMENT = "\ufffd".encode()

LASTING = re.compile(rb"\x1b\[(?:[!<=>?]|[0-9]{0,3} )")
"""How private modes, keyboards, soft resets and cursors' shapes begin."""

MAX_TITLE_BYTES = 256
MAX_KEYBOARDS = 16


def repeatable(output: bytes) -> bytes:
    """`output` as it may be shown again: what answers, copies, rings, prints or notifies is left out.

    The terminal of who looks would do so now: type answers to a program that waits no more, replace the clipboard
    by what was copied long ago. Only what is known to be harmless is kept, each sequence whole and in its plain form,
    so that nothing is made by what is left out. What the output breaks off at its end is kept as far as it goes,
    for what comes next to complete it, unless it is a string that may not be repeated.
    """
    size = len(output)
    return b"".join(_repeat(sequence, is_last=sequence.end == size) for sequence in sequences(output))


def shown_again(modes: bytes, output: bytes) -> tuple[bytes, bool]:
    """What makes a terminal that was reset show the end of some output, given the `modes` at its beginning.

    And does a program draw on the alternate screen?
    """
    at_the_end = Modes(modes)
    at_the_end.feed(output)
    return modes + repeatable(output), at_the_end.is_full_screen


def _repeat(sequence: Sequence, *, is_last: bool) -> bytes:
    match sequence.kind:
        case Kind.PLAIN | Kind.TORN:
            return sequence.body
        case Kind.IDLE:
            return b""
        case Kind.INVALID:
            return REPLACEMENT * len(sequence.body)
        case _ if not sequence.final:
            return sequence.controls + (_broken_off(sequence) if is_last else b"")
        case Kind.CSI:
            return sequence.controls + _allowed_csi(sequence)
        case Kind.OSC:
            return sequence.controls + _allowed_osc(sequence)
        case Kind.ESCAPE:
            return sequence.controls + _allowed_escape(sequence)
        case Kind.STRING:
            return sequence.controls


def _broken_off(sequence: Sequence) -> bytes:
    text = clean_text(sequence.body)
    is_kept = sequence.kind is not Kind.STRING and len(text) <= MAX_CSI_BYTES
    if sequence.kind is Kind.OSC:
        is_kept = is_harmless_osc(text)
    return sequence.introducer + text if is_kept else b""


def _allowed_csi(sequence: Sequence) -> bytes:
    body, final = sequence.body, sequence.final
    found = CSI.fullmatch(body)
    if found is None or len(body) > MAX_CSI_BYTES:
        return b""
    prefix, parameters, intermediates = found.groups()
    name = prefix + intermediates + final
    if name in (b"?h", b"?l"):
        return _switch(b"?", [number for number in numbers(parameters) if number in MODES], final)
    if name in (b"h", b"l"):
        return _switch(b"", [number for number in numbers(parameters) if number in ANSI_MODES], final)
    is_allowed = (
        name in ALLOWED_CSI
        or (name == b"t" and parameters.split(b";")[0] in TITLE_STACK)
        or (name == b"T" and b";" not in parameters)
    )
    return b"\x1b[" + body + final if is_allowed else b""


def _switch(prefix: bytes, modes: list[int], final: bytes) -> bytes:
    return b"\x1b[" + prefix + b";".join(b"%d" % mode for mode in modes) + final if modes else b""


def numbers(parameters: bytes) -> list[int]:
    """Those that a mode can have."""
    return [int(text) for text in parameters.split(b";") if 0 < len(text) <= 5 and text.isdigit()]


def _allowed_osc(sequence: Sequence) -> bytes:
    text = clean_text(sequence.body)
    if not is_harmless_osc(text):
        return b""
    return b"\x1b]" + text + (b"\x07" if sequence.final == b"\x07" else b"\x1b\\")


def is_harmless_osc(text: bytes) -> bool:
    name, separator, rest = text.partition(b";")
    if len(text) > MAX_OSC_BYTES:
        return False
    if name in RESET_OSC:
        return b"?" not in rest
    # Without the separator it is no title yet, or a number that goes on.
    return bool(separator) and (name in SET_OSC or (name in COLOUR_OSC and b"?" not in rest))


def clean_text(text: bytes) -> bytes:
    """Without control characters, and bytes that are no characters."""
    return text.decode("utf-8", "ignore").translate(NO_C1).encode()


def _allowed_escape(sequence: Sequence) -> bytes:
    between, final = sequence.body, sequence.final
    is_allowed = (
        (not between and final[0] in ALLOWED_ESC)
        or CHARSETS.fullmatch(between)
        or (between == b"#" and final[0] in LINE_SIZES)
    )
    return b"\x1b" + between + final if is_allowed else b""


class Modes:
    """What some output has told a terminal that lasts: private modes, keypad, keyboard, cursor's shape, title."""

    def __init__(self, sequence: bytes = b"") -> None:
        self._reset()
        self.feed(sequence)

    def _reset(self) -> None:
        self._switched: dict[int, bool] = {}
        self._keypad: bytes | None = None
        self._shape: bytes | None = None
        self._other_keys: bytes | None = None
        self._title: bytes | None = None
        # Of each screen, the main one and the alternate one, what was pushed (kitty's keyboard protocol).
        self._keyboards: tuple[list[int], list[int]] = ([], [])

    def feed(self, output: bytes) -> None:
        """Take note of what `output` says, which must not begin or end inside a sequence."""
        for sequence in sequences(output):
            if sequence.final:
                self._note(sequence)

    def cut(self, output: bytes, size: int) -> int:
        """Take note of the first `size` bytes of `output`, and a little more; how much it was.

        What follows can be shown by itself: no sequence and no character is torn apart, and where there is a line's
        end soon, it begins with a line.
        """
        newline = output.find(b"\n", size)
        if newline >= 0 and is_ordinary(output):
            return newline + 1
        end = 0
        for sequence in sequences(output):
            begin, end = end, sequence.end
            if sequence.final:
                self._note(sequence)
            if sequence.kind is Kind.PLAIN and end > size:
                return _line_start(output, max(begin, size), end)
            if end >= size:
                return end
        return end

    def sequence(self) -> bytes:
        """Brings a terminal that was reset into this state. At most some 1,000 bytes."""
        main, alternate = (b"".join(b"\x1b[>%du" % flags for flags in stack) for stack in self._keyboards)
        # The screen comes before what is on it: with 1049 the cursor is saved.
        screens = [mode for mode in self._switched if mode in ALTERNATE_SCREENS]
        others = [mode for mode in self._switched if mode not in ALTERNATE_SCREENS]
        parts = [main, *map(self._switch, screens), alternate if self.is_full_screen else b""]
        parts += map(self._switch, others)
        parts += filter(None, (self._keypad, self._other_keys, self._shape, self._title))
        return b"".join(parts)

    @property
    def is_full_screen(self) -> bool:
        """A program draws on the alternate screen."""
        return any(self._switched.get(number) for number in ALTERNATE_SCREENS)

    def _switch(self, mode: int) -> bytes:
        return b"\x1b[?%d%c" % (mode, b"h" if self._switched[mode] else b"l")

    def _note(self, sequence: Sequence) -> None:
        match sequence.kind:
            case Kind.CSI:
                self._note_csi(sequence)
            case Kind.ESCAPE if not sequence.body and sequence.final == b"c":
                self._reset()
            case Kind.ESCAPE if not sequence.body and sequence.final in (b"=", b">"):
                self._keypad = b"\x1b" + sequence.final
            case Kind.OSC if sequence.body[:2] in (b"0;", b"2;"):
                self._title = b"\x1b]2;" + clean_text(sequence.body[2:MAX_TITLE_BYTES]) + b"\x1b\\"
            case _:
                pass

    def _note_csi(self, sequence: Sequence) -> None:
        found = CSI.fullmatch(sequence.body)
        if found is None or len(sequence.body) > MAX_CSI_BYTES:
            return
        prefix, parameters, intermediates = found.groups()
        name = prefix + intermediates + sequence.final
        if name in (b"?h", b"?l"):
            for mode in numbers(parameters):
                if mode in MODES - NO_STATE:
                    self._switched.pop(mode, None)
                    self._switched[mode] = sequence.final == b"h"
        elif name == b" q":
            self._shape = _allowed_csi(sequence) or None
        elif name == b">m" and (parameters + b";").startswith(b"4;"):
            self._other_keys = _allowed_csi(sequence) or None
        elif name in (b">u", b"<u", b"=u"):
            self._note_keyboard(prefix, numbers(parameters))
        elif name == b"!p":
            self._reset_softly()

    def _note_keyboard(self, prefix: bytes, given: list[int]) -> None:
        """(kitty, "Comprehensive keyboard handling in terminals".)"""
        stack = self._keyboards[self.is_full_screen]
        if prefix == b">":
            stack.append(min(given[0], 31) if given else 0)
            del stack[:-MAX_KEYBOARDS]
        elif prefix == b"<":
            del stack[-(given[0] if given else 1) :]
        else:
            flags, how = (*given, 0, 1)[:2] if given else (0, 1)
            before = stack.pop() if stack else 0
            stack.append({2: before | flags, 3: before & ~flags}.get(how, flags) & 31)

    def _reset_softly(self) -> None:
        """DECSTR."""
        for mode in (1, 6, 25, 66, 69):
            self._switched.pop(mode, None)
        self._keypad = None


def is_ordinary(output: bytes) -> bool:
    """Text that moves, erases and colours, and nothing else: most of what programs print, and quickly found out."""
    if b"\xc2" in output:
        return False  # It may begin a control character beyond ASCII.
    escapes = output.count(b"\x1b")
    return escapes == 0 or (escapes == output.count(b"\x1b[") and LASTING.search(output) is None)


def _line_start(output: bytes, begin: int, end: int) -> int:
    """The first place from `begin` on where text can start: after a line, else at a sequence, else `end`."""
    newline = output.find(b"\n", begin, end)
    if newline >= 0:
        return newline + 1
    escape = output.find(b"\x1b", begin, end)
    return escape if escape >= 0 else end
