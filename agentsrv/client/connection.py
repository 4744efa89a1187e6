"""One server over HTTP: requests, what is asked again, and what becomes an error. Nothing here knows what is asked."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

import msgspec
from aiohttp import (
    ClientError,
    ClientPayloadError,
    ClientResponse,
    ClientSession,
    ClientSSLError,
    ClientTimeout,
    ClientWebSocketResponse,
    FormData,
    TCPConnector,
    UnixConnector,
    WSServerHandshakeError,
)

from agentsrv.client.errors import (
    AgentsrvError,
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    status_error,
)
from agentsrv.client.servers import Server

T = TypeVar("T")
Query = Mapping[str, Any]

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
LONGEST_RETRY_AFTER_S = 60.0
AGAIN = frozenset({408, 429, 502, 503, 504})
"""Statuses that say: ask again."""

HEARTBEAT_S = 15.0
"""A socket's server must answer a ping this often, half of it late: a lost network says nothing by itself."""

REFUSED_SOCKETS = {
    404: "there is no such terminal to watch",
    429: "the server has as many terminals as it may; end one first",
    503: "the server cannot open a terminal now",
}
"""A refused upgrade has a body that says why, but aiohttp does not hand it out."""

NETWORK_ERRORS = (ClientError, OSError, TimeoutError, asyncio.IncompleteReadError)

VERSION = "0.1.0"
"""Of the first server that has all that is asked for here."""


@dataclass(frozen=True, slots=True)
class Options:
    """Times are in seconds. `reconnect_timeout` None: a stream that broke off is taken up again for ever."""

    timeout: float = 60.0
    max_retries: int = 4
    reconnect_timeout: float | None = None
    silence: float = 45.0
    """A stream on which nothing has come for so long, not even a comment, is dead."""


def pause_s(attempt: int, wanted: float | None = None) -> float:
    """Before the attempt after `attempt` (from 0): what the server wants, or ever longer; never the same for all."""
    if wanted is not None:
        return min(wanted, LONGEST_RETRY_AFTER_S) + random.uniform(0, FIRST_PAUSE_S)
    return min(FIRST_PAUSE_S * 2.0 ** min(attempt, 10), LONGEST_PAUSE_S) * random.uniform(0.5, 1)


class Pool:
    """The sockets to one server. They belong to the event loop that is running when the first is opened."""

    def __init__(self, socket: str | None = None) -> None:
        self._socket = socket
        self._http: ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def get(self) -> ClientSession:
        loop = asyncio.get_running_loop()
        if self._http is None or self._http.closed:
            # Streams and waiting requests each hold a socket: no limit of our own.
            connector = UnixConnector(self._socket, limit=0) if self._socket else TCPConnector(limit=0)
            self._http = ClientSession(connector=connector, auto_decompress=True, read_bufsize=1 << 18)
            self._loop = loop
        if loop is not self._loop:
            raise AgentsrvError("this client belongs to another event loop; make one for each")
        return self._http

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()


