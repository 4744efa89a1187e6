"""WebSockets over a hop: the request for the upgrade is passed on, and then bytes both ways, which nobody parses."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

from aiohttp import hdrs, web
from multidict import CIMultiDict
from yarl import URL

from agentsrv.api import hop
from agentsrv.api.access_log import CLIENT_GONE
from agentsrv.api.forward import (
    BUSY_S,
    CONNECT_S,
    Forwarder,
    end_to_end,
    is_of_another,
    outcome_unknown,
    per_connection,
)
from agentsrv.api.keys import RELAYED
from agentsrv.api.refusals import is_gone
from agentsrv.api.watches import Passage
from agentsrv.fleet.registry import Peer

MAX_HEAD_BYTES = 64 * 1024
MAX_REFUSAL_BYTES = 1024 * 1024
AT_ONCE_BYTES = 64 * 1024
SWITCHING = 101


async def splice(request: web.Request, forwarder: Forwarder, home: str) -> web.StreamResponse:
    """The home's refusal, or a WebSocket between it and the client. Raises Unavailable (`owner_unreachable`)."""
    peer = await forwarder.reach(home)
    give_up_at = time.monotonic() + BUSY_S
    while True:
        try:
            return await _splice(request, forwarder, peer)
        except NotConnected as exc:
            peer = await forwarder.find_again(
                home, peer, may_be_busy=exc.is_late and time.monotonic() < give_up_at
            )


async def _splice(request: web.Request, forwarder: Forwarder, peer: Peer) -> web.StreamResponse:
    """Raises NotConnected, and Unavailable (`outcome_unknown`)."""
    response: web.StreamResponse | None = None
    try:
        async with forwarder.watch(peer, request) as passage, _connected(peer) as (reader, writer):
            writer.write(_head(request, forwarder, peer))
            response = await _answer(reader, peer)
            passage.heard()
            request[RELAYED] = True
            if response.status != SWITCHING:
                return response
            await response.prepare(request)
            await _both_ways(request, reader, writer, passage)
    except (OSError, EOFError, ValueError) as exc:
        if response is None or not response.prepared:
            if is_gone(request):
                return web.Response(status=CLIENT_GONE)
            if isinstance(exc, NotConnected):
                raise
            raise outcome_unknown(peer.name) from exc
    if request.transport is not None:
        # What was written before is still sent; no frame has been cut in two by us.
        request.transport.close()
    return response


class NotConnected(OSError):
    """Nothing was sent. `is_late`: nor did anybody refuse it."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.is_late = isinstance(cause, TimeoutError)


@asynccontextmanager
async def _connected(peer: Peer) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    url = URL(peer.address)
    context = ssl.create_default_context() if url.scheme == "https" else None
    try:
        async with asyncio.timeout(CONNECT_S):
            reader, writer = await asyncio.open_connection(
                url.host, url.port, ssl=context, limit=MAX_HEAD_BYTES
            )
    except OSError as exc:
        raise NotConnected(exc) from exc
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def _head(request: web.Request, forwarder: Forwarder, peer: Peer) -> bytes:
    """The request as the home gets it, with the upgrade, and without a body."""
    headers = forwarder.headers_for(request, peer)
    headers.popall(hdrs.CONTENT_LENGTH, None)
    headers.extend((hdrs.UPGRADE, value) for value in request.headers.getall(hdrs.UPGRADE, []))
    if "upgrade" in per_connection(request.headers):
        headers[hdrs.CONNECTION] = "Upgrade"
    lines = [f"{request.method} {URL(peer.address).raw_path.rstrip('/')}{request.raw_path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")


async def _answer(reader: asyncio.StreamReader, peer: Peer) -> web.StreamResponse:
    """The head of the answer; of a refusal, all of it. Raises EOFError, OSError (NotConnected), ValueError."""
    head = await _read_head(reader)
    status_line, *lines = head.decode("utf-8", "surrogateescape").split("\r\n")
    _, status, reason = (*status_line.split(" ", 2), "")[:3]
    headers: CIMultiDict[str] = CIMultiDict()
    for line in filter(None, lines):
        name, _, value = line.partition(":")
        headers.add(name, value.strip())
    if is_of_another(headers, peer):
        raise NotConnected(OSError("somebody else has the address"))
    if int(status) == SWITCHING:
        headers.popall(hop.FROM)
        return web.StreamResponse(status=SWITCHING, reason=reason, headers=headers)
    size = int(headers.get(hdrs.CONTENT_LENGTH, "0"))
    body = await reader.readexactly(min(size, MAX_REFUSAL_BYTES))
    return web.Response(status=int(status), reason=reason, headers=end_to_end(headers), body=body)


async def _read_head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as exc:
        raise ValueError("the head of the answer is too large") from exc


async def _both_ways(
    request: web.Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passage: Passage
) -> None:
    """Until either side closes. What the client sends goes on as it comes, held back when the home takes nothing."""
    protocol = cast(Any, request.protocol)
    # Frames are the home's business: the check of masks that `set_parser` of our connections adds is made there.
    web.RequestHandler.set_parser(protocol, cast(Any, Upstream(writer, protocol)))
    with suppress(ConnectionError):
        while data := await reader.read(AT_ONCE_BYTES):
            passage.heard()
            if request.transport is None:
                return
            request.transport.write(data)
            await protocol._drain_helper()


class Upstream:
    """What the client sends, in place of a parser of its frames."""

    def __init__(self, writer: asyncio.StreamWriter, client: Any) -> None:
        self._writer = writer
        self._client = client

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        if not self._writer.is_closing():
            self._writer.write(data)
            transport = self._writer.transport
            if transport.get_write_buffer_size() > AT_ONCE_BYTES:
                self._client.pause_reading()
                asyncio.get_running_loop().call_later(0.01, self._go_on)
        return False, b""

    def feed_eof(self) -> None:
        self._writer.close()

    def _go_on(self) -> None:
        """As soon as the home has taken some of it."""
        if self._writer.is_closing():
            return
        if self._writer.transport.get_write_buffer_size() > AT_ONCE_BYTES:
            asyncio.get_running_loop().call_later(0.01, self._go_on)
        else:
            self._client.resume_reading()
