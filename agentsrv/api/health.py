"""Is the server alive, can it take work, what is it."""

from __future__ import annotations

from aiohttp import web

from agentsrv.api.encode import json_response, timestamp
from agentsrv.api.keys import CONFIG, HEALTH, TURNS
from agentsrv.api.schemas import DatabaseHealth, HealthView, Ready, RedisHealth, Welcome
from agentsrv.errors import Unavailable


async def welcome(request: web.Request) -> web.Response:
    """What this server is."""
    version = request.app[CONFIG].app_version
    return json_response(Welcome(message="agentsrv is running", version=version, timestamp=timestamp()))


async def health(request: web.Request) -> web.Response:
    """Is the server well? 503 when its database does not answer.

    `degraded`: it runs, but the disk is full, or Redis is configured and away.
    """
    found = await request.app[HEALTH].check()
    is_well = (
        found.database and not found.storage_full and (found.redis_connected or not found.redis_configured)
    )
    view = HealthView(
        status="healthy" if is_well else "degraded",
        timestamp=timestamp(),
        version=request.app[CONFIG].app_version,
        database=DatabaseHealth(connected=found.database),
        redis=RedisHealth(configured=found.redis_configured, connected=found.redis_connected),
    )
    if not found.database:
        view.error = "the database does not answer"
        view.code = "database_unavailable"
    return json_response(view, status=200 if found.database else 503)


async def ready(request: web.Request) -> web.Response:
    """Does the server take new work? 503 while it drains."""
    if request.app[TURNS].is_draining:
        raise Unavailable("the server is shutting down and takes no new work", code="draining")
    return json_response(Ready(timestamp=timestamp()))
