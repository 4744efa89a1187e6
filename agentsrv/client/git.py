"""`client.git`: the git repositories of the server's workspace, and diffs as patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Struct

from agentsrv.client.models import Answer, CleanUp, DiffFile, Repository, Worktree
from agentsrv.client.patch import is_untold, patch_of
from agentsrv.client.resources import Resource


class Diff(Answer, frozen=True, kw_only=True):
    """What differs between `base` and `head`, which is None for the working tree."""

    repo_path: str
    relative_path: str
    base: str
    head: str | None
    base_id: str | None
    head_id: str | None
    files: list[DiffFile]
    truncated: bool

    @property
    def incomplete(self) -> list[str]:
        """The paths whose change is not in the patch: binary ones, those over a limit, unreadable ones."""
        return [file.path for file in self.files if is_untold(file)]

    def patch(self) -> bytes:
        """What `git apply` takes. Of what is `incomplete` it has nothing."""
        return patch_of(self.files)


class _Repositories(Struct):
    repositories: list[Repository]


class _Worktrees(Struct):
    worktrees: list[Worktree]


class AsyncGit(Resource):
    """`client.git`."""

    async def repositories(self) -> Sequence[Repository]:
        """Everything below the workspace that has a `.git`."""
        return (await self._connection.ask("GET", "/git/repositories", _Repositories)).repositories

    async def diff(
        self,
        path: str = "",
        *,
        base: str | None = None,
        head: str | None = None,
        staged: bool = False,
        merge_base: bool = False,
        context: int | None = None,
        paths: Sequence[str] = (),
        summary: bool = False,
        ignore_whitespace: Literal["none", "eol", "change", "all"] = "none",
        ignore_blank_lines: bool = False,
        submodules: Literal["commit", "contents"] = "commit",
    ) -> Diff:
        """What differs in the repository around `path`: from `base` (HEAD) to `head` (the working tree)."""
        query = {
            "path": path,
            "base": base,
            "head": head,
            "staged": staged or None,
            "merge_base": merge_base or None,
            "context": context,
            "paths": list(paths),
            "summary": summary or None,
            "ignore_whitespace": None if ignore_whitespace == "none" else ignore_whitespace,
            "ignore_blank_lines": ignore_blank_lines or None,
            "submodules": None if submodules == "commit" else submodules,
        }
        return await self._connection.ask("GET", "/git/diff", Diff, query=query)

    async def worktrees(self) -> Sequence[Worktree]:
        """All worktrees that were made for sessions."""
        return (await self._connection.ask("GET", "/git/worktrees", _Worktrees)).worktrees

    async def remove_worktree(self, path: str, *, force: bool = False) -> None:
        """Remove one whose session is gone, and its branch."""
        query = {"path": path, "force": force}
        await self._connection.ask("DELETE", "/git/worktrees", dict[str, Any], query=query)

    async def clean_up_worktrees(
        self, *, older_than_days: float = 30, force: bool = False, dry_run: bool = False
    ) -> CleanUp:
        """Remove those whose sessions are gone and that nobody has used for so long; `force`: also what loses work."""
        body = {"olderThanDays": older_than_days, "force": force, "dryRun": dry_run}
        return await self._connection.ask("POST", "/git/worktrees/clean-up", CleanUp, body=body)
