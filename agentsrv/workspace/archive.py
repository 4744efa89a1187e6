"""A directory as one .tar.gz, made while it is sent: nothing is put on the disk, and little is in memory."""

from __future__ import annotations

import os
import stat
import tarfile
import zlib
from collections.abc import Generator, Iterator

from agentsrv.workspace.walk import Directory, Walk

BLOCK = tarfile.BLOCKSIZE
PIECE_BYTES = 256 * 1024
LEVEL = 6
GZIP_WINDOW = 31


def archive(walk: Walk, name: str) -> Generator[bytes, None, None]:
    """Pieces of an archive with everything that `walk` finds, below a directory `name`.

    Links are kept as links. Pipes, sockets and devices are left out, and so is what cannot be read. A file
    that changes meanwhile has the length that it had when its turn came, filled up with zeros if need be.
    Raises TimeoutError when there is more than could be walked through: an archive is never silently in part.
    """
    compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, GZIP_WINDOW)
    pending = bytearray()
    for block in _blocks(walk, name):
        pending += compressor.compress(block)
        if len(pending) >= PIECE_BYTES:
            yield bytes(pending)
            pending.clear()
    if walk.is_truncated:
        raise TimeoutError("the directory is too large for an archive")
    pending += compressor.compress(bytes(2 * BLOCK)) + compressor.flush()
    yield bytes(pending)


def _blocks(walk: Walk, name: str) -> Iterator[bytes]:
    above = len(walk.workspace.relative(walk.root))
    for directory in walk:
        inside = directory.prefix[above:].strip("/")
        prefix = f"{name}/{inside}/" if inside else f"{name}/"
        yield _header(prefix, os.fstat(directory.descriptor))
        for link in directory.links:
            yield from _link(directory, link, prefix + link)
        for file in directory.files:
            yield from _file(directory, file, prefix + file)


def _link(directory: Directory, name: str, path: str) -> Iterator[bytes]:
    try:
        found = os.stat(name, dir_fd=directory.descriptor, follow_symlinks=False)
        target = os.readlink(name, dir_fd=directory.descriptor)
    except OSError:
        return
    yield _header(path, found, target)


def _file(directory: Directory, name: str, path: str) -> Iterator[bytes]:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(name, flags, dir_fd=directory.descriptor)
    except OSError:
        return
    try:
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode):
            yield _header(path, found)
            yield from _content(descriptor, found.st_size)
    finally:
        os.close(descriptor)


def _content(descriptor: int, size: int) -> Iterator[bytes]:
    left = size
    while left:
        # A read error in the middle ends here as well: the header has promised a length.
        data = _read(descriptor, min(left, PIECE_BYTES)) or bytes(min(left, PIECE_BYTES))
        left -= len(data)
        yield data
    yield bytes(-size % BLOCK)


def _read(descriptor: int, size: int) -> bytes:
    try:
        return os.read(descriptor, size)
    except OSError:
        return b""


def _header(path: str, found: os.stat_result, target: str | None = None) -> bytes:
    """Without owner: who unpacks it owns it."""
    info = tarfile.TarInfo(path)
    info.mode = stat.S_IMODE(found.st_mode)
    info.mtime = int(found.st_mtime)
    if target is not None:
        info.type, info.linkname = tarfile.SYMTYPE, target
    elif stat.S_ISDIR(found.st_mode):
        info.type = tarfile.DIRTYPE
    else:
        info.size = found.st_size
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
