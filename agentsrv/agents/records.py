"""Whether what agents remember is kept: their directories, as `agentsrv doctor` sees them."""

from __future__ import annotations

import os
from pathlib import Path

from agentsrv.agents.contract import Check

MOUNTS = Path("/proc/self/mountinfo")

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
