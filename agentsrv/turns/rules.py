"""Under which rules an agent works on what nobody has just prompted."""

from __future__ import annotations

from msgspec.structs import replace

from agentsrv.model import Session, TurnOptions
from agentsrv.store import turns
from agentsrv.store.database import Database


async def last_rules(db: Database, session: Session) -> TurnOptions:
    """Those of the last prompt; but nobody waits for its output in a form of theirs."""
    last = await turns.last_ended(db, session.id, None)
    options = TurnOptions() if last is None else last.options
    return replace(options, model=session.model, output_schema=None, first_mode=None, notes=None)
