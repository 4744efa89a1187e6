"""The system user that agents, terminals and git work as, when it is another one than the server's.

Then no agent can read the server's files, look into its memory, signal it or end it. The server needs the right to
become that user: it is root, or has the capabilities in NEEDED.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from msgspec import Struct

from agentsrv import linux
from agentsrv.errors import StartupError

NEEDED = {"CAP_CHOWN": 0, "CAP_KILL": 5, "CAP_SETGID": 6, "CAP_SETUID": 7}
"""To give a file to that user, to signal its processes, to become it. (linux/capability.h)"""


class User(Struct, frozen=True):
    """`groups` are all its groups; `home` is empty when the system does not know the user."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str

    @property
    def ids(self) -> tuple[int, int, tuple[int, ...]]:
        return self.uid, self.gid, self.groups

    def variables(self) -> dict[str, str]:
        """What a login sets."""
        home = {"HOME": self.home} if self.home else {}
        return home | {"USER": self.name, "LOGNAME": self.name}

    def popen(self) -> dict[str, Any]:
        """Arguments for `subprocess.Popen` and its like."""
        return {"user": self.uid, "group": self.gid, "extra_groups": self.groups}


def parse(text: str) -> User:
    """A name, a uid, or `uid:gid`. Raises ValueError."""
    if found := re.fullmatch(r"(\d{1,9}):(\d{1,9})", text):
        uid, gid = map(int, found.groups())
        user = User(text, uid, gid, (gid,), "")
    else:
        user = _look_up(text)
    if user.uid == 0:
        raise ValueError("must not be root")
    return user


def _look_up(text: str) -> User:
    try:
        entry = pwd.getpwuid(int(text)) if text.isdecimal() else pwd.getpwnam(text)
    except KeyError:
        raise ValueError("must be a user of this system, or numbers: uid:gid") from None
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid, groups, entry.pw_dir)


def require_rights(user: User | None) -> None:
    """Raises StartupError when this process may not become that user."""
    if user is not None and (missing := missing_rights()):
        raise StartupError(
            f"AGENT_USER is {user.name}, and the server may not become that user: start it as root, or with "
            f"{', '.join(missing)} (`setpriv --inh-caps ... --ambient-caps ...`, systemd: AmbientCapabilities)"
        )


def missing_rights() -> list[str]:
    held = linux.capabilities()
    return [name for name, number in NEEDED.items() if not held >> number & 1]


@contextmanager
def acting_as(user: User | None) -> Iterator[None]:
    """In this block this thread uses files with the rights of `user`, and makes them in its name."""
    if user is None:
        yield
        return
    with linux.files_as(*user.ids):
        yield
