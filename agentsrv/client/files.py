"""`client.files`: the files of the server's workspace."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import FormData

from agentsrv.client.connection import NETWORK_ERRORS
from agentsrv.client.frames import FrameReader
from agentsrv.client.models import Listing, Matches, Upload, WrittenFile
from agentsrv.client.resources import Resource

PIECE_BYTES = 1 << 18


class AsyncFiles(Resource):
    """Paths are relative to the workspace, or absolute; a `file:` URI names one that is not UTF-8."""

    async def list(
        self,
        path: str = "",
        *,
        include_files: bool = True,
        max_depth: int | None = 1,
        limit: int | None = None,
        include_ignored: bool = False,
    ) -> Listing:
        """What is in a directory, down to `max_depth` levels, the nearest first. All of it is one answer."""
        query = {
            "path": path,
            "includeFiles": include_files,
            "maxDepth": max_depth,
            "limit": limit,
            "includeIgnored": include_ignored,
        }
        return await self._connection.ask("GET", "/filesystem/files", Listing, query=query)

    async def search(
        self, words: str, *, root: str = "", include_files: bool = True, limit: int | None = None
    ) -> Listing:
        """Paths that have all of `words`, the best first."""
        query = {"q": words, "root": root, "includeFiles": include_files, "limit": limit}
        return await self._connection.ask("GET", "/filesystem/search", Listing, query=query)

    async def grep(
        self, text: str, *, path: str = "", ignore_case: bool = True, limit: int | None = None
    ) -> Matches:
        """Lines that have `text` exactly as it is."""
        query = {"q": text, "path": path, "ignoreCase": ignore_case, "limit": limit}
        return await self._connection.ask("GET", "/filesystem/grep", Matches, query=query)

    async def read(self, path: str) -> bytes:
        """A whole file."""
        return await self._connection.fetch("GET", "/filesystem/content", query={"path": path})

    async def download(self, path: str, to: Path, *, archive: bool = False) -> None:
        """A file, or with `archive` a directory as a `.tar.gz`, to a file here: whole, or not at all."""
        route = "/filesystem/archive" if archive else "/filesystem/content"
        part = to.with_name(f".{to.name}.{os.getpid()}.part")
        try:
            response = await self._connection.open("GET", route, query={"path": path})
            async with response:
                with part.open("wb") as file:
                    async for piece in response.content.iter_chunked(PIECE_BYTES):
                        file.write(piece)
            part.replace(to)
        except NETWORK_ERRORS as exc:
            raise self._connection.connection_error(exc) from None
        finally:
            part.unlink(missing_ok=True)

    async def write(
        self, path: str, content: bytes, *, if_match: str | None = None, only_if_new: bool = False
    ) -> WrittenFile:
        """Replace a file at once, or make it. `if_match`: only when it still has this `etag` (else status 412)."""
        headers = {"Content-Type": "application/octet-stream"}
        if if_match is not None:
            headers["If-Match"] = if_match
        if only_if_new:
            headers["If-None-Match"] = "*"
        return await self._connection.ask(
            "PUT", "/filesystem/content", WrittenFile, query={"path": path}, body=content, headers=headers
        )

    async def delete(self, path: str, *, recursive: bool = False) -> None:
        """Remove a file, a link, an empty directory, or with `recursive` a full one."""
        query = {"path": path, "recursive": recursive}
        await self._connection.ask("DELETE", "/filesystem/entry", dict[str, Any], query=query)

    async def make_directory(self, path: str, *, parents: bool = False) -> None:
        body = {"path": path, "parents": parents}
        await self._connection.ask("POST", "/filesystem/directory", dict[str, Any], body=body)

    async def move(self, source: str, target: str, *, overwrite: bool = False) -> None:
        """`target` is the new path itself, not a directory to move into."""
        body = {"from": source, "to": target, "overwrite": overwrite}
        await self._connection.ask("POST", "/filesystem/move", dict[str, Any], body=body)

    async def upload(
        self, files: Mapping[str, bytes | Path], *, target: str = "", overwrite: bool = True
    ) -> Upload:
        """Put files below the directory `target`, by their paths there: all of them, or none."""
        form = FormData()
        form.add_field("targetPath", target)
        form.add_field("overwrite", str(overwrite).lower())
        for path in files:
            form.add_field("relativePaths", path)
        for path, content in files.items():
            value = content.read_bytes() if isinstance(content, Path) else content
            form.add_field(
                "files", value, filename=os.path.basename(path), content_type="application/octet-stream"
            )
        return await self._connection.ask("POST", "/filesystem/upload", Upload, body=form)

    async def watch(
        self, path: str = "", *, max_depth: int | None = None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """What changes in a directory: messages of `GET /filesystem/watch`, until it is gone or the connection is."""
        frames = FrameReader(has_ids=False)
        query = {"path": path, "maxDepth": max_depth}
        try:
            async with await self._connection.open("GET", "/filesystem/watch", query=query) as response:
                async for data in response.content.iter_any():
                    for _, messages in frames.feed(data):
                        for message in messages:
                            yield msgspec.json.decode(message)
        except NETWORK_ERRORS as exc:
            raise self._connection.connection_error(exc) from None
