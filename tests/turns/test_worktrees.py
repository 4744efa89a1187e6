"""Which session has which worktree, when something goes wrong in the middle."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from agentsrv.errors import AgentsrvError, Unprocessable
from agentsrv.model import Session, SessionId, Turn, TurnId, TurnStatus
from agentsrv.store import sessions, turns
from agentsrv.store.database import Database
from agentsrv.turns.setup import WorktreeWish
from agentsrv.turns.worktrees import SessionWorktrees
from agentsrv.workspace.finder import PathFinder
from agentsrv.workspace.git.workers import GitWorkers
from agentsrv.workspace.paths import Workspace
from tests.kit import THREADS
from tests.migrated import put_database
from tests.workspace.git_kit import make_repository, run_git

NEW = Session(
    id=SessionId("s"),
    name=None,
    agent="claude-code",
    cwd="",
    model=None,
    internal_session_id=None,
    created_at=1,
    updated_at=1,
)


@asynccontextmanager
async def serving(
    directory: Path, timeout_s: float = 20.0
) -> AsyncIterator[tuple[SessionWorktrees, Database]]:
    base = directory / "base"
    put_database(directory / "db")
    db = Database(directory / "db")
    await db.open()
    readers = GitWorkers(Workspace(base), {}, THREADS.processes)
    writers = GitWorkers(Workspace(base), {}, THREADS.processes, may_write=True, request_timeout_s=timeout_s)
    try:
        yield (
            SessionWorktrees(
                db, PathFinder(Workspace(base), THREADS.paths), readers=readers, writers=writers
            ),
            db,
        )
    finally:
        await readers.close()
        await writers.close()
        await db.close()


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "base/repo", {"a": "a\n"})


def is_untouched(repo: Path) -> bool:
    shelves = repo.parent / ".worktrees"
    is_empty = not shelves.exists() or os.listdir(shelves) == [".gitignore"]
    return is_empty and run_git(repo, "branch") == b"* main\n" and not (repo / ".git/worktrees").exists()


async def test_one_that_takes_too_long(tmp_path: Path, repo: Path) -> None:
    """A repository that keeps git waiting: the process is killed, and what it had made is cleared by another."""
    os.mkfifo(tmp_path / "pipe")
    run_git(repo, "config", "core.attributesFile", str(tmp_path / "pipe"))
    async with serving(tmp_path, timeout_s=1.5) as (worktrees, _):
        with pytest.raises(Unprocessable) as caught:
            await worktrees.make(replace(NEW, cwd=str(repo)), WorktreeWish(), is_new=True)

    assert caught.value.code == "repository_too_slow"
    assert is_untouched(repo)


async def test_a_session_that_has_one_keeps_it(tmp_path: Path, repo: Path) -> None:
    """A late attempt for a session that has got its worktree meanwhile does not take it for a leftover."""
    async with serving(tmp_path) as (worktrees, db):
        session, _ = await worktrees.make(replace(NEW, cwd=str(repo)), WorktreeWish(), is_new=True)
        await db.write(lambda connection: sessions.insert(connection, session))
        with pytest.raises(AgentsrvError) as caught:
            await worktrees.make(replace(NEW, cwd=str(repo)), WorktreeWish(), is_new=True)
        listed = await worktrees.list_all()

    assert caught.value.code == "session_exists"
    assert [(item.worktree.path, item.session_id) for item in listed] == [(session.worktree, "s")]


async def test_a_session_of_the_earlier_server_has_worked_already(tmp_path: Path, repo: Path) -> None:
    """It has turns, and no lease was ever taken for them."""
    session = replace(NEW, cwd=str(repo))
    turn = Turn(TurnId("t"), NEW.id, 0, TurnStatus.COMPLETED, 1)
    async with serving(tmp_path) as (worktrees, db):
        await db.write(lambda connection: sessions.insert(connection, session))
        await db.write(lambda connection: turns.insert(connection, turn))
        with pytest.raises(AgentsrvError) as caught:
            await worktrees.make(session, WorktreeWish(), is_new=False)

    assert caught.value.code == "worktree_mismatch"
    assert is_untouched(repo)


async def test_undoing_takes_all_of_it(tmp_path: Path, repo: Path) -> None:
    """Also what an agent has put there that was started and never had a prompt."""
    async with serving(tmp_path) as (worktrees, _):
        session, _ = await worktrees.make(replace(NEW, cwd=str(repo)), WorktreeWish(), is_new=True)
        Path(session.cwd, "settings").write_text("x")
        await worktrees.undo(session)

    assert is_untouched(repo)


async def test_where_another_session_works_nothing_is_removed(tmp_path: Path, repo: Path) -> None:
    """A session that was made with a directory inside of the worktree counts as well."""
    async with serving(tmp_path) as (worktrees, db):
        session, _ = await worktrees.make(replace(NEW, cwd=str(repo)), WorktreeWish(), is_new=True)
        guest = replace(NEW, id=SessionId("guest"), cwd=f"{session.worktree}/deep")
        await db.write(lambda connection: sessions.insert(connection, guest))
        with pytest.raises(AgentsrvError) as caught:
            await worktrees.remove_of(session, force=True)

    assert (caught.value.code, caught.value.extra) == ("worktree_in_use", {"sessionId": "guest"})
    assert Path(session.cwd).is_dir()
