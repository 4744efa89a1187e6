"""Which session works in which git worktree: made before its first turn, removed when its user says so.

The repositories themselves are worked with in `workspace/git/worktrees.py`, in another process.
"""

from __future__ import annotations

import logging
from typing import TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from agentsrv.errors import AgentsrvError, Conflict, Forbidden, NotFound, StorageFull, Unprocessable
from agentsrv.jsontext import dump
from agentsrv.model import Session, SessionId
from agentsrv.store import sessions, turns
from agentsrv.store import worktrees as rows
from agentsrv.store.database import Database
from agentsrv.turns.setup import WorktreeWish
from agentsrv.workspace.finder import PathFinder
from agentsrv.workspace.git.protocol import (
    DiscardWorktree,
    FindWorktrees,
    FoundWorktrees,
    Made,
    MadeWorktree,
    MakeWorktree,
    MergedWorktree,
    MergeHow,
    MergeWorktree,
    RemovedWorktree,
    RemoveWorktree,
    Request,
    RestoreWorktree,
    Worktree,
)
from agentsrv.workspace.git.workers import GitWorkers
from agentsrv.workspace.paths import is_text

log = logging.getLogger(__name__)

T = TypeVar("T")


class SessionWorktree(Struct, frozen=True):
    """`session_id` None: its session is gone."""

    worktree: Worktree
    session_id: SessionId | None


class CleanedUp(Struct, frozen=True):
    """`branch` went with it. `kept_because` None: it was removed."""

    worktree: Worktree
    branch: str | None
    kept_because: str | None


