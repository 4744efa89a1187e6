"""What must happen together: a turn is opened and closed in one transaction each."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from agentsrv.model import Chunk, Lease, RunnerId, Session, Turn, TurnStatus
from agentsrv.store import events, prompts, runners, sessions, turns
from agentsrv.store.database import Database
from agentsrv.store.prompts import QueuedPrompt
from agentsrv.store.runners import RunnerRecord


async def open_turn(
    db: Database,
    session: Session,
    turn: Turn,
    *,
    is_new_session: bool,
    prompt: Chunk | None,
    runner: RunnerRecord | None,
    was_queued: bool = False,
) -> Turn:
    """Create the session if it is new, take its lease, and store the turn, its prompt and its runner-to-be.

    A turn that was queued leaves the queue.

    Returns the turn with its generation. Raises Conflict (`session_busy`, `session_exists`,
    `message_id_used`), NotFound, StorageFull; then nothing has happened. A turn without a prompt is work that
    the agent has begun by itself: it is stored whatever it takes.
    """

    def write(connection: sqlite3.Connection) -> Turn:
        if is_new_session:
            sessions.insert(connection, session)
        generation = sessions.acquire_lease(connection, session, turn)
        opened = replace(turn, generation=generation)
        if not was_queued:
            turns.require_new_message(connection, turn.session_id, turn.message_id)
        elif not prompts.delete(connection, turn.id):
            raise prompts.not_queued(turn.session_id, turn.id)  # It was cancelled a moment ago.
        turns.insert(connection, opened)
        if prompt is not None:
            events.insert(connection, prompt, Lease(session.id, generation))
        if runner is not None:
            runners.insert(connection, runner)
        return opened

    return await db.write(write, must_happen=prompt is None)


async def close_turn(
    db: Database,
    turn: Turn,
    last_events: Chunk,
    *,
    runner_id: RunnerId | None,
    agent_state: dict[str, Any],
    earlier_model: str | None = None,
    unread: Sequence[QueuedPrompt] = (),
) -> None:
    """Store the outcome and the last events of `turn` and release its lease. Waits for disk space.

    `earlier_model` is what the session had when the turn began; one that has worked takes its place.
    `unread` is what was added to the turn and becomes the next turns of its session instead.
    Raises StaleLease when the lease is not the turn's any more; then nothing is written.
    """

    def write(connection: sqlite3.Connection) -> None:
        events.insert(connection, last_events, Lease(turn.session_id, turn.generation))
        turns.finish(connection, turn)
        if turn.status is TurnStatus.COMPLETED:
            sessions.keep_model(connection, turn, earlier_model)
        sessions.release_lease(connection, turn)
        if runner_id is not None:
            runners.set_agent_state(connection, runner_id, agent_state)
        for prompt in reversed(unread):
            prompts.insert(connection, prompt, is_first=True)

    await db.write(write, must_happen=True)


async def resolve_question(
    db: Database, turn: Turn, event: Chunk, *, allowance: str | None, must_happen: bool
) -> None:
    """Store the answer to a question of the agent, the turn's status and mode after it, and what is allowed then.

    Raises StaleLease, StorageFull unless it `must_happen`.
    """

    def write(connection: sqlite3.Connection) -> None:
        events.insert(connection, event, Lease(turn.session_id, turn.generation))
        turns.set_status(connection, turn.id, turn.status)
        turns.set_mode(connection, turn.id, turn.options.permission_mode)
        if allowance is not None:
            sessions.add_allowance(connection, turn.session_id, allowance)

    await db.write(write, must_happen=must_happen)


async def add_to_turn(db: Database, turn: Turn, message: Chunk, message_id: str | None) -> None:
    """Store a user message that joins a running turn. Raises MessageIdUsed, Conflict (`session_deleting`), StaleLease,
    StorageFull."""

    def write(connection: sqlite3.Connection) -> None:
        sessions.require_kept(connection, turn.session_id)
        events.insert(connection, message, Lease(turn.session_id, turn.generation))
        if message_id is not None:
            turns.note_steered(connection, turn, message_id)

    await db.write(write)


async def cancel_queued(db: Database, turn: Turn) -> bool:
    """Turn a queued prompt into a job that was cancelled before it began; False when it has left the queue."""

    def write(connection: sqlite3.Connection) -> bool:
        if not prompts.delete(connection, turn.id):
            return False
        turns.insert(connection, turn)
        turns.finish(connection, turn)
        return True

    return await db.write(write)
