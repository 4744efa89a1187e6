"""Answers that are too large to be held: out, piece by piece."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from aiohttp import hdrs, web

from agentsrv.api.access_log import IS_KNOWN
from agentsrv.api.keys import CONFIG

logger = logging.getLogger(__name__)

WIDE_BUFFER_BYTES = 2 * 1024 * 1024


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
        _widen(request)
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
            # aiohttp waits for the client only when 64 KiB have been written.
            await request.writer.drain()
        piece = await anext(pieces, b"")
    async with asyncio.timeout(stall_s):
        await response.write_eof()


def _widen(request: web.Request) -> None:
    """Let the kernel hold more of a large answer, which has to fill a long line; but not for strangers."""
    connection = request.get_extra_info("socket")
    if connection is not None and IS_KNOWN in request:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, WIDE_BUFFER_BYTES)


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
