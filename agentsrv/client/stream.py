"""A stream of events that outlives its connections: each event once, over cuts, silence and restarts."""

from __future__ import annotations

import asyncio
import json
import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Generic, Literal, Self, TypeVar

import msgspec
from aiohttp import ClientResponse

from agentsrv.client.connection import NETWORK_ERRORS, Connection, Query, pause_s
from agentsrv.client.errors import APIConnectionError, APIStatusError, BadRequestError
from agentsrv.client.events import Event, Gap, Reply, Text, read
from agentsrv.client.frames import FrameReader

R = TypeVar("R")

Format = Literal["acp", "native"]
"""With `native` the agent's own lines come as `Unknown`, and what the server says as ever."""

MAY_COME_BACK = frozenset({408, 425, 429})
"""Statuses after which the same request may be answered; all of 5xx, too."""

GAP_WITHIN_S = 5.0
"""How long a log that ended before our last event may take to show that it has a gap."""

GAP = "X-Log-Gap"
"""A header of streams: the newest gap before the place at which it goes on."""

LOOK_S = 2.0
"""How long events that are there already may take to come."""


class LastText:
    """The last message of the agent, piece by piece."""

    def __init__(self) -> None:
        self._id: str | None = None
        self._pieces: list[str] = []

    def add(self, event: Text) -> None:
        if event.message_id is None or event.message_id != self._id:
            self._id = event.message_id
            self._pieces = []
        self._pieces.append(event.text)

    def __str__(self) -> str:
        return "".join(self._pieces)


