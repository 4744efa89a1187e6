"""What is written to the audit log: every request that changes something, and terminals that are opened."""

from __future__ import annotations

from typing import Any

from aiohttp import hdrs, web

from agentsrv.access import Caller, now_ms
from agentsrv.api.credentials import CALLER
from agentsrv.api.encode import json_response, timestamp
from agentsrv.api.keys import AUDIT, RELAYED
from agentsrv.api.operations import Operation
from agentsrv.api.proxies import client_address
from agentsrv.api.schemas.access import AuditList, AuditView, ReadAudit
from agentsrv.api.urls import read_query
from agentsrv.model import AuditEntry

SWITCHING = 101
KEYS = frozenset({"create_token", "redeem_code"})
"""Operations that give somebody a key. Revoking one is a DELETE."""
MAX_TARGET = 500
NOTES = web.RequestKey("notes", dict[str, Any])
KEY_NAME = web.RequestKey("key_name", str)
"""Of a request without a key: that of which it has a right."""


def note(request: web.Request, **details: Any) -> None:
    """What the audit log shall say of this request besides its URL. No prompts, no contents, no secrets."""
    request[NOTES] = {**request.get(NOTES, {}), **details}


async def record(request: web.Request, response: web.StreamResponse) -> None:
    """For `on_response_prepare`, so that a stream is told of when it begins."""
    if request.get(RELAYED):
        return  # Its home has written it down.
    changes = request.method not in (hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS)
    if not (changes or response.status == SWITCHING) or request.match_info.http_exception is not None:
        return
    caller = request.get(CALLER)
    target = " ".join([*request.match_info.values(), *filter(None, [request.query.get("path")])])
    entry = AuditEntry(
        at=now_ms(),
        key=request.get(KEY_NAME, "") if caller is None else caller.name,
        address=client_address(request),
        action=request.match_info.handler.__name__,
        target=target[:MAX_TARGET],
        status=response.status,
        details={**request.get(NOTES, {}), **told_apart(caller)},
    )
    if response.status < 400 and _must_be_kept(request):
        await request.app[AUDIT].record_now(entry)
    elif caller is not None or response.status < 400:
        request.app[AUDIT].record(entry)


def told_apart(caller: Caller | None) -> dict[str, str]:
    """Whoever makes a key names it, also as another one is called."""
    return {"keyId": caller.id} if caller is not None and caller.id else {}


def _must_be_kept(request: web.Request) -> bool:
    """Also where the server is killed in the next moment: what was deleted, and who was given a key."""
    return request.method == hdrs.METH_DELETE or request.match_info.handler.__name__ in KEYS


async def read_audit(request: web.Request) -> web.Response:
    """The audit log, newest first: who has done what, when, and how it was answered."""
    query = read_query(request, ReadAudit)
    found = await request.app[AUDIT].page(before=query.cursor, limit=query.limit + 1)
    views = [_view(number, entry) for number, entry in found[: query.limit]]
    cursor = views[-1].id if len(found) > query.limit else None
    return json_response(
        AuditList(entries=views, count=len(views), next_cursor=cursor, timestamp=timestamp())
    )


def _view(number: int, entry: AuditEntry) -> AuditView:
    return AuditView(
        id=number,
        at=timestamp(entry.at),
        key=entry.key,
        address=entry.address,
        action=entry.action,
        target=entry.target,
        status=entry.status,
        details=entry.details,
    )


ROUTES = (Operation("GET", "/audit", read_audit, {200: AuditList}, query=ReadAudit),)
