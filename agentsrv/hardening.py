"""Keeps secrets out of `/proc`, where every process of the same user, and root, could read them.

An agent runs commands as the server's own user, and whoever uses the command line may be that user, too. Two doors
are closed: what the kernel shows as `/proc/<pid>/environ` and `cmdline` is overwritten where it holds secrets, and the
process is made non-dumpable, so that only root may look into its memory. Python's own copies are not touched.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from agentsrv.linux import clear_memory, forbid_inspection, read_memory

SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)

# Positions in /proc/<pid>/stat (proc(5)), counted from 0 after the program's name in parentheses.
ARGUMENTS = 45, 46
ENVIRONMENT = 47, 48
STAT = Path("/proc/self/stat")


def hide_secrets(*arguments: str) -> None:
    """Call once, as early as environment and arguments have been read. On a kernel without these features: no effect.

    `arguments`: those of this process that are secrets.
    """
    for start, entry in block(ENVIRONMENT):
        name, equals, value = entry.partition(b"=")
        if equals and is_secret(name.decode("ascii", "replace"), value):
            clear_memory(start + len(name) + 1, len(value))
    secrets = [os.fsencode(argument) for argument in arguments if argument]
    for start, entry in block(ARGUMENTS):
        for secret in secrets:
            if entry.endswith(secret):  # `--key SECRET` or `--key=SECRET`
                clear_memory(start + len(entry) - len(secret), len(secret))
    forbid_inspection()


def block(positions: tuple[int, int], stat: Path = STAT) -> Iterator[tuple[int, bytes]]:
    """Where each text stands that the process was started with, and what it is. Emulators of a kernel say less."""
    try:
        fields = stat.read_bytes().rpartition(b")")[2].split()
        position, end = (int(fields[index]) for index in positions)
    except (OSError, IndexError):
        return
    for entry in read_memory(position, end - position).split(b"\0"):
        yield position, entry
        position += len(entry) + 1


def is_secret(name: str, value: bytes) -> bool:
    """By its name, or because it is a URL with a password in it."""
    return bool(SECRET_NAME.search(name)) or (b"://" in value and b"@" in value)
