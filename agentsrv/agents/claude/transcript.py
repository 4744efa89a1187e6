"""Claude Code's transcripts: a conversation is a file of JSON lines, each with the conversation's name.

The CLI can fork by itself (`--resume --fork-session --resume-session-at`), but only when the fork's first prompt
comes, and no more when the conversation has been compacted in the meantime (2.1.330: "No message found"). A copy
is made at once, and is a conversation like any other.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from agentsrv.agents.conversations import conversation_lost
from agentsrv.errors import StorageFull
from agentsrv.jsontext import load_object

MAX_LINE_BYTES = 64 * 1024 * 1024
"""Of a conversation; a message with its images has half of that."""


def copy_transcript(source: Path, conversation: str, point: str | None) -> None:
    """Copy a conversation up to the message `point`, under another name; the file appears whole or not at all.

    `point` None: all of it. Raises Conflict (`conversation_lost`) when there is no such message, StorageFull.
    """
    target = source.with_name(f"{conversation}.jsonl")
    partial = target.with_suffix(".partial")
    try:
        with _open_regular(source) as lines, _create_private(partial) as copy:
            is_found = _copy_lines(lines, copy, (source.stem, conversation), point)
        if not is_found:
            raise conversation_lost(source.stem)
        partial.rename(target)
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("the server's disk is full; free some space and try again") from exc
        raise conversation_lost(source.stem) from exc
    finally:
        with suppress(FileNotFoundError):
            partial.unlink()


def _copy_lines(lines: BinaryIO, copy: BinaryIO, names: tuple[str, str], point: str | None) -> bool:
    """Copy up to the line of `point`; False when it did not come."""
    # Inside of a JSON string the quotes would have backslashes: this is always the field.
    old, new = (f'"sessionId":"{name}"'.encode() for name in names)
    wanted = f'"uuid":"{point}"'.encode()
    while line := lines.readline(MAX_LINE_BYTES + 1):
        if len(line) > MAX_LINE_BYTES:
            raise OSError(errno.EFBIG, "a line is too long to be a message")
        copy.write(line.replace(old, new))
        if wanted in line and (load_object(line) or {}).get("uuid") == point:
            return True
    return point is None


def _open_regular(path: Path) -> BinaryIO:
    """The file for reading. The agent may have put anything in its place: a pipe would be waited for."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a file", str(path))
    return os.fdopen(fd, "rb")


def _create_private(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")
