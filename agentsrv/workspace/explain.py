"""What a disk refuses, in words that say what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from agentsrv.errors import (
    AgentsrvError,
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    Problem,
    StorageFull,
    Unavailable,
)

FULL = (errno.ENOSPC, errno.EDQUOT)
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
UNUSABLE = (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.EILSEQ, errno.ENXIO)


@contextmanager
def explained(what: str, field: str = "path") -> Iterator[None]:
    """An OSError about `what` (a path as the client knows it) becomes the error that the client sees."""
    try:
        yield
    except OSError as exc:
        raise _explain(exc, what or ".", field) from exc


def no_answer(what: str) -> Unavailable:
    return Unavailable(f"{what} lies on a file system that does not answer", code="no_answer")


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
        case errno.ETIMEDOUT:
            return no_answer(what)
        case number if number in FULL:
            return StorageFull("the disk is full; make room and try again")
        case number if number in DENIED:
            return Forbidden(f"the server may not do this with {what}", code="permission_denied")
        case number if number in UNUSABLE:
            message = f"{what[:200]} cannot be used: {exc.strerror}"
            return InvalidInput(f"{field}: {message}", problems=[Problem(field, message)])
        case _:
            return Unavailable(f"the disk failed: {exc.strerror}")
