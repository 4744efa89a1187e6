"""`GET /activity` of a fleet: what happens on all servers, as if it were one.

A *round* begins with a snapshot that is put together from those of all servers, and passes on what each tells from then
on. Nothing is remembered: when a server begins anew, goes away or is back, the round is over, and the next one begins
with a snapshot, which makes void what was told before. That is how it is on one server, too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

import msgspec
from aiohttp import web

from agentsrv.api.activity import message_of
from agentsrv.api.forward import Forwarder
from agentsrv.api.keys import ACTIVITY
from agentsrv.api.merge import FLEET
from agentsrv.api.sse import frame_of, stream_frames
from agentsrv.fleet.registry import Registry
from agentsrv.tasks import Tasks
from agentsrv.turns.activity import MAX_SESSIONS, Activity

log = logging.getLogger(__name__)

FIRST_S = 5.0
"""How long a snapshot waits for that of another server."""
LOOK_AGAIN_S = 2.0
AT_ONCE = 64
SNAPSHOT = b'{"type":"snapshot"'

Told = tuple[str, bytes | None]
"""By which server, and the JSON of one message; None: it tells nothing more."""


async def watch(request: web.Request, registry: Registry, forwarder: Forwarder) -> web.StreamResponse:
    """The answer to `GET /activity`; in a snapshot `unreachable` names the servers that are not in it."""
    return await stream_frames(request, _rounds(request, registry, forwarder), frame_of)


async def _rounds(
    request: web.Request, registry: Registry, forwarder: Forwarder
) -> AsyncGenerator[bytes, None]:
    while True:
        this = Round(registry, forwarder)
        try:
            async with aclosing(this.messages(request)) as messages:
                async for message in messages:
                    yield message
        finally:
            await this.close()
        if this.is_last:
            return
        await asyncio.sleep(LOOK_AGAIN_S)


class Round:
    """From one snapshot of all servers to the next. `is_last`: this server stops."""

    def __init__(self, registry: Registry, forwarder: Forwarder) -> None:
        self.is_last = False
        self._registry = registry
        self._forwarder = forwarder
        self._me = registry.me.name
        self._peers = {peer.name: peer for peer in registry.others()}
        self._told: asyncio.Queue[Told] = asyncio.Queue(AT_ONCE)
        self._tasks = Tasks("activity")

    async def messages(self, request: web.Request) -> AsyncGenerator[bytes, None]:
        self._listen(self._me, _own(request.app[ACTIVITY]))
        for name, peer in self._peers.items():
            self._listen(name, self._forwarder.lines(peer, request))
        snapshots, early = await self._begun()
        silent = sorted(self._peers.keys() - snapshots.keys())
        yield _merged([msgspec.json.decode(one) for one in snapshots.values()], silent)
        for message in early:
            yield message
        self._tasks.spawn(self._watch_for_change(silent), name="change")
        while not self.is_last:
            name, told = await self._told.get()
            if told is None or told.startswith(SNAPSHOT):
                self.is_last = told is None and name == self._me
                return
            yield told

    async def close(self) -> None:
        await self._tasks.close()

    async def _begun(self) -> tuple[dict[str, bytes], list[bytes]]:
        """The snapshots of all who have one in time, and what was told meanwhile."""
        snapshots: dict[str, bytes] = {}
        early: list[bytes] = []
        waiting = {self._me, *self._peers}
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_S):
                while waiting:
                    name, told = await self._told.get()
                    if told is None:
                        snapshots.pop(name, None)
                    elif name in waiting:
                        snapshots[name] = told
                    else:
                        early.append(told)
                    waiting.discard(name)
        return snapshots, early

    def _listen(self, name: str, messages: AsyncGenerator[bytes, None]) -> None:
        self._tasks.spawn(self._pass_on(name, messages), name=name)

    async def _pass_on(self, name: str, messages: AsyncGenerator[bytes, None]) -> None:
        """A slow client holds back all servers, which then tell the newest state only."""
        try:
            async with aclosing(messages):
                async for message in messages:
                    await self._told.put((name, message))
        except Exception:
            log.exception("the activity of server %s is not told any more", name)
        await self._told.put((name, None))

    async def _watch_for_change(self, silent: list[str]) -> None:
        """Until there is another server, or one that has not answered does."""
        while True:
            await asyncio.sleep(LOOK_AGAIN_S)
            now = {peer.name: peer for peer in self._registry.others()}
            asked = [self._forwarder.ask(now[name], "/", FLEET) for name in silent if name in now]
            if now.keys() != self._peers.keys() or any(await asyncio.gather(*asked)):
                await self._told.put(("", None))
                return


async def _own(activity: Activity) -> AsyncGenerator[bytes, None]:
    async with aclosing(activity.watch()) as told:
        async for news in told:
            for one in news:
                yield msgspec.json.encode(message_of(one))


def _merged(snapshots: list[dict[str, Any]], silent: list[str]) -> bytes:
    """One snapshot, in the order that each of them has."""
    sessions = [one for snapshot in snapshots for one in snapshot["sessions"]]
    sessions.sort(key=lambda one: (one["createdAt"], one["id"]), reverse=True)
    permissions = [one for snapshot in snapshots for one in snapshot["permissions"]]
    permissions.sort(key=lambda one: (one["createdAt"], one["requestId"]))
    return msgspec.json.encode(
        {
            "type": "snapshot",
            "sessions": sessions[:MAX_SESSIONS],
            "permissions": permissions,
            "unreachable": silent,
        }
    )
