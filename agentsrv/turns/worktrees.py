"""Which session works in which git worktree: made before its first turn, removed when its user says so.

The repositories themselves are worked with in `workspace/worktrees.py`, in another process.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TypeVar

import msgspec

from agentsrv.agents.base import dump
from agentsrv.errors import AgentsrvError, Conflict, NotFound, StorageFull, Unprocessable
from agentsrv.model import Session, SessionId
from agentsrv.store import sessions, turns
from agentsrv.store.database import Database
from agentsrv.workspace.git_protocol import (
    DiscardWorktree,
    FindWorktrees,
    FoundWorktrees,
    MadeWorktree,
    MakeWorktree,
    RemovedWorktree,
    RemoveWorktree,
    Request,
    Worktree,
)
from agentsrv.workspace.paths import Workspace, is_text
from agentsrv.workspace.worker import GitWorkers

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SessionWorktree:
    """`session_id` None: its session is gone."""

    worktree: Worktree
    session_id: SessionId | None


class SessionWorktrees:
    """`readers` may not write files, `writers` may."""

    def __init__(
        self, db: Database, workspace: Workspace, *, readers: GitWorkers, writers: GitWorkers
    ) -> None:
        self._db = db
        self._workspace = workspace
        self._readers = readers
        self._writers = writers

    def is_missing(self, session: Session) -> bool:
        """Does a session that is asked to work in a worktree need one? Raises Conflict (`worktree_mismatch`)."""
        if session.worktree is not None:
            return False
        if session.generation or session.fork is not None:
            raise _mismatch(session)
        return True

    async def make(self, session: Session, *, is_new: bool) -> tuple[Session, bytes]:
        """The session in a worktree of its own, which is not stored yet, and the event that tells of it.

        No turn of the session may run or begin meanwhile.

        Raises InvalidInput (`no_repository`, `no_commits`), Forbidden, Unprocessable, Conflict
        (`worktree_mismatch`), StorageFull, Unavailable; then nothing is left behind.
        """
        await self._require_unused(session, is_new=is_new)
        try:
            request = MakeWorktree(cwd=session.cwd, session_id=session.id)
            made = await self._ask(self._writers, request, MadeWorktree)
        except (Unprocessable, StorageFull):
            # The worker may have been killed in the middle of it, or not have been able to clear all of it.
            await self._clean_up(session, DiscardWorktree(cwd=session.cwd, session_id=session.id))
            raise
        event = {"type": "system", "subtype": "worktree_init", "cwd": made.cwd, "git_root": made.root}
        return replace(session, cwd=made.cwd, worktree=made.path, origin_cwd=session.cwd), dump(event)

    async def undo(self, session: Session) -> None:
        """Take back what `make` has made: the turn did not begin, and its agent never had a prompt."""
        assert session.worktree is not None
        if session.worktree in await sessions.worktrees(self._db):
            return  # It did begin: what failed came behind the commit.
        await self._clean_up(session, RemoveWorktree(path=session.worktree, force=True))

    async def remove_of(self, session: Session, *, force: bool) -> None:
        """Remove a session's worktree, if it has one, and its branch. Removing twice is fine.

        Raises Conflict (`worktree_has_changes`, `worktree_in_use`).
        """
        if session.worktree is not None:
            try:
                await self._remove(session.worktree, {session.id}, force=force)
            except NotFound:
                return

    async def remove(self, path: str, *, force: bool) -> RemovedWorktree:
        """Remove a worktree that no session works in any more, and its branch.

        Raises NotFound (`worktree_not_found`), Conflict (`worktree_has_changes`, `worktree_in_use`), Forbidden.
        """
        resolved = self._workspace.resolve(path)
        if not is_text(resolved):
            raise NotFound("no worktree of a session has such a name", code="worktree_not_found")
        return await self._remove(resolved, set(), force=force)

    async def list_all(self) -> list[SessionWorktree]:
        """All that are there, by path."""
        found = await self._ask(self._readers, FindWorktrees(), FoundWorktrees)
        owners = await sessions.worktrees(self._db)
        return [SessionWorktree(worktree, owners.get(worktree.path)) for worktree in found.worktrees]

    async def _remove(self, path: str, without: set[SessionId], *, force: bool) -> RemovedWorktree:
        if others := set(await sessions.working_in(self._db, path)) - without:
            other = min(others)
            raise Conflict(
                f"session {other} works in the worktree {path}; delete that session first",
                code="worktree_in_use",
                extra={"sessionId": other},
            )
        return await self._ask(self._writers, RemoveWorktree(path=path, force=force), RemovedWorktree)

    async def _require_unused(self, session: Session, *, is_new: bool) -> None:
        """What is left of an earlier attempt is going to be cleared, so no attempt may have succeeded."""
        stored = await sessions.find(self._db, session.id)
        if stored is not None and (is_new or stored.generation or stored.worktree is not None):
            raise sessions.exists(session.id)
        if stored is None and not is_new:
            raise sessions.not_found(session.id)
        # Sessions of the earlier server have turns and never had a lease.
        if await turns.page(self._db, session_id=session.id, status=None, before=None, limit=1):
            raise _mismatch(session)

    async def _clean_up(self, session: Session, request: Request) -> None:
        try:
            await self._writers.ask(request)
        except AgentsrvError as exc:
            log.warning("what was made of a worktree for session %s stays: %s", session.id, exc.code)

    async def _ask(self, workers: GitWorkers, request: Request, answer: type[T]) -> T:
        return msgspec.json.decode(await workers.ask(request) + b"}", type=answer)


def _mismatch(session: Session) -> Conflict:
    return Conflict(
        f"session {session.id} works in {session.cwd} already, without a worktree; "
        "leave out use_worktree, or use another session",
        code="worktree_mismatch",
    )
