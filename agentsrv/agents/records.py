"""Whether what agents remember is kept: their records, and their directories as `agentsrv doctor` sees them."""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from agentsrv.agents.contract import Check

MOUNTS = Path("/proc/self/mountinfo")

PIECE_BYTES, MAX_PIECES, MARK_BYTES = 256 * 1024, 1024, 64
"""A record is looked through up to 256 MiB; what is in a longer one is the agent's affair."""

FLEETING = {"tmpfs": "memory", "ramfs": "memory", "overlay": "a container's own layer"}
"""Where a directory is gone with the machine or the container, by the type of its file system."""

ADVICE = "put it on a volume, or agents forget their conversations; see docs/operations.md, What has to last"


def check_records(subject: str, directory: Path, *, mounts: Path = MOUNTS) -> Check:
    """Can conversations be written there, and will they still be there tomorrow?"""
    existing = next((place for place in (directory, *directory.parents) if place.exists()), directory)
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Check(
            subject, f"{existing} is not a writable directory", False, True, "agents would forget; mend it"
        )
    if (place := FLEETING.get(_file_system(existing.resolve(), mounts))) is not None:
        return Check(subject, f"{directory} lies in {place}", False, advice=ADVICE)
    return Check(subject, str(directory), True)


def is_written(record: Path, message: re.Pattern[bytes]) -> bool:
    """Is it a file in which something was said? What a power loss or a full disk leaves may be empty, zeros, or only
    a beginning: the agent would know nothing, or not start.

    `message`: what lines of messages have in them, near their place in the file.
    """
    try:
        descriptor = os.open(record, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError:
        return True  # The agent may read it.
    except OSError:
        return False
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return False
        return _has_message(file, message)


def _has_message(file: BinaryIO, message: re.Pattern[bytes]) -> bool:
    """The first one is near the beginning, unless there is none."""
    before = b""
    for number in range(MAX_PIECES):
        piece = file.read(PIECE_BYTES)
        if not piece or (number == 0 and piece.startswith(b"\0")):
            return False
        if message.search(before + piece):
            return True
        before = piece[-MARK_BYTES:]
    return True


def put_aside(record: Path) -> None:
    """Nothing was said in it, and it would keep its agent from beginning anew under this name."""
    with suppress(OSError):
        record.rename(record.with_name(f"{record.name}.empty"))


def _file_system(path: Path, mounts: Path) -> str:
    """The type of the file system that a path is on; empty when the system does not tell."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return ""
    found: tuple[int, str] = (0, "")
    for line in lines:
        # "36 35 98:0 /root /mnt rw,noatime master:1 - ext3 /dev/root rw"
        before, _, after = line.partition(" - ")
        point = Path(before.split(" ")[4].encode().decode("unicode_escape"))
        if path.is_relative_to(point) and len(point.parts) >= found[0]:
            found = len(point.parts), after.split(" ")[0]
    return found[1]
