"""What must happen together: a turn is opened and closed in one transaction each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import aiosqlite

from agentsrv.model import Chunk, Lease, RunnerId, Session, Turn
from agentsrv.store import events, runners, sessions, turns
from agentsrv.store.database import Database
from agentsrv.store.runners import RunnerRecord


async def open_turn(
    db: Database,
    session: Session,
    turn: Turn,
    *,
    is_new_session: bool,
    prompt: Chunk | None,
    runner: RunnerRecord | None,
) -> Turn:
    """Create the session if it is new, take its lease, and store the turn, its prompt and its runner-to-be.

    Returns the turn with its generation. Raises Conflict (`session_busy`, `session_exists`,
    `message_id_used`), NotFound, StorageFull; then nothing has happened. A turn without a prompt is work that
    the agent has begun by itself: it is stored whatever it takes.
    """

    async def write(connection: aiosqlite.Connection) -> Turn:
        if is_new_session:
            await sessions.insert(connection, session)
        generation = await sessions.acquire_lease(connection, session, turn)
        opened = replace(turn, generation=generation)
        await turns.insert(connection, opened)
        if prompt is not None:
            await events.insert(connection, prompt, Lease(session.id, generation))
        if runner is not None:
            await runners.insert(connection, runner)
        return opened

    return await db.write(write, must_happen=prompt is None)


async def close_turn(
    db: Database, turn: Turn, last_events: Chunk, *, runner_id: RunnerId | None, agent_state: dict[str, Any]
) -> None:
    """Store the outcome and the last events of `turn` and release its lease. Waits for disk space.

    Raises StaleLease when the lease is not the turn's any more; then nothing is written.
    """

    async def write(connection: aiosqlite.Connection) -> None:
        await events.insert(connection, last_events, Lease(turn.session_id, turn.generation))
        await turns.finish(connection, turn)
        await sessions.release_lease(connection, turn)
        if runner_id is not None:
            await runners.set_agent_state(connection, runner_id, agent_state)

    await db.write(write, must_happen=True)
