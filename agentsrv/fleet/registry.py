"""Keeps this server in the fleet's book, says again what it has, and knows the other servers."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from msgspec import Struct, field

from agentsrv.config import web_address
from agentsrv.errors import AgentsrvError, StartupError, Unavailable
from agentsrv.fleet import PROTOCOL
from agentsrv.fleet.memory import Memory
from agentsrv.fleet.names import number_of
from agentsrv.fleet.redis_homes import RedisHomes
from agentsrv.fleet.scripts import Scripts
from agentsrv.tasks import Tasks, Vitals

log = logging.getLogger(__name__)

BEAT_S = 1.0
TTL_S = 4.0
LOOK_AGAIN_S = 0.1
PUBLISHED_AT_ONCE = 1000


class Load(Struct, frozen=True):
    """How much a server does, and could."""

    active: int
    capacity: int
    accepts: bool


class Peer(Struct, frozen=True):
    """A server as the book has it. `expires_at`: on our own clock, when it counts as away unless it says more."""

    name: str
    address: str
    incarnation: str = ""
    load: Load = Load(0, 1, accepts=False)
    version: str = ""
    protocol: str = PROTOCOL
    """Ours until it says otherwise."""
    expires_at: float = 0.0

    @property
    def is_alive(self) -> bool:
        return time.monotonic() < self.expires_at

    @property
    def is_understood(self) -> bool:
        """Of another protocol it may be while the fleet is upgraded: then nothing is said to it."""
        return self.protocol == PROTOCOL


class View(Struct):
    """What the last answer of Redis said, or earlier ones where it said nothing."""

    peers: dict[str, Peer] = field(default_factory=dict)
    epoch: str = ""
    missing: tuple[str, ...] = ()
    problem: str | None = "no beat yet"
    """Why the last beat failed."""


class Registry:
    """Of one server of a fleet. `list_keys` gives all that is at home here; `on_superseded` must not return."""

    def __init__(
        self,
        me: Peer,
        homes: RedisHomes,
        scripts: Scripts,
        memory: Memory,
        load: Callable[[], Load],
        list_keys: Callable[[], Awaitable[list[str]]],
        vitals: Vitals,
    ) -> None:
        self.me = me
        self.view = View()
        self.clashes: dict[str, str] = {}
        """Keys that are here and have another home: somebody has forced a volume, or Redis was two for a while."""
        self._homes = homes
        self._scripts = scripts
        self._memory = memory
        self._load = load
        self._list_keys = list_keys
        self._vitals = vitals
        self._incarnation = secrets.token_hex(16)
        self._looked_at = float("-inf")
        self._beating = asyncio.Lock()
        self._is_serving = False
        self._numbers: dict[str, str] = {}
        self._tasks = Tasks("fleet")

    async def start(self) -> None:
        """Be in the book, if Redis is there; without it the server starts as well.

        Raises StartupError when another server has this name, or one with the same number.
        """
        await self._memory.load(self._incarnation)
        for name, address in self._memory.peers.items():
            self.view.peers[name] = Peer(name, address)
        self._count()
        try:
            answer = await self._say()
        except Unavailable as exc:
            self._failed(exc)
        else:
            if answer["status"] == "superseded":
                raise StartupError(
                    f"a server with the name {self.me.name} runs already, at {answer['address']}"
                )
            await self._learn(answer)

    def serve(self) -> None:
        """Requests are served from now on: say so, and what there is, and go on saying so."""
        self._is_serving = True
        self._tasks.spawn_vital(self._beat_on(), self._vitals, name="beat")

    async def close(self) -> None:
        """Leave the book; all that is ours stays ours. Closing twice is fine."""
        self._is_serving = False
        await self._tasks.close()
        if not self._homes.is_away:
            try:
                await self._scripts.leave(self.me.name, self._incarnation)
            except Unavailable as exc:
                log.info("Redis was not told that this server leaves: %s", exc)
        await self._scripts.close()

    def peer(self, name: str) -> Peer | None:
        """Where a server is, or was when we last heard of it."""
        return self.view.peers.get(name)

    def others(self) -> list[Peer]:
        """All servers but this one, dead or alive."""
        return [peer for name, peer in sorted(self.view.peers.items()) if name != self.me.name]

    def named_by(self, number: str) -> str | None:
        """The server with this number."""
        return self._numbers.get(number)

    def accepting(self) -> list[Peer]:
        """Those that take new sessions now, as far as is known here; this one says so itself."""
        others = [
            peer for peer in self.others() if peer.load.accepts and (peer.is_alive or self.view.problem)
        ]
        return [*([self.me] if self._load().accepts else []), *others]

    def own_load(self) -> Load:
        return self._load()

    async def is_heard(self) -> bool:
        """Did Redis take the last beat?"""
        return self.view.problem is None

    async def look(self) -> None:
        """How things are now: not more often than ten times a second, and not where Redis is away.

        One answer is for all that wait for it.
        """
        if self._homes.is_away:
            return
        asked_at = time.monotonic()
        async with self._beating:
            if self._looked_at > asked_at:
                return
            wait_s = self._looked_at + LOOK_AGAIN_S - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            await self._beat()

    async def _beat_on(self) -> None:
        while True:
            async with self._beating:
                await self._beat()
            await asyncio.sleep(BEAT_S)

    async def _beat(self) -> None:
        try:
            answer = await self._say()
            if answer["status"] == "superseded":
                self._vitals.supersede(f"server {self.me.name} runs at {answer['address']} now")
                return
            await self._learn(answer)
        except AgentsrvError as exc:
            self._failed(exc)

    async def _say(self) -> dict[str, Any]:
        self._looked_at = time.monotonic()
        load = self._load()
        return await self._scripts.beat(
            self.me.name,
            self._incarnation,
            ttl_ms=round(TTL_S * 1000),
            new_epoch=secrets.token_hex(16),
            replaces=self._memory.incarnations,
            remembered=list(self._memory.peers),
            fields={
                "address": self.me.address,
                "active": str(load.active),
                "capacity": str(load.capacity),
                "accepts": str(int(load.accepts and self._is_serving)),
                "version": self.me.version,
                "protocol": self.me.protocol,
            },
        )

    async def _learn(self, answer: dict[str, Any]) -> None:
        if self.view.problem is not None:
            self._homes.must_publish = True
            log.info("the fleet's Redis answers", extra={"servers": len(answer["servers"])})
        peers = {peer.name: peer for peer in _peers(answer["servers"])}
        kept = {name: one for name, one in self.view.peers.items() if name not in answer["forgotten"]}
        # What is missing in the answer is as it was: it may only not have said so yet.
        self.view.peers = {**kept, **peers}
        self.view.epoch, self.view.missing = answer["epoch"], tuple(sorted(answer["missing"]))
        self.view.problem = None
        self._homes.is_away = False
        self._count()
        await self._memory.keep({peer.name: peer.address for peer in self.others()})
        if self._is_serving and (self._homes.must_publish or not answer["published"]):
            await self._publish()

    def _failed(self, exc: Exception) -> None:
        if self.view.problem is None:
            log.warning("the fleet's Redis does not answer: %s", exc)
        self.view.problem = str(exc)
        self._homes.is_away = True

    def _count(self) -> None:
        """Raises StartupError when two names have one number."""
        for name in (self.me.name, *self.view.peers):
            other = self._numbers.setdefault(number_of(name), name)
            if other != name and self.me.name in (name, other):
                raise StartupError(
                    f"SERVER_NAME {self.me.name} has the same number as that of server "
                    f"{other if name == self.me.name else name}; choose another one"
                )

    async def _publish(self) -> None:
        """Say all that is at home here. What changes meanwhile is said by itself."""
        self._homes.must_publish = False
        try:
            if not await self._published(sorted({*await self._list_keys(), *self._homes.claims()})):
                self._homes.must_publish = True
        except BaseException:
            self._homes.must_publish = True
            raise

    async def _published(self, keys: list[str]) -> bool:
        clashes: dict[str, str] = {}
        pages = [keys[at : at + PUBLISHED_AT_ONCE] for at in range(0, len(keys), PUBLISHED_AT_ONCE)] or [[]]
        for number, page in enumerate(pages, 1):
            answer = await self._scripts.publish(
                self.me.name, self.view.epoch, page, is_last=number == len(pages)
            )
            if "is_stale" in answer:
                return False
            clashes.update(answer["clashes"] or {})
        for key, home in clashes.items() - self.clashes.items():
            log.error("%s is here, and at home on server %s", key, home)
        self.clashes = clashes
        return True


def _peers(servers: dict[str, dict[str, Any]]) -> Iterator[Peer]:
    """Those that have said where they are. What cannot be read, of a later version perhaps, says nothing."""
    for name, known in servers.items():
        if "address" in known:
            try:
                yield _peer(name, known)
            except ValueError as exc:
                log.debug("the entry of server %s cannot be read: %s", name, exc)


def _peer(name: str, known: dict[str, Any]) -> Peer:
    """Raises ValueError."""
    return Peer(
        name,
        address=web_address(known["address"]),
        incarnation=known.get("incarnation", ""),
        load=Load(
            active=int(known.get("active", 0)),
            capacity=max(int(known.get("capacity", 1)), 1),
            accepts=known.get("accepts") == "1",
        ),
        version=known.get("version", ""),
        protocol=known.get("protocol", PROTOCOL),
        expires_at=time.monotonic() + known["left"] / 1000,
    )
