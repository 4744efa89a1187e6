"""Which attributes a file has: git's own rules (gitattributes(5); attr.c of git 2.32 and later).

libgit2's differ: patterns that begin with `!`, quoted ones, and what stands in the index beside what is on disk.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pygit2
from msgspec import Struct
from pygit2.enums import ConfigLevel

from agentsrv.workspace.git.ignore import MAX_FILE_BYTES, Pattern, pattern_of, require_few

MAX_LINE_BYTES = 2048
NAME = re.compile(rb"[A-Za-z0-9_.][-A-Za-z0-9_.]*")
QUOTED = re.compile(rb'"((?:[^"\\]|\\(?:[abfnrtv"\\]|[0-3][0-7]{2}))*)"')
ESCAPED = re.compile(rb"\\([0-3][0-7]{2}|.)", re.DOTALL)
ESCAPES = dict(zip(b"abfnrtv", b"\a\b\f\n\r\t\v", strict=True))
MACRO = b"[attr]"
NAMED = b".gitattributes"
BUILT_IN = b"[attr]binary -diff -merge -text\n"

Value = bool | bytes | None
"""Set or unset, a text, or (`!name`) as if nothing had been said."""


class Line(Struct, frozen=True):
    """`pattern` is None for the definition of a macro."""

    pattern: Pattern | None
    macro: bytes
    values: Sequence[tuple[bytes, Value]]


class AttributeFile:
    """The lines of one file, those that win first. `base`: the directory it lies in, with a slash at its end."""

    def __init__(
        self, content: bytes, base: bytes = b"", *, ignore_case: bool = False, has_macros: bool = True
    ) -> None:
        self._base = base
        raw = require_few(content, "a file of attributes").removeprefix(b"\xef\xbb\xbf").split(b"\n")
        lines = [_line(line, ignore_case) for line in raw if len(line) <= MAX_LINE_BYTES]
        found = [line for line in lines if line is not None and (line.pattern is not None or has_macros)]
        self._lines = [line for line in found if line.pattern is not None][::-1]
        self.macros = {line.macro: line.values for line in found if line.pattern is None}

    def matching(self, path: bytes) -> Iterable[Sequence[tuple[bytes, Value]]]:
        inside, name = path[len(self._base) :], path.rpartition(b"/")[2]
        for line in self._lines:
            pattern = line.pattern
            if pattern is not None and pattern.regex.fullmatch(name if pattern.is_name else inside):
                yield line.values


def attributes_of(path: bytes, files: Iterable[AttributeFile]) -> Mapping[bytes, Value]:
    """`files`: those that win first."""
    files = list(files)
    macros: dict[bytes, Sequence[tuple[bytes, Value]]] = {}
    for file in reversed(files):
        macros |= file.macros
    found: dict[bytes, Value] = {}
    for file in files:
        for values in file.matching(path):
            _fill(found, values, macros)
    return found


def _fill(
    found: dict[bytes, Value],
    values: Sequence[tuple[bytes, Value]],
    macros: Mapping[bytes, Sequence[tuple[bytes, Value]]],
) -> None:
    """What is known already stays."""
    for name, value in reversed(values):
        if name not in found:
            found[name] = value
            if value is True and name in macros:
                _fill(found, macros[name], macros)


def _line(line: bytes, ignore_case: bool) -> Line | None:
    line = line.lstrip(b" \t\r").partition(b"\0")[0]
    if not line or line.startswith(b"#"):
        return None
    quoted = QUOTED.match(line)
    if quoted is not None:
        name, rest = ESCAPED.sub(_unescaped, quoted[1]), line[quoted.end() :]
    else:
        name = re.split(rb"[ \t\r]", line, maxsplit=1)[0]
        rest = line[len(name) :]
    if quoted is None and name.startswith(MACRO):
        parts = (name.removeprefix(MACRO) + rest).split(None, 1)
        values = _values(parts[1] if len(parts) > 1 else b"")
        return (
            Line(None, parts[0], values)
            if values is not None and parts and NAME.fullmatch(parts[0])
            else None
        )
    pattern, values = pattern_of(name, ignore_case), _values(rest)
    if pattern is None or pattern.is_negative or pattern.needs_directory or values is None:
        return None
    return Line(pattern, b"", values)


def _unescaped(found: re.Match[bytes]) -> bytes:
    text = found[1]
    return bytes([int(text, 8)]) if len(text) == 3 else bytes([ESCAPES.get(text[0], text[0])])


def _values(text: bytes) -> list[tuple[bytes, Value]] | None:
    """None where git does not take the line."""
    found: list[tuple[bytes, Value]] = []
    for word in re.split(rb"[ \t\r]+", text):
        if not word:
            continue
        sign = word[:1] if word[:1] in (b"-", b"!") else b""
        name, equals, value = word[len(sign) :].partition(b"=")
        if not NAME.fullmatch(name):
            return None
        found.append((name, {b"-": False, b"!": None}.get(sign, value if equals else True)))
    return found


class AttributeFiles:
    """All that hold for a repository. `read`: the content of a `.gitattributes` in it; empty when there is none."""

    def __init__(self, repo: pygit2.Repository, common: str, read: Callable[[bytes], bytes]) -> None:
        self._read = read
        self._ignore_case = is_set(repo, "core.ignorecase")
        self._first = self._outside([Path(common, "info/attributes")])
        self._last = self._outside(_places(repo))
        self._above: dict[bytes, tuple[AttributeFile, ...]] = {}

    def of(self, path: bytes) -> Mapping[bytes, Value]:
        inside = self._inside(path.rpartition(b"/")[0])
        if not (self._first or inside or self._last):
            return {}
        return attributes_of(path, [*self._first, *inside, *self._last, AttributeFile(BUILT_IN)])

    def _inside(self, directory: bytes) -> tuple[AttributeFile, ...]:
        """Those of a directory and of what is above it, the nearest first."""
        if (found := self._above.get(directory)) is None:
            found = self._inside(directory.rpartition(b"/")[0]) if directory else ()
            base = directory + b"/" if directory else b""
            if content := self._read(base + NAMED):
                file = AttributeFile(content, base, ignore_case=self._ignore_case, has_macros=not directory)
                found = (file, *found)
            self._above[directory] = found
        return found

    def _outside(self, paths: list[Path]) -> list[AttributeFile]:
        contents = filter(None, map(read_rules, paths))
        return [AttributeFile(content, ignore_case=self._ignore_case) for content in contents]


def _places(repo: pygit2.Repository) -> list[Path]:
    """Of the user and of the system."""
    home, system = (pygit2.settings.search_path[level] for level in (ConfigLevel.GLOBAL, ConfigLevel.SYSTEM))
    config_home = pygit2.settings.search_path[ConfigLevel.XDG]
    try:
        named = str(repo.config["core.attributesfile"])
    except (KeyError, ValueError, OSError, pygit2.GitError):
        named = f"{config_home}/attributes" if config_home else ""
    if named.startswith("~/"):
        named = f"{home}{named[1:]}" if home else ""
    return [Path(repo.workdir or "", named)] * bool(named) + [Path(system, "gitattributes")] * bool(system)


def is_set(repo: pygit2.Repository, name: str, *, default: bool = False) -> bool:
    try:
        return repo.config.get_bool(name)
    except (KeyError, ValueError, OSError, pygit2.GitError):
        return default


def read_rules(path: Path) -> bytes:
    """The content of a file of patterns; nothing when there is none, or it is no file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
            return file.read(MAX_FILE_BYTES + 1) if is_file else b""
    except (OSError, ValueError):
        return b""
