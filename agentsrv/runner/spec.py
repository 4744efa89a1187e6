"""What a runner is asked to run."""

from __future__ import annotations

import json
from pathlib import Path

from msgspec import Struct

from agentsrv.model import RunnerId
from agentsrv.runner.child.frames import COOKIE
from agentsrv.runner.records import boot_id
from agentsrv.users import User

DEFAULT_GRACE_S = 3.0


class RunnerError(Exception):
    """There is no agent: it could not be started. `about` is `cwd`, `program`, `disk` (full) or `runner`."""

    def __init__(self, message: str, *, about: str = "runner") -> None:
        super().__init__(message)
        self.message = message
        self.about = about


class RunnerSpec(Struct, frozen=True, kw_only=True):
    """What to run and how long it may go on.

    `argv[0]` is a path; it is not searched for. `env` is the agent's whole environment, to which only the
    cookie is added. `directory` is there and was not used before; its name is the id. Once it is removed, a
    runner that comes late starts nothing. `quota_bytes` is how much of the spool may lie on the disk unread.
    `orphan_s` is how long the agent may live while no server is connected (`RunnerHandle.set_linger` changes it).

    `name` is what the program is told that it is called, when that is not `argv[0]`.

    `opening` is what the agent's stdin begins with, text.

    `user` is whom the agent runs as; None: as the server does.

    With `pty` (columns, rows) the agent gets a new terminal in place of pipes and a spool, and its handle the
    master (`RunnerHandle.take_pty`).
    """

    id: RunnerId
    argv: tuple[str, ...]
    cwd: str
    env: dict[str, str]
    directory: Path
    quota_bytes: int
    orphan_s: float
    name: str = ""
    opening: bytes = b""
    grace_s: float = DEFAULT_GRACE_S
    pty: tuple[int, int] | None = None
    user: User | None = None

    def encode(self) -> bytes:
        return json.dumps(
            {
                "argv": self.argv,
                "name": self.name,
                "cwd": self.cwd,
                "env": {**self.env, COOKIE: self.id},
                "directory": str(self.directory),
                "quota_bytes": self.quota_bytes,
                "orphan_s": self.orphan_s,
                "grace_s": self.grace_s,
                "boot_id": boot_id(),
                "opening": self.opening.decode(),
                "user": self.user
                and {
                    "uid": self.user.uid,
                    "gid": self.user.gid,
                    "groups": self.user.groups,
                },
                "pty": self.pty and {"cols": self.pty[0], "rows": self.pty[1]},
            }
        ).encode()
