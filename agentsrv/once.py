"""Secrets that are good once, and for a minute, in the name of whoever has made them. In memory alone."""

from __future__ import annotations

import hashlib
import secrets
import time
from typing import Generic, TypeVar

from msgspec import Struct

from agentsrv.errors import LimitReached

ONCE_S = 60.0
"""So long one is good."""

MOST_OF_ONE = 100
MOST = 10_000
"""So many wait to be used: of one maker, so that nobody is in the way of others, and of all."""

T = TypeVar("T")


class _Waiting(Struct, Generic[T], frozen=True):
    until: float
    maker: bytes
    value: T


class OneTime(Generic[T]):
    """Codes or tickets: each stands for a value, until it is used."""

    def __init__(self, name: str, *, code: str, lasts_s: float = ONCE_S) -> None:
        """`name` is what they are called in an error, which has this `code`."""
        self._name = name
        self._code = code
        self._lasts_s = lasts_s
        self._waiting: dict[bytes, _Waiting[T]] = {}

    def make(self, maker: bytes, value: T) -> str:
        """A secret for `value`. Raises LimitReached."""
        now = time.monotonic()
        self._waiting = {key: entry for key, entry in self._waiting.items() if entry.until > now}
        of_maker = sum(entry.maker == maker for entry in self._waiting.values())
        if of_maker >= MOST_OF_ONE or len(self._waiting) >= MOST:
            raise LimitReached(f"too many {self._name} wait to be used", code=self._code)
        secret = secrets.token_urlsafe(24)
        self._waiting[_key(secret)] = _Waiting(now + self._lasts_s, maker, value)
        return secret

    def use(self, secret: str) -> T | None:
        """What it stands for, this once; None for one that was used already, is too old, or was never made."""
        entry = self._waiting.pop(_key(secret), None)
        return entry.value if entry is not None and entry.until > time.monotonic() else None


def _key(secret: str) -> bytes:
    """Of what is looked up nobody can learn by the time that it takes."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
