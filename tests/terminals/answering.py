"""A terminal that answers: a second reading of control sequences, character by character, for tests.

After the state machine of Paul Williams (https://vt100.net/emu/dec_ansi_parser). Control characters beyond ASCII
count, within strings too.
"""

from __future__ import annotations

ANSWERS = {
    "c", ">c", "=c", "n", "?n", "$p", "?$p", ">q", "?m", "?u", "x", "$w", "*y", "?S", "'z", "'|", "i", "?i", "y", "+T",
}  # fmt: skip
"""Of CSI, by prefix, intermediates and final."""
HARMLESS_OSC = {
    "0",
    "1",
    "2",
    "4",
    "5",
    "8",
    "104",
    "105",
    *map(str, range(10, 20)),
    *map(str, range(110, 120)),
}


def effects(output: bytes) -> list[str]:
    """What a terminal would do besides drawing, as text."""
    return _Terminal().feed(output.decode("utf-8", "replace"))


class _Terminal:
    def __init__(self) -> None:
        self._found: list[str] = []
        self._state = "ground"
        self._text = ""

    def feed(self, output: str) -> list[str]:
        for character in output:
            self._take(character)
        return self._found

    def _take(self, character: str) -> None:
        code = ord(character)
        if character == "\x1b":
            self._leave_string(done=False)
            self._state, self._text = "escape", ""
        elif character in "\x18\x1a":
            self._state = "ground"
        elif 0x80 <= code <= 0x9F:
            self._leave_string(done=code == 0x9C)
            self._state, self._text = "escape", ""
            self._take(chr(code - 0x40))
        elif self._state in ("osc", "dcs", "apc"):
            self._in_string(character)
        elif code < 0x20 or code == 0x7F:
            if character in "\x05\x07":
                self._found.append(f"C0 {code}")
        elif self._state != "ground":
            self._in_sequence(character)

    def _in_string(self, character: str) -> None:
        if character == "\x07" and self._state == "osc":
            self._leave_string(done=True)
            self._state = "ground"
        else:
            self._text += character

    def _in_sequence(self, character: str) -> None:
        if self._state == "escape" and not self._text and character in "[]P_^X":
            self._state = {"[": "csi", "]": "osc", "P": "dcs"}.get(character, "apc")
        elif self._state == "escape" and character >= "0":
            if character == "Z" and not self._text:
                self._found.append("DECID")
            self._state = "ground"
        elif self._state == "csi" and character >= "@":
            self._csi(character)
            self._state = "ground"
        else:
            self._text += character

    def _csi(self, final: str) -> None:
        name = "".join(each for each in self._text if each not in "0123456789;:") + final
        first = self._text.split(";")[0]
        if name in ANSWERS or (name == "t" and first not in ("22", "23")):
            self._found.append(f"CSI {self._text}{final}")

    def _leave_string(self, *, done: bool) -> None:
        state, self._state = self._state, "ground"
        number, _, rest = self._text.partition(";")
        is_question = "?" in rest and number not in ("0", "1", "2", "8")
        if state == "osc" and (number not in HARMLESS_OSC or is_question) and (done or rest):
            self._found.append(f"OSC {self._text}")
        if state in ("dcs", "apc"):
            self._found.append(f"{state} {self._text}")