class SessionWorktrees:
    """`readers` may not write files, `writers` may."""

    def __init__(self, db: Database, paths: PathFinder, *, readers: GitWorkers, writers: GitWorkers) -> None:
        self._db = db
        self._paths = paths
        self._readers = readers
        self._writers = writers

    async def is_missing(self, session: Session) -> bool:
        """Does a session that is asked to work in a worktree need one? Raises Conflict (`worktree_mismatch`)."""
        if session.worktree is not None:
            return await self._paths.is_gone(session.worktree)
        if session.generation or session.fork is not None:
            raise _mismatch(session)
        return True

    async def make(self, session: Session, wish: WorktreeWish, *, is_new: bool) -> tuple[Session, bytes]:
        """The session in a worktree of its own, which is not stored yet, and the event that tells of it.

        No turn of the session may run or begin meanwhile.

        Raises InvalidInput (`no_repository`, `no_commits`), Forbidden, Unprocessable, Conflict
        (`worktree_mismatch`), StorageFull, Unavailable; then nothing is left behind.
        """
        if session.worktree is not None:
            return session, await self._restore(session, session.worktree, wish)
        await self._require_unused(session, is_new=is_new)
        in_use = await sessions.worktrees_named(self._db, session.id.partition(".")[0])
        try:
            request = MakeWorktree(
                cwd=session.cwd,
                session_id=session.id,
                base=wish.base,
                branch=wish.branch,
                copy_patterns=list(wish.copy),
                in_use=in_use,
            )
            made = await self._make(request)
        except (Unprocessable, StorageFull):
            # The worker may have been killed in the middle of it, or not have been able to clear all of it.
            await self._clean_up(
                session, DiscardWorktree(cwd=session.cwd, session_id=session.id, in_use=in_use)
            )
            raise
        return replace(session, cwd=made.cwd, worktree=made.path, origin_cwd=session.cwd), _told(made)

    async def _restore(self, session: Session, path: str, wish: WorktreeWish) -> bytes:
        """The one that it had, which is gone, at the same place; the event that tells of it."""
        request = RestoreWorktree(
            path=path,
            cwd=session.cwd,
            origin_cwd=session.origin_cwd or session.cwd,
            session_id=session.id,
            base=wish.base,
            branch=wish.branch,
            copy_patterns=list(wish.copy),
        )
        return _told(await self._make(request), restored=True)

    async def _make(self, request: MakeWorktree | RestoreWorktree) -> MadeWorktree:
        """Its branch is noted before anybody can use it: nothing else will say whose that is."""
        answer = await self._ask(self._writers, request, MadeWorktree)
        if (made := answer.made) is not None:
            row = rows.MadeRow(answer.path, made.repository, made.branch)
            await self._db.write(lambda db: rows.note(db, row))
        return answer

    async def undo(self, session: Session) -> None:
        """Take back what `make` has made: the turn did not begin, and its agent never had a prompt."""
        assert session.worktree is not None
        if await sessions.owners(self._db, [session.worktree]):
            return  # It did begin: what failed came behind the commit. Or it is one that it had before.
        await self._take_away(session, session.worktree)

    async def take_back(self, session: Session) -> None:
        """The same before anybody could use it; one that was made again is gone again."""
        assert session.worktree is not None
        is_old = bool(await sessions.owners(self._db, [session.worktree]))
        await self._take_away(session, session.worktree, only_files=is_old)

    async def _take_away(self, session: Session, path: str, *, only_files: bool = False) -> None:
        made = await self._made(path)
        request = RemoveWorktree(path=path, made=made, force=True, for_good=True, only_files=only_files)
        await self._clean_up(session, request)

    async def remove_of(self, session: Session, *, force: bool) -> None:
        """Remove a session's worktree, if it has one, and its branch. Removing twice is fine.

        Raises Conflict (`worktree_has_changes`, `worktree_in_use`).
        """
        if session.worktree is not None:
            try:
                await self._remove(session.worktree, but=session.id, force=force)
            except NotFound:
                return

    async def remove(self, path: str, *, force: bool) -> RemovedWorktree:
        """Remove a worktree that no session works in any more, and its branch.

        Raises NotFound (`worktree_not_found`), Conflict (`worktree_has_changes`, `worktree_in_use`), Forbidden.
        """
        resolved = await self._paths.resolve(path)
        if not is_text(resolved):
            raise NotFound("no worktree of a session has such a name", code="worktree_not_found")
        return await self._remove(resolved, but=None, force=force)

    async def merge(
        self, session: Session, *, into: str | None, how: MergeHow, message: str | None
    ) -> MergedWorktree:
        """Take the commits of a session's worktree into a branch; nothing has changed when that raises.

        Raises Conflict (`merge_conflicts`, `merge_blocked`, `worktree_has_changes`, `no_worktree`), InvalidInput.
        """
        if session.worktree is None:
            raise Conflict(f"session {session.id} has no worktree of its own", code="no_worktree")
        made = await self._made(session.worktree)
        request = MergeWorktree(path=session.worktree, made=made, into=into, how=how, message=message)
        return await self._ask(self._writers, request, MergedWorktree)

    async def clean_up(self, *, older_than_ms: int, force: bool, is_dry: bool) -> list[CleanedUp]:
        """Remove those whose session is gone and in which nothing was done since then; to the trash."""
        found = list[CleanedUp]()
        for item in await self.list_all():
            is_old = item.worktree.used_at is None or item.worktree.used_at <= older_than_ms
            if item.session_id is None and is_old:
                found.append(await self._cleaned_up(item.worktree, force=force, is_dry=is_dry))
        return found

    async def _cleaned_up(self, worktree: Worktree, *, force: bool, is_dry: bool) -> CleanedUp:
        if is_dry:
            is_kept = not force and worktree.is_dirty is not False
            return CleanedUp(worktree, None, "it has changes, or cannot be looked at" if is_kept else None)
        try:
            removed = await self._remove(worktree.path, but=None, force=force)
        except (Conflict, NotFound, Forbidden, Unprocessable) as exc:
            return CleanedUp(worktree, None, exc.message)
        return CleanedUp(worktree, removed.branch, None)

    async def list_all(self) -> list[SessionWorktree]:
        """All that are there, by path."""
        found = await self._ask(self._readers, FindWorktrees(), FoundWorktrees)
        owners = await sessions.owners(self._db, [worktree.path for worktree in found.worktrees])
        return [SessionWorktree(worktree, owners.get(worktree.path)) for worktree in found.worktrees]

    async def _remove(self, path: str, *, but: SessionId | None, force: bool) -> RemovedWorktree:
        if (other := await sessions.working_in(self._db, path, but=but)) is not None:
            raise Conflict(
                f"session {other} works in the worktree {path}; delete that session first",
                code="worktree_in_use",
                extra={"sessionId": other},
            )
        request = RemoveWorktree(path=path, made=await self._made(path), force=force)
        removed = await self._ask(self._writers, request, RemovedWorktree)
        await self._db.write(lambda db: rows.forget(db, path))
        return removed

    async def _made(self, path: str) -> Made | None:
        """None of one that was made before the database knew of it: its branch stays."""
        row = await rows.find(self._db, path)
        return None if row is None else Made(repository=row.repository, branch=row.branch)

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


def _told(made: MadeWorktree, **more: bool) -> bytes:
    event: dict[str, object] = {"type": "system", "subtype": "worktree_init"}
    event |= {"cwd": made.cwd, "git_root": made.root, **more}
    if made.copied:
        event["copied"] = made.copied
    return dump(event)


def _mismatch(session: Session) -> Conflict:
    return Conflict(
        f"session {session.id} works in {session.cwd} already, without a worktree; "
        "leave out use_worktree, or use another session",
        code="worktree_mismatch",
    )