class EventStream(Generic[R]):
    """`async for event in stream`; it ends with the event for which `is_last` holds, or when nothing is left.

    A connection that breaks, or is silent for too long, is opened again after the last event that came whole, for as
    long as somebody iterates (`reconnect_timeout` limits that). Leaving the loop closes it. `on_break` is told why a
    connection was lost, and None when there is one again.
    """

    def __init__(
        self,
        connection: Connection,
        path: str,
        *,
        session_id: str,
        reply: Reply[R],
        after: int | None = None,
        is_last: Callable[[Event[R]], bool] = lambda _: False,
        on_break: Callable[[str | None], None] = lambda _: None,
        query: Query,
    ) -> None:
        self._connection = connection
        self._path = path
        self._session_id = session_id
        self._reply = reply
        self._after = after
        self._is_last = is_last
        self._on_break = on_break
        self._query = query
        self._response: ClientResponse | None = None
        self._frames = FrameReader()
        self._ready: deque[Event[R]] = deque()
        self._is_over = False
        self._until: int | None = None
        self._lost_since: float | None = None
        self._attempt = 0
        self._known_gap: int | None = None
        """The newest gap of the log that we have had, or that was before our first event; None: never connected."""
        self._void_after: int | None = None
        """We have had events up to here, and the log ends before: a gap in it has to say which of them are void."""

    def until(self, last_id: int) -> Self:
        """Do not wait for events that are to come: `last_id` is the newest one that is there."""
        self._until = last_id
        self._is_over = last_id == (self._after or 0)  # one that lies ahead is for the server to refuse
        return self

    def __aiter__(self) -> AsyncIterator[Event[R]]:
        return self

    async def __anext__(self) -> Event[R]:
        while not self._ready:
            if self._is_over:
                raise StopAsyncIteration
            await self._fill()
        return self._ready.popleft()

    async def batch(self) -> list[Event[R]]:
        """All events that are there, at least one; none when it is over."""
        while not self._ready and not self._is_over:
            await self._fill()
        events = list(self._ready)
        self._ready.clear()
        return events

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Hang up. What has come already can still be had."""
        self._is_over = True
        self._hang_up()

    def _hang_up(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None

    async def _fill(self) -> None:
        """Take what comes next, over a new connection when there is none."""
        try:
            if self._response is None:
                await self._connect()
                return
            async with asyncio.timeout(self._patience_s):
                data = await self._response.content.readany()
            if not data:
                raise APIConnectionError(self._connection.server.url, "the stream broke off")
            self._take(self._frames.feed(data))
            if self._is_over:
                self._hang_up()
        except (*NETWORK_ERRORS, ValueError, APIConnectionError, APIStatusError) as exc:
            self._hang_up()
            if self._until is not None and isinstance(exc, TimeoutError):
                self._is_over = True  # the last events have given no frames
                return
            await self._wait_after(exc)
        except asyncio.CancelledError:
            self._hang_up()
            raise

    @property
    def _patience_s(self) -> float:
        silence_s = self._connection.options.silence
        if self._until is not None:
            return min(silence_s, LOOK_S)
        return silence_s if self._void_after is None else min(silence_s, GAP_WITHIN_S)

    async def _connect(self) -> None:
        headers = {} if self._after is None else {"Last-Event-ID": str(self._after)}
        async with asyncio.timeout(self._connection.options.timeout):
            response = await self._connection.open(
                "GET",
                self._path,
                query=self._query,
                headers={"Accept": "text/event-stream", **headers},
            )
        if self._has_missed(response.headers.get(GAP, "")):
            response.close()
            return
        if response.status == 204:  # nothing is left
            response.close()
            self._is_over = True
            return
        self._response = response
        self._frames = FrameReader()
        if self._lost_since is not None:
            self._on_break(None)
        self._lost_since = None

    def _has_missed(self, told: str) -> bool:
        """Is there a gap before our newest event that we have not had? Then we go on from it: what we had is void.

        The server's machine lost its power while we were away, and its log has grown past our event again.
        """
        gap = int(told) if told.isdecimal() else 0
        if self._known_gap is None:
            self._known_gap = gap
        if gap <= self._known_gap or self._after is None:
            return False
        self._after = gap - 1
        return True

    def _take(self, whole: list[tuple[int, list[bytes]]]) -> None:
        for event_id, datas in whole:
            for data in datas:
                self._add(read(event_id, self._session_id, _decoded(data), self._reply))
            # A job that is cancelled before it began ends with an event that has no place in the log.
            self._after = event_id or self._after
        if whole:
            self._attempt = 0

    def _add(self, event: Event[R]) -> None:
        if self._void_after is not None:
            if not isinstance(event, Gap) or event.after >= self._void_after:
                return
            self._void_after = None
        if isinstance(event, Gap):
            self._known_gap = event.id
        self._ready.append(event)
        if self._is_last(event) or (self._until is not None and event.id >= self._until > 0):
            self._is_over = True

    async def _wait_after(self, exc: Exception) -> None:
        """Wait until the next attempt may be made; raises what no attempt would change."""
        if isinstance(exc, BadRequestError) and self._after is not None:
            self._go_back(exc)
            return
        if self._void_after is not None:
            raise self._other_log(self._void_after)
        if isinstance(exc, APIStatusError):
            if exc.status not in MAY_COME_BACK and exc.status < 500:
                raise exc
            error: APIConnectionError | APIStatusError = exc
        else:
            error = exc if isinstance(exc, APIConnectionError) else self._connection.connection_error(exc)
        now = asyncio.get_running_loop().time()
        if self._lost_since is None:
            self._lost_since = now
            self._on_break(str(error))
        limit_s = self._connection.options.reconnect_timeout
        if limit_s is not None and now - self._lost_since >= limit_s:
            raise error
        left_s = math.inf if limit_s is None else limit_s - (now - self._lost_since)
        await asyncio.sleep(min(pause_s(self._attempt, getattr(error, "retry_after", None)), left_s))
        self._attempt += 1

    def _go_back(self, refused: BadRequestError) -> None:
        """The log ends before what we have had: read it from its start, up to the gap that says what is void."""
        assert self._after is not None
        if self._void_after is not None or not any("ahead" in str(each) for each in refused.details):
            raise refused
        if self._lost_since is None:  # the caller's own number, not one that came from here
            raise self._other_log(self._after)
        self._void_after, self._after = self._after, None

    def _other_log(self, after: int) -> BadRequestError:
        told = f"event {after} lies ahead of the newest one: this server's log is another one"
        return BadRequestError(400, "invalid_input", told)


def _decoded(data: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = _decoded_loosely(data)
    return value if isinstance(value, dict) else {"data": value}


def _decoded_loosely(data: bytes) -> Any:
    """What is JSON but for `NaN` and the like; else its text."""
    try:
        return json.loads(data, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return data.decode("utf-8", "replace")
