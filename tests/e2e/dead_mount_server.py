"""Runs an interpreter with the given arguments where `base/workspaces/dead` is a mount that never answers.

In a mount namespace of its own (`unshare --mount`); the mount is gone with the process.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.workspace.dead_mount import mount_dead

if __name__ == "__main__":
    dead = Path("base/workspaces/dead")
    dead.mkdir(parents=True, exist_ok=True)
    os.set_inheritable(mount_dead(dead.absolute()), True)
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