class Connection:
    """A server, how to talk to it, and its sockets, which connections with other options share."""

    def __init__(self, server: Server, options: Options, pool: Pool | None = None) -> None:
        self.server = server
        self.options = options
        self._pool = pool or Pool(server.socket)

    def __repr__(self) -> str:
        return f"Connection({self.server.url!r})"

    def with_options(self, **changes: Any) -> Self:
        return type(self)(self.server, replace(self.options, **changes), self._pool)

    async def close(self) -> None:
        await self._pool.close()

    async def ask(
        self,
        method: str,
        path: str,
        answer: type[T],
        *,
        query: Query | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        is_repeatable: bool | None = None,
        timeout: float | None = None,
    ) -> T:
        """The server's answer, read as `answer`. A GET is repeatable unless said otherwise."""
        content = await self.fetch(
            method,
            path,
            query=query,
            body=body,
            headers=headers,
            is_repeatable=is_repeatable,
            timeout=timeout,
        )
        try:
            return msgspec.json.decode(content, type=answer)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            told = f"{self.server.url} answers {method} {path} with what this client does not understand"
            raise AgentsrvError(f"{told}: {exc}") from None

    async def fetch(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        is_repeatable: bool | None = None,
        timeout: float | None = None,
    ) -> bytes:
        """The bytes of an answer that is 2xx; asked for again where that is safe and may help."""

        async def attempt() -> bytes:
            async with asyncio.timeout(timeout or self.options.timeout):
                response = await self.open(method, path, query=query, body=body, headers=headers)
                async with response:
                    return await response.read()

        return await self.again(
            attempt, is_repeatable=method == "GET" if is_repeatable is None else is_repeatable
        )

    async def again(self, attempt: Callable[[], Awaitable[T]], *, is_repeatable: bool = True) -> T:
        """What `attempt` gives; it is made again, up to `max_retries` times, when that is safe and may help."""
        count = 0
        while True:
            try:
                return await attempt()
            except NETWORK_ERRORS as exc:
                error: AgentsrvError = self.connection_error(exc)
            except APIConnectionError as exc:
                error = exc
            except APIStatusError as exc:
                if exc.status not in AGAIN:
                    raise
                error = exc
            if not is_repeatable or count >= self.options.max_retries:
                raise error
            await asyncio.sleep(pause_s(count, getattr(error, "retry_after", None)))
            count += 1

    async def open(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> ClientResponse:
        """One attempt: an answer whose head is 2xx, to be read and closed. The caller limits the time.

        A body that is bytes or a form is sent as it is, all else as JSON.
        """
        all_headers = {
            "Accept": "application/json, text/event-stream",
            **self.authorization,
            **(headers or {}),
        }
        if body is not None and not isinstance(body, bytes | FormData):
            body = msgspec.json.encode(body)
            all_headers["Content-Type"] = "application/json"
        try:
            response = await self._pool.get().request(
                method,
                self.server.origin + path,
                params=_parameters(query),
                data=body,
                headers=all_headers,
                allow_redirects=False,
                timeout=ClientTimeout(total=None),
            )
        except NETWORK_ERRORS as exc:
            raise self.connection_error(exc) from None
        if 200 <= response.status < 300:
            return response
        async with response:
            raise self._refusal(method, path, response, await response.read())

    async def open_socket(self, path: str, token: str) -> ClientWebSocketResponse:
        """A WebSocket that `token` opens, with a server that answers pings."""
        headers = {"Authorization": f"Bearer {token}"}
        try:
            return await self._pool.get().ws_connect(
                self.server.origin + path, headers=headers, heartbeat=HEARTBEAT_S, max_msg_size=0
            )
        except WSServerHandshakeError as exc:
            why = REFUSED_SOCKETS.get(exc.status, f"the socket was refused with {exc.status}")
            raise status_error(exc.status, {}, msgspec.json.encode({"error": why})) from None
        except NETWORK_ERRORS as exc:
            raise self.connection_error(exc) from None

    @property
    def authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.server.key}"} if self.server.key else {}

    @property
    def pool(self) -> Pool:
        return self._pool

    def connection_error(self, exc: BaseException) -> APIConnectionError:
        """`exc` in a few words. Not chained: some errors of aiohttp hold the request's headers."""
        if isinstance(exc, TimeoutError):
            return APITimeoutError(self.server.url, "no answer in time")
        if isinstance(exc, ClientPayloadError):
            return APIConnectionError(self.server.url, "it broke off in the middle of an answer")
        # The numbers of TLS are not those of the system.
        number = 0 if isinstance(exc, ClientSSLError) else getattr(exc, "errno", None) or 0
        reason = os.strerror(number) if number > 0 else str(exc) or type(exc).__name__
        return APIConnectionError(self.server.url, reason)

    def _refusal(self, method: str, path: str, response: ClientResponse, content: bytes) -> APIStatusError:
        error = status_error(response.status, response.headers, content)
        if 300 <= error.status < 400:
            where = response.headers.get("Location", "elsewhere")
            error.message = (
                f"{self.server.url} sends us to {where}; that is not followed, it would carry the key there"
            )
        elif error.status == 404 and error.code in ("", "not_found"):
            error.message = self._missing_route(method, path, is_ours=bool(error.code))
        return error

    def _missing_route(self, method: str, path: str, *, is_ours: bool) -> str:
        why = f"agentsrv {VERSION} has it, so this server is older" if is_ours else "it is no agentsrv"
        return f"{self.server.url} has no {method} {path}: {why}"


def _parameters(query: Query | None) -> list[tuple[str, str]]:
    """What is None is left out; a list comes several times."""
    return [
        (name, str(each).lower() if isinstance(each, bool) else str(each))
        for name, value in (query or {}).items()
        for each in (value if isinstance(value, list) else [value])
        if each is not None
    ]
