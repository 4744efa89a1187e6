"""Which files git ignores: its own rules, byte by byte (gitignore(5); dir.c and wildmatch.c of git 2.32 and later).

libgit2 has rules of its own that differ where patterns are negated or anchored, always by hiding: a new file that
git shows would not be seen, and be lost with its worktree. So what is untracked is decided here, without libgit2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from msgspec import Struct

from agentsrv.errors import Unprocessable

MAX_FILE_BYTES = 1024 * 1024
MAX_LINES = 20_000
"""Of a file of patterns, which takes a second or two then. Git takes more."""

WILD = b"*?[\\"
BOM = b"\xef\xbb\xbf"
NEVER = b"(?!)"

CLASSES = {
    b"alnum": b"0-9A-Za-z",
    b"alpha": b"A-Za-z",
    b"blank": b" \\t",
    b"cntrl": b"\\x00-\\x1f\\x7f",
    b"digit": b"0-9",
    b"graph": b"!-~",
    b"lower": b"a-z",
    b"print": b" -~",
    b"punct": b"!-/:-@\\[-`{-~",
    b"space": b" \\t\\n\\r\\f\\v",
    b"upper": b"A-Z",
    b"xdigit": b"0-9A-Fa-f",
}


class Pattern(Struct, frozen=True):
    """One line. `is_name`: it is compared with the last name of a path, else with the path from its file on."""

    regex: re.Pattern[bytes]
    is_name: bool
    is_negative: bool
    needs_directory: bool


def require_few(content: bytes, name: str) -> bytes:
    """`content`, of a file of patterns. Raises Unprocessable (`repository_too_large`) when it is beyond use."""
    if len(content) > MAX_FILE_BYTES or content.count(b"\n") > MAX_LINES:
        raise Unprocessable(
            f"{name} has more than {MAX_LINES:,} lines or {MAX_FILE_BYTES >> 20} MiB of patterns; shorten it",
            code="repository_too_large",
        )
    return content


class Patterns:
    """The patterns of one file; the last one that matches a path decides."""

    def __init__(self, content: bytes, base: bytes = b"", *, ignore_case: bool = False) -> None:
        """`base`: the directory that they begin at, from the root on, with a slash at its end; empty for the root."""
        self._base = base
        found = [pattern_of(line, ignore_case) for line in _lines(content)]
        self._patterns = [pattern for pattern in found if pattern is not None][::-1]
        # One look says that nothing matches, which is so for nearly all paths.
        self._names = _any_of(pattern.regex for pattern in self._patterns if pattern.is_name)
        self._paths = _any_of(pattern.regex for pattern in self._patterns if not pattern.is_name)

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def decide(self, path: bytes, *, is_directory: bool) -> bool | None:
        """Is `path`, which lies below the base, ignored? None: nothing is said about it."""
        inside, name = path[len(self._base) :], path.rpartition(b"/")[2]
        if not (self._names.fullmatch(name) or self._paths.fullmatch(inside)):
            return None
        for pattern in self._patterns:
            if pattern.needs_directory and not is_directory:
                continue
            if pattern.regex.fullmatch(name if pattern.is_name else inside):
                return not pattern.is_negative
        return None


def _any_of(regexes: Iterable[re.Pattern[bytes]]) -> re.Pattern[bytes]:
    regexes = list(regexes)
    flags = regexes[0].flags & re.IGNORECASE if regexes else 0
    return re.compile(b"|".join(regex.pattern for regex in regexes) or NEVER, re.DOTALL | flags)


def _lines(content: bytes) -> list[bytes]:
    """Without comments; a line ends at a NUL, as strings do in C."""
    lines = [line.removesuffix(b"\r") for line in content.removeprefix(BOM).split(b"\n")]
    return [_trimmed(line.partition(b"\0")[0]) for line in lines if line and line[:1] != b"#"]


def _trimmed(line: bytes) -> bytes:
    """Without spaces at its end, but for one behind a backslash."""
    end = position = 0
    while position < len(line):
        if line[position : position + 1] == b"\\":
            position += 1
            if position == len(line):
                return line
            end = position + 1
        elif line[position : position + 1] != b" ":
            end = position + 1
        position += 1
    return line[:end]


def pattern_of(line: bytes, ignore_case: bool) -> Pattern | None:
    is_negative = line[:1] == b"!"
    text = line[is_negative:]
    needs_directory = text[-1:] == b"/"
    text = text[: len(text) - needs_directory]
    if not text:
        return None
    is_name = b"/" not in text
    if is_name:
        source = _translated(text, over_slashes=True)
    else:
        text = text.removeprefix(b"/")
        # Git compares the part without wildcards first, and the rest as if it were a pattern of its own.
        plain = next((at for at, byte in enumerate(text) if byte in WILD), len(text))
        source = re.escape(text[:plain]) + _translated(text[plain:], over_slashes=False)
    flags = re.DOTALL | (re.IGNORECASE if ignore_case else 0)
    return Pattern(re.compile(source, flags), is_name, is_negative, needs_directory)


def _translated(pattern: bytes, *, over_slashes: bool) -> bytes:
    """A regular expression for what wildmatch() matches; `over_slashes`: without WM_PATHNAME."""
    any_byte, some = (b".", b".*") if over_slashes else (b"[^/]", b"[^/]*")
    parts, at = list[bytes](), 0
    while at < len(pattern):
        byte = pattern[at : at + 1]
        if byte == b"*":
            end = at
            while pattern[end : end + 1] == b"*":
                end += 1
            part, at = _stars(pattern, at, end, some, over_slashes=over_slashes)
        elif byte == b"?":
            part, at = any_byte, at + 1
        elif byte == b"[":
            part, at = _bracket(pattern, at, over_slashes=over_slashes)
        elif byte == b"\\":
            part = re.escape(pattern[at + 1 : at + 2]) if at + 1 < len(pattern) else NEVER
            at += 2
        else:
            part, at = re.escape(byte), at + 1
        parts.append(part)
    return b"".join(parts)


def _stars(pattern: bytes, at: int, end: int, some: bytes, *, over_slashes: bool) -> tuple[bytes, int]:
    """For the stars from `at` to `end`: an expression, and where the pattern goes on."""
    after = pattern[end : end + 1]
    is_alone = pattern[at - 1 : at] in (b"", b"/") if at else True
    is_alone = is_alone and (after in (b"", b"/") or pattern[end : end + 2] == b"\\/")
    if over_slashes or end - at < 2 or not is_alone:
        return some, end
    return (b"(?:.*/)?", end + 1) if after == b"/" else (b".*", end)


def _bracket(pattern: bytes, at: int, *, over_slashes: bool) -> tuple[bytes, int]:
    """For a `[...]` that begins at `at`. One without an end matches nothing."""
    at += 1
    is_negated = pattern[at : at + 1] in (b"!", b"^") and at < len(pattern)
    at += is_negated
    items, previous, is_first = list[bytes](), b"", True
    while is_first or pattern[at : at + 1] != b"]":
        is_first = False
        byte = pattern[at : at + 1]
        if byte == b"\\":
            at += 1
            byte = pattern[at : at + 1]
            items.append(_literal(byte))
        elif byte == b"-" and previous and pattern[at + 1 : at + 2] not in (b"", b"]"):
            at += 1
            at += pattern[at : at + 1] == b"\\"
            byte = pattern[at : at + 1]
            if byte and previous <= byte:
                items.append(_literal(previous) + b"-" + _literal(byte))
            previous = b"" if byte else previous
            if not byte:
                return NEVER, len(pattern)
            at += 1
            continue
        elif byte == b"[" and pattern[at + 1 : at + 2] == b":":
            end = pattern.find(b"]", at + 2)
            if end < 0:
                return NEVER, len(pattern)
            if end > at + 2 and pattern[end - 1 : end] == b":":
                known = CLASSES.get(pattern[at + 2 : end - 1])
                if known is None:
                    return NEVER, len(pattern)
                items.append(known)
                previous, at = b"", end + 1
                continue
            items.append(_literal(byte))
        else:
            items.append(_literal(byte))
        if not byte:
            return NEVER, len(pattern)
        previous, at = byte, at + 1
    no_slash = b"" if over_slashes else b"(?!/)"
    return no_slash + (_set(items, is_negated=is_negated)), at + 1


def _set(items: list[bytes], *, is_negated: bool) -> bytes:
    if not items:
        return b"." if is_negated else NEVER
    return b"[" + (b"^" if is_negated else b"") + b"".join(items) + b"]"


def _literal(byte: bytes) -> bytes:
    return b"\\x%02x" % byte[0] if byte else b""
