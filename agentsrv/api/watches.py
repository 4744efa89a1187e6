"""Looks after the requests that are passed on: has their client gone, does their home still live?

One task for each server to which anything is passed on, for as long as there is something. It asks the server for a
sign of life only when it has been silent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Self

from aiohttp import web

from agentsrv.api.refusals import is_gone
from agentsrv.fleet.registry import Peer
from agentsrv.tasks import Tasks

LOOK_S = 0.5
SILENT_S = 0.8
PROBE_S = 0.8
FAILURES = 2

Answers = Callable[[Peer, float], Awaitable[bool]]


class Watches:
    """A watch for each server, by its address: one that is back at another one is another."""

    def __init__(self, tasks: Tasks, answers: Answers) -> None:
        self._tasks = tasks
        self._answers = answers
        self._by_address: dict[str, Watch] = {}
        self._probes: dict[str, asyncio.Task[bool]] = {}
        self._is_draining = False

    def watch(self, peer: Peer, request: web.Request) -> Passage:
        watch = self._by_address.get(peer.address)
        if watch is None:
            watch = self._by_address[peer.address] = Watch(peer, self._answers)
            self._tasks.spawn(self._run(watch), name=peer.name)
        return Passage(watch, request, is_draining=self._is_draining)

    async def lives(self, peer: Peer) -> bool:
        """Does a server that takes no connection give a sign of life? One probe is for all that wait for it."""
        probe = self._probes.get(peer.address)
        if probe is None:
            probe = self._tasks.start(self._sign(peer), name=f"probe of {peer.name}")
            self._probes[peer.address] = probe
            probe.add_done_callback(lambda _: self._probes.pop(peer.address))
        return await asyncio.shield(probe)

    async def _sign(self, peer: Peer) -> bool:
        watch, began = self._by_address.get(peer.address), asyncio.get_running_loop().time()
        for _ in range(FAILURES):
            if await self._answers(peer, PROBE_S) or (watch is not None and watch.heard_at > began):
                return True
        return False

    def drain(self) -> None:
        self._is_draining = True
        for watch in self._by_address.values():
            for passage in watch.passages:
                passage.drain()

    async def _run(self, watch: Watch) -> None:
        try:
            await watch.run()
        finally:
            del self._by_address[watch.peer.address]


class Watch:
    """Of one server."""

    def __init__(self, peer: Peer, answers: Answers) -> None:
        self.peer = peer
        self.passages: set[Passage] = set()
        self.heard_at = asyncio.get_running_loop().time()
        self._answers = answers

    async def run(self) -> None:
        """As long as anything is passed on."""
        loop = asyncio.get_running_loop()
        is_first = True
        while self.passages or is_first:
            is_first = False
            await asyncio.sleep(LOOK_S)
            for passage in [one for one in self.passages if is_gone(one.request)]:
                passage.cut()
            if self.passages and loop.time() - self.heard_at >= SILENT_S:
                await self._probe()

    async def _probe(self) -> None:
        """Give up those that were there before the first failure: what has come since is another matter."""
        asked, began = set(self.passages), asyncio.get_running_loop().time()
        for _ in range(FAILURES):
            if await self._answers(self.peer, PROBE_S) or self.heard_at > began:
                self.heard_at = asyncio.get_running_loop().time()
                return
        for passage in asked & self.passages:
            passage.cut()


class Passage:
    """One request that is passed on. Within its `async with` a TimeoutError means that it was cut."""

    def __init__(self, watch: Watch, request: web.Request, *, is_draining: bool) -> None:
        self.request = request
        self.is_stream = False
        """Does it last until somebody ends it?"""
        self.is_cut = False
        self.is_drained = False
        self._watch = watch
        self._is_draining = is_draining
        self._scope = asyncio.timeout(None)

    async def __aenter__(self) -> Self:
        await self._scope.__aenter__()
        self._watch.passages.add(self)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._watch.passages.discard(self)
        await self._scope.__aexit__(*exc)  # type: ignore[arg-type]

    def heard(self) -> None:
        """The server has said something."""
        self._watch.heard_at = asyncio.get_running_loop().time()

    def cut(self) -> None:
        """Its client has gone, or its server does not live: end it now."""
        self.is_cut = True
        self._scope.reschedule(asyncio.get_running_loop().time())

    def drain(self) -> None:
        """We stop: a stream ends cleanly, and its client goes on elsewhere."""
        if self.is_stream:
            self.is_drained = True
            self._scope.reschedule(asyncio.get_running_loop().time())
