"""A program for `test_mounts.py`: in a mount namespace of its own, a file system that never answers, and the files.

Prints what each question led to, as JSON. With the end of the process the mount is gone.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from agentsrv.errors import AgentsrvError
from agentsrv.linux import failure, libc
from agentsrv.threads import Threads
from agentsrv.workspace.files.entries import delete
from agentsrv.workspace.files.service import Depths, FileService
from agentsrv.workspace.finder import PathFinder
from agentsrv.workspace.paths import Workspace
from agentsrv.workspace.removal import remove_tree

MS_BIND = 0x1000


def mount_dead(path: Path) -> int:
    """Nobody reads the requests of this FUSE mount. (Linux, Documentation/filesystems/fuse.)"""
    descriptor = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={descriptor},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    if libc.mount(b"dead", os.fsencode(path), b"fuse", 0, options.encode()) != 0:
        raise failure(path)
    return descriptor


def remove_around_mounts(base: Path) -> list[str]:
    """Remove a tree in which a file system and another directory are mounted; the refusals, and what is left."""
    (base / "elsewhere").mkdir()
    (base / "elsewhere/kept").touch()
    mounts = [(b"new", b"tmpfs", b"tmpfs", 0), (b"bound", os.fsencode(base / "elsewhere"), None, MS_BIND)]
    for name, source, kind, flags in mounts:
        mounted = os.fsencode(base) + b"/tree/deep/" + name
        os.makedirs(mounted)
        if libc.mount(source, mounted, kind, flags, None) != 0:
            raise failure(base)
    (base / "tree/deep/new/kept").touch()
    (base / "tree/gone").touch()
    try:
        deque(delete(Workspace(base), "tree", recursive=True), 0)
    except AgentsrvError as exc:
        refused = exc.code
    else:
        return ["removed"]
    directory = os.open(base, os.O_RDONLY)
    try:
        deque(remove_tree("tree", directory), 0)
    except OSError as exc:
        left = sorted(path.parent.name for path in base.rglob("kept"))
        return [refused, errno.errorcode[exc.errno or 0], *left, *(path.name for path in base.rglob("gone"))]
    finally:
        os.close(directory)
    return ["removed"]


async def outcome(question: Any) -> Any:
    try:
        return await question
    except AgentsrvError as exc:
        return exc.code


async def main(base: Path) -> dict[str, Any]:
    mount_dead(base / "dead")
    threads, workspace = Threads(), Workspace(base)
    files = FileService(
        workspace,
        threads,
        depths=Depths(3, 10),
        uploads_directory=base.parent / "uploads",
        max_upload_bytes=100,
        search_path="",
    )
    began, found = time.monotonic(), dict[str, Any]()
    reads = [outcome(files.read("dead/file")) for _ in range(20)]
    directories = [outcome(PathFinder(workspace, threads.paths).directory("dead")) for _ in range(6)]
    hung = asyncio.gather(*reads, *directories)
    _, listing = await files.list_entries(files.scope("", 5), include_files=True, limit=100, all_details=True)
    entries = [
        entry for batch in [batch async for batch in files.disk.iterate(iter_of(listing))] for entry in batch
    ]
    found["entries"] = {entry.path: entry.mount is True for entry in entries}
    found["search"] = [
        e.path for e in (await files.search(files.scope(""), "de", include_files=True, limit=9)).entries
    ]
    found["lines"] = [
        line.path for line in (await files.grep(files.scope(""), "x", ignore_case=False, limit=9)).lines
    ]
    found["seconds"] = time.monotonic() - began
    found["removed"] = await outcome(files.delete("around", recursive=True))
    found["hung"] = sorted(set(await hung))
    again = time.monotonic()
    found["later"] = {await outcome(files.read("dead/file")) for _ in range(100)} == {"no_answer"}
    found["later_seconds"] = time.monotonic() - again
    found["around mounts"] = remove_around_mounts(base.parent / "removal")
    began = time.monotonic()
    await threads.close()
    found["closing"] = time.monotonic() - began
    return found


def iter_of(listing: Any) -> Any:
    yield from listing


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(main(Path(sys.argv[1])))))
    sys.stdout.flush()
    os._exit(0)
