"""ACP over HTTP: a POST for each message of the client, and event streams with ours, one for the connection and one for
each of its sessions (the transport that ACP's RFD of July 2026 describes, as @agentclientprotocol/sdk 2.4 speaks it).

A connection is what a client holds open; sessions outlive it. It ends when its client says so, or when it has no stream
and says nothing for a while.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec

from agentsrv.access import Caller
from agentsrv.errors import LimitReached, NotFound
from agentsrv.faces.acp import AcpFace
from agentsrv.faces.acp_turns import Means, Messages
from agentsrv.faces.rpc import MAX_ID_CHARACTERS
from agentsrv.jsontext import as_object
from agentsrv.tasks import Tasks

MAX_CONNECTIONS = 256
"""Of all clients. The one that has been idle for longest makes room."""

MAX_STREAMS = 100
"""Of one connection. Those that are over make room."""

MAX_WAITING_BYTES = 1024 * 1024
"""Of one stream, before what fills it has to wait."""

MAX_UNREAD_BYTES = 64 * 1024
"""Of a stream that nobody reads yet: a client may open very many of those."""

IDLE_S = 60.0
"""So long a connection lives without a stream."""

LEAVING = frozenset({"session/close", "session/delete"})
"""After these a client has no use for the session's stream, and may well hold it open."""

CONNECTION = ""
"""The stream that is no session's."""

OF_CONNECTION = frozenset(f"session/{name}" for name in ("new", "load", "resume", "fork", "list"))
"""What is answered on the connection's stream: before that, a client need not have opened the session's."""


class _Stream:
    """What a client has not read yet. It has one reader; a newer one takes the place of the one before."""

    def __init__(self) -> None:
        self.has_reader = False
        self.is_left = False
        """Does its client need it no more, as far as is known? Its reader has gone, or its session is closed."""
        self.asked = 0
        """How many requests are to be answered here."""
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._reader = 0
        self._changed = asyncio.Event()
        self._is_closed = False

    @property
    def is_over(self) -> bool:
        """Nothing is lost with it."""
        return self.is_left and self.asked == 0 and not self._waiting

    async def put(self, data: bytes) -> None:
        """Waits for room."""
        while self._bytes > self._room and not self._is_closed:
            self._changed.clear()
            await self._changed.wait()
        self._waiting.append(data)
        self._bytes += len(data)
        self._changed.set()

    async def read(self) -> AsyncGenerator[bytes, None]:
        self._reader += 1
        me, self.has_reader, self.is_left = self._reader, True, False
        self._changed.set()
        try:
            while me == self._reader and not self._is_closed:
                if self._waiting:
                    data = self._waiting.popleft()
                    self._bytes -= len(data)
                    self._changed.set()
                    yield data
                else:
                    self._changed.clear()
                    await self._changed.wait()
        finally:
            if me == self._reader:
                self.has_reader, self.is_left = False, True

    @property
    def _room(self) -> int:
        return MAX_WAITING_BYTES if self.has_reader else MAX_UNREAD_BYTES

    def close(self) -> None:
        self._is_closed = True
        self._changed.set()


