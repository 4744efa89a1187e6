"""Is what the server stands on there?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from msgspec import Struct

from agentsrv.errors import AgentsrvError
from agentsrv.store.database import Database
from agentsrv.tasks import Tasks, Vitals

TIMEOUT_S = 2.0


class Health(Struct, frozen=True):
    """`failed`: a task without which the server cannot go on. `storage_full`: events wait for disk space."""

    failed: str | None
    database: bool
    storage_full: bool
    redis_configured: bool
    redis_connected: bool


class HealthCheck:
    """Asks the database and, when there is one, Redis: `redis_answers`."""

    def __init__(
        self, db: Database, vitals: Vitals, redis_answers: Callable[[], Awaitable[bool]] | None
    ) -> None:
        self._db = db
        self._vitals = vitals
        self._redis_answers = redis_answers
        self._checking: asyncio.Task[Health] | None = None
        self._tasks = Tasks("health")

    async def check(self) -> Health:
        """What is found for one holds for all who ask meanwhile: a thousand strangers may, at once."""
        if self._checking is None:
            self._checking = self._tasks.start(self._check(), name="check")
            self._checking.add_done_callback(self._checked)
        return await asyncio.shield(self._checking)

    async def close(self) -> None:
        await self._tasks.close()

    def _checked(self, _: asyncio.Task[Health]) -> None:
        self._checking = None

    async def _check(self) -> Health:
        return Health(
            failed=self._vitals.failed,
            database=await self._database_answers(),
            storage_full=self._db.is_full,
            redis_configured=self._redis_answers is not None,
            redis_connected=self._redis_answers is not None and await self._redis_answers(),
        )

    async def _database_answers(self) -> bool:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._db.read("SELECT 1")
        except (AgentsrvError, TimeoutError):
            return False
        return True
