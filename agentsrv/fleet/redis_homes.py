"""Which server is the home of what, as the book in Redis has it."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from agentsrv.errors import Conflict, Unavailable
from agentsrv.fleet.homes import session_elsewhere, session_key, terminal_key
from agentsrv.fleet.names import new_turn_id, number_of
from agentsrv.fleet.scripts import Scripts, redis_unavailable
from agentsrv.model import SessionId, TerminalId, TurnId

log = logging.getLogger(__name__)

MAX_REMEMBERED = 100_000
CLAIMED_S = 600.0
"""How long a claim may take to become a row in the database."""


class RedisHomes:
    """One server of a fleet. `is_away` is what its registry has last seen of Redis: then nobody asks it."""

    def __init__(self, name: str, scripts: Scripts) -> None:
        self.name = name
        self.is_away = True
        self.must_publish = True
        """Redis may not have all that is ours."""
        self._scripts = scripts
        self._number = number_of(name)
        self._claimed: dict[str, float] = {}
        self._known: OrderedDict[str, str] = OrderedDict()

    def new_turn_id(self) -> TurnId:
        return new_turn_id(self._number)

    async def claim(self, session_id: SessionId) -> None:
        home = await self._take(session_key(session_id))
        if home != self.name:
            raise session_elsewhere(session_id, home)

    async def announce(self, session_id: SessionId) -> None:
        try:
            await self._take(session_key(session_id))
        except Unavailable:
            self.must_publish = True

    async def claim_terminal(self, terminal_id: TerminalId) -> None:
        try:
            home = await self._take(terminal_key(terminal_id))
        except Unavailable:
            self.must_publish = True
            return
        if home != self.name:
            raise Conflict(
                f"terminal {terminal_id} is at home on server {home}; choose another terminalId",
                code="terminal_elsewhere",
                extra={"server": home},
            )

    async def release(self, session_id: SessionId) -> None:
        await self._forget(session_key(session_id))

    async def release_terminal(self, terminal_id: TerminalId) -> None:
        await self._forget(terminal_key(terminal_id))

    async def find(self, key: str) -> str | None:
        if (known := self._known.get(key)) is not None:
            return known
        answer = await self._asked(self._scripts.find, key)
        if "missing" in answer:
            raise directory_incomplete(answer["missing"])
        return self._remembered(key, answer["home"]) if "home" in answer else None

    async def place(self, key: str, wanted: str = "") -> str:
        answer = await self._asked(self._scripts.place, key, wanted, self.name)
        if "missing" in answer:
            raise directory_incomplete(answer["missing"])
        if "nobody" in answer:
            raise Unavailable("no server of the fleet takes new sessions now", code="no_server")
        return self._remembered(key, answer["home"]) if key else str(answer["home"])

    def known(self, key: str) -> str | None:
        """Another server that was its home when it was looked up. It may have been released since."""
        return self._known.get(key)

    async def abandon(self, session_id: SessionId) -> None:
        """It was placed here, and nothing came of it: as `release`, unless it is about to be made."""
        if session_key(session_id) not in self._claimed:
            await self.release(session_id)

    def remember(self, key: str, home: str) -> None:
        """What somebody else has found out."""
        self._remembered(key, home)

    def disremember(self, key: str) -> None:
        """Look it up again: it was not there."""
        self._known.pop(key, None)

    def claims(self) -> list[str]:
        """Keys that are ours and perhaps not in the database yet."""
        since = time.monotonic() - CLAIMED_S
        self._claimed = {key: at for key, at in self._claimed.items() if at > since}
        return list(self._claimed)

    async def _take(self, key: str) -> str:
        # Before Redis is asked: what it forgets meanwhile is published again.
        self._claimed[key] = time.monotonic()
        home = ""
        try:
            home = await self.place(key, self.name)
        finally:
            if home != self.name:
                self._claimed.pop(key, None)
        return home

    async def _forget(self, key: str) -> None:
        self._claimed.pop(key, None)
        self._known.pop(key, None)
        try:
            await self._asked(self._scripts.forget, self.name, [key])
        except Unavailable as exc:
            # It leads to a home that says that it has no such thing.
            log.info("Redis keeps %s, which is gone: %s", key, exc)

    async def _asked(self, script: Any, *arguments: Any) -> Any:
        if self.is_away:
            raise redis_unavailable("it did not answer")
        return await script(*arguments)

    def _remembered(self, key: str, home: str) -> str:
        """What is here is looked up: it may be gone, or never have been made, and be at home elsewhere then."""
        self._known.pop(key, None)
        if home != self.name:
            self._known[key] = home
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)
        return home


def directory_incomplete(missing: Sequence[str]) -> Unavailable:
    names = sorted(missing)
    who = (
        f"servers that have not said yet what they have: {', '.join(names)}"
        if names
        else "it is being made anew"
    )
    return Unavailable(
        f"the fleet's directory is incomplete ({who}), so nobody knows whether this id is taken",
        code="directory_incomplete",
        retry_after_s=2,
        extra={"servers": names},
    )
