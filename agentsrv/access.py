"""Who may do what: the key of the settings, which may do everything, and named keys with scopes and an end.

Of a named key only its SHA-256 is stored: it is 32 random bytes, so there is nothing to guess. What another
process changes (`agentsrv keys revoke`) is noticed within FRESH_S.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Collection
from dataclasses import replace

from msgspec import Struct

from agentsrv.errors import Forbidden, InvalidInput, NotFound
from agentsrv.model import AccessKey, Millis, Scope
from agentsrv.once import OneTime
from agentsrv.store import keys
from agentsrv.store.database import Database
from agentsrv.tasks import Tasks

PREFIX = "agentsrv_"
"""How the keys that we make begin, so that scanners of leaked secrets can tell them."""

FRESH_S = 1.0
MAX_REMEMBERED = 1000
USE_NOTED_MS = 60_000

DEVICE_IDLE_MS = 30 * 24 * 3600 * 1000

EVERYTHING = frozenset(Scope)


class Caller(Struct, frozen=True):
    """Who asks: what the key is called, what it may do, and what tells it from others. `id`: of a named key.

    `counted_as`: the hash under which its requests are counted; empty: its own.
    """

    name: str
    scopes: frozenset[Scope]
    hash: bytes
    id: str = ""
    counted_as: bytes = b""

    def may(self, scope: Scope | None) -> bool:
        return scope is None or scope in self.scopes or Scope.ADMIN in self.scopes


class Keyring:
    """All keys that are good."""

    def __init__(self, db: Database, own: Collection[str]) -> None:
        self._db = db
        self._own = [key.encode() for key in own]
        self._own_hashes = frozenset(map(hash_of, self._own))
        self._remembered: dict[bytes, tuple[float, AccessKey | None]] = {}
        self._codes = OneTime[Caller]("codes", code="too_many_codes")
        self._tickets = OneTime[Caller]("tickets", code="too_many_tickets")
        self._tasks = Tasks("keys")

    async def caller(self, token: bytes) -> Caller | None:
        """Whose token it is; None when it is nobody's, revoked, or too old. Raises Unavailable."""
        if is_key(token, self._own):
            return Caller("API_KEY", EVERYTHING, hash_of(token))
        if not token.startswith(PREFIX.encode()):
            return None
        key = await self._good(hash_of(token))
        if key is None:
            return None
        self._note_use(key)
        return Caller(key.name, key.scopes, key.hash, key.id, (await self._first_of(key)).hash)

    async def add(
        self,
        name: str,
        scopes: Collection[Scope],
        *,
        lasts_ms: Millis | None = None,
        idle_ms: Millis | None = None,
        parent: bytes | None = None,
    ) -> tuple[AccessKey, str]:
        """A new key: its row, and the key itself, which nobody will see again."""
        token = PREFIX + secrets.token_urlsafe(32)
        now = now_ms()
        key = AccessKey(
            id=secrets.token_hex(8),
            name=name,
            hash=hash_of(token.encode()),
            scopes=frozenset(scopes),
            parent=parent,
            created_at=now,
            expires_at=None if lasts_ms is None else now + lasts_ms,
            idle_ms=idle_ms,
            used_at=now,
        )
        await self._db.write(lambda db: keys.insert(db, key))
        return key, token

    async def add_device(self, name: str, caller: Caller) -> tuple[AccessKey, str]:
        """A key for a device of `caller`, with the same rights, that dies with the caller's own key."""
        return await self.add(name, caller.scopes, idle_ms=DEVICE_IDLE_MS, parent=caller.hash)

    async def list_keys(self, caller: Caller | None = None) -> list[AccessKey]:
        """Those that are not revoked: all, or what `caller` has made, where it is not an admin."""
        if caller is None or caller.may(Scope.ADMIN):
            return await keys.list_keys(self._db)
        return await keys.list_made_with(self._db, caller.hash)

    async def revoke(
        self, wanted: str, caller: Caller | None = None, *, by_name: bool = True
    ) -> list[AccessKey]:
        """End the key with this id, or those with this name. Raises NotFound (`key_not_found`)."""
        found = [
            key
            for key in await self.list_keys(caller)
            if wanted == key.id or (by_name and wanted == key.name)
        ]
        if not found:
            raise NotFound(f"there is no key {wanted}", code="key_not_found")
        for key in found:
            await self._db.write(lambda db, key=key: keys.revoke(db, key.id, now_ms()))  # type: ignore[misc]
            self._remembered.pop(key.hash, None)
        return found

    def new_code(self, caller: Caller) -> str:
        """With it a device gets a key of its own, once. Raises LimitReached."""
        return self._codes.make(caller.hash, caller)

    async def redeem(self, code: str, name: str) -> tuple[AccessKey, str]:
        """The key that a code stands for. Raises Forbidden (`code_not_valid`)."""
        caller = self._codes.use(code)
        if caller is None:
            raise Forbidden("this code has been used, or is too old; make a new one", code="code_not_valid")
        return await self.add_device(name, caller)

    def new_ticket(self, caller: Caller) -> str:
        """With it whoever cannot send a key may ask once as `caller`. Raises LimitReached."""
        return self._tickets.make(caller.hash, caller)

    async def ticket_holder(self, ticket: str) -> Caller | None:
        """Who has made the ticket, if it is good and the maker's key still is. It is used by that."""
        caller = self._tickets.use(ticket)
        return caller if caller is not None and await self.is_good(caller.hash) else None

    def is_own(self, hash: bytes) -> bool:
        """That of a key of the settings, which ends with the server."""
        return hash in self._own_hashes

    async def is_good(self, hash: bytes) -> bool:
        """Of whoever came with this key and is still here, which is a use of it. Raises Unavailable."""
        if self.is_own(hash):
            return True
        if (key := await self._good(hash)) is not None:
            self._note_use(key)
        return key is not None

    async def close(self) -> None:
        await self._tasks.join(1.0)
        await self._tasks.close()

    async def _good(self, hash: bytes) -> AccessKey | None:
        """The key with this hash, if it is good and the one it was made with is, too."""
        key = await self._find(hash)
        if key is None or not key.is_good(now_ms()):
            return None
        if key.parent is None or key.parent in self._own_hashes or await self._good(key.parent):
            return key
        return None

    async def _first_of(self, key: AccessKey) -> AccessKey:
        """The named key of which others come: whoever makes more of them may not ask more often."""
        while key.parent is not None and key.parent not in self._own_hashes:
            if (maker := await self._find(key.parent)) is None:
                break
            key = maker
        return key

    async def _find(self, hash: bytes) -> AccessKey | None:
        now = time.monotonic()
        asked_at, key = self._remembered.get(hash, (now - FRESH_S, None))
        if now - asked_at >= FRESH_S:
            key = await keys.find(self._db, hash)
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[hash] = now, key
        return key

    def _note_use(self, key: AccessKey) -> None:
        now = now_ms()
        if now - key.used_at >= USE_NOTED_MS:
            self._remembered[key.hash] = time.monotonic(), replace(key, used_at=now)
            self._tasks.spawn(self._db.write(lambda db: keys.note_use(db, key.id, now)), name="use")


def is_key(token: bytes, own: Collection[bytes]) -> bool:
    """Compare with every key, in time that does not tell how much of one was right, nor which."""
    return sum(hmac.compare_digest(token, key) for key in own) > 0


def hash_of(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def now_ms() -> Millis:
    return time.time_ns() // 1_000_000


def scopes_of(text: str) -> frozenset[Scope]:
    """`read,prompt` as scopes. Raises InvalidInput."""
    try:
        found = frozenset(Scope(word.strip()) for word in text.split(",") if word.strip())
    except ValueError:
        found = frozenset()
    if not found:
        raise InvalidInput(f"scopes must be some of: {', '.join(Scope)}, separated by commas")
    return found
