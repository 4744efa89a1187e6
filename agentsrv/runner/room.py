"""Where runners have their directories, and what lies in them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from agentsrv.owned import PASSABLE, PRIVATE, Room
from agentsrv.users import User

NAME = re.compile(r"[0-9a-f]{32}")
FILES = r"out|sock|crash|(?:meta|exit)(?:\.new)?"


def runner_room(path: Path, others: str, user: User | None = None) -> Room:
    """A room for runners. `others`: the names of files besides a runner's own, as a regular expression.

    `user`: whom the agents run as, if they have something to read there.
    """
    return Room(path, NAME, re.compile(f"{FILES}|{others}"), PRIVATE if user is None else PASSABLE)


def write_for_agent(path: Path, content: bytes, user: User | None) -> None:
    """A file in a runner's directory that only the agent and the server can read. Raises OSError."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        if user is not None:
            os.fchown(file.fileno(), user.uid, user.gid)
