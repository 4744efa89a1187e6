"""Sends an async iterator of chunks as Server-Sent Events, to clients that read fast, slowly, or no longer.

A follower costs its handler and one timer. Bytes are formatted once for all followers of a chunk; here they
are only written, at most 64 KiB at a time, and the kernel's buffer for the connection is bounded too: a
client that does not read holds back its own iterator and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from typing import TypeVar

import msgspec
from aiohttp import HttpVersion11, web
from aiohttp_sse import EventSourceResponse

from agentsrv.api.access_log import CLIENT_GONE
from agentsrv.api.keys import CONFIG, THREADS
from agentsrv.api.refusals import is_gone
from agentsrv.api.schemas.jobs import Follow
from agentsrv.errors import AgentsrvError, invalid_field
from agentsrv.eventlog import LARGE_BYTES, Take, fold
from agentsrv.model import Chunk, Seq
from agentsrv.projections import native
from agentsrv.threads import Pool

T = TypeVar("T")

Render = Callable[[Chunk], bytes]
"""What a projection makes of events: their frames."""

Source = Callable[[Take], AsyncGenerator[Chunk, None]]
"""Events from somewhere on; live ones are offered to its argument first."""

logger = logging.getLogger(__name__)

SLICE_BYTES = 64 * 1024

SEND_BUFFER_BYTES = 128 * 1024
"""What the kernel may hold for one follower (it doubles this for its own bookkeeping).

