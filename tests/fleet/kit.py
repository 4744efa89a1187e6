"""Several servers and their Redis, as one fleet."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentsrv.access import EVERYTHING, Caller
from agentsrv.api import hop
from agentsrv.config import Config
from tests.kit import KEY, Server, script, wait_until
from tests.redis_server import RedisServer, real_redis

UPGRADE = {
    "Authorization": "",
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec_WebSocket_Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    "Sec_WebSocket_Version": "13",
}
"""Headers of who asks for a WebSocket."""


@dataclass(slots=True)
class FleetOfServers:
    """Servers by name, each on a port that it keeps."""

    directory: Path
    claude: Path
    redis: RedisServer
    servers: dict[str, Server] = field(default_factory=dict)

    def start(self, name: str, **settings: str) -> Server:
        """One more server. Returns when it answers."""
        return self.add(name, **settings).start()

    def start_all(self, *names: str, **others: dict[str, str]) -> list[Server]:
        """The same for several at once; `others` have settings of their own."""
        settings = {**{name: {} for name in names}, **others}
        servers = [self.add(name, **its_own) for name, its_own in settings.items()]
        with ThreadPoolExecutor(len(servers)) as pool:
            return list(pool.map(Server.start, servers))

    def add(self, name: str, **settings: str) -> Server:
        """One that is not started yet, on a port of its own."""
        port = free_port()
        own = {"SERVER_NAME": name, "REDIS_URL": self.redis.url, "SERVER_URL": f"http://127.0.0.1:{port}"}
        server = Server(self.directory / name, self.claude, {**own, **settings}, port=port)
        server.directory.mkdir(exist_ok=True)
        self.servers[name] = server
        return server

    def close(self) -> None:
        for server in self.servers.values():
            with contextlib.suppress(ProcessLookupError, AssertionError):
                os.kill(server.pid, signal.SIGCONT)
            server.close()


@contextmanager
def fleet_of(directory: Path, claude: Path) -> Iterator[FleetOfServers]:
    """A fleet without servers yet, with a Redis of its own."""
    with real_redis(directory) as redis:
        fleet = FleetOfServers(directory, claude, redis)
        try:
            yield fleet
        finally:
            fleet.close()


def free_port() -> int:
    """One that is still free when its server starts: the kernel gives these to nobody who asks for any port."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def servers_of(server: Server) -> dict[str, dict[str, Any]]:
    """What a server knows of the fleet, by name."""
    return {one["name"]: one for one in server.ask("GET", "/servers").json["servers"]}


def fleet_secret() -> str:
    """What the servers know each other by."""
    settings = {"API_KEY": KEY, "SERVER_NAME": "x", "REDIS_URL": "redis://localhost"}
    return hop.secret_of(Config.from_env(settings)).decode()


def over_a_hop(to: str) -> dict[str, str]:
    """Headers of a request that another server passes on to `to`, whose caller may do everything."""
    caller = hop.told(Caller("somebody", EVERYTHING, b""))
    return {"X_Agentsrv_Hop": fleet_secret(), "X_Agentsrv_To": to, "X_Agentsrv_Caller": caller}


def reached_by_door(fleet: FleetOfServers, home: Server) -> Server:
    """A door through which prompts and terminals reach `home`, which has not begun yet."""
    door = fleet.add("door", ACCEPTS_SESSIONS="false")
    wait_for_peers(home.start(), door.start())
    assert "completed" == door.generate(script("say hello")).rest()[-1].json["status"]
    token = door.ask("POST", "/terminal/token", {"deploymentId": "local-dev"}).json["token"]
    assert 101 == door.ask("GET", f"/ws/terminal?token={token}", **UPGRADE).status
    return door


def wait_for_peers(*servers: Server) -> None:
    """Until each knows that all are there, and has said what it has."""
    names = {server.settings["SERVER_NAME"] for server in servers}
    for server in servers:
        wait_until(lambda server=server: is_complete(server, names), what=f"{names} know each other")  # type: ignore[misc]


def is_complete(server: Server, names: set[str]) -> bool:
    known = servers_of(server)
    alive = {name for name, one in known.items() if one["alive"]}
    health = server.ask("GET", "/health").json
    return names <= alive and health["redis"]["connected"] and not health["fleet"]["missing"]


def home_of(server: Server, session: str) -> str:
    """The home of a session, as an answer about it says."""
    with server.ask("GET", f"/sessions/{session}") as answer:
        assert answer.status == 200, answer.json
        return str(answer.headers["X-Agentsrv-Server"])
