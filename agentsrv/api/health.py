"""Is the server alive, can it take work, what is it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from agentsrv.api.encode import json_response, timestamp
from agentsrv.api.keys import CONFIG, HEALTH, REGISTRY, TURNS
from agentsrv.api.operations import HTML, NO_BODY, Operation
from agentsrv.api.schemas.server import DatabaseHealth, FleetHealth, HealthView, Ready, RedisHealth, Welcome
from agentsrv.errors import Unavailable

if TYPE_CHECKING:
    from agentsrv.fleet.registry import Registry


async def welcome(request: web.Request) -> web.Response:
    """What this server is. A browser is sent to the console."""
    if HTML in request.headers.get(hdrs.ACCEPT, ""):
        # Relative, so that it holds under any prefix.
        return web.Response(status=302, headers={hdrs.LOCATION: "console/", hdrs.VARY: hdrs.ACCEPT})
    version = request.app[CONFIG].app_version
    return json_response(Welcome(message="agentsrv is running", version=version, timestamp=timestamp()))


async def health(request: web.Request) -> web.Response:
    """Is the server well? 503 when its database does not answer, or when it has to end for a failure of its own.

    `degraded`: it runs, but the disk is full, or Redis is configured and away.
    """
    found = await request.app[HEALTH].check()
    is_alive = found.database and found.failed is None
    is_well = is_alive and not found.storage_full and (found.redis_connected or not found.redis_configured)
    view = HealthView(
        status="healthy" if is_well else "degraded",
        timestamp=timestamp(),
        version=request.app[CONFIG].app_version,
        database=DatabaseHealth(connected=found.database),
        redis=RedisHealth(configured=found.redis_configured, connected=found.redis_connected),
    )
    if (registry := request.app[REGISTRY]) is not None:
        view.fleet = _fleet(registry)
    if found.failed is not None:
        view.error = f"the server cannot go on without {found.failed}, and ends"
        view.code = "internal_error"
    elif not found.database:
        view.error = "the database does not answer"
        view.code = "database_unavailable"
    return json_response(view, status=200 if is_alive else 503)


def _fleet(registry: Registry) -> FleetHealth:
    others = registry.others()
    return FleetHealth(
        name=registry.me.name,
        servers=len(others) + 1,
        alive=sum(peer.is_alive for peer in others) + 1,
        missing=list(registry.view.missing),
        mismatched=[peer.name for peer in others if not peer.is_understood],
        clashes=len(registry.clashes),
    )


async def ready(request: web.Request) -> web.Response:
    """Does the server take new work? 503 while it drains."""
    if request.app[TURNS].is_refusing:
        raise Unavailable("the server is shutting down and takes no new work", code="draining")
    return json_response(Ready(timestamp=timestamp()))


# fmt: off
ROUTES = (
    Operation("GET", "/", welcome, {200: Welcome, 302: NO_BODY}, is_public=True),
    Operation("GET", "/health", health, {200: HealthView, 503: HealthView}, is_public=True),
    Operation("GET", "/health/ready", ready, {200: Ready}, (503,), is_public=True),
)
# fmt: on
