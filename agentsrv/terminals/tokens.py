"""Tokens for terminals: what a browser can put into a WebSocket's URL without giving the API key away.

A token is a JWT, signed (HS256) with a key that is not the API key. It lives for a minute and opens one
socket. That it was used is remembered beyond the server's own end.
"""

from __future__ import annotations

import importlib
import os
import re
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Struct

from agentsrv.config import Config
from agentsrv.errors import AuthenticationFailed, StartupError, Unavailable
from agentsrv.model import NAME_PATTERN, TerminalId
from agentsrv.owned import opened, prepare
from agentsrv.threads import Pool

ALGORITHM = "HS256"
AUDIENCE = SCOPE = "terminal"
KEY_PURPOSE = b"agentsrv terminal token 1"
MAX_TTL_S = 300
"""No token is good for longer, whatever it says."""

TOKEN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")

Name = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN)]


class Grant(Struct, frozen=True, kw_only=True):
    """What a token allows: to use one terminal, or only to watch it. `cwd` is for a new one; `made_with` is what the
    key is called that the token was made with, `key` its hash, if it can end before the server does.
    """

    terminal_id: TerminalId
    deployment_id: str
    cwd: str | None = None
    is_read_only: bool = False
    made_with: str = ""
    key: bytes = b""


class Claims(msgspec.Struct, kw_only=True, rename="camel", omit_defaults=True):
    """What a token says. The short names are those of RFC 7519; times are in whole seconds."""

    exp: int
    aud: str
    scope: str
    jti: Annotated[str, msgspec.Meta(pattern=rf"^{TOKEN_ID.pattern}\Z")]
    terminal_id: Name
    deployment_id: Name
    iat: int = 0
    cwd: str | None = None
    read_only: bool = False
    srv: str | None = None
    """The server of a fleet whose terminal it is, and which alone notes that it is used."""
    made_with: str = ""
    key: bytes = b""


class TerminalTokens:
    """Makes tokens and redeems them. `clock` gives seconds since 1970."""

    def __init__(self, config: Config, threads: Pool, *, clock: Callable[[], float] = time.time) -> None:
        self._key = signing_key(config)
        self._threads = threads
        self._ttl_s = config.terminal_token_ttl_s
        self._clock = clock
        self._server = config.server_name
        self._used: UsedOnDisk | None = None
        if not config.terminal_token_reuse:
            directory = config.state_dir / "terminal-tokens"
            self._used = UsedOnDisk(directory)

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
            srv=self._server,
            made_with=grant.made_with,
            key=grant.key,
        )
        jwt = await self._load_jwt()
        return jwt.encode(msgspec.to_builtins(claims), self._key, ALGORITHM), claims.exp

    async def redeem(self, token: str) -> Grant:
        """What `token` allows; it is used up then. Raises AuthenticationFailed, Unavailable, OSError."""
        claims = self._verify(await self._load_jwt(), token)
        if self._used is not None and not await self._used.take(claims.jti):
            raise _refused("was used already")
        return Grant(
            terminal_id=TerminalId(claims.terminal_id),
            deployment_id=claims.deployment_id,
            cwd=claims.cwd,
            is_read_only=claims.read_only,
            made_with=claims.made_with,
            key=claims.key,
        )

    async def _load_jwt(self) -> Any:
        # On first use, and beside the loop: it takes 60 ms.
        return await self._threads.run(importlib.import_module, "jwt")

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
        if self._server is not None and claims.srv != self._server:
            raise _refused("is for a terminal of another server")
        return claims


class UsedOnDisk:
    """One empty file for each token that was used, made by one system call: it works across processes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._tidied_at = 0.0

    async def take(self, token_id: str) -> bool:
        with self._opened() as directory:
            self._forget_expired(directory)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            try:
                os.close(os.open(token_id, flags, 0o600, dir_fd=directory))
            except FileExistsError:
                return False
        return True

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """The directory. It is looked at each time: an agent may have put something else in its place."""
        try:
            prepare(self._directory)
            with opened(self._directory) as directory:
                yield directory
        except StartupError as exc:
            raise Unavailable(str(exc)) from exc

    def _forget_expired(self, directory: int) -> None:
        expired_at = time.time() - MAX_TTL_S
        if self._tidied_at > expired_at:
            return
        self._tidied_at = time.time()
        for name in filter(TOKEN_ID.fullmatch, os.listdir(directory)):
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISREG(found.st_mode) and not found.st_size and found.st_mtime < expired_at:
                os.unlink(name, dir_fd=directory)


def signing_key(config: Config) -> bytes:
    """TERMINAL_JWT_SECRET, else made from the API key by HKDF (RFC 5869, SHA-256), which cannot be undone."""
    if config.terminal_jwt_secret is not None:
        return config.terminal_jwt_secret.encode()
    return config.derived_key(KEY_PURPOSE)


def _refused(why: str) -> AuthenticationFailed:
    return AuthenticationFailed(
        f"this terminal token {why}; ask POST /terminal/token for a new one", code="invalid_token"
    )
