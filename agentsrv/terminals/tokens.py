"""Tokens for terminals: what a browser can put into a WebSocket's URL without giving the API key away.

A token is a JWT, signed (HS256) with a key that is not the API key. It lives for a minute and opens one
socket. That it was used is remembered beyond the server's own end.
"""

from __future__ import annotations

import asyncio
import hmac
import importlib
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import msgspec

from agentsrv.config import Config
from agentsrv.errors import AuthenticationFailed, Unavailable
from agentsrv.model import SESSION_ID_PATTERN, TerminalId

ALGORITHM = "HS256"
AUDIENCE = SCOPE = "terminal"
KEY_PURPOSE = b"agentsrv terminal token 1"
MAX_TTL_S = 300
"""No token is good for longer, whatever it says."""
REDIS_TIMEOUT_S = 1.0

Name = Annotated[str, msgspec.Meta(pattern=SESSION_ID_PATTERN)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a token allows: to use one terminal, or only to watch it. `cwd` is for a new one."""

    terminal_id: TerminalId
    deployment_id: str
    cwd: str | None = None
    is_read_only: bool = False


class Claims(msgspec.Struct, kw_only=True, rename="camel", omit_defaults=True):
    """What a token says. The short names are those of RFC 7519; times are in whole seconds."""

    exp: int
    aud: str
    scope: str
    jti: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
    terminal_id: Name
    deployment_id: Name
    iat: int = 0
    cwd: str | None = None
    read_only: bool = False


class UsedTokens(Protocol):
    async def take(self, token_id: str) -> bool:
        """True the first time. Raises OSError, Unavailable."""
        ...


class TerminalTokens:
    """Makes tokens and redeems them. `clock` gives seconds since 1970."""

    def __init__(self, config: Config, *, clock: Callable[[], float] = time.time) -> None:
        self._key = signing_key(config)
        self._ttl_s = config.terminal_token_ttl_s
        self._clock = clock
        self._used: UsedTokens | None = None
        if not config.terminal_token_reuse:
            directory = config.state_dir / "terminal-tokens"
            self._used = UsedInRedis(config.redis_url) if config.redis_url else UsedOnDisk(directory)

    async def issue(self, grant: Grant) -> tuple[str, int]:
        """A token for `grant`, and when it expires (seconds since 1970)."""
        now = int(self._clock())
        claims = Claims(
            exp=now + self._ttl_s,
            iat=now,
            aud=AUDIENCE,
            scope=SCOPE,
            jti=uuid.uuid4().hex,
            terminal_id=grant.terminal_id,
            deployment_id=grant.deployment_id,
            cwd=grant.cwd,
            read_only=grant.is_read_only,
        )
        jwt = await _load_jwt()
        return jwt.encode(msgspec.to_builtins(claims), self._key, ALGORITHM), claims.exp

    async def redeem(self, token: str) -> Grant:
        """What `token` allows; it is used up then. Raises AuthenticationFailed, Unavailable, OSError."""
        claims = self._verify(await _load_jwt(), token)
        if self._used is not None and not await self._used.take(claims.jti):
            raise _refused("was used already")
        return Grant(
            terminal_id=TerminalId(claims.terminal_id),
            deployment_id=claims.deployment_id,
            cwd=claims.cwd,
            is_read_only=claims.read_only,
        )

    def _verify(self, jwt: Any, token: str) -> Claims:
        try:
            content = jwt.decode(
                token,
                self._key,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                options={"require": ["exp", "aud", "scope", "jti"], "verify_exp": False},
            )
            # Strictly: the library would take a time that is a string.
            claims = msgspec.convert(content, Claims)
        except (jwt.InvalidTokenError, msgspec.ValidationError, ValueError, RecursionError) as exc:
            raise _refused("is not valid") from exc
        now = self._clock()
        if claims.scope != SCOPE or claims.exp > now + MAX_TTL_S:
            raise _refused("is not valid")
        if claims.exp <= now:
            raise _refused("has expired")
        return claims


class UsedOnDisk:
    """One empty file for each token that was used, made by one system call: it works across processes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._tidied_at = 0.0

    async def take(self, token_id: str) -> bool:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._forget_expired()
        try:
            os.close(os.open(self._directory / token_id, os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            return False
        return True

    def _forget_expired(self) -> None:
        expired_at = time.time() - MAX_TTL_S
        if self._tidied_at > expired_at:
            return
        self._tidied_at = time.time()
        for file in self._directory.iterdir():
            if file.stat().st_mtime < expired_at:
                file.unlink(missing_ok=True)


class UsedInRedis:
    """For several servers that take each other's tokens."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def take(self, token_id: str) -> bool:
        # Imported only by those who have a Redis: it costs memory and start-up time.
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import RedisError

        client = Redis.from_url(
            self._url,
            socket_timeout=REDIS_TIMEOUT_S,
            socket_connect_timeout=REDIS_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            key = f"agentsrv:terminal-token:{token_id}"
            return bool(await client.set(key, 1, nx=True, ex=MAX_TTL_S))
        except (RedisError, OSError) as exc:
            raise Unavailable(
                "Redis is away, and without it a token could be used twice", code="redis_unavailable"
            ) from exc
        finally:
            await client.aclose()


def signing_key(config: Config) -> bytes:
    """TERMINAL_JWT_SECRET, else made from the API key by HKDF (RFC 5869, SHA-256), which cannot be undone."""
    if config.terminal_jwt_secret is not None:
        return config.terminal_jwt_secret.encode()
    extracted = hmac.digest(bytes(32), config.api_keys[0].encode(), "sha256")
    return hmac.digest(extracted, KEY_PURPOSE + b"\x01", "sha256")


async def _load_jwt() -> Any:
    # On first use, and beside the loop: it takes 60 ms.
    return await asyncio.to_thread(importlib.import_module, "jwt")


def _refused(why: str) -> AuthenticationFailed:
    return AuthenticationFailed(
        f"this terminal token {why}; ask POST /terminal/token for a new one", code="invalid_token"
    )
