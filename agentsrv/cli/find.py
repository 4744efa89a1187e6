"""What an ID on the command line means: a session, a job, or the beginning of one of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeVar

from agentsrv.cli.exits import Refused, UsageError
from agentsrv.client import AsyncAgentsrv, AsyncJob, BadRequestError, NotFoundError, Session

T = TypeVar("T")

LOOK_AT = 1000
"""How many of the newest sessions and jobs are compared with a prefix."""
SHOWN = 10


async def find(client: AsyncAgentsrv, text: str) -> Session | AsyncJob:
    """The session or job that `text` names, or that alone begins with it. Raises Refused, UsageError."""
    for get in (client.sessions.get, client.jobs.get):
        try:
            return await get(text)
        except (NotFoundError, BadRequestError):
            continue
    return await _find_prefix(client, text)


async def find_session(client: AsyncAgentsrv, text: str) -> Session:
    """The session that is meant, also by a job of it."""
    found = await find(client, text)
    return found if isinstance(found, Session) else await client.sessions.get(found.session_id)


async def first(items: AsyncIterator[T], count: int) -> list[T]:
    """Up to `count` of them."""
    found: list[T] = []
    async for item in items:
        found.append(item)
        if len(found) == count:
            break
    return found


async def _find_prefix(client: AsyncAgentsrv, text: str) -> Session | AsyncJob:
    sessions = await first(client.sessions.list(), LOOK_AT)
    jobs = await first(client.jobs.list(), LOOK_AT)
    everything: list[Session | AsyncJob] = [*sessions, *jobs]
    fitting = {each.id: each for each in everything if each.id.startswith(text)}
    if not fitting:
        raise Refused(f"there is no session and no job {text}")
    if len(fitting) > 1:
        more = f" and {len(fitting) - SHOWN} more" if len(fitting) > SHOWN else ""
        raise UsageError(f"{text} may be {', '.join(sorted(fitting)[:SHOWN])}{more}")
    return next(iter(fitting.values()))
