"""Servers' parts in a fleet, without the servers."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from agentsrv.fleet.memory import Memory
from agentsrv.fleet.redis_homes import RedisHomes
from agentsrv.fleet.registry import Load, Peer, Registry
from agentsrv.fleet.scripts import Scripts
from agentsrv.tasks import Vitals
from tests.kit import THREADS, wait_until
from tests.redis_server import RedisServer


class Member:
    """One server's part in a fleet, without the server. `keys` is what it has."""

    def __init__(self, url: str, directory: Path, name: str, capacity: int = 4) -> None:
        directory.mkdir(exist_ok=True)
        self.keys: list[str] = []
        self.load = Load(0, capacity, accepts=True)
        self.superseded: list[str] = []
        self.scripts = Scripts(url)
        self.homes = RedisHomes(name, self.scripts)
        self.registry = Registry(
            Peer(name, f"http://{name}.example"),
            self.homes,
            self.scripts,
            Memory(directory / "fleet.json", THREADS.state),
            lambda: self.load,
            self.list_keys,
            Vitals(on_superseded=lambda: self.superseded.append(name)),
        )

    async def list_keys(self) -> list[str]:
        return self.keys

    async def start(self) -> Member:
        await self.registry.start()
        self.registry.serve()
        await self.published()
        return self

    async def published(self) -> None:
        """Until it has said what it has, as the book knows it."""
        await asyncio.to_thread(wait_until, lambda: not self.registry.view.problem)
        await self.registry.look()


class Members:
    """Makes them, and closes them afterwards."""

    def __init__(self, redis: RedisServer, directory: Path, stack: AsyncExitStack) -> None:
        self.redis = redis
        self._directory = directory
        self._stack = stack

    def make(self, name: str, directory: str = "", capacity: int = 4, url: str = "") -> Member:
        member = Member(url or self.redis.url, self._directory / (directory or name), name, capacity)
        self._stack.push_async_callback(member.registry.close)
        return member

    async def start(self, name: str, directory: str = "", capacity: int = 4) -> Member:
        return await self.make(name, directory, capacity).start()
