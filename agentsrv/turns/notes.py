"""What the server has to say in a session's log outside of what its turns do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from agentsrv.eventlog import EventLog, now_ms
from agentsrv.model import Chunk, Lease, Session, SessionId, Source
from agentsrv.store import events, sessions
from agentsrv.store.database import Database
from agentsrv.store.events import StaleLease

TRIES = 5


async def tell(db: Database, log: EventLog, session_id: SessionId, event: Mapping[str, Any]) -> None:
    """Put an event into a session's log, if there is such a session; in a running turn it is one of that."""
    line = json.dumps(event).encode() + b"\n"
    for _try in range(TRIES):
        session = await sessions.find(db, session_id)
        if session is None or await _is_told(db, log, session, line):
            return


async def _is_told(db: Database, log: EventLog, session: Session, line: bytes) -> bool:
    """False when a turn has begun in this very moment."""
    session_log = await log.session(session.id)
    async with session_log.hold() as seq:
        chunk = Chunk(session.id, session.active_turn_id, Source.SERVER, now_ms(), seq, seq, line)
        lease = Lease(session.id, session.generation)
        try:
            await db.write(partial(events.insert, chunk=chunk, lease=lease), must_happen=True)
        except StaleLease:
            return False
        session_log.publish(chunk)
        return True
