"""Paths for those who live in the event loop: a mount that does not answer must not stop them."""

from __future__ import annotations

import os
from pathlib import Path

from agentsrv.threads import Pool
from agentsrv.workspace.paths import Workspace


class PathFinder:
    """Asks the workspace in a thread, within the pool's time. Raises also Unavailable (`no_answer`)."""

    def __init__(self, workspace: Workspace, paths: Pool) -> None:
        self._workspace = workspace
        self._paths = paths

    async def directory(self, text: str | None) -> Path:
        """See `Workspace.directory`."""
        return await self._paths.run(self._workspace.directory, text)

    async def resolve(self, text: str) -> str:
        """See `Workspace.resolve`."""
        return await self._paths.run(self._workspace.resolve, text)

    async def is_gone(self, path: str) -> bool:
        """Is there nothing at this path any more?"""
        return not await self._paths.run(os.path.lexists, path)

    async def is_below_git(self, directory: str) -> bool:
        """Is there a `.git` in it or above, within the workspace?"""
        return await self._paths.run(self._is_below_git, Path(directory))

    def _is_below_git(self, directory: Path) -> bool:
        inside = [path for path in (directory, *directory.parents) if self._workspace.contains(str(path))]
        return any(os.path.lexists(path / ".git") for path in inside)
