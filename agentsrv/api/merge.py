"""Lists of what all servers of a fleet have, as if it were one: each gives its page, and the pages are merged.

All pages have one order, and a cursor is a place in it, not in anybody's list: it means the same on every server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler
from msgspec import Struct

from agentsrv.access import EVERYTHING, Caller
from agentsrv.api.credentials import CALLER
from agentsrv.api.encode import json_response
from agentsrv.api.forward import Forwarder, Reply
from agentsrv.api.listing import OwnSessions
from agentsrv.api.schemas.jobs import ListJobs
from agentsrv.api.schemas.sessions import ListSessions
from agentsrv.faces.listing import Page
from agentsrv.fleet.registry import Peer, Registry
from agentsrv.turns.cursor import encode_cursor

FLEET = Caller("fleet", EVERYTHING, b"")
"""Who asks when a server has to know something itself."""
LIST_S = 5.0


class Merged(Struct, frozen=True):
    """A list in an answer: the field that it is in, the field that names what is in it, how many are told at most.

    Those without a limit are told whole, the oldest first.
    """

    field: str
    id: str
    limit: int | None = None


LISTS = {
    "list_sessions": Merged("sessions", "id", limit=ListSessions().limit),
    "list_jobs": Merged("jobs", "taskId", limit=ListJobs().limit),
    "list_permissions": Merged("permissions", "requestId"),
    "list_terminals": Merged("terminals", "terminalId"),
}


async def answer(
    request: web.Request, handler: Handler, others: Sequence[Peer], forwarder: Forwarder
) -> web.StreamResponse:
    """The list that was asked for, as `whole` makes it."""
    own = await handler(request)
    if not isinstance(own, web.Response) or not isinstance(own.body, bytes):
        return own
    kind = LISTS[request.match_info.handler.__name__]
    limit = int(request.query.get("limit", kind.limit or 0))
    ask = partial(forwarder.ask, path=request.raw_path, caller=request[CALLER], timeout_s=LIST_S)
    found = await whole(msgspec.json.decode(own.body), kind, limit, others, ask)
    return json_response({**found, "count": len(found[kind.field])})


class AllSessions:
    """Those of all servers of a fleet."""

    def __init__(self, own: OwnSessions, registry: Registry, forwarder: Forwarder) -> None:
        self._own = own
        self._registry = registry
        self._forwarder = forwarder

    async def page(self, *, limit: int, cursor: str | None, cwd: str | None = None) -> Page:
        own = await self._own.told(limit, cursor, cwd)
        query = {"limit": limit, "cursor": cursor, "cwd": cwd}
        path = f"/sessions?{urlencode({name: value for name, value in query.items() if value is not None})}"
        ask = partial(self._forwarder.ask, path=path, caller=FLEET, timeout_s=LIST_S)
        kind = LISTS["list_sessions"]
        return msgspec.convert(await whole(own, kind, limit, self._registry.others(), ask), Page)


async def whole(
    own: dict[str, Any],
    kind: Merged,
    limit: int,
    others: Sequence[Peer],
    ask: Callable[[Peer], Awaitable[Reply | None]],
) -> dict[str, Any]:
    """This server's page, and those of the others in it. `unreachable` names who has not answered."""
    pages = [_page(reply, kind) for reply in await asyncio.gather(*map(ask, others))]
    silent = [peer.name for peer, page in zip(others, pages, strict=True) if page is None]
    found = _merged(own, [page for page in pages if page is not None], kind)
    if kind.limit is not None:
        found = _cut(found, kind, limit)
    return {**found, "unreachable": silent}


async def has(forwarder: Forwarder, peer: Peer, key: str) -> bool | None:
    """Is a session, terminal or job at home on another server? None: it does not answer."""
    kind, id_ = key[:2], quote(key[2:], safe="")
    path = {"s:": f"/sessions/{id_}", "j:": f"/generate/v2/jobs/{id_}", "t:": "/terminals"}[kind]
    reply = await forwarder.ask(peer, path, FLEET)
    if reply is None or reply.status not in (200, 404):
        return None
    if kind == "t:":
        page = _page(reply, LISTS["list_terminals"])
        return page is not None and any(one["terminalId"] == key[2:] for one in page["terminals"])
    return reply.status == 200


def _page(reply: Reply | None, kind: Merged) -> dict[str, Any] | None:
    if reply is None or reply.status != 200:
        return None
    page = msgspec.json.decode(reply.body)
    return page if isinstance(page, dict) and kind.field in page else None


def _merged(own: dict[str, Any], pages: list[dict[str, Any]], kind: Merged) -> dict[str, Any]:
    found = [one for page in (own, *pages) for one in page[kind.field]]
    # As text: all times on the wire have one form.
    found.sort(key=lambda one: (one["createdAt"], one[kind.id]), reverse=kind.limit is not None)
    has_more = any(page.get("nextCursor") for page in (own, *pages))
    return {**own, kind.field: found, "nextCursor": has_more} if kind.limit else {**own, kind.field: found}


def _cut(whole: dict[str, Any], kind: Merged, limit: int) -> dict[str, Any]:
    """The first `limit`, and the place behind them."""
    page = whole[kind.field][:limit]
    has_more = page and (whole["nextCursor"] or len(whole[kind.field]) > limit)
    cursor = encode_cursor(_millis(page[-1]["createdAt"]), page[-1][kind.id]) if has_more else None
    return {**whole, kind.field: page, "nextCursor": cursor}


def _millis(timestamp: str) -> int:
    return round(datetime.fromisoformat(timestamp).timestamp() * 1000)
