"""The connections of clients, strangers among them: how many there may be, and how long each may take for what.

    Acceptor ──► Connections ──► Connection (one client, aiohttp's protocol for it)

One pass a second over all of them, and no timer for each: who does not send its head in time, or takes nothing of
what waits for it, is cut off. When there is no room for one more, the one that has waited longest without asking
anything makes room, so that a thousand idle ones shut nobody out.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import Any, cast

from aiohttp import web
from aiohttp.http_parser import HttpRequestParser
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import _ErrInfo
from msgspec import Struct
from msgspec.structs import replace

from agentsrv.api.masking import MaskedFrames
from agentsrv.api.proxies import is_one_of
from agentsrv.config import Network
from agentsrv.limits import household
from agentsrv.tasks import Tasks

log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 32 * 1024
"""Of a request: its line and all its headers."""
HOP_BYTES = 2048
"""So much more there is where another server has passed it on, and has said whose it is."""

OVERFLOW = 16
"""Connections beyond the limit, when all others are at work. They are told so; `/health` is answered."""

MAX_AHEAD = 4
"""Requests of a client that are read before the first one is answered."""

SEND_BUFFER_BYTES = 128 * 1024
"""What the kernel may hold for a client (it doubles this).

Left alone, Linux takes up to 4 MiB for one that reads nothing.
"""

WAITING_BYTES = 8 * 1024
"""Of an answer, in our own memory. With more nothing is written until the client has taken some."""

AT_ONCE = struct.pack("ii", 1, 0)
SWEEP_S = 1.0
ACCEPT_AT_ONCE = 64
"""Then other clients get their turn."""

OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
PAUSE_S = 0.2
FRESH_S = 0.05
"""Who has just come has this long to ask something, before it makes room for others."""

RARELY_S = 2.0
"""A client that has no key, and asks once in so long, goes before those who ask all the time."""

TELL_AGAIN_S = 60.0

MIN_CLIENTS = 32


class Limits(Struct, frozen=True):
    """`per_address` is not for loopback, Unix sockets and `proxies`: many clients come from there, or nobody else."""

    connections: int = 4096
    per_address: int = 1024
    head_s: float = 10.0
    stall_s: float = 30.0
    proxies: tuple[Network, ...] = ()

    def within_descriptors(self, kept: int) -> Limits:
        """With so few connections that `kept` descriptors are left for everything else, or a quarter of all."""
        available, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if available == resource.RLIM_INFINITY:
            return self
        room = max(available - kept, available // 4, MIN_CLIENTS) - OVERFLOW
        return replace(self, connections=min(self.connections, room))


class HeadTooLarge(Exception):
    """More than MAX_HEAD_BYTES came, and the head is not over."""


class Connections:
    """All connections there are, the oldest first."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._open: dict[Connection, None] = {}
        self._by_address: Counter[str] = Counter()
        self._coming: Counter[str] = Counter()
        """Accepted, and about to be opened: by address, too."""
        self._sweeper: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open)

    def has_room_for(self, address: str) -> bool:
        """May one more from `address` come? Somebody who waits is made to leave for it, if need be."""
        home = household(address)
        known = self._by_address[home] + self._coming[home]
        if known < self.limits.per_address or is_near(address) or is_one_of(address, self.limits.proxies):
            return True
        return self._make_room(home)

    def make_room(self) -> bool:
        """Is there room for one more, or can there be?"""
        self._make_room_within(self.limits.connections - self._coming.total() - 1)
        return len(self._open) + self._coming.total() < self.limits.connections + OVERFLOW

    def expect(self, address: str) -> None:
        """One is accepted: it has its place before it is open."""
        self._coming[household(address)] += 1

    def has_come(self, address: str) -> None:
        """It is open now, or gone."""
        home = household(address)
        self._coming[home] -= 1
        if not self._coming[home]:
            del self._coming[home]

    def is_full(self) -> bool:
        """Is all of it in use, but for what is kept to say so? Who has just come uses nothing yet."""
        self._make_room_within(self.limits.connections)
        more = len(self._open) - self.limits.connections
        return more > 0 and more > sum(each.is_fresh and each.is_waiting() for each in self._open)

    def add(self, connection: Connection) -> None:
        self._open[connection] = None
        self._by_address[connection.home] += 1
        if self._sweeper is None:
            self._arm()

    def remove(self, connection: Connection) -> None:
        if connection not in self._open:
            return
        del self._open[connection]
        self._by_address[connection.home] -= 1
        if not self._by_address[connection.home]:
            del self._by_address[connection.home]

    def hurry(self) -> None:
        """The server ends: who takes nothing of an answer does not hold it up."""
        self.limits = replace(self.limits, stall_s=min(self.limits.stall_s, SWEEP_S))

    def close(self) -> None:
        """Stop watching them; whoever runs the server closes them."""
        if self._sweeper is not None:
            self._sweeper.cancel()

    def _make_room_within(self, limit: int) -> None:
        while len(self._open) > limit and self._make_room():
            pass

    def _make_room(self, home: str | None = None) -> bool:
        for connection in self._open:
            may_leave = connection.is_waiting() and not connection.is_fresh
            if may_leave and home in (None, connection.home):
                self.remove(connection)
                connection.cut()
                return True
        return False

    def _arm(self) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        now = asyncio.get_running_loop().time()
        for connection in list(self._open):
            connection.check(now)
        if self._open:
            self._arm()


