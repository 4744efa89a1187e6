"""Is what the server stands on there?"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from agentsrv.errors import AgentsrvError
from agentsrv.store.database import Database

TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Health:
    """`database`: it answers. `storage_full`: events wait for disk space."""

    database: bool
    storage_full: bool
    redis_configured: bool
    redis_connected: bool


class HealthCheck:
    """Asks the database and, when there is one, Redis."""

    def __init__(self, db: Database, redis_url: str | None) -> None:
        self._db = db
        self._redis_url = redis_url

    async def check(self) -> Health:
        return Health(
            database=await self._database_answers(),
            storage_full=self._db.is_full,
            redis_configured=self._redis_url is not None,
            redis_connected=self._redis_url is not None and await ping_redis(self._redis_url),
        )

    async def _database_answers(self) -> bool:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._db.read("SELECT 1")
        except (AgentsrvError, TimeoutError):
            return False
        return True


async def ping_redis(url: str) -> bool:
    # Imported only by those who have a Redis: it costs memory and start-up time.
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisError

    client = Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0))
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return bool(await client.ping())
    except (RedisError, OSError, TimeoutError):
        return False
    finally:
        await client.aclose()
