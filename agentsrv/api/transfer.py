"""Bodies that are too large to be held: in, piece by piece, and out, piece by piece."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import aclosing
from typing import TypeVar

from aiohttp import hdrs, web

from agentsrv.api.decode import invite_body
from agentsrv.api.keys import CONFIG
from agentsrv.errors import TooSlow

T = TypeVar("T")

logger = logging.getLogger(__name__)


async def body_chunks(request: web.Request) -> AsyncGenerator[bytes, None]:
    """The request's body as it comes. Raises TooSlow when nothing comes for `BODY_TIMEOUT`."""
    await invite_body(request)
    while chunk := await in_time(request, request.content.readany()):
        yield chunk


async def in_time(request: web.Request, reading: Awaitable[T]) -> T:
    """What is read from the request. Raises TooSlow when nothing comes for `BODY_TIMEOUT`."""
    timeout_s = request.app[CONFIG].body_timeout_s
    try:
        async with asyncio.timeout(timeout_s):
            return await reading
    except TimeoutError as exc:
        raise TooSlow(f"nothing came for {timeout_s:g} s; send it again") from exc


async def send(
    request: web.Request,
    pieces: AsyncGenerator[bytes, None],
    *,
    status: int = 200,
    headers: Mapping[str, str],
    length: int | None = None,
) -> web.StreamResponse:
    """Answer with `pieces`, and close them. HEAD gets the headers alone.

    When fewer than `length` bytes come, or a piece fails, or the client takes nothing for the stall time-out,
    the connection is cut: the client must not take what it has for the whole.
    """
    response = web.StreamResponse(status=status, headers=headers)
    response.content_length = length
    async with aclosing(pieces):
        if request.method == hdrs.METH_HEAD:
            await response.prepare(request)
            return response
        # What fails at once still gets its own status.
        first = await anext(pieces, b"")
        await response.prepare(request)
        try:
            await _write_all(request, response, first, pieces)
        except (TimeoutError, ConnectionError):
            _cut(request)
        except Exception:
            logger.exception("an answer failed in the middle")
            _cut(request)
        else:
            if length is not None and response.body_length < length:
                _cut(request)
    return response


async def _write_all(
    request: web.Request, response: web.StreamResponse, piece: bytes, pieces: AsyncGenerator[bytes, None]
) -> None:
    stall_s = request.app[CONFIG].stall_timeout_s
    while piece:
        async with asyncio.timeout(stall_s):
            await response.write(piece)
        piece = await anext(pieces, b"")
    async with asyncio.timeout(stall_s):
        await response.write_eof()


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
