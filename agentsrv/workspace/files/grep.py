"""Finding text in files: with ripgrep where it is installed, else by ourselves.

Always literal text: a pattern could be made to take for ever. What is not text (a NUL near its beginning) and
what is larger than `MAX_FILE_BYTES` is left out.
"""

from __future__ import annotations

import asyncio
import base64
import io
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, suppress
from itertools import islice
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from agentsrv.lines import LineFramer
from agentsrv.threads import Pool
from agentsrv.workspace.explain import explained
from agentsrv.workspace.files.walk import IGNORED, Directory, Walk
from agentsrv.workspace.paths import UTF8, Workspace, displayed, file_uri, is_text

MAX_FILE_BYTES = 10 * 1024 * 1024
PROBE_BYTES = 8192
READ_BYTES = 1 << 16
LINES_AT_ONCE = 1000
MAX_COMPARISONS = 1_000_000
"""At a stretch: some ten milliseconds."""

MAX_RECORD_BYTES = 4 * 1024 * 1024
"""Of what ripgrep tells of one line: the line, and each place in it that matches."""
RIPGREP_BYTES = 512 * 1024 * 1024

MAX_SHOWN = 500
SHOWN_BEFORE = 100
"""Characters of a long line that are shown, and how many of them before the match."""


class LineMatch(Struct, rename="camel", order=True):
    """A line that has the text. `column` is where, in characters from 1; `text` the line, or a part of it."""

    path: str
    line: int
    column: int
    text: str
    uri: str | UnsetType = UNSET
    """The exact path, where `path` could not be written in UTF-8."""


