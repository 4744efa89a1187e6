"""Ends what is still open under a key that has ended: streams, sockets, terminals, uploads. What agents do goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from aiohttp import web

from agentsrv.access import FRESH_S, Keyring
from agentsrv.errors import AgentsrvError
from agentsrv.tasks import Tasks


class Holders:
    """Of one application: its requests that have begun and not ended, by the hash of the named key they came with.

    One task looks at these keys, for as long as there are such requests.
    """

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._requests: dict[bytes, dict[object, web.Request]] = {}
        self._tasks = Tasks("holders")
        self._is_looking = False

    @contextmanager
    def held(self, hash: bytes, request: web.Request) -> Iterator[None]:
        """For as long as the request lasts. `hash` of the settings' own key, or empty: it ends with the server."""
        if not hash or self._keyring.is_own(hash):
            yield
            return
        mark = object()  # A request may be held twice: by the key in its head, and by its terminal's.
        self._requests.setdefault(hash, {})[mark] = request
        self._look()
        try:
            yield
        finally:
            held = self._requests[hash]
            del held[mark]
            if not held:
                del self._requests[hash]

    async def close(self) -> None:
        await self._tasks.close()

    def _look(self) -> None:
        if not self._is_looking:
            self._is_looking = True
            self._tasks.spawn(self._cut_ended(), name="look")

    async def _cut_ended(self) -> None:
        try:
            while self._requests:
                await asyncio.sleep(FRESH_S)
                for hash in list(self._requests):
                    # A key is not over because the database does not answer.
                    with suppress(AgentsrvError):
                        if not await self._keyring.is_good(hash):
                            self._cut(hash)
        finally:
            self._is_looking = False

    def _cut(self, hash: bytes) -> None:
        for request in self._requests.get(hash, {}).values():
            if request.transport is not None:
                request.transport.abort()