class HttpConnection:
    """One client's. `face` works on its messages."""

    def __init__(self, id: str, means: Means, caller: Caller) -> None:
        self.id = id
        self.caller = caller
        # Each message is a request of its own, which the audit log has.
        self.face = AcpFace(means, caller, self._send, lambda *_: None)
        self._streams = {CONNECTION: _Stream()}
        self._answered_on: dict[Any, str] = {}
        self._loop = asyncio.get_running_loop()
        self._used_at = self._loop.time()

    @property
    def idle_s(self) -> float:
        """For how long it has said nothing; 0 while somebody reads a stream of it."""
        now = self._loop.time()
        if any(stream.has_reader for stream in self._streams.values()):
            self._used_at = now
        return now - self._used_at

    async def take(self, message: dict[str, Any]) -> None:
        """A message in which nothing is wrong. Its answer comes on a stream. Raises LimitReached."""
        self._used_at = self._loop.time()
        if "method" in message and "id" in message:
            self._expect(message)
        await self.face.receive(message)

    def _expect(self, request: dict[str, Any]) -> None:
        session_id, method = as_object(request.get("params")).get("sessionId"), request["method"]
        on = (
            session_id if isinstance(session_id, str) and len(session_id) <= MAX_ID_CHARACTERS else CONNECTION
        )
        self._stream(on).is_left = on != CONNECTION and method in LEAVING
        answered_on = CONNECTION if method in OF_CONNECTION else on
        self._answered_on[request["id"]] = answered_on
        self._streams[answered_on].asked += 1

    def read(self, session_id: str) -> AsyncGenerator[bytes, None]:
        """What there is to say in a session, or (CONNECTION) besides. Raises LimitReached."""
        return self._stream(session_id).read()

    async def close(self) -> None:
        for stream in self._streams.values():
            stream.close()
        await self.face.close()

    def _stream(self, session_id: str) -> _Stream:
        if session_id not in self._streams and len(self._streams) > MAX_STREAMS:
            self._make_room()
        return self._streams.setdefault(session_id, _Stream())

    def _make_room(self) -> None:
        over = [id_ for id_, stream in self._streams.items() if id_ != CONNECTION and stream.is_over]
        for id_ in over:
            self._streams.pop(id_).close()
        if not over:
            raise LimitReached(
                f"a connection has at most {MAX_STREAMS} sessions; close one, or open another connection",
                code="too_many_streams",
            )

    async def _send(self, messages: Messages) -> None:
        for message in messages:
            if "method" in message:
                on = str(as_object(message.get("params")).get("sessionId", CONNECTION))
            else:
                on = self._answered_on.pop(message["id"], CONNECTION)
                self._streams[on].asked -= 1
            await self._streams.setdefault(on, _Stream()).put(msgspec.json.encode(message))


class HttpConnections:
    """All that are open. `new_id` makes a name that tells which server of a fleet a connection is with."""

    def __init__(self, means: Means, new_id: Callable[[], str]) -> None:
        self._means = means
        self._new_id = new_id
        self._open: dict[str, HttpConnection] = {}
        self._tasks = Tasks("acp-http")
        self._is_sweeping = False

    def make(self, caller: Caller) -> HttpConnection:
        """One that is not open yet."""
        return HttpConnection(self._new_id(), self._means, caller)

    async def open(self, connection: HttpConnection) -> None:
        """Raises LimitReached (`too_many_acp_connections`) where all have streams."""
        if len(self._open) >= MAX_CONNECTIONS:
            idlest = max(self._open.values(), key=lambda each: each.idle_s)
            if idlest.idle_s == 0:
                raise LimitReached(
                    f"{MAX_CONNECTIONS} connections are in use; close one", code="too_many_acp_connections"
                )
            await self._end(idlest)
        self._open[connection.id] = connection
        if not self._is_sweeping:
            self._is_sweeping = True
            self._tasks.spawn(self._sweep(), name="sweep")

    def get(self, id_: str, caller: Caller) -> HttpConnection:
        """One that this caller has opened. Raises NotFound (`unknown_connection`)."""
        found = self._open.get(id_)
        if found is None or found.caller.hash != caller.hash:
            raise NotFound("there is no such connection; send `initialize` again", code="unknown_connection")
        return found

    async def end(self, id_: str, caller: Caller) -> None:
        """What runs in its sessions goes on. Raises NotFound."""
        await self._end(self.get(id_, caller))

    async def close(self) -> None:
        """Closing twice is fine."""
        await self._tasks.close()
        for connection in list(self._open.values()):
            await self._end(connection)

    async def _end(self, connection: HttpConnection) -> None:
        self._open.pop(connection.id, None)
        await connection.close()

    async def end_idle(self, idle_s: float = IDLE_S) -> None:
        """Those that have been idle for longer."""
        for connection in list(self._open.values()):
            if connection.idle_s > idle_s:
                await self._end(connection)

    async def _sweep(self) -> None:
        while self._open:
            await asyncio.sleep(IDLE_S / 4)
            await self.end_idle()
        self._is_sweeping = False
