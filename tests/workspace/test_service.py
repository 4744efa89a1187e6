"""The file service as a whole: what may not be read, and what ends in time."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from agentsrv.errors import AgentsrvError, Forbidden
from agentsrv.threads import Threads
from agentsrv.workspace.files.service import MAX_ILLUSTRATED, Depths, FileService, Scope
from agentsrv.workspace.paths import Workspace
from tests.pictures import PNG

DATA_URL = f"data:image/png;base64,{b64encode(PNG).decode()}"


@pytest.fixture
def closed(unprivileged: Path) -> Iterator[Path]:
    """A workspace with a directory `closed` that the server may not read."""
    (unprivileged / "base/closed").mkdir(parents=True)
    (unprivileged / "base/closed").chmod(0)
    yield unprivileged / "base"
    (unprivileged / "base/closed").chmod(0o700)


def make_service(base: Path, threads: Threads) -> FileService:
    search_path = str(Path(shutil.which("rg") or "/nowhere/rg").parent)
    return FileService(
        Workspace(base),
        threads,
        depths=Depths(10, 20),
        uploads_directory=base.parent / "up",
        max_upload_bytes=100,
        search_path=search_path,
    )


@pytest.fixture
async def files(closed: Path) -> AsyncIterator[FileService]:
    threads = Threads()
    yield make_service(closed, threads)
    await threads.close()


async def test_images_of_few_prompts_are_held_at_once(files: FileService) -> None:
    """Who comes next has no picture yet; it comes when another prompt has been dealt with."""
    async with AsyncExitStack() as stack:
        for _ in range(MAX_ILLUSTRATED):
            await stack.enter_async_context(files.images([DATA_URL]))
        next_one = files.images([DATA_URL])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(next_one.__aenter__(), 0.05)

    async with files.images([DATA_URL]) as (image,):
        assert image.data == b64encode(PNG)


async def test_a_directory_that_may_not_be_read_is_empty_and_marked(files: FileService) -> None:
    """In listings and searches."""
    scope = Scope(root="closed", max_depth=3)
    root, listing = await files.list_entries(scope, include_files=True, limit=10, all_details=False)
    found = await files.search(scope, "x", include_files=True, limit=10)

    assert (root.is_denied, list(listing)) == (True, [[]])
    assert (found.root.is_denied, found.entries) == (True, [])


async def test_what_needs_to_read_it_is_refused(files: FileService) -> None:
    """Search in contents, archive, watch, and every change in it."""
    scope = Scope(root="closed", max_depth=3)
    with pytest.raises(Forbidden):
        await files.grep(scope, "x", ignore_case=True, limit=10)
    with pytest.raises(Forbidden):
        await files.archive("closed", include_ignored=True).__aenter__()
    with pytest.raises(Forbidden):
        async with files.watch(scope, lambda: True):
            pass
    with pytest.raises(Forbidden):
        await files.read("closed/x")
    with pytest.raises(Forbidden):
        await files.make_directory("closed/x", parents=True)
    with pytest.raises(Forbidden):
        await files.delete("closed/x", recursive=False)


async def test_watches_end_when_the_server_drains(files: FileService) -> None:
    """Within a moment, not at their next change."""
    async with files.watch(Scope(root="", max_depth=3), lambda: True) as (_, changes):
        files.drain()
        assert [change async for change in changes] == []


async def test_a_deep_tree_is_no_internal_error(files: FileService, closed: Path) -> None:
    """A thousand levels and more: listed as far as asked, and not removed at all or as a whole."""
    directory = os.open(closed, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=directory)
        inner = os.open("d", os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = inner
    os.close(directory)
    _, listing = await files.list_entries(
        Scope(root="", max_depth=1000), include_files=True, limit=5000, all_details=False
    )

    assert 1001 == sum(len(batch) for batch in listing)
    with suppress(AgentsrvError):
        await files.delete("d", recursive=True)
    subprocess.run(["rm", "-rf", str(closed / "d")], check=True)
