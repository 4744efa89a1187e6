"""The hop: passes a request on to its home, and the answer back, byte for byte as both come.

What it knows of HTTP is what a proxy has to: which headers belong to one connection only, that an answer which breaks
off must not look whole, and that nobody can tell whether a request without an answer was carried out.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import HttpVersion11, hdrs, web
from msgspec import Struct
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from agentsrv.access import Caller
from agentsrv.api import hop
from agentsrv.api.access_log import CLIENT_GONE, request_id
from agentsrv.api.bodies import body_chunks
from agentsrv.api.credentials import CALLER
from agentsrv.api.keys import RELAYED
from agentsrv.api.proxies import FORWARDED_FOR, FORWARDED_PREFIX, client_address, path_prefix
from agentsrv.api.refusals import is_gone
from agentsrv.api.watches import Passage, Watches
from agentsrv.errors import AgentsrvError, Unavailable
from agentsrv.fleet import PROTOCOL
from agentsrv.fleet.registry import Peer, Registry
from agentsrv.lines import LineFramer
from agentsrv.tasks import Tasks

CONNECT_S = 1.0
ASK_S = 1.0
IDLE_S = 15.0
IDLE_CONNECTIONS = 64
"""To each server. Others are closed when they are done with."""
READ_BUFFER_BYTES = 128 * 1024
AT_ONCE_BYTES = 64 * 1024
MAX_LINE_BYTES = 64 * 1024 * 1024
DATA = b"data: "

PER_CONNECTION = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
     "transfer-encoding", "upgrade", "expect"}
)  # fmt: skip
NOT_CONNECTED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
"""Nothing was sent."""
BUSY_S = 15.0
"""So long a server that lives, but does not take a connection, is tried."""
REPEATABLE = frozenset({hdrs.METH_GET, hdrs.METH_HEAD})


HasMoved = Callable[[aiohttp.ClientResponse], Awaitable[bool]]


class NotThere(Exception):
    """The home does not know what we thought it has; nothing was answered."""


class Reply(Struct, frozen=True):
    """The answer to a question of our own."""

    status: int
    body: bytes


class Connector(aiohttp.TCPConnector):
    """Keeps no more than IDLE_CONNECTIONS to a server; aiohttp 3 keeps as many as there were at once."""

    def _release(self, key: Any, protocol: Any, *, should_close: bool = False) -> None:
        is_full = len(self._conns.get(key, ())) >= IDLE_CONNECTIONS
        super()._release(key, protocol, should_close=should_close or is_full)


class Forwarder:
    """Knows how to reach the other servers. Nothing is passed on that came over a hop."""

    def __init__(self, registry: Registry, secret: bytes) -> None:
        self._registry = registry
        self._secret = secret.decode()
        self._client: aiohttp.ClientSession | None = None
        self._tasks = Tasks("hops")
        self._watches = Watches(self._tasks, self._answers)

    def open(self) -> None:
        self._client = aiohttp.ClientSession(
            connector=Connector(limit=0, keepalive_timeout=IDLE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=READ_BUFFER_BYTES,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )
        # Else aiohttp sends whatever HTTP calls idempotent a second time, and a client whose DELETE was carried out the
        # first time hears 404. What is repeated is decided here. Its own test client has no other way either.
        self._client._retry_connection = False

    def drain(self) -> None:
        """End what would not end by itself: event streams, whose clients come back to another server."""
        self._watches.drain()

    async def close(self) -> None:
        await self._tasks.close()
        if self._client is not None:
            await self._client.close()

    async def pass_on(
        self, request: web.Request, home: str, body: bytes | bytearray | None, has_moved: HasMoved
    ) -> web.StreamResponse:
        """The home's answer. `body`: that of the request, where it has been read.

        `has_moved` is asked whether the answer is that of a home; when it is not, NotThere is raised, unless the
        request is used up. Raises Unavailable (`owner_unreachable`: nothing was done; `outcome_unknown`).
        """
        peer = await self.reach(home)
        is_again = False
        give_up_at = time.monotonic() + BUSY_S
        while True:
            try:
                return await self._pass_on(request, peer, body, has_moved)
            except NOT_CONNECTED as exc:
                is_late = isinstance(exc, TimeoutError) and time.monotonic() < give_up_at
                peer = await self.find_again(home, peer, may_be_busy=is_late)
            except Misdirected:
                peer = await self.find_again(home, peer, may_be_busy=False)
            except Broken as exc:
                if request.method not in REPEATABLE:
                    raise outcome_unknown(home) from exc
                if is_again or exc.is_stopped:
                    raise owner_unreachable(home) from exc
                is_again = True

    async def reach(self, home: str) -> Peer:
        """Where the server is. Raises Unavailable when nobody has ever said so, or nothing can be said to it."""
        if (peer := self._registry.peer(home)) is None:
            await self._registry.look()
            peer = self._registry.peer(home)
        if peer is None:
            raise owner_unreachable(home)
        require_understood(peer)
        return peer

    async def find_again(self, home: str, peer: Peer, *, may_be_busy: bool) -> Peer:
        """Where to try next, when a connection was not taken: it may be back at another address, or busy.

        Raises Unavailable (`owner_unreachable`).
        """
        await self._registry.look()
        found = await self.reach(home)
        if found.address == peer.address and not (may_be_busy and await self._watches.lives(peer)):
            raise owner_unreachable(home)
        return found

    async def ask(self, peer: Peer, path: str, caller: Caller, timeout_s: float = ASK_S) -> Reply | None:
        """Ask another server in the caller's name; None when it does not answer."""
        if not peer.is_understood:
            return None
        headers = {hop.HOP: self._secret, hop.TO: peer.name, hop.CALLER: hop.told(caller)}
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(CONNECT_S, timeout_s))
        try:
            async with self._session.get(_url(peer, path), headers=headers, timeout=timeout) as answer:
                found = Reply(answer.status, await answer.read())
            return None if is_of_another(answer.headers, peer) else found
        except (aiohttp.ClientError, OSError):
            return None

    async def lines(self, peer: Peer, request: web.Request) -> AsyncGenerator[bytes, None]:
        """The data of the event stream that another server has at the same place, until it does not live any more."""
        if not peer.is_understood:
            return
        headers = self.headers_for(request, peer)
        try:
            async with (
                self.watch(peer, request) as passage,
                self._session.get(_url(peer, request.raw_path), headers=headers) as answer,
            ):
                framer = LineFramer(MAX_LINE_BYTES)
                is_good = answer.status == 200 and not is_of_another(answer.headers, peer)
                while is_good and (data := await answer.content.readany()):
                    passage.heard()
                    for line in framer.feed(data):
                        if isinstance(line, bytes) and line.startswith(DATA):
                            yield line.removeprefix(DATA)
        except (aiohttp.ClientError, OSError):
            return

    def headers_for(self, request: web.Request, peer: Peer) -> CIMultiDict[str]:
        """The request's own headers that go all the way, and ours."""
        headers = end_to_end(request.headers)
        headers[hop.HOP] = self._secret
        headers[hop.TO] = peer.name
        if (caller := request.get(CALLER)) is not None:
            headers[hop.CALLER] = hop.told(caller)
        headers["X-Request-Id"] = request_id(request)
        headers[FORWARDED_FOR] = client_address(request)
        headers[FORWARDED_PREFIX] = path_prefix(request)
        return headers

    def watch(self, peer: Peer, request: web.Request) -> Passage:
        """Looks after one request that is passed on, within an `async with`."""
        return self._watches.watch(peer, request)

    async def _pass_on(
        self, request: web.Request, peer: Peer, body: bytes | bytearray | None, has_moved: HasMoved
    ) -> web.StreamResponse:
        upload = None if body is not None or not request.body_exists else Upload(request)
        response: web.StreamResponse | None = None
        passage = self._watches.watch(peer, request)
        try:
            async with passage, self._sent(request, peer, body, upload) as answer:
                passage.heard()
                if is_of_another(answer.headers, peer):
                    if upload is None or not upload.is_begun:
                        raise Misdirected
                    raise Broken(is_stopped=False)
                if upload is None and await has_moved(answer):
                    raise NotThere
                response = _head_of(answer, request)
                passage.is_stream = response.content_type == "text/event-stream"
                request[RELAYED] = True
                await response.prepare(request)
                await _copy(answer, response, passage)
        except NOT_CONNECTED:
            raise
        except (aiohttp.ClientError, OSError) as exc:
            if upload is not None and upload.failure is not None:
                raise upload.failure from exc
            if response is None or not response.prepared:
                if is_gone(request):
                    return web.Response(status=CLIENT_GONE)
                raise Broken(is_stopped=passage.is_cut) from exc
            if passage.is_drained:
                await response.write_eof()
            elif request.transport is not None:
                request.transport.abort()  # What it has is not the whole.
        return response

    @asynccontextmanager
    async def _sent(
        self, request: web.Request, peer: Peer, body: bytes | bytearray | None, upload: Upload | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The head of the answer. A body that still comes in is asked for when the home wants it, not before."""
        data = slices(body) if body else None
        if upload is not None:
            data = upload.chunks()
        async with self._session.request(
            request.method,
            _url(peer, request.raw_path),
            headers=self.headers_for(request, peer),
            data=data,
            expect100=upload is not None,
            allow_redirects=False,
        ) as answer:
            try:
                yield answer
            finally:
                if upload is not None and not upload.is_all_here:
                    answer.close()  # Else its end is waited for, and nobody wants that.

    async def _answers(self, peer: Peer, timeout_s: float) -> bool:
        """Does the server answer anything at all?"""
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        headers = {hop.HOP: self._secret, hop.TO: peer.name}
        try:
            async with self._session.get(_url(peer, "/"), headers=headers, timeout=timeout) as answer:
                await answer.read()
            return not is_of_another(answer.headers, peer)
        except (aiohttp.ClientError, OSError):
            return False

    @property
    def _session(self) -> aiohttp.ClientSession:
        assert self._client is not None
        return self._client


class Misdirected(Exception):
    """Somebody else has the address now, and has done nothing."""


class Broken(Exception):
    """The request was sent, and no answer has come. `is_stopped`: nor to anything else."""

    def __init__(self, *, is_stopped: bool) -> None:
        super().__init__("no answer")
        self.is_stopped = is_stopped


class Upload:
    """The body of a request, read as the home takes it. `failure`: why its client's part went wrong."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.failure: AgentsrvError | None = None
        self.is_begun = False

    @property
    def is_all_here(self) -> bool:
        """Is it being sent, with nothing of it left to wait for?"""
        return self.is_begun and self._request.content.is_eof()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        self.is_begun = True
        try:
            async for chunk in body_chunks(self._request):
                yield chunk
        except AgentsrvError as exc:
            self.failure = exc
            raise


async def slices(body: bytes | bytearray) -> AsyncGenerator[bytes, None]:
    """A body that is here, so that its sending holds up nobody."""
    for start in range(0, len(body), AT_ONCE_BYTES):
        yield bytes(body[start : start + AT_ONCE_BYTES])


def end_to_end(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """All headers but those that are for one connection, or one hop."""
    found = CIMultiDict(headers)
    for name in {key.lower() for key in found} & (PER_CONNECTION | hop.OURS | per_connection(found)):
        del found[name]
    return found


def per_connection(headers: CIMultiDict[str] | CIMultiDictProxy[str]) -> set[str]:
    """What `Connection` names."""
    return {
        name.strip().lower() for value in headers.getall(hdrs.CONNECTION, []) for name in value.split(",")
    }


def owner_unreachable(home: str) -> Unavailable:
    return Unavailable(
        f"server {home}, where this is at home, cannot be reached; nothing was done, try again soon",
        code="owner_unreachable",
        retry_after_s=2,
        extra={"server": home},
    )


def require_understood(peer: Peer) -> None:
    """Raises Unavailable (`protocol_mismatch`)."""
    if not peer.is_understood:
        raise Unavailable(
            f"server {peer.name} speaks protocol {peer.protocol} of the fleet, and the one that you have asked "
            f"protocol {PROTOCOL}; nothing was done, try again when all are upgraded",
            code="protocol_mismatch",
            extra={"server": peer.name},
        )


def outcome_unknown(home: str) -> Unavailable:
    return Unavailable(
        f"server {home} has got the request and did not answer: it may be carried out; "
        "send it again with the same message_id",
        code="outcome_unknown",
        retry_after_s=2,
        extra={"server": home},
    )


def is_of_another(headers: Mapping[str, str], peer: Peer) -> bool:
    """Is it the answer of somebody else, who has the address now?"""
    return headers.get(hop.FROM) != peer.name


def _url(peer: Peer, path: str) -> URL:
    return URL(peer.address.rstrip("/") + path, encoded=True)


def _head_of(answer: aiohttp.ClientResponse, request: web.Request) -> web.StreamResponse:
    headers = end_to_end(answer.headers)
    response = web.StreamResponse(status=answer.status, reason=answer.reason or "", headers=headers)
    if request.version < HttpVersion11 and response.content_length is None:
        response.force_close()  # Its end is that of the connection.
    return response


async def _copy(answer: aiohttp.ClientResponse, response: web.StreamResponse, passage: Passage) -> None:
    while chunk := await answer.content.readany():
        passage.heard()
        await response.write(chunk)
    await response.write_eof()
