"""The files of the workspace, for the API: every question and change, with its limits, off the event loop."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from agentsrv.errors import LimitReached
from agentsrv.workspace import files
from agentsrv.workspace.archive import archive
from agentsrv.workspace.checkouts import Checkout, checkout_around
from agentsrv.workspace.disk import Disk
from agentsrv.workspace.files import FileFacts, OpenFile
from agentsrv.workspace.grep import Grep, LineMatch, find_ripgrep
from agentsrv.workspace.paths import Workspace
from agentsrv.workspace.search import NameSearch
from agentsrv.workspace.upload import ALWAYS, Condition, Staged, Uploads, upload_paths
from agentsrv.workspace.walk import Entry, Listing, Walk

T = TypeVar("T")

LISTING_TIMEOUT_S = 20.0
SEARCH_TIMEOUT_S = 2.0
GREP_TIMEOUT_S = 10.0
ARCHIVE_TIMEOUT_S = 3600.0

MAX_ARCHIVES = 8
"""At the same time: they are the one thing here that costs much processor time."""

MAX_ARCHIVE_DEPTH = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """What a walk begins with. `path` as clients see it, `full` as the system does."""

    path: str
    full: str
    checkout: Checkout | None
    is_denied: bool
    """The server may not read this directory: there is nothing to list."""


@dataclass(frozen=True, slots=True)
class Found:
    """Entries or lines that were searched for; `is_truncated`: there may be more."""

    where: Where
    entries: list[Entry]
    is_truncated: bool


class FileService:
    """Everything that the file routes do. Raises the errors of `workspace.paths` and `workspace.disk`."""

    def __init__(
        self, workspace: Workspace, *, uploads_directory: Path, max_upload_bytes: int, search_path: str
    ) -> None:
        self.workspace = workspace
        self._disk = Disk()
        self._uploads = Uploads(uploads_directory, workspace, self._disk, max_upload_bytes)
        self._ripgrep = find_ripgrep(search_path)
        self._archives = 0

    async def open(self) -> None:
        """Sweep what an earlier server left of its uploads."""
        await self._disk.run(self._uploads.prepare)

    def close(self) -> None:
        self._disk.close()
