"""A client of the Redis that REDIS_URL names: one that answers or fails within a second, and tries nothing twice."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from agentsrv.config import SENTINEL_URL

if TYPE_CHECKING:
    from redis.asyncio import Redis

TIMEOUT_S = 1.0
SENTINEL_PORT = 26379
MAX_CONNECTIONS = 8
"""Redis does one thing at a time, and opening a connection costs more than asking."""

LIMITS: Mapping[str, Any] = MappingProxyType({"socket_connect_timeout": TIMEOUT_S, "socket_timeout": None})
"""Who asks says how long that may take. The library's own limit goes by `asyncio.wait_for`, in which a task of Python
3.11 can miss that it is cancelled.
"""
LIMITS_OF_A_SENTINEL: Mapping[str, Any] = MappingProxyType(
    {"socket_connect_timeout": 0.3, "socket_timeout": 0.3}
)
"""So that there is time for the next one, when it hangs."""

# Redis is imported only by those who have one: it costs memory and start-up time.


def connect(url: str) -> Redis:
    """Connects when it is first used. Close it with `disconnect`."""
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    found = SENTINEL_URL.fullmatch(url)
    if found is not None:
        return _master(found.groupdict(""))
    client: Redis = Redis.from_url(
        url,
        **LIMITS,
        retry=Retry(NoBackoff(), 0),
        max_connections=MAX_CONNECTIONS,
    )
    return client


def _master(parts: dict[str, str]) -> Redis:
    """The Redis that the sentinels call the master, whichever that is by the time of a connection."""
    from redis.asyncio.retry import Retry
    from redis.asyncio.sentinel import Sentinel
    from redis.backoff import NoBackoff

    sentinels = Sentinel(  # type: ignore[no-untyped-call]  # of the library
        [_address(host) for host in parts["hosts"].split(",")],
        sentinel_kwargs={**LIMITS_OF_A_SENTINEL, "retry": Retry(NoBackoff(), 0)},
    )
    client: Redis = sentinels.master_for(
        unquote(parts["service"]),
        db=int(parts["db"] or 0),
        username=unquote(parts["user"]) or None,
        password=unquote(parts["password"]) or None,
        retry=Retry(NoBackoff(), 0),
        **LIMITS,
    )
    return client


async def disconnect(client: Redis) -> None:
    """With the connections to its sentinels, which it leaves open."""
    await client.aclose()
    manager = getattr(client.connection_pool, "sentinel_manager", None)
    for sentinel in manager.sentinels if manager else ():
        await sentinel.aclose()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":") if ":" in text else (text, "", "")
    return host.strip("[]"), int(port or SENTINEL_PORT)


async def ping(url: str) -> bool:
    """Does it answer?"""
    from redis.exceptions import RedisError

    client = connect(url)
    try:
        async with asyncio.timeout(2 * TIMEOUT_S):
            return bool(await client.ping())
    except (RedisError, OSError, TimeoutError):
        return False
    finally:
        await disconnect(client)
