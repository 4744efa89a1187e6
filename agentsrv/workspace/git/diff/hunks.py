"""From the text of a patch to the JSON of its hunks. Pure, and made for speed: 100,000 lines in 50 ms.

A diff can have a hundred thousand lines, so that no object is made for any of them: the whole patch is escaped
at once, and what comes out is cut into lines and put between the names of fields.
"""

from __future__ import annotations

import re
from base64 import b64encode

import msgspec
from msgspec import Struct

HUNK = re.compile(rb"-(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")

SEPARATOR = "\x7f"
"""Stands for the end of a line while a patch is escaped. JSON leaves it as it is."""

NO_NEWLINE = r'{"type":"context","content":"\\ No newline at end of file","oldLine":null,"newLine":null}'


class Hunks(Struct, frozen=True):
    """The value of `hunks` as JSON, in pieces: joining them once, with all other files', saves many copies.

    `is_exact`: was all of it UTF-8? Lines that are not carry their bytes.
    """

    json: list[str]
    lines: int
    is_exact: bool

    @property
    def size(self) -> int:
        return sum(map(len, self.json))


NO_HUNKS = Hunks(["[]"], 0, True)


def render(patch: bytes) -> Hunks:
    """The hunks of one file's patch: headers and lines, without what stands before the first `@@`."""
    json = ["["]
    count, is_exact = 0, True
    # Lines of content begin with a blank, `+`, `-` or `\`: an `@` can only be a header.
    for part in patch.removeprefix(b"@@ ").removesuffix(b"\n").split(b"\n@@ ") if patch else ():
        header, _, content = part.partition(b"\n")
        lines, is_utf8 = escaped_lines(content)
        json += [",", *_hunk(header, lines)] if count else _hunk(header, lines)
        count += len(lines)
        is_exact &= is_utf8
    json.append("]")
    return Hunks(json, count, is_exact)


def escaped_lines(content: bytes) -> tuple[list[str], bool]:
    """The lines of a hunk, escaped for JSON, without quotes; and whether all of it was UTF-8.

    A line that is not ends in its exact bytes: `...","contentBase64":"...`.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return [_escaped(line) for line in content.split(b"\n")], False
    if SEPARATOR in text:
        return [_escaped(line) for line in content.split(b"\n")], True
    escaped = msgspec.json.encode(text.replace("\n", SEPARATOR)).decode()
    return escaped[1:-1].split(SEPARATOR), True


def _escaped(line: bytes) -> str:
    text = msgspec.json.encode(line.decode("utf-8", "replace")).decode()[1:-1]
    try:
        line.decode()
    except UnicodeDecodeError:
        # Without the sign that the line of a patch begins with.
        return f'{text}","contentBase64":"{b64encode(line[1:]).decode()}'
    return text


def _hunk(header: bytes, lines: list[str]) -> tuple[str, str, str]:
    found = HUNK.match(header)
    assert found is not None, header
    old_start, old_lines, new_start, new_lines = (int(number or 1) for number in found.groups())
    old, new = old_start, new_start
    parts: list[str] = []
    add = parts.append
    for line in lines:
        sign = line[0]
        if sign == " ":
            add(f'{{"type":"context","content":"{line[1:]}","oldLine":{old},"newLine":{new}}}')
            old += 1
            new += 1
        elif sign == "+":
            add(f'{{"type":"add","content":"{line[1:]}","oldLine":null,"newLine":{new}}}')
            new += 1
        elif sign == "-":
            add(f'{{"type":"del","content":"{line[1:]}","oldLine":{old},"newLine":null}}')
            old += 1
        else:
            add(NO_NEWLINE)
    head = f'{{"oldStart":{old_start},"oldLines":{old_lines},"newStart":{new_start},"newLines":{new_lines},"lines":['
    return head, ",".join(parts), "]}"


def without_head(patch: bytes) -> bytes:
    """A patch from its first hunk on; empty when it has none."""
    start = patch.find(b"\n@@ ")
    return patch[start + 1 :] if start >= 0 else b""


def replacement(old: bytes, new: bytes) -> bytes:
    """A patch that takes all of `old` away and puts all of `new` there, as one hunk."""
    if not (old or new):
        return b""
    header = b"@@ -%d,%d +%d,%d @@\n" % (bool(old), count_lines(old), bool(new), count_lines(new))
    return header + _signed(b"-", old) + _signed(b"+", new)


def count_lines(content: bytes) -> int:
    """A last line without an end counts too."""
    return content.count(b"\n") + (not content.endswith(b"\n") and bool(content))


def _signed(sign: bytes, content: bytes) -> bytes:
    if not content:
        return b""
    lines = sign + content.removesuffix(b"\n").replace(b"\n", b"\n" + sign) + b"\n"
    return lines if content.endswith(b"\n") else lines + b"\\ No newline at end of file\n"
