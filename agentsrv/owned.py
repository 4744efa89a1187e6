"""Directories of the server's own: never entered through a link, and nothing is removed from them that is not ours.

An agent of the same user can put a link in the place of any of them, and an operator may move one to another disk.
So each is opened without following, and refused when it is a link or another user's. What is removed has a name of our
form, is a directory of ours on the same file system, and loses only files of names that are ours; whatever else is
there stays.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import re
import stat
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from msgspec import Struct

from agentsrv.errors import StartupError
from agentsrv.users import User, acting_as

log = logging.getLogger(__name__)

NO_FOLLOW = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
PRIVATE = 0o700
PASSABLE = 0o711
"""Another user may reach what it knows the name of, and list nothing."""
LOCK_AGAIN_S = 0.05
NOT_A_DIRECTORY = frozenset({errno.ENOTDIR, errno.ELOOP})


@contextmanager
def opened(path: Path, user: User | None = None) -> Iterator[int]:
    """A descriptor of a directory of ours. Raises StartupError when it is a link or not ours, OSError.

    `user`: whose it must be, when it is not the server's own user.
    """
    try:
        descriptor = os.open(path, NO_FOLLOW)
    except OSError as exc:
        if exc.errno not in NOT_A_DIRECTORY:
            raise
        what = "a link" if path.is_symlink() else "not a directory"
        fix = "put a directory there, or mount one (`mount --bind`), or set STATE_DIR to where it is"
        raise StartupError(f"{path} is {what}, and this directory must be the server's own; {fix}") from exc
    try:
        owner, own = os.fstat(descriptor).st_uid, user.uid if user is not None else os.geteuid()
        if owner != own:
            raise StartupError(f"{path} belongs to user {owner} and must be that of user {own}; `chown` it")
        yield descriptor
    finally:
        os.close(descriptor)


def prepare(path: Path, mode: int = PRIVATE, user: User | None = None, *, moves_aside: bool = True) -> None:
    """Make a directory of ours when it is not there, and close it to others. Blocking.

    What is no directory (a file, a pipe) is moved aside, or refused. Raises StartupError when it is a link or not ours,
    OSError.
    """
    try:
        kind = os.lstat(path).st_mode
        if moves_aside and not (stat.S_ISDIR(kind) or stat.S_ISLNK(kind)):
            aside = path.with_name(f"{path.name}.{time.time_ns()}")
            os.rename(path, aside)
            log.warning("%s was not a directory; it is %s now", path, aside)
    except FileNotFoundError:
        path.parent.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
    try:
        path.mkdir(mode=PRIVATE)
    except FileExistsError:
        log.debug("%s is there", path)
    else:
        if user is not None:
            os.chown(path, user.uid, user.gid, follow_symlinks=False)
    with acting_as(user), opened(path, user) as descriptor:
        if stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
            os.fchmod(descriptor, mode)


def require_file(path: Path) -> None:
    """Raises StartupError for what must not be opened as a file of ours, such as a link or a pipe, OSError.

    That there is nothing yet is fine.
    """
    try:
        kind = stat.S_IFMT(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    if kind != stat.S_IFREG:
        what = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a directory"}.get(kind, "no file")
        raise StartupError(f"{path} is {what}, and must be a file of the server's own; move it away")


class Room(Struct, frozen=True):
    """A directory of ours with directories of ours in it. All methods block.

    A member's name is of the form `form`; the names of the files in it are of the form `files`.
    """

    path: Path
    form: re.Pattern[str]
    files: re.Pattern[str]
    mode: int = PRIVATE
    user: User | None = None
    """Whose the room and its members are, when that is not the server's own user."""

    def prepare(self) -> None:
        """Raises StartupError, OSError."""
        prepare(self.path, self.mode, self.user)

    def members(self) -> list[Path]:
        """The directories of ours that are there. What else is there is none of our business."""
        with acting_as(self.user), opened(self.path, self.user) as room:
            return [self.path / name for name in os.listdir(room) if self._is_ours(name, room)]

    def remove(self, name: str) -> None:
        """Remove a member. Nothing need be there; what is not ours stays, and keeps the directory. Never raises."""
        try:
            with acting_as(self.user), opened(self.path, self.user) as room:
                if self._is_ours(name, room):
                    self._empty(name, room)
                    os.rmdir(name, dir_fd=room)
        except (OSError, StartupError) as exc:
            log.warning("%s is left as it is: %s", self.path / name, exc)

    def _is_ours(self, name: str, room: int) -> bool:
        if self.form.fullmatch(name) is None:
            return False
        try:
            found = os.stat(name, dir_fd=room, follow_symlinks=False)
        except FileNotFoundError:
            return False
        here = os.fstat(room)
        return stat.S_ISDIR(found.st_mode) and (found.st_uid, found.st_dev) == (here.st_uid, here.st_dev)

    def _empty(self, name: str, room: int) -> None:
        member = os.open(name, NO_FOLLOW, dir_fd=room)
        try:
            for file in os.listdir(member):
                is_directory = stat.S_ISDIR(os.stat(file, dir_fd=member, follow_symlinks=False).st_mode)
                if self.files.fullmatch(file) is not None and not is_directory:
                    os.unlink(file, dir_fd=member)
        finally:
            os.close(member)


@asynccontextmanager
async def only_server(state_dir: Path, patience_s: float, mode: int = PRIVATE) -> AsyncIterator[None]:
    """Be the only server that uses `state_dir`, which is made.

    One that is about to leave is waited for: after a quick restart, or while a host reloads. Raises StartupError.
    """
    # Whoever has named it may have meant another place: what is there is somebody's.
    prepare(state_dir, mode, moves_aside=False)
    require_file(state_dir / "server.lock")
    lock = os.open(state_dir / "server.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        gives_up_at = time.monotonic() + patience_s
        while not _is_locked(lock):
            if time.monotonic() >= gives_up_at:
                raise StartupError(
                    f"another server uses {state_dir}; stop it, or set STATE_DIR to another directory"
                )
            await asyncio.sleep(LOCK_AGAIN_S)
        yield
    finally:
        os.close(lock)


def _is_locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
