"""A session that is deleted takes no prompts, is gone at once, and costs nobody else anything."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable

import pytest
from msgspec.structs import replace

from agentsrv.errors import Conflict, NotFound
from agentsrv.model import Chunk, Lease, Session, SessionId, Source, Turn, TurnId, TurnOptions, TurnStatus
from agentsrv.store import deletion, events, prompts, sessions, transactions, turns
from agentsrv.store.database import Database
from agentsrv.store.deletion import Remover
from agentsrv.store.events import StaleLease
from agentsrv.store.prompts import QueuedPrompt
from tests.store.kit import TIMEOUT_S

ANN = SessionId("ann")
SESSION = Session(ANN, None, "claude-code", "/", None, None, 1, 1)
TURN = Turn(TurnId("t"), ANN, 0, TurnStatus.RUNNING, 1, first_seq=1, message_id="m")


def chunk(turn: Turn, seq: int, size: int = 2) -> Chunk:
    return Chunk(ANN, turn.id, Source.SERVER, 1, seq, seq, b"x" * (size - 1) + b"\n")


async def open_turn(db: Database, turn: Turn = TURN, *, is_new: bool = False) -> Turn:
    prompt = chunk(turn, turn.first_seq)
    return await transactions.open_turn(db, SESSION, turn, is_new_session=is_new, prompt=prompt, runner=None)


async def close_turn(db: Database, turn: Turn) -> Turn:
    ended = replace(turn, status=TurnStatus.COMPLETED, finished_at=2, last_seq=turn.first_seq + 1)
    await transactions.close_turn(db, ended, chunk(turn, ended.last_seq or 0), runner_id=None, agent_state={})
    return ended


async def begin(db: Database, *, force: bool = False) -> None:
    await db.write(lambda c: deletion.begin(c, ANN, force=force))


async def decide(db: Database) -> None:
    await db.write(lambda c: deletion.decide(c, ANN))


async def remove_all(db: Database) -> int:
    """In how many slices."""
    count = 1
    while not await db.write(lambda c: deletion.remove_slice(c, ANN)):
        count += 1
    return count


@pytest.fixture
async def ann(db: Database) -> Turn:
    """A session with one job that has ended."""
    return await close_turn(db, await open_turn(db, is_new=True))


async def new_turn(db: Database) -> None:
    await open_turn(db, Turn(TurnId("new"), ANN, 0, TurnStatus.RUNNING, 3, first_seq=3, message_id="new"))


async def queue(db: Database) -> None:
    prompt = QueuedPrompt(TurnId("waits"), ANN, "hi", b"{}", TurnOptions(), "waits", 3)
    await db.write(lambda c: prompts.append(c, prompt))


async def steer(db: Database) -> None:
    await transactions.add_to_turn(db, replace(TURN, generation=1), chunk(TURN, 3), "steered")


async def create_anew(db: Database) -> None:
    await db.write(lambda c: sessions.insert(c, SESSION))


PROMPTS: dict[str, Callable[[Database], Awaitable[None]]] = {
    "new turn": new_turn,
    "queued": queue,
    "steered": steer,
}


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("moment", ["begun", "decided", "removed"])
async def test_no_prompt_gets_into_a_session_that_is_being_deleted(
    db: Database, ann: Turn, prompt: str, moment: str
) -> None:
    """From the first moment on a prompt is refused, whichever way it comes: none is destroyed afterwards."""
    await begin(db)
    if moment != "begun":
        await decide(db)
    if moment == "removed":
        await remove_all(db)

    with pytest.raises((Conflict, NotFound)) as caught:
        await PROMPTS[prompt](db)
    if moment != "removed":
        assert caught.value.code == "session_deleting"


@pytest.mark.parametrize("prompt", ["new turn", "queued"])
async def test_session_with_a_prompt_is_not_deleted_unless_forced(
    db: Database, ann: Turn, prompt: str
) -> None:
    """What was acknowledged a moment before the deletion is not destroyed by it."""
    await PROMPTS[prompt](db)

    with pytest.raises(Conflict) as caught:
        await begin(db)
    assert caught.value.code == "session_busy"
    await begin(db, force=True)
    with pytest.raises(Conflict) as caught:
        await begin(db, force=True)
    assert caught.value.code == "session_deleting"


async def test_deletion_that_is_given_up_leaves_a_session_like_all_others(db: Database, ann: Turn) -> None:
    """Its worktree had changes, say."""
    await begin(db)
    await db.write(lambda c: deletion.give_up(c, ANN))
    await new_turn(db)

    assert (await turns.get(db, TurnId("new"))).status is TurnStatus.RUNNING


async def test_deleted_session_is_gone_for_everybody_at_once(db: Database, ann: Turn) -> None:
    """Neither it nor its jobs are found, whatever of them is still there."""
    running = await open_turn(db, Turn(TurnId("u"), ANN, 0, TurnStatus.RUNNING, 3, first_seq=3))
    await begin(db, force=True)
    await decide(db)

    assert await sessions.find(db, ANN) is None
    assert await sessions.page(db, agent=None, before=None, limit=10) == []
    assert await sessions.working_in(db, "/") is None
    assert await turns.page(db, session_id=None, status=None, before=None, limit=10) == []
    assert await turns.find_by_message(db, ANN, "m") is None
    with pytest.raises(NotFound):
        await turns.get(db, ann.id)
    with pytest.raises(StaleLease):
        await db.write(lambda c: events.insert(c, chunk(running, 9), Lease(ANN, running.generation)))
    with pytest.raises(Conflict):
        await create_anew(db)


async def test_id_may_be_used_again_once_all_is_removed(db: Database, ann: Turn) -> None:
    """A new session of the same name begins at its first event, and knows no message of the old one."""
    await begin(db)
    await decide(db)
    await remove_all(db)
    await open_turn(db, is_new=True)

    assert await events.last_seq(db, ANN) == 1


async def test_large_session_is_removed_in_slices(db: Database, ann: Turn) -> None:
    """No transaction removes more than some 30 ms of work: others write in between."""

    def fill(c: sqlite3.Connection) -> None:
        for seq in range(3, 103):
            events.insert(c, chunk(TURN, seq, 256 * 1024), Lease(ANN, ann.generation))

    await db.write(fill)
    await begin(db)
    await decide(db)
    slices = await remove_all(db)

    assert slices >= 100 * 256 * 1024 / deletion.SLICE_BYTES
    for table in ("sessions", "turns", "events"):
        assert (await db.read(f"SELECT count(*) FROM {table}"))[0][0] == 0


async def test_next_server_goes_on_with_what_was_decided(db: Database, ann: Turn) -> None:
    """A server that is killed in the middle leaves nothing behind for good, and no session half deleted."""
    await begin(db)
    await decide(db)
    await db.write(lambda c: sessions.insert(c, replace(SESSION, id=SessionId("bob"))))
    await db.write(lambda c: deletion.begin(c, SessionId("bob"), force=True))
    remover = Remover(db)
    await remover.start()
    await remover.remove(ANN)
    await remover.close()

    assert [session.id for session in await sessions.page(db, agent=None, before=None, limit=10)] == ["bob"]
    assert (await db.read("SELECT count(*), count(deletion) FROM sessions"))[0][:] == (1, 0)
    assert (await db.read("SELECT count(*) FROM events"))[0][0] == 0


async def test_space_is_given_back_to_the_disk(db: Database, ann: Turn) -> None:
    """The file is shorter after a large session is gone, but for some space that stays for what comes next."""

    def fill(c: sqlite3.Connection) -> None:
        events.insert(c, chunk(TURN, 3, 32 * 1024 * 1024), Lease(ANN, ann.generation))

    await db.write(fill)
    await begin(db)
    await decide(db)
    remover = Remover(db)
    await remover.remove(ANN)
    assert await remover._tasks.join(TIMEOUT_S)
    await remover.close()
    await db.write(lambda c: c.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall(), is_alone=True)

    assert db.path.stat().st_size < (deletion.SPARE_PAGES + 300) * 4096
