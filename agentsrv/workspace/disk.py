"""Work that waits for a disk: in a few threads, never in the event loop, and with errors that say what to do."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from agentsrv.errors import (
    AgentsrvError,
    Conflict,
    Forbidden,
    InvalidInput,
    LimitReached,
    NotFound,
    Problem,
    StorageFull,
    Unavailable,
)

T = TypeVar("T")
P = ParamSpec("P")

THREADS = 4
MAX_WAITING = 256

FULL = (errno.ENOSPC, errno.EDQUOT)
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
UNUSABLE = (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.EILSEQ, errno.ENXIO)


class Disk:
    """Runs functions in threads of its own, so that a slow disk holds up nothing else.

    More than `MAX_WAITING` at once are refused with LimitReached. `close` waits for what runs.
    """

    def __init__(self, threads: int = THREADS, name: str = "disk") -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._waiting = 0

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Who is cancelled leaves only when the function has ended: it may use what its caller closes."""
        if self._waiting >= MAX_WAITING:
            raise LimitReached("too much is being read and written; wait a moment", retry_after_s=1)
        self._waiting += 1
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._executor, lambda: function(*args, **kwargs))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.gather(running, return_exceptions=True)
            raise
        finally:
            self._waiting -= 1

    async def iterate(self, items: Generator[T, None, None]) -> AsyncGenerator[T, None]:
        """What `items` yields; each step runs in a thread, and none while nobody asks for the next item."""
        try:
            while (item := await self.run(next, items, None)) is not None:
                yield item
        finally:
            await self.run(items.close)

    def close(self) -> None:
        self._executor.shutdown(cancel_futures=False)


@contextmanager
def explained(what: str, field: str = "path") -> Iterator[None]:
    """An OSError about `what` (a path as the client knows it) becomes the error that the client sees."""
    try:
        yield
    except OSError as exc:
        raise _explain(exc, what or ".", field) from exc


def _explain(exc: OSError, what: str, field: str) -> AgentsrvError:
    match exc.errno:
        case errno.ENOENT:
            return NotFound(f"{what} does not exist", code="path_not_found")
        case errno.ENOTDIR:
            return InvalidInput(f"{field}: {what} is not a directory", code="not_a_directory")
        case errno.EISDIR:
            return InvalidInput(f"{field}: {what} is a directory", code="not_a_file")
        case errno.EEXIST:
            return Conflict(f"{what} exists already", code="exists")
        case errno.ENOTEMPTY:
            return Conflict(f"{what} is not empty", code="not_empty")
        case errno.EXDEV:
            return Conflict(f"{what} lies on another file system; copy it", code="other_file_system")
        case errno.EBUSY | errno.ETXTBSY:
            return Conflict(f"{what} is in use", code="in_use")
        case number if number in FULL:
            return StorageFull("the disk is full; make room and try again")
        case number if number in DENIED:
            return Forbidden(f"the server may not do this with {what}", code="permission_denied")
        case number if number in UNUSABLE:
            message = f"{what[:200]} cannot be used: {exc.strerror}"
            return InvalidInput(f"{field}: {message}", problems=[Problem(field, message)])
        case _:
            return Unavailable(f"the disk failed: {exc.strerror}")
