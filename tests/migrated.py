"""Database files as a first start leaves them, as copies: all migrations take it a tenth of a second.

What is about a first start is left to make its own, and so is whatever is started as people start it.
"""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path

from agentsrv.store.migrate import migrate


@cache
def contents() -> bytes:
    """Of a file that was migrated and closed in this process."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "db")
        migrate(path)
        return path.read_bytes()


def put_database(path: Path) -> None:
    """Where there is nothing yet, and the directory for it neither."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(contents())