class Grep:
    """Up to `limit` lines below the walk's root that have `text`, by path and line."""

    def __init__(self, walk: Walk, text: str, *, ignore_case: bool, limit: int) -> None:
        self.is_truncated = False
        """After `matches`: is there more, or was the time over?"""
        self._walk = walk
        self._text = text
        self._ignore_case = ignore_case
        self._limit = limit

    async def matches(self, disk: Pool, ripgrep: str | None) -> list[LineMatch]:
        if ripgrep is None:
            found = await disk.run(self._search_ourselves)
        else:
            found = await self._ask(ripgrep, disk)
        return sorted(found)

    # With ripgrep

    async def _ask(self, ripgrep: str, disk: Pool) -> list[LineMatch]:
        workspace, root = self._walk.workspace, self._walk.root
        found: list[LineMatch] = []
        with explained(workspace.relative(root)):
            directory = await disk.run(workspace.enter, root)
        process: asyncio.subprocess.Process | None = None
        try:
            async with asyncio.timeout(max(self._walk.deadline - time.monotonic(), 0)):
                process = await asyncio.create_subprocess_exec(
                    ripgrep,
                    *self._arguments(),
                    cwd=f"/proc/self/fd/{directory}",  # This very directory, whatever its path means by now.
                    env={"LC_ALL": "C.UTF-8"},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    **({} if workspace.user is None else workspace.user.popen()),
                )
                _limit_memory(process)
                assert process.stdout is not None
                async with aclosing(self._records(process.stdout)) as records:
                    async for record in records:
                        if (match := self._read(record)) is not None:
                            found.append(match)
                        if len(found) > self._limit:
                            self.is_truncated = True
                            return found[: self._limit]
                self.is_truncated |= await process.wait() < 0
        except TimeoutError:
            self.is_truncated = True
        finally:
            os.close(directory)
            if process is not None:
                await _end(process)
        return found

    def _arguments(self) -> list[str]:
        options = [
            "--no-config",
            "--one-file-system",
            "--json",
            "--fixed-strings",
            "--no-ignore",
            "--hidden",
            "--encoding=none",
        ]
        options += [
            f"--max-filesize={MAX_FILE_BYTES}",
            f"--max-depth={self._walk.max_depth}",
            f"--max-count={self._limit + 1}",
            "--no-messages",
        ]
        options.append("--ignore-case" if self._ignore_case else "--case-sensitive")
        if not self._walk.include_ignored:
            options += [f"--glob=!{name}/" for name in sorted(IGNORED)] + ["--glob=!.git"]
        for path in self._walk.workspace.private_below(self._walk.root):
            options.append("--glob=!/" + re.sub(r"([*?\[\]{}\\!])", r"\\\1", path))
        return [*options, f"--regexp={self._text}", "--", "."]

    async def _records(self, stream: asyncio.StreamReader) -> AsyncGenerator[bytes, None]:
        """The lines that ripgrep writes, but for those that are too long."""
        framer = LineFramer(MAX_RECORD_BYTES)
        while data := await stream.read(READ_BYTES):
            for line in framer.feed(data):
                if isinstance(line, bytes):
                    yield line
                else:
                    self.is_truncated = True

    def _read(self, record: bytes) -> LineMatch | None:
        if not record.startswith(b'{"type":"match"'):
            return None
        data = msgspec.json.decode(record)["data"]
        path = _content(data["path"]).removeprefix(b"./").decode(*UTF8)
        full = os.path.join(self._walk.root, path)
        if self._walk.workspace.is_private(full):
            return None
        return _match(
            self._walk.workspace,
            full,
            data["line_number"],
            _content(data["lines"]),
            data["submatches"][0]["start"],
        )

    # By ourselves

    def _search_ourselves(self) -> list[LineMatch]:
        flags = re.IGNORECASE if self._ignore_case else re.NOFLAG
        pattern = re.compile(re.escape(self._text), flags)
        quick = self._text.encode().lower() if self._text.isascii() else b""
        found: list[LineMatch] = []
        for directory in self._walk:
            for name in directory.files:
                if time.monotonic() > self._walk.deadline:
                    self.is_truncated = True
                    return found
                content = _read_text(directory, name)
                # In nearly all files nothing is found, and this is how to know it fast.
                if quick in content.lower():
                    matches = self._in_file(f"{directory.path}/{name}", content, pattern)
                    found += islice(matches, self._limit + 1 - len(found))
                if len(found) > self._limit:
                    self.is_truncated = True
                    return found[: self._limit]
        self.is_truncated |= self._walk.is_truncated
        return found

    def _in_file(self, path: str, content: bytes, pattern: re.Pattern[str]) -> Iterator[LineMatch]:
        # One line after the other: as a list, a file of short ones takes forty times its size.
        for number, line in enumerate(io.BytesIO(content), 1):
            if number % LINES_AT_ONCE == 0 and time.monotonic() > self._walk.deadline:
                self.is_truncated = True
                return
            text = line.removesuffix(b"\n").decode(*UTF8)
            if (at := self._in_line(text, pattern)) is not None:
                yield _match(self._walk.workspace, path, number, line, len(text[:at].encode(*UTF8)))

    def _in_line(self, line: str, pattern: re.Pattern[str]) -> int | None:
        """Where it is. A part of the line after the other: `re` takes the product of both lengths, and holds
        the interpreter's lock for as long."""
        size = len(self._text)
        step = max(MAX_COMPARISONS // size, 1)
        for start in range(0, len(line), step):
            if found := pattern.search(line, start, start + step + size - 1):
                return found.start()
            if time.monotonic() > self._walk.deadline:
                self.is_truncated = True
                return None
        return None


def find_ripgrep(search_path: str) -> str | None:
    """The program, when one is installed."""
    return shutil.which("rg", path=search_path)


def _match(workspace: Workspace, path: str, number: int, line: bytes, start: int) -> LineMatch:
    relative = workspace.relative(path)
    before = line[:start].decode(errors="replace")
    text = line.rstrip(b"\r\n").decode(errors="replace")
    if len(text) > MAX_SHOWN:
        text = text[max(len(before) - SHOWN_BEFORE, 0) :][:MAX_SHOWN]
    uri = UNSET if is_text(relative) else file_uri(path)
    return LineMatch(displayed(relative), number, len(before) + 1, text, uri)


def _read_text(directory: Directory, name: str) -> bytes:
    """The content of a file; nothing when it is too large, not text, or cannot be read."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(name, flags, dir_fd=directory.descriptor)
    except OSError:
        return b""
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_FILE_BYTES:
            return b""
        content = os.read(descriptor, found.st_size)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
    return b"" if b"\0" in content[:PROBE_BYTES] else content


def _content(value: dict[str, Any]) -> bytes:
    """What ripgrep writes as text where it is UTF-8, else in base64."""
    return value["text"].encode() if "text" in value else base64.b64decode(value["bytes"])


def _limit_memory(process: asyncio.subprocess.Process) -> None:
    """It keeps all matches of a line, a hundred bytes for each, until it tells of them."""
    with suppress(ProcessLookupError):
        resource.prlimit(process.pid, resource.RLIMIT_DATA, (RIPGREP_BYTES, RIPGREP_BYTES))


async def _end(process: asyncio.subprocess.Process) -> None:
    # Not `process.kill()`: of a process that has just ended it takes the exit code, which asyncio then misses.
    with suppress(ProcessLookupError):
        if process.returncode is None:
            os.kill(process.pid, signal.SIGKILL)
    # It may be stuck in a system call; then its end is noticed whenever it comes.
    with suppress(TimeoutError):
        async with asyncio.timeout(1):
            await process.wait()
