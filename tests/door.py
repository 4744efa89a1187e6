"""A server behind another one of its fleet: for tests that must hold the same, whichever server is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from tests.fleet.kit import free_port
from tests.kit import Server
from tests.redis_server import RedisServer

OF_ONE_SERVER = {"STATE_DIR", "DATABASE_PATH", "WORKSPACE_BASE_PATH", "HOME"}
"""Settings that two servers cannot share."""


@dataclass(slots=True)
class ServerBehindDoor(Server):
    """A home whose `port` is that of a door: another server, which takes no sessions and passes all on to the home.

    What is killed, stopped and looked into is the home. The door and Redis lie beside it, and live until `close`.
    """

    own_port: int = 0
    door: Server | None = None
    redis: RedisServer | None = None

    def environment(self) -> dict[str, str]:
        return Server.environment(self) | self._place("home", self.own_port)

    def start(self) -> Self:
        if self.redis is None:
            beside = self.directory.with_name(f"door-of-{self.directory.name}")
            beside.mkdir()
            self.redis = RedisServer(beside)
            self.redis.start()
        self.own_port = self.own_port or self.port or free_port()
        Server.start(self)
        if self.door is None:
            # After the home, so that it knows of it from its first moment on.
            shared = {name: value for name, value in self.settings.items() if name not in OF_ONE_SERVER}
            port = free_port()
            settings = shared | self._place("door", port) | {"ACCEPTS_SESSIONS": "false"}
            self.door = Server(self.redis.directory, self.claude, settings, port).start()
        self.port = self.door.port
        return self

    def close(self) -> None:
        Server.close(self)
        if self.door is not None:
            self.door.close()
        if self.redis is not None:
            self.redis.stop()

    def _place(self, name: str, port: int) -> dict[str, str]:
        assert self.redis is not None
        return {"SERVER_NAME": name, "REDIS_URL": self.redis.url, "PORT": str(port)}
