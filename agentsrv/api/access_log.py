"""The access log: one line for each request with a key, and for some of those without one, which may be a flood.

A line holds no header, no query and no body: those carry keys and prompts.
"""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from secrets import token_hex

from aiohttp import web
from aiohttp.typedefs import Handler

from agentsrv.api.proxies import client_address

logger = logging.getLogger("agentsrv.access")

CLIENT_GONE = 499
"""Nobody receives this status; it is what the access log says."""

MAX_PATH = 200
"""Characters of a path that are logged."""

LINES_PER_SPELL = 10
SPELL_S = 60.0
"""So many requests without a key are told one by one in a spell; what else there was is counted."""

REQUEST_ID = re.compile(r"[A-Za-z0-9._:+/=@-]{1,128}")
_request_id = web.RequestKey("request_id", str)
IS_KNOWN = web.RequestKey("is_known", bool)
"""Set when the request came with a key."""


class Strangers:
    """Which requests without a key are told one by one, and how many were not, by their status."""

    def __init__(self) -> None:
        self._began = float("-inf")
        self._told = 0
        self._untold: Counter[int] = Counter()

    def is_told(self, status: int) -> bool:
        """Is there to be a line for one more, with this status?"""
        if time.monotonic() - self._began >= SPELL_S:
            self._began, self._told = time.monotonic(), 0
            self._tell_rest()
        self._told += 1
        if self._told > LINES_PER_SPELL:
            self._untold[status] += 1
        return self._told <= LINES_PER_SPELL

    def _tell_rest(self) -> None:
        if self._untold:
            counts = {str(status): count for status, count in sorted(self._untold.items())}
            logger.info("more requests without a key", extra={"statuses": counts})
            self._untold.clear()


STRANGERS: web.AppKey[Strangers] = web.AppKey("strangers")


@web.middleware
async def log_access(request: web.Request, handler: Handler) -> web.StreamResponse:
    started = time.monotonic()
    status, sent = CLIENT_GONE, 0
    try:
        response = await handler(request)
        status = response.status
        is_whole = isinstance(response, web.Response)
        sent = (response.content_length or 0) if is_whole else request.writer.output_size
        return response
    finally:
        if IS_KNOWN in request or request.app[STRANGERS].is_told(status):
            _tell(request, status, sent, time.monotonic() - started)


def _tell(request: web.Request, status: int, sent: int, took_s: float) -> None:
    path = request.rel_url.raw_path
    if len(path) > MAX_PATH:
        path = f"{path[:MAX_PATH]}... ({len(path)} characters)"
    logger.info(
        "%s %s %d",
        request.method,
        path,
        status,
        extra={
            "method": request.method,
            "path": path,
            "status": status,
            "bytes": sent,
            "ms": round(took_s * 1000, 1),
            "request_id": request_id(request),
            "peer": client_address(request),
        },
    )


def request_id(request: web.Request) -> str:
    """What the log and the answer call it: the client's own name for it, when that is a sane one."""
    if _request_id not in request:
        given = request.headers.get("X-Request-Id", "")
        request[_request_id] = given if REQUEST_ID.fullmatch(given) else token_hex(8)
    return request[_request_id]