Left alone, Linux takes up to 4 MiB for a client that does not read.
"""

# No empty line after these: some clients take it for a message. They belong to the next one.
RETRY = b"retry: 1000\n"
KEEPALIVE = b": keepalive\n"

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}

TELL_TIMEOUT_S = 5.0

URGENT_STEP_S = 1.0
"""How soon a lost client is noticed where that ends its job; elsewhere it only saves memory."""


def resume_point(request: web.Request, query: Follow) -> Seq | None:
    """After which event the client wants to go on; None: from the start, it has seen nothing yet.

    `Last-Event-ID` wins over `?lastEventId=`, which clients that cannot send headers add to their URL, and both
    over `?after=`: who reconnects repeats the URL that it began with.
    """
    return seen_by(request, query.last_event_id or query.after)


def seen_by(request: web.Request, default: str = "") -> Seq | None:
    """The last event that the client has, as the header says."""
    given = request.headers.getall("Last-Event-ID", [default])
    if len(given) > 1 or not re.fullmatch("[0-9]{0,18}", given[0]):
        raise invalid_field("Last-Event-ID", "must be the id of one event, a whole number")
    return int(given[0]) if given[0] else None


def require_reached(after: Seq, last_seq: Seq) -> None:
    """Refuse an id that the log has not reached: the client has mixed up streams, and would wait for ever."""
    if after > last_seq:
        raise invalid_field("Last-Event-ID", f"{after} lies ahead of the newest event, {last_seq}")


async def stream(
    request: web.Request,
    follow: Source,
    render: Render = native.render,
    *,
    headers: Mapping[str, str] | None = None,
    on_lost: Callable[[], Awaitable[None]] | None = None,
) -> web.StreamResponse:
    """Answer with the events of `follow`, to their end, as `stream_frames` does.

    A live event goes from the log's append straight to the connection while nothing waits there: the way through
    the loop and the handler costs twice as much as all the rest.
    """
    outlet = _Outlet(request)

    def take(chunk: Chunk) -> bool:
        if len(chunk.data) > LARGE_BYTES or not outlet.is_free:
            return False
        if data := render(chunk):
            outlet.write(data)
        return True

    chunks = follow(take)
    if render is native.render:
        return await stream_frames(request, chunks, render, headers=headers, on_lost=on_lost, outlet=outlet)
    frames = _folded(chunks, render, request.app[THREADS].folding)
    return await stream_frames(request, frames, bytes, headers=headers, on_lost=on_lost, outlet=outlet)


async def _folded(
    chunks: AsyncGenerator[Chunk, None], render: Render, threads: Pool
) -> AsyncGenerator[bytes, None]:
    async with aclosing(chunks):
        async for chunk in chunks:
            yield await fold(chunk, render, threads)


def frame_of(data: bytes) -> bytes:
    """One without an id, that nobody comes back to. `data` is one line."""
    return b"data: %b\n\n" % data


async def stream_frames(
    request: web.Request,
    chunks: AsyncGenerator[T, None],
    render: Callable[[T], bytes | bytearray],
    *,
    headers: Mapping[str, str] | None = None,
    on_lost: Callable[[], Awaitable[None]] | None = None,
    outlet: _Outlet | None = None,
) -> web.StreamResponse:
    """Answer with each of `chunks` as the frames that `render` makes of it, to their end.

    A client that goes away, or takes nothing for the stall time-out, ends the answer and nothing else, unless
    `on_lost` is given: that is called then. A failure after the first byte can no longer become a status; it
    is told as an `error` event without an id, so that the client resumes after what it has. HEAD gets the
    headers alone.
    """
    all_headers = {**HEADERS, **(headers or {})}
    if request.method == "HEAD":
        return web.Response(headers=all_headers)
    response = _EventStream(allow_all_methods=True, send_timeout=request.app[CONFIG].stall_timeout_s)
    response.headers.update(all_headers)
    # What aiohttp-sse says here is wrong for a client that wants the connection closed; aiohttp knows.
    del response.headers["Connection"]
    scope = asyncio.timeout(None)
    try:
        async with aclosing(chunks), scope:
            await _open(response, request)
            outlet = outlet or _Outlet(request)
            with _Pulse(request, outlet, scope, is_lost_urgent=on_lost is not None):
                await _send_all(response, chunks, render, outlet)
        return response
    except Exception as exc:
        if not (scope.expired() or is_gone(request)):
            await _tell(response, exc)
            return response
    if request.transport is not None:
        request.transport.abort()
    if on_lost is not None:
        await on_lost()
    # One that has not begun cannot begin any more: aiohttp would try.
    return response if response.prepared else web.Response(status=CLIENT_GONE)


class _EventStream(EventSourceResponse):
    _send_headers_immediately = False  # RETRY goes with them.


async def _open(response: EventSourceResponse, request: web.Request) -> None:
    connection = request.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    await response.prepare(request)
    # Ends the ping task of aiohttp-sse: it would cost a task for each follower and knows nothing of stalls.
    response.stop_streaming()
    await response.write(RETRY)


async def _send_all(
    response: EventSourceResponse,
    chunks: AsyncGenerator[T, None],
    render: Callable[[T], bytes | bytearray],
    outlet: _Outlet,
) -> None:
    async for chunk in chunks:
        if not (data := render(chunk)):
            continue
        outlet.is_busy = True
        if len(data) <= SLICE_BYTES:
            await response.write(data)
        else:
            view = memoryview(data)
            for start in range(0, len(view), SLICE_BYTES):
                await response.write(view[start : start + SLICE_BYTES])
        outlet.wrote()
    outlet.is_busy = True
    await response.write_eof()


async def _tell(response: EventSourceResponse, error: Exception) -> None:
    if not response.prepared:
        raise error
    if isinstance(error, AgentsrvError):
        # What is followed was deleted, the database is away: nothing is wrong with the server.
        logger.info("a stream ends: %s", error.code)
        told = {"type": "error", "error": error.message, "code": error.code}
    else:
        logger.error("a stream failed", exc_info=error)
        told = {
            "type": "error",
            "error": "the stream failed; connect again to resume",
            "code": "internal_error",
        }
    with suppress(ConnectionError, TimeoutError):
        async with asyncio.timeout(TELL_TIMEOUT_S):
            await response.write(frame_of(msgspec.json.encode(told)))
            await response.write_eof()


class _Outlet:
    """The way to one client that goes past the response, whose own `write` has to be awaited."""

    def __init__(self, request: web.Request) -> None:
        self.is_busy = False
        """The handler is in the middle of a chunk, where anything else would tear an event apart."""
        self._request = request
        self._loop = asyncio.get_running_loop()
        self.wrote_at = self._loop.time()

    @property
    def is_free(self) -> bool:
        """May something be written now? Nothing else waits to be sent."""
        transport = self._request.transport
        if transport is None or transport.is_closing():
            return False
        return not self.is_busy and transport.get_write_buffer_size() == 0

    def write(self, data: bytes) -> None:
        """Send `data` as one HTTP chunk. Only while `is_free`."""
        transport = self._request.transport
        assert transport is not None
        is_chunked = self._request.version >= HttpVersion11
        framed = b"%x\r\n%b\r\n" % (len(data), data) if is_chunked else data
        transport.write(framed)
        # What has gone out is told by the access log, and what has not is how a stalled client is found.
        self._request.writer.output_size += len(framed)
        self.wrote()

    def wrote(self) -> None:
        self.is_busy = False
        self.wrote_at = self._loop.time()


class _Pulse:
    """Watches one connection by a timer: a comment when it is idle, the end when the client leaves or stalls.

    aiohttp does not tell a handler that waits for the next event that its client has left, and a stalled one
    holds a write for ever; expiring `scope` ends either wait. One timer, not a time-out for each write:
    arming one costs as much as the write.
    """

    def __init__(
        self, request: web.Request, outlet: _Outlet, scope: asyncio.Timeout, *, is_lost_urgent: bool
    ) -> None:
        config = request.app[CONFIG]
        self._request = request
        self._outlet = outlet
        self._scope = scope
        self._keepalive_s = config.keepalive_s
        self._stall_s = config.stall_timeout_s
        self._step_s = min(config.keepalive_s, config.stall_timeout_s) / 3
        if is_lost_urgent:
            self._step_s = min(self._step_s, URGENT_STEP_S)
        self._loop = asyncio.get_running_loop()
        self._taken_bytes = -1
        self._progress_at = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        self._arm(self._loop.time())

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self, now: float) -> None:
        due = self._outlet.wrote_at + self._keepalive_s
        self._timer = self._loop.call_at(
            min(due, now + self._step_s) if due > now else now + self._step_s, self._beat
        )

    def _beat(self) -> None:
        now = self._loop.time()
        transport = self._request.transport
        if transport is None or transport.is_closing() or self._is_stalled(transport, now):
            self._scope.reschedule(now)
            return
        if self._outlet.is_free and now >= self._outlet.wrote_at + self._keepalive_s:
            self._outlet.write(KEEPALIVE)
        self._arm(now)

    def _is_stalled(self, transport: asyncio.WriteTransport, now: float) -> bool:
        """Has the kernel taken nothing of what waits, since the stall time-out?"""
        waiting = transport.get_write_buffer_size()
        taken = self._request.writer.output_size - waiting
        if not waiting or taken != self._taken_bytes:
            self._taken_bytes, self._progress_at = taken, now
        return now - self._progress_at >= self._stall_s
