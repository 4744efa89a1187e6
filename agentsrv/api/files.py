"""The files of the workspace: look, search, read, write, upload, watch."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing
from email.utils import formatdate
from mimetypes import guess_type
from urllib.parse import quote

import msgspec
from aiohttp import ETag, hdrs, web

from agentsrv.api.bodies import body_chunks, read_body
from agentsrv.api.encode import json_response, timestamp
from agentsrv.api.fields import given
from agentsrv.api.keys import FILES
from agentsrv.api.multipart import read_upload
from agentsrv.api.operations import ANY, BYTES, FORM, GZIP, NO_BODY, Operation
from agentsrv.api.refusals import error_response, is_gone
from agentsrv.api.schemas.events import WATCH_EVENTS, WatchChanges, WatchGone, WatchReady, WatchRefresh
from agentsrv.api.schemas.files import (
    ArchiveDirectory,
    DeleteEntry,
    DirectoryMade,
    EntryDeleted,
    EntryMoved,
    FileList,
    FileQuery,
    FilesUploaded,
    FileView,
    GrepFiles,
    LineList,
    ListFiles,
    MakeDirectory,
    MoveEntry,
    SearchFiles,
    UploadedFile,
    WatchDirectory,
)
from agentsrv.api.sse import frame_of, stream_frames
from agentsrv.api.transfer import send
from agentsrv.api.urls import read_query
from agentsrv.errors import AgentsrvError, invalid_field
from agentsrv.workspace.files.checkouts import shown
from agentsrv.workspace.files.entries import FileFacts, OpenFile
from agentsrv.workspace.files.service import FileService, Root, Scope
from agentsrv.workspace.files.upload import Condition, Uploaded
from agentsrv.workspace.files.walk import Entry, Listing, wire_second, wire_time
from agentsrv.workspace.files.watch import Changes, TreeWatch
from agentsrv.workspace.paths import displayed, file_uri, is_text

COMPRESSED = re.compile(r"[-;](?:gzip|deflate|br|zstd)\Z")
"""What Apache, Caddy and others put to the end of an ETag when they compress; none of ours has it."""

PIECE_BYTES = 256 * 1024
ANY_TAG = (ETag("*"),)

encode = msgspec.json.Encoder().encode


async def list_files(request: web.Request) -> web.StreamResponse:
    """What is in a directory and below it: nearest first, folders before files, by name.

    Folders like `node_modules` are listed and not entered, unless `includeIgnored`.
    """
    query = read_query(request, ListFiles)
    files = request.app[FILES]
    scope = files.scope(query.path, given(query.max_depth), include_ignored=query.include_ignored)
    root, listing = await files.list_entries(
        scope,
        include_files=query.include_files,
        limit=query.limit,
        all_details=query.details,
    )
    pieces = files.disk.iterate(
        _listing_json(_root_fields(files, root, scope), listing, is_plain=_is_plain(request))
    )
    return await send(request, pieces, headers={hdrs.CONTENT_TYPE: "application/json; charset=utf-8"})


async def search_files(request: web.Request) -> web.Response:
    """Entries whose path has all the words, in this order and in any case; the best first.

    `q` is what to search for and `root` where; earlier clients say `path` for `q`.
    """
    query = read_query(request, SearchFiles)
    files = request.app[FILES]
    text = query.path if isinstance(query.q, msgspec.UnsetType) else query.q
    scope = files.scope(query.root, given(query.max_depth), include_ignored=query.include_ignored)
    found = await files.search(scope, text, include_files=query.include_files, limit=query.limit)
    fields = _root_fields(files, found.root, scope)
    return json_response(
        {
            **fields,
            "path": text,
            "entries": _plain(found.entries) if _is_plain(request) else found.entries,
            "count": len(found.entries),
            "truncated": found.is_truncated,
            "timestamp": timestamp(),
        }
    )


async def grep_files(request: web.Request) -> web.Response:
    """Lines of text files that have exactly this text, by path and line."""
    query = read_query(request, GrepFiles)
    files = request.app[FILES]
    scope = files.scope(query.path, given(query.max_depth), include_ignored=query.include_ignored)
    found = await files.grep(scope, query.q, ignore_case=query.ignore_case, limit=query.limit)
    return json_response(
        LineList(
            path=displayed(files.workspace.relative(found.root.path)),
            full_path=displayed(found.root.path),
            matches=found.lines,
            count=len(found.lines),
            truncated=found.is_truncated,
            timestamp=timestamp(),
        )
    )


async def read_file(request: web.Request) -> web.StreamResponse:
    """The bytes of a file: all, or a range of them (206). With `If-None-Match` 304 when nothing changed."""
    query = read_query(request, FileQuery)
    files = request.app[FILES]
    file = await files.read(query.path)
    try:
        return await _send_file(request, files, file)
    finally:
        file.close()


async def write_file(request: web.Request) -> web.Response:
    """Replace or make a file with the body's bytes, at once or not at all. Directories above it are made.

    With `If-Match` only when the file is still the one with that ETag, with `If-None-Match: *` only when
    there is none; else 412.
    """
    query = read_query(request, FileQuery)
    written = await request.app[FILES].write(
        query.path,
        body_chunks(request),
        expected_bytes=request.content_length or 0,
        condition=_condition(request),
    )
    status = 201 if written.is_new else 200
    return json_response(_file_view(written.facts), status=status, headers={hdrs.ETAG: written.facts.etag})


async def delete_entry(request: web.Request) -> web.Response:
    """Remove a file, a link or an empty directory; with `recursive=true` a full one."""
    query = read_query(request, DeleteEntry)
    path = await request.app[FILES].delete(query.path, recursive=query.recursive)
    return json_response(EntryDeleted(path=displayed(path), timestamp=timestamp()))


async def make_directory(request: web.Request) -> web.Response:
    """Make a directory; with `parents` also those above it."""
    body = await read_body(request, MakeDirectory)
    path = await request.app[FILES].make_directory(body.path, parents=body.parents)
    return json_response(DirectoryMade(path=displayed(path), timestamp=timestamp()), status=201)


async def move_entry(request: web.Request) -> web.Response:
    """Give a file or directory another path; 409 when something is there, unless `overwrite`."""
    body = await read_body(request, MoveEntry)
    source, target = await request.app[FILES].move(body.source, body.target, overwrite=body.overwrite)
    return json_response(
        EntryMoved(source=displayed(source), target=displayed(target), timestamp=timestamp())
    )


async def upload_files(request: web.Request) -> web.Response:
    """Put files below a directory, all of them or none.

    A form with `targetPath`, the files, and optionally one of `relativePaths` for each file.
    """
    files = request.app[FILES]
    async with files.upload(request.content_length or 0) as delivery:
        upload = await read_upload(request, delivery)
        uploaded = await files.finish_upload(
            delivery, upload.target, upload.names, overwrite=upload.overwrite
        )
    return json_response(_uploaded_view(uploaded), status=201)


async def archive_directory(request: web.Request) -> web.StreamResponse:
    """A directory as a .tar.gz, made while it is sent."""
    query = read_query(request, ArchiveDirectory)
    making = request.app[FILES].archive(query.path, include_ignored=query.include_ignored)
    async with making as (name, pieces):
        headers: dict[str, str] = {
            hdrs.CONTENT_TYPE: "application/gzip",
            hdrs.CONTENT_DISPOSITION: _attachment(f"{name}.tar.gz"),
        }
        return await send(request, pieces, headers=headers)


async def watch_directory(request: web.Request) -> web.StreamResponse:
    """An event stream of what changes in a directory and below it; it begins with `ready`."""
    query = read_query(request, WatchDirectory)
    files = request.app[FILES]
    scope = files.scope(query.path, given(query.max_depth))
    if request.method == hdrs.METH_HEAD:
        return await stream_frames(request, _nothing(), bytes)
    async with files.watch(scope, lambda: not is_gone(request)) as (watch, changes):
        return await stream_frames(request, _frames(files, watch, changes), bytes)


def _is_plain(request: web.Request) -> bool:
    """Was it asked where earlier clients ask, who know files and directories only?"""
    return "/sessions/filesystem/" in request.path


def _plain(entries: list[Entry]) -> list[Entry]:
    """Links as what they lead to."""
    for entry in entries:
        if entry.type not in ("file", "directory"):
            entry.type = "directory" if entry.target_type == "directory" else "file"
    return entries


def _root_fields(files: FileService, root: Root, scope: Scope) -> dict[str, object]:
    """What every listing says of the directory that it begins at."""
    path, checkout = files.workspace.relative(root.path), root.checkout
    is_worktree = checkout is not None and checkout.is_worktree
    fields: dict[str, object] = {
        "path": displayed(path),
        "fullPath": displayed(root.path),
        "maxDepth": scope.max_depth,
        "currentInGitRepo": checkout is not None,
        "currentGitRoot": displayed(shown(files.workspace, checkout) or "") or None,
        "currentIsWorktree": is_worktree,
        "currentWorktreeDir": displayed(checkout.path.rpartition("/")[2])
        if checkout and is_worktree
        else None,
    }
    if root.is_denied:
        fields["denied"] = True
    if not is_text(path):
        fields["uri"] = file_uri(root.path)
    return fields


def _listing_json(
    fields: dict[str, object], listing: Listing, *, is_plain: bool
) -> Generator[bytes, None, None]:
    """The answer in pieces, so that no large one is ever held, and none is encoded at a stretch."""
    yield encode(fields)[:-1] + b',"entries":['
    comma = b""
    for batch in listing:
        if batch:
            yield comma + encode(_plain(batch) if is_plain else batch)[1:-1]
            comma = b","
    rest = {"count": listing.count, "truncated": listing.is_truncated, "timestamp": timestamp()}
    yield b"]," + encode(rest)[1:]


async def _send_file(request: web.Request, files: FileService, file: OpenFile) -> web.StreamResponse:
    facts = file.facts
    headers: dict[str, str] = {
        hdrs.ETAG: facts.etag,
        hdrs.LAST_MODIFIED: formatdate(wire_second(facts.modified_ns), usegmt=True),
        hdrs.ACCEPT_RANGES: "bytes",
        hdrs.CACHE_CONTROL: "private, no-cache",
    }
    if not {facts.etag, "*"}.isdisjoint(map(_strong, request.if_none_match or ())):
        return web.Response(status=304, headers=headers)
    wanted = _range(request, facts)
    if wanted is None:
        return _not_satisfiable(facts)
    start, end = wanted
    if end - start < facts.size:
        headers[hdrs.CONTENT_RANGE] = f"bytes {start}-{end - 1}/{facts.size}"
    headers |= {
        hdrs.CONTENT_TYPE: guess_type(file.name)[0] or "application/octet-stream",
        hdrs.CONTENT_DISPOSITION: _attachment(file.name),
        # Shown in a browser all the same, a page from the workspace must not act as one of ours.
        "Content-Security-Policy": "sandbox; default-src 'none'",
    }
    status = 206 if hdrs.CONTENT_RANGE in headers else 200
    pieces = _pieces(files, file, start, end)
    return await send(request, pieces, status=status, headers=headers, length=end - start)


async def _pieces(files: FileService, file: OpenFile, start: int, end: int) -> AsyncGenerator[bytes, None]:
    """The bytes from `start` to `end`; fewer when the file gets shorter meanwhile."""
    while start < end and (piece := await files.disk.run(file.read, start, min(end - start, PIECE_BYTES))):
        start += len(piece)
        yield piece


def _range(request: web.Request, facts: FileFacts) -> tuple[int, int] | None:
    """From where to where; the whole file when none, or none that we know, is asked for; None: outside."""
    whole = 0, facts.size
    try:
        wanted = request.http_range
    except ValueError:
        return whole
    is_given = wanted != slice(None, None, 1)
    if not is_given or request.headers.get(hdrs.IF_RANGE, facts.etag) != facts.etag:
        return whole
    start, end, _ = wanted.indices(facts.size)
    # Of no bytes at the end aiohttp makes all from the start on.
    is_empty = wanted.start == 0 and request.headers[hdrs.RANGE].startswith("bytes=-")
    return (start, end) if start < end and not is_empty else None


def _not_satisfiable(facts: FileFacts) -> web.Response:
    message = f"the file has {facts.size} bytes; ask for a range in it"
    response = error_response(AgentsrvError(message, code="range_not_satisfiable"))
    response.set_status(416)
    response.headers[hdrs.CONTENT_RANGE] = f"bytes */{facts.size}"
    return response


def _condition(request: web.Request) -> Condition:
    """From `If-Match` and `If-None-Match`.

    A tag that a proxy has made weak, or told apart, because it compresses, counts like ours, which stands for the
    exact bytes.
    """
    match, none_match = request.if_match, request.if_none_match
    if hdrs.IF_NONE_MATCH in request.headers and none_match != ANY_TAG:
        raise invalid_field("If-None-Match", "can only be * here: write when there is no such file")
    tags = None if hdrs.IF_MATCH not in request.headers else frozenset(map(_strong, match or ()))
    return Condition(tags=tags, is_new=none_match is not None)


def _strong(tag: ETag) -> str:
    return tag.value if tag.value == "*" else f'"{COMPRESSED.sub("", tag.value)}"'


def _attachment(name: str) -> str:
    """For Content-Disposition: names of all kinds, and one in ASCII for old clients."""
    shown_name = displayed(name)
    plain = re.sub(r"[^ !#-\[\]-~]", "_", shown_name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(shown_name, safe='')}"


def _file_view(facts: FileFacts) -> FileView:
    return FileView(
        path=displayed(facts.path),
        size=facts.size,
        modified_at=wire_time(facts.modified_ns),
        etag=facts.etag,
        timestamp=timestamp(),
    )


def _uploaded_view(uploaded: Uploaded) -> FilesUploaded:
    return FilesUploaded(
        path=displayed(uploaded.path),
        uploaded_count=len(uploaded.files),
        skipped_count=uploaded.skipped,
        files=[UploadedFile(path=displayed(file.path), bytes=file.size) for file in uploaded.files],
        timestamp=timestamp(),
    )


async def _frames(
    files: FileService, watch: TreeWatch, changes: AsyncGenerator[Changes, None]
) -> AsyncGenerator[bytes, None]:
    yield _frame(
        WatchReady(
            path=displayed(files.workspace.relative(watch.root)),
            full_path=displayed(watch.root),
            truncated=watch.is_partial,
            timestamp=timestamp(),
        )
    )
    async with aclosing(changes):
        async for found in changes:
            if found.is_root_gone:
                yield _frame(WatchGone(timestamp=timestamp()))
            elif found.is_overflow:
                yield _frame(WatchRefresh(truncated=watch.is_partial, timestamp=timestamp()))
            elif found.changes:
                yield _frame(WatchChanges(changes=found.changes, timestamp=timestamp()))


def _frame(message: msgspec.Struct) -> bytes:
    return frame_of(encode(message))


async def _nothing() -> AsyncGenerator[bytes, None]:
    """For HEAD, which gets the headers alone."""
    return
    yield b""


# fmt: off
ROUTES = (
    Operation("GET", "/filesystem/files", list_files, {200: FileList}, (404, 429), query=ListFiles),
    Operation("GET", "/filesystem/search", search_files, {200: FileList}, (404, 429), query=SearchFiles),
    Operation("GET", "/filesystem/grep", grep_files, {200: LineList}, (404, 429), query=GrepFiles),
    Operation("GET", "/filesystem/watch", watch_directory, {200: WATCH_EVENTS}, (404, 429, 503),
              query=WatchDirectory),
    Operation("GET", "/filesystem/archive", archive_directory, {200: GZIP}, (404, 429),
              query=ArchiveDirectory),
    Operation("GET", "/filesystem/content", read_file, {200: ANY, 206: ANY, 304: NO_BODY},
              (404, 416, 429), query=FileQuery, headers=("Range", "If-None-Match", "If-Range")),
    Operation("PUT", "/filesystem/content", write_file, {200: FileView, 201: FileView},
              (409, 412, 429, 507), body=BYTES, query=FileQuery, headers=("If-Match", "If-None-Match")),
    Operation("POST", "/filesystem/upload", upload_files, {201: FilesUploaded}, (409, 429, 507),
              body=FORM),
    Operation("POST", "/filesystem/directory", make_directory, {201: DirectoryMade}, (404, 409, 507),
              body=MakeDirectory),
    Operation("POST", "/filesystem/move", move_entry, {200: EntryMoved}, (404, 409, 507),
              body=MoveEntry),
    Operation("DELETE", "/filesystem/entry", delete_entry, {200: EntryDeleted}, (404, 409),
              query=DeleteEntry),
)
# fmt: on
