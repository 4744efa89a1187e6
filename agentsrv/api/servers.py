"""The servers of a fleet, as the one that is asked knows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from agentsrv.api.encode import json_response, timestamp
from agentsrv.api.keys import CONFIG, REGISTRY, TURNS
from agentsrv.api.operations import Operation
from agentsrv.api.schemas.server import ServerList, ServerView

if TYPE_CHECKING:
    from agentsrv.fleet.registry import Load, Peer


async def list_servers(request: web.Request) -> web.Response:
    """All servers of the fleet, by name; of a server without a fleet, itself."""
    registry = request.app[REGISTRY]
    clashes: list[str] = []
    if registry is None:
        views = [_alone(request)]
    else:
        clashes = sorted(key[2:] for key in registry.clashes)
        views = [_view(peer, peer.load, is_self=False) for peer in registry.others()]
        views.append(_view(registry.me, registry.own_load(), is_self=True))
        views.sort(key=lambda view: view.name or "")
    return json_response(ServerList(servers=views, count=len(views), clashes=clashes, timestamp=timestamp()))


def _view(peer: Peer, load: Load, *, is_self: bool) -> ServerView:
    return ServerView(
        name=peer.name,
        url=peer.address,
        self=is_self,
        alive=is_self or peer.is_alive,
        accepts=load.accepts,
        active=load.active,
        capacity=load.capacity,
        version=peer.version,
        protocol=peer.protocol,
    )


def _alone(request: web.Request) -> ServerView:
    config, turns = request.app[CONFIG], request.app[TURNS]
    return ServerView(
        name=None,
        url=None,
        self=True,
        alive=True,
        accepts=not turns.is_refusing,
        active=turns.active,
        capacity=config.max_concurrent_turns,
        version=config.app_version,
        protocol=None,
    )


ROUTES = (Operation("GET", "/servers", list_servers, {200: ServerList}),)
