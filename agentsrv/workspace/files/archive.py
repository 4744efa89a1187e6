"""A directory as one .tar.gz, made while it is sent: nothing is put on the disk, and little is in memory."""

from __future__ import annotations

import errno
import os
import stat
import tarfile
import time
import zlib
from collections.abc import Generator, Iterator
from itertools import chain

from agentsrv.workspace.files.walk import Directory, Walk

BLOCK = tarfile.BLOCKSIZE
PIECE_BYTES = 256 * 1024
LEVEL = 6
STEP_S = 0.2
MAX_PARTS = 10_000
"""Of one file. One with more holes is taken as if it had none."""
GZIP_WINDOW = 31


def archive(walk: Walk, name: str) -> Generator[bytes, None, None]:
    """Pieces of an archive with everything that `walk` finds, below a directory `name`.

    Links are kept as links. Pipes, sockets and devices are left out, and so is what cannot be read. A file
    that changes meanwhile has the length that it had when its turn came, filled up with zeros if need be.
    Holes are kept as holes, as GNU tar does. A piece may be empty: none takes longer than a moment.
    Raises TimeoutError when there is more than could be walked through: an archive is never silently in part.
    """
    compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, GZIP_WINDOW)
    pending, began = bytearray(), time.monotonic()
    for block in _blocks(walk, name):
        pending += compressor.compress(block)
        if len(pending) >= PIECE_BYTES or time.monotonic() - began > STEP_S:
            yield bytes(pending)
            pending.clear()
            began = time.monotonic()
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
            yield from _regular(descriptor, path, found)
    finally:
        os.close(descriptor)


def _regular(descriptor: int, path: str, found: os.stat_result) -> Iterator[bytes]:
    parts = _parts(descriptor, found)
    if parts is None:
        yield _header(path, found)
        yield from _padded(_content(descriptor, found.st_size), found.st_size)
        return
    numbers = (len(parts), *chain.from_iterable(parts))
    table = "".join(f"{number}\n" for number in numbers).encode()
    table += bytes(-len(table) % BLOCK)
    size = len(table) + sum(length for _, length in parts)
    yield _header(path, found, size_with_table=size)
    yield table
    yield from _padded(_content_of(descriptor, parts), size)


def _parts(descriptor: int, found: os.stat_result) -> list[tuple[int, int]] | None:
    """Where a file with holes has data: offsets and lengths. None for one without, or with very many."""
    if found.st_blocks * 512 >= found.st_size:
        return None
    parts: list[tuple[int, int]] = []
    end = 0
    try:
        while end < found.st_size and len(parts) < MAX_PARTS:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
            end = min(os.lseek(descriptor, start, os.SEEK_HOLE), found.st_size)
            if start < end:
                parts.append((start, end - start))
    except OSError as exc:
        if exc.errno != errno.ENXIO:  # Nothing but a hole is left.
            return None
    finally:
        os.lseek(descriptor, 0, os.SEEK_SET)
    return parts if len(parts) < MAX_PARTS else None


def _content_of(descriptor: int, parts: list[tuple[int, int]]) -> Iterator[bytes]:
    for start, length in parts:
        os.lseek(descriptor, start, os.SEEK_SET)
        yield from _content(descriptor, length)


def _padded(pieces: Iterator[bytes], size: int) -> Iterator[bytes]:
    yield from pieces
    yield bytes(-size % BLOCK)


def _content(descriptor: int, size: int) -> Iterator[bytes]:
    left = size
    while left:
        # A read error in the middle ends here as well: the header has promised a length.
        data = _read(descriptor, min(left, PIECE_BYTES)) or bytes(min(left, PIECE_BYTES))
        left -= len(data)
        yield data


def _read(descriptor: int, size: int) -> bytes:
    try:
        return os.read(descriptor, size)
    except OSError:
        return b""


def _header(
    path: str, found: os.stat_result, target: str | None = None, size_with_table: int | None = None
) -> bytes:
    """Without owner: who unpacks it owns it. `size_with_table`: of a file with holes, in GNU's form 1.0."""
    info = tarfile.TarInfo(path)
    info.mode = stat.S_IMODE(found.st_mode)
    info.mtime = int(found.st_mtime)
    if target is not None:
        info.type, info.linkname = tarfile.SYMTYPE, target
    elif stat.S_ISDIR(found.st_mode):
        info.type = tarfile.DIRTYPE
    elif size_with_table is not None:
        info.size = size_with_table
        info.pax_headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": path,
            "GNU.sparse.realsize": str(found.st_size),
        }
    else:
        info.size = found.st_size
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