class Connection(web.RequestHandler):
    """One client. aiohttp reads and answers its requests; what is here is how long it may take."""

    __slots__ = (
        "_connections", "_head_bytes", "_head_since", "_last_payload", "_often_until", "_progress", "_progress_at",
        "_wire", "address", "home", "is_fresh",
    )  # fmt: skip

    def __init__(self, server: web.Server, connections: Connections, address: str, **options: Any) -> None:
        super().__init__(server, **options)
        self._take_few_ahead()
        self.address = address
        self.home = household(address)
        self._connections = connections
        self._wire: asyncio.Transport | None = None
        """aiohttp forgets its transport when it closes it, and then what was sent may still wait in there."""
        self.is_fresh = True
        self._often_until = 0.0
        self._head_bytes = 0
        self._head_since: float | None = None
        self._last_payload: Any = None
        self._progress: tuple[int, int] = (0, 0)
        self._progress_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._wire = cast(asyncio.Transport, transport)
        self._wire.set_write_buffer_limits(high=WAITING_BYTES)
        self._wire.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self._head_since = self._loop.time()
        # A timer comes behind what can be read in the same pass of the loop, however long passes take.
        self._loop.call_later(FRESH_S, self._grow_old)
        self._connections.add(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._wire = None
        self._connections.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        is_head = self._payload_parser is None and not self._upgraded and self._is_between_requests()
        known = self._request_count
        super().data_received(data)
        if self._request_count != known:
            self._head_bytes, self._head_since = 0, None
            self._last_payload = self._messages[-1][1] if self._messages else None
        elif is_head and data:
            self._head_bytes += len(data)
            self._head_since = self._head_since or self._loop.time()
            if self._head_bytes > MAX_HEAD_BYTES + HOP_BYTES:
                self._refuse_head()

    def set_parser(self, parser: Any, data_received_cb: Callable[[], None] | None = None) -> None:
        """It is a WebSocket from now on."""
        super().set_parser(cast(Any, MaskedFrames(parser)), data_received_cb)

    def is_waiting(self) -> bool:
        """Is nothing asked that is not answered?"""
        return self._current_request is None and not self._messages

    def asks_rarely(self) -> bool:
        """Is this one request within RARELY_S? Those between do not count against it."""
        now = self._loop.time()
        is_rare = now >= self._often_until
        if is_rare:
            self._often_until = now + RARELY_S
        return is_rare

    def check(self, now: float) -> None:
        """Cut it off if it takes too long to send the head of a request, or to take an answer."""
        limits = self._connections.limits
        if self._head_since is not None and now - self._head_since > limits.head_s and self.is_waiting():
            self.cut()
        elif self._is_stalled(now, limits.stall_s):
            log.info("a client takes nothing of its answer", extra={"peer": self.address})
            self.cut()

    def cut(self) -> None:
        """Close it now. The kernel forgets what it holds for it as well, which may be megabytes."""
        if self._wire is not None:
            self._wire.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
            self._wire.abort()

    def _grow_old(self) -> None:
        self.is_fresh = False

    def _take_few_ahead(self) -> None:
        """aiohttp would parse 32 requests ahead of their answers: of large heads that is a megabyte a client."""
        self._max_msg_queue_size, self._msg_queue_resume_size = MAX_AHEAD, MAX_AHEAD // 2
        self._parser = HttpRequestParser(
            self,
            self._loop,
            self._read_bufsize,
            max_line_size=self.max_line_size,
            max_field_size=self.max_field_size,
            max_headers=self.max_headers,
            payload_exception=web.RequestPayloadError,
            auto_decompress=False,  # a compressed body is refused: do not unpack it to throw it away
            max_msg_queue_size=MAX_AHEAD,
        )

    def _is_between_requests(self) -> bool:
        return self._last_payload is None or self._last_payload.is_eof()

    def _refuse_head(self) -> None:
        """Take nothing more, and answer in turn, as aiohttp does for what its parser refuses."""
        refusal = _ErrInfo(status=431, exc=HeadTooLarge(), message="the head is too large")
        self._messages.append((refusal, EMPTY_PAYLOAD))
        self._request_count += 1
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if self._wire is not None:
            self._wire.pause_reading()

    def _is_stalled(self, now: float, stall_s: float) -> bool:
        """Has the kernel taken nothing of what waits, for so long?"""
        if self._wire is None or not (waiting := self._wire.get_write_buffer_size()):
            self._progress = (0, 0)
            return False
        writer = None if self._current_request is None else self._current_request.writer
        progress = (id(writer), -waiting if writer is None else writer.output_size - waiting)
        if progress[0] != self._progress[0] or progress[1] > self._progress[1]:
            self._progress, self._progress_at = progress, now
        return now - self._progress_at >= stall_s


class Acceptor:
    """Takes connections from listening sockets as long as there is room; else they wait in the kernel."""

    def __init__(
        self,
        sockets: Iterable[socket.socket],
        connections: Connections,
        protocol: Callable[[str], Connection],
    ) -> None:
        self.sockets = tuple(sockets)
        self._connections = connections
        self._protocol = protocol
        self._tasks = Tasks("accept")
        self._loop = asyncio.get_running_loop()
        self._is_listening = False
        self._resume: asyncio.TimerHandle | None = None
        self._told_at = -TELL_AGAIN_S

    def listen(self) -> None:
        """Accept, from now on or again."""
        if not self._is_listening:
            self._is_listening = True
            for listener in self.sockets:
                self._loop.add_reader(listener.fileno(), self._accept, listener)

    async def close(self) -> None:
        """Accept nothing more. Those that were accepted last are connections like the others then."""
        self._ignore()
        for listener in self.sockets:
            listener.close()
        await self._tasks.join(1.0)

    def _ignore(self) -> None:
        if self._resume is not None:
            self._resume.cancel()
        if self._is_listening:
            self._is_listening = False
            for listener in self.sockets:
                self._loop.remove_reader(listener.fileno())

    def _pause(self, reason: str, pause_s: float) -> None:
        """Let those who come wait in the kernel for a moment."""
        self._ignore()
        self._resume = self._loop.call_later(pause_s, self.listen)
        self._tell(reason)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPT_AT_ONCE):
            if not self._connections.make_room():
                self._pause("all connections are in use; more wait until one ends", FRESH_S)
                return
            try:
                client, peer = listener.accept()
            except OSError as exc:
                if exc.errno in OUT_OF_DESCRIPTORS:
                    self._pause("no descriptor is left for another connection", PAUSE_S)
                return
            self._take(client, address_of(peer))

    def _take(self, client: socket.socket, address: str) -> None:
        if not self._connections.has_room_for(address):
            client.close()
            self._tell("too many connections of one address", peer=address)
            return
        client.setblocking(False)
        self._connections.expect(address)
        self._tasks.spawn(self._connect(client, address), name=address)

    async def _connect(self, client: socket.socket, address: str) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: self._protocol(address), client)
        except BaseException:
            client.close()
            raise
        finally:
            self._connections.has_come(address)

    def _tell(self, message: str, **fields: str) -> None:
        """Once in a while: whoever floods the server shall not flood its log."""
        if self._loop.time() - self._told_at >= TELL_AGAIN_S:
            self._told_at = self._loop.time()
            log.warning(message, extra={"connections": len(self._connections), **fields})


class Site(web.BaseSite):
    """Sockets that listen, and what accepts on them, as a part of aiohttp's runner."""

    def __init__(self, runner: web.ServerRunner, acceptor: Acceptor) -> None:
        super().__init__(runner)
        self._acceptor = acceptor

    @property
    def name(self) -> str:
        return ", ".join(str(listener.getsockname()) for listener in self._acceptor.sockets)

    async def start(self) -> None:
        await super().start()
        self._acceptor.listen()

    async def stop(self) -> None:
        await super().stop()
        await self._acceptor.close()


def address_of(peer: Any) -> str:
    """Of the peer of a socket: an address of IP, or nothing for a Unix socket."""
    return str(peer[0]) if isinstance(peer, tuple) else ""


def is_near(address: str) -> bool:
    """Does it come from this machine?"""
    return not address or ip_address(address.partition("%")[0]).is_loopback
