"""A server's part in a fleet. Who is alone imports none of it, and pays nothing for it."""

from __future__ import annotations

from msgspec import Struct

from agentsrv.api.forward import Forwarder
from agentsrv.api.hop import secret_of
from agentsrv.api.listing import OwnSessions
from agentsrv.api.merge import AllSessions
from agentsrv.api.routes import ROUTES
from agentsrv.api.routing import Router, rules
from agentsrv.config import Config
from agentsrv.fleet.homes import session_key, terminal_key
from agentsrv.fleet.memory import Memory
from agentsrv.fleet.redis_homes import RedisHomes
from agentsrv.fleet.registry import Load, Peer, Registry
from agentsrv.fleet.scripts import Scripts
from agentsrv.store import sessions as session_rows
from agentsrv.store.database import Database
from agentsrv.tasks import Vitals
from agentsrv.terminals.manager import TerminalManager
from agentsrv.threads import Threads
from agentsrv.turns.service import TurnService
from agentsrv.turns.sessions import SessionService


class Fleet(Struct, frozen=True):
    """What a server has for the others."""

    registry: Registry
    forwarder: Forwarder
    router: Router
    listing: AllSessions


class Member:
    """The server `name`. Its `homes` are there from the beginning; the rest needs what is built on them."""

    def __init__(self, config: Config, name: str) -> None:
        self._config = config
        self._scripts = Scripts(config.redis_url or "")
        self.homes = RedisHomes(name, self._scripts)

    def fleet(
        self,
        db: Database,
        threads: Threads,
        turns: TurnService,
        sessions: SessionService,
        terminals: TerminalManager,
        vitals: Vitals,
    ) -> Fleet:
        registry = self._registry(db, threads, turns, terminals, vitals)
        forwarder = Forwarder(registry, secret_of(self._config))
        router = Router(self.homes, registry, forwarder, sessions.has, rules(ROUTES))
        return Fleet(registry, forwarder, router, AllSessions(OwnSessions(sessions), registry, forwarder))

    def _registry(
        self, db: Database, threads: Threads, turns: TurnService, terminals: TerminalManager, vitals: Vitals
    ) -> Registry:
        config = self._config

        def load() -> Load:
            accepts = config.accepts_sessions and not turns.is_refusing
            return Load(turns.active, config.max_concurrent_turns, accepts)

        async def list_keys() -> list[str]:
            stored = [session_key(session_id) for session_id in await session_rows.all_ids(db)]
            return stored + [terminal_key(terminal.info.id) for terminal in terminals.list_terminals()]

        me = Peer(self.homes.name, config.peer_url, version=config.app_version)
        memory = Memory(config.state_dir / "fleet.json", threads.state)
        return Registry(me, self.homes, self._scripts, memory, load, list_keys, vitals)
