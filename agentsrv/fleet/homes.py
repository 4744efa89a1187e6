"""Which server is the home of a session or a terminal."""

from __future__ import annotations

import uuid
from typing import Protocol

from agentsrv.errors import Conflict
from agentsrv.model import SessionId, TerminalId, TurnId


def session_key(session_id: str) -> str:
    return f"s:{session_id}"


def terminal_key(terminal_id: str) -> str:
    return f"t:{terminal_id}"


class Homes(Protocol):
    """No id has two homes, and what is once at home somewhere stays there.

    `name` is that of this server. Keys are those of `session_key` and `terminal_key`.
    """

    name: str

    def new_turn_id(self) -> TurnId:
        """For a new job of this server."""
        ...

    async def claim(self, session_id: SessionId) -> None:
        """From now on this server is its home. Claiming twice is fine.

        Raises Conflict (`session_elsewhere`), Unavailable (`redis_unavailable`, `directory_incomplete`): then it is
        not.
        """
        ...

    async def announce(self, session_id: SessionId) -> None:
        """The same for an id that nobody else can have; without Redis it is told later. Never raises."""
        ...

    async def claim_terminal(self, terminal_id: TerminalId) -> None:
        """The same for a terminal; without Redis it is told later. Raises Conflict (`terminal_elsewhere`)."""
        ...

    async def release(self, session_id: SessionId) -> None:
        """It is gone, and its id free again. Never raises."""
        ...

    async def release_terminal(self, terminal_id: TerminalId) -> None: ...

    async def find(self, key: str) -> str | None:
        """The home's name; None when it is nobody's. Raises Unavailable when that cannot be known."""
        ...

    async def place(self, key: str, wanted: str = "") -> str:
        """The home of the key, chosen now when it has none. An empty key: only choose.

        Raises Unavailable (and code `no_server` when none takes new sessions).
        """
        ...


class LocalHomes:
    """One server alone: everything is at home here."""

    name = ""

    def new_turn_id(self) -> TurnId:
        return TurnId(str(uuid.uuid4()))

    async def claim(self, session_id: SessionId) -> None:
        """Nobody else could have it."""

    async def announce(self, session_id: SessionId) -> None:
        """Nobody listens."""

    async def claim_terminal(self, terminal_id: TerminalId) -> None:
        """Nobody else could have it."""

    async def release(self, session_id: SessionId) -> None:
        """Nothing was kept."""

    async def release_terminal(self, terminal_id: TerminalId) -> None:
        """Nothing was kept."""

    async def find(self, key: str) -> str | None:
        return self.name

    async def place(self, key: str, wanted: str = "") -> str:
        return self.name


def session_elsewhere(session_id: SessionId, home: str) -> Conflict:
    return Conflict(
        f"session {session_id} is at home on server {home}; ask that one, or choose another id",
        code="session_elsewhere",
        extra={"server": home},
    )
