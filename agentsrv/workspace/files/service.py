"""The files of the workspace, for the API: every question and change, with its limits, off the event loop."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from pathlib import Path

from msgspec import Struct

from agentsrv.errors import Forbidden, LimitReached
from agentsrv.model import Image
from agentsrv.threads import Threads
from agentsrv.workspace.files import entries
from agentsrv.workspace.files.archive import archive
from agentsrv.workspace.files.checkouts import Checkout, checkout_around
from agentsrv.workspace.files.entries import OpenFile
from agentsrv.workspace.files.grep import Grep, LineMatch, find_ripgrep
from agentsrv.workspace.files.images import InlineImage, read_images
from agentsrv.workspace.files.search import NameSearch
from agentsrv.workspace.files.upload import Condition, Delivery, Uploaded, Uploads, Written
from agentsrv.workspace.files.walk import Entry, Listing, Walk
from agentsrv.workspace.files.watch import Changes, TreeWatch, Watches
from agentsrv.workspace.paths import Workspace

LISTING_TIMEOUT_S = 20.0
SEARCH_TIMEOUT_S = 2.0
GREP_TIMEOUT_S = 5.0
ARCHIVE_TIMEOUT_S = 3600.0

MAX_ARCHIVES = 8
"""At the same time: they are the one thing here that costs much processor time."""

MAX_ILLUSTRATED = 2
"""Prompts whose images are in memory at once, which are megabytes."""

MAX_ARCHIVE_DEPTH = 1000
MAX_LISTED = 1_000_000


class Scope(Struct, frozen=True, kw_only=True):
    """What a walk goes through: from `root` (a path as clients give it) so many levels down."""

    root: str
    max_depth: int
    include_ignored: bool = False


class Depths(Struct, frozen=True):
    """How many levels a walk goes down when nothing is said, and at most."""

    default: int
    maximum: int


class Root(Struct, frozen=True):
    """Where a walk begins: an existing directory, resolved. `is_denied`: the server may not read it."""

    path: str
    checkout: Checkout | None
    is_denied: bool


class FoundEntries(Struct, frozen=True):
    root: Root
    entries: list[Entry]
    is_truncated: bool


class FoundLines(Struct, frozen=True):
    root: Root
    lines: list[LineMatch]
    is_truncated: bool


class FileService:
    """What the file routes do. Raises the errors that `workspace.paths` and `workspace.explain` tell of.

    What a path is, is found out in a pool of its own and within its time: what lies on a mount that does not
    answer is refused there, and takes no thread from the others.
    """

    def __init__(
        self,
        workspace: Workspace,
        threads: Threads,
        *,
        depths: Depths,
        uploads_directory: Path,
        max_upload_bytes: int,
        search_path: str,
    ) -> None:
        self.workspace = workspace
        self.disk = threads.files
        self._state = threads.state
        self._paths = threads.paths
        self.uploads = Uploads(uploads_directory, workspace, self.disk, max_upload_bytes)
        self._watches = Watches(threads.watches)
        self._ripgrep = find_ripgrep(search_path)
        self._depths = depths
        self._archives = 0
        self._illustrated = asyncio.Semaphore(MAX_ILLUSTRATED)

    async def open(self) -> None:
        """Sweep what an earlier server left of its uploads."""
        await self._state.run(self.uploads.prepare)

    def drain(self) -> None:
        """End the watches."""
        self._watches.stop()

    # Looking

    def scope(self, root: str, max_depth: int | None = None, *, include_ignored: bool = False) -> Scope:
        """What a client means by these, within the server's limits; None: it said nothing."""
        depth = min(max_depth or self._depths.default, self._depths.maximum)
        return Scope(root=root, max_depth=depth, include_ignored=include_ignored)

    async def list_entries(
        self, scope: Scope, *, include_files: bool, limit: int, all_details: bool
    ) -> tuple[Root, Listing]:
        """The directory, and a listing to be used up step by step, with `disk.iterate`."""

        root = await self._paths.run(self._root, scope.root, may_be_denied=True)
        walk = self._walk(root.path, scope, LISTING_TIMEOUT_S)
        at_most = min(limit, MAX_LISTED)
        return root, Listing(
            walk, root.checkout, include_files=include_files, limit=at_most, all_details=all_details
        )

    async def search(self, scope: Scope, text: str, *, include_files: bool, limit: int) -> FoundEntries:
        """Entries by name, the best first."""

        root = await self._paths.run(self._root, scope.root, may_be_denied=True)
        walk = self._walk(root.path, scope, SEARCH_TIMEOUT_S)
        search = NameSearch(walk, text, include_files=include_files, limit=limit)
        found = await self.disk.run(search.entries)
        return FoundEntries(root, found, search.is_truncated)

    async def grep(self, scope: Scope, text: str, *, ignore_case: bool, limit: int) -> FoundLines:
        """Lines that have `text`, by path and number."""
        root = await self._paths.run(self._root, scope.root)
        walk = self._walk(root.path, scope, GREP_TIMEOUT_S)
        grep = Grep(walk, text, ignore_case=ignore_case, limit=limit)
        return FoundLines(root, await grep.matches(self.disk, self._ripgrep), grep.is_truncated)

    async def read(self, path: str) -> OpenFile:
        """A file, to be read piece by piece in threads and then closed."""
        return await self._paths.run(entries.open_file, self.workspace, path)

    @asynccontextmanager
    async def images(self, sources: Sequence[str | InlineImage]) -> AsyncIterator[tuple[Image, ...]]:
        """The images of a prompt, to be used in the block: those of other prompts wait.

        Raises InvalidInput that names `images.N`, Forbidden.
        """
        await self._reach(*(source for source in sources if isinstance(source, str)))
        async with self._illustrated:
            yield await self.disk.run(read_images, self.workspace, sources)

    @asynccontextmanager
    async def archive(
        self, path: str, *, include_ignored: bool
    ) -> AsyncIterator[tuple[str, AsyncGenerator[bytes, None]]]:
        """A name for it, and the pieces of a .tar.gz of the directory. Raises LimitReached."""
        if self._archives >= MAX_ARCHIVES:
            raise LimitReached("too many archives are being made; wait for one", code="too_many_archives")
        self._archives += 1
        try:
            root = await self._paths.run(self._root, path)
            scope = Scope(root=path, max_depth=MAX_ARCHIVE_DEPTH, include_ignored=include_ignored)
            name = os.path.basename(root.path) or "workspace"
            pieces = archive(self._walk(root.path, scope, ARCHIVE_TIMEOUT_S), name)
            async with aclosing(self.disk.iterate(pieces)) as steps:
                yield name, (piece async for piece in steps if piece)
        finally:
            self._archives -= 1

    @asynccontextmanager
    async def watch(
        self, scope: Scope, is_wanted: Callable[[], bool]
    ) -> AsyncIterator[tuple[TreeWatch, AsyncGenerator[Changes, None]]]:
        """What changes below a directory, from now on. `is_wanted`: is the client still there?"""
        root = await self._paths.run(self._root, scope.root)

        def walk_from(path: str) -> Walk:
            return self._walk(path, scope, LISTING_TIMEOUT_S)

        watch = TreeWatch(self.workspace, root.path, scope.max_depth, walk_from)
        try:
            await self._watches.begin(watch, is_wanted)
            yield watch, self._watches.follow(watch)
        finally:
            await self._watches.end(watch)

    # Changing

    async def write(
        self, path: str, chunks: AsyncIterator[bytes], *, expected_bytes: int, condition: Condition
    ) -> Written:
        """Put a whole file in place, with the directories above it. Raises PreconditionFailed."""
        target = await self._paths.run(self.uploads.check_target, path, condition)
        async with self.uploads.delivery(expected_bytes) as delivery:
            staged = await delivery.add(chunks)
            return await self.disk.run(delivery.place, staged, target, condition)

    def upload(self, expected_bytes: int) -> AbstractAsyncContextManager[Delivery]:
        """A delivery to add files to; `finish_upload` puts them in place. Raises LimitReached, TooLarge."""
        return self.uploads.delivery(expected_bytes)

    async def finish_upload(
        self, delivery: Delivery, target: str, names: Sequence[str], *, overwrite: bool
    ) -> Uploaded:
        """Put the files of a delivery below the directory `target`, in the order in which they came."""
        await self._reach(target)
        return await self.disk.run(delivery.place_all, target, names, overwrite=overwrite)

    async def make_directory(self, path: str, *, parents: bool) -> str:
        await self._reach(path)
        return await self.disk.run(entries.make_directory, self.workspace, path, parents=parents)

    async def delete(self, path: str, *, recursive: bool) -> str:
        await self._reach(path)
        deleting = entries.delete(self.workspace, path, recursive=recursive)
        async with aclosing(self.disk.iterate(deleting)) as steps:
            # Of a tree a part after the other: it may be large.
            return [deleted async for deleted in steps][-1]

    async def move(self, source: str, target: str, *, overwrite: bool) -> tuple[str, str]:
        await self._reach(source, target)
        return await self.disk.run(entries.move, self.workspace, source, target, overwrite=overwrite)

    async def _reach(self, *paths: str) -> None:
        """Does what these lie in answer? Raises Unavailable. What else is wrong with them is found out later."""
        for path in paths:
            await self._paths.run(self.workspace.probe, path)

    # Blocking

    def _root(self, text: str, *, may_be_denied: bool = False) -> Root:
        """Raises NotFound, InvalidInput, and Forbidden for one that may not be read, unless `may_be_denied`."""
        path = self.workspace.resolve(text)
        is_denied = False
        try:
            with self.workspace.open_directory(path):
                pass
        except Forbidden:
            if not may_be_denied:
                raise
            is_denied = True
        return Root(path, checkout_around(self.workspace, path), is_denied)

    def _walk(self, path: str, scope: Scope, timeout_s: float) -> Walk:
        return Walk(
            workspace=self.workspace,
            root=path,
            max_depth=scope.max_depth,
            include_ignored=scope.include_ignored,
            deadline=time.monotonic() + timeout_s,
        )
