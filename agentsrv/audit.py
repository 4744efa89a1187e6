"""The audit log: who has done what, kept in the database for as long as the settings say.

Nobody waits for most of it: entries are written together, a moment later. What must not have happened without a trace
(deletions, keys) is written before it is answered.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from agentsrv.errors import AgentsrvError
from agentsrv.model import AuditEntry
from agentsrv.store import audit
from agentsrv.store.database import Database
from agentsrv.tasks import Tasks

log = logging.getLogger(__name__)

GATHER_S = 0.2
MAX_WAITING = 10_000
MAX_WAIT_S = 10.0
DROPPED_AT_ONCE = 1000
DAY_MS = 24 * 3600 * 1000


class Audit:
    def __init__(self, db: Database, keep_days: int) -> None:
        self._db = db
        self._keep_ms = keep_days * DAY_MS
        self._waiting: list[AuditEntry] = []
        self._tasks = Tasks("audit")
        self._is_writing = False

    def record(self, entry: AuditEntry) -> None:
        if len(self._waiting) >= MAX_WAITING:
            # The disk has been full for long. The access log has it.
            log.error("the audit log cannot be written", extra={"action": entry.action, "key": entry.key})
            return
        self._waiting.append(entry)
        if not self._is_writing:
            self._is_writing = True
            self._tasks.spawn(self._write(), name="write")

    async def record_now(self, entry: AuditEntry) -> None:
        """Returns when it is in the database, with what waits, or cannot be: then the server's log says so."""
        self._waiting.append(entry)
        await self._append(self._taken())

    async def page(self, *, before: int, limit: int) -> list[tuple[int, AuditEntry]]:
        """Entries with an id below `before`, newest first."""
        return await audit.page(self._db, before=before, limit=limit)

    async def written(self) -> None:
        """Until what has been recorded is in the database."""
        await self._tasks.join(MAX_WAIT_S)

    async def close(self) -> None:
        """Write what waits."""
        await self._tasks.close()
        if self._waiting:
            await self._append(self._taken())

    async def _write(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(GATHER_S)
                if entries := self._taken():
                    await self._append(entries)
        finally:
            self._is_writing = False

    def _taken(self) -> Sequence[AuditEntry]:
        taken, self._waiting = self._waiting, []
        return taken

    async def _append(self, entries: Sequence[AuditEntry]) -> None:
        # The database keeps a day's entries whatever we say.
        oldest = time.time_ns() // 1_000_000 - max(self._keep_ms, DAY_MS)
        try:
            if self._keep_ms:
                await self._db.write(lambda db: audit.append(db, entries))
            await self._db.write(lambda db: audit.drop_before(db, oldest, DROPPED_AT_ONCE))
        except AgentsrvError as exc:
            log.error("the audit log cannot be written: %s", exc, extra={"entries": len(entries)})
