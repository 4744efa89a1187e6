"""Keeps the server's secrets out of `/proc`, where every process of the same user, and root, could read them.

An agent runs commands as the server's own user. Two doors are closed: the block of environment variables that
the kernel shows as `/proc/<pid>/environ` is overwritten where it holds secrets, and the process is made
non-dumpable, so that only root may look into its memory. Python's own copy of the environment is not touched.
"""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

PR_SET_DUMPABLE = 4
SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)

# Positions in /proc/<pid>/stat (proc(5)), counted from 0 after the program's name in parentheses.
ENV_START, ENV_END = 47, 48


def hide_secrets() -> None:
    """Call once, as early as the environment has been read. On a kernel without these features: no effect."""
    scrub_environment_block()
    forbid_inspection()


def forbid_inspection() -> None:
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def scrub_environment_block() -> None:
    """Overwrite the values of variables that are, or look like, secrets."""
    try:
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return
    start, end = int(fields[ENV_START]), int(fields[ENV_END])
    position = start
    for entry in ctypes.string_at(start, end - start).split(b"\0"):
        name, equals, value = entry.partition(b"=")
        if equals and is_secret(name.decode("ascii", "replace"), value):
            ctypes.memset(position + len(name) + 1, 0, len(value))
        position += len(entry) + 1


def is_secret(name: str, value: bytes) -> bool:
    """By its name, or because it is a URL with a password in it."""
    return bool(SECRET_NAME.search(name)) or (b"://" in value and b"@" in value)
