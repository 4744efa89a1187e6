"""What a server knows of its fleet when it starts: STATE_DIR/fleet.json."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from agentsrv.threads import Pool

log = logging.getLogger(__name__)

MAX_INCARNATIONS = 8


class Content(msgspec.Struct, kw_only=True):
    incarnations: list[str] = []
    """The newest first."""
    peers: dict[str, str] = {}


class Memory:
    """The addresses of the other servers, and which incarnations of this one have been."""

    def __init__(self, path: Path, threads: Pool) -> None:
        self.incarnations: list[str] = []
        """Those of before. As the lock of the directory is ours, they are dead."""
        self.peers: dict[str, str] = {}
        self._path = path
        self._threads = threads
        self._own = ""

    async def load(self, incarnation: str) -> None:
        """Take over what the one before has left, and add this one before anybody hears of it."""
        content = await self._threads.run(_read, self._path)
        self.incarnations, self.peers, self._own = content.incarnations, content.peers, incarnation
        await self._write()

    async def keep(self, peers: Mapping[str, str]) -> None:
        if peers != self.peers:
            self.peers = dict(peers)
            await self._write()

    async def _write(self) -> None:
        incarnations = [self._own, *self.incarnations][:MAX_INCARNATIONS]
        data = msgspec.json.encode(Content(incarnations=incarnations, peers=self.peers))
        try:
            await self._threads.run(_replace, self._path, data)
        except OSError as exc:
            # It is known again from the next beat on.
            log.warning("%s cannot be written: %s", self._path, exc)


def _read(path: Path) -> Content:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            return msgspec.json.decode(file.read(), type=Content)
    except FileNotFoundError:
        return Content()
    except (OSError, msgspec.DecodeError) as exc:
        log.warning("%s cannot be read, and is made anew: %s", path, exc)
        return Content()


def _replace(path: Path, data: bytes) -> None:
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
