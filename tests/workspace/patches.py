"""What a structured diff says, tried on contents."""

from __future__ import annotations

import os
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote_to_bytes

from msgspec import UnsetType

from agentsrv.api.schemas.git import DiffFileView, DiffHunkView, DiffLineView, DiffView

NO_NEWLINE = "\\ No newline at end of file"


def old_path(diff: DiffView, file: DiffFileView) -> bytes | None:
    return _path(diff, file.old_path, file.old_uri)


def new_path(diff: DiffView, file: DiffFileView) -> bytes | None:
    return _path(diff, file.new_path, file.new_uri)


def _path(diff: DiffView, path: str | None, uri: str | UnsetType) -> bytes | None:
    if path is None:
        return None
    if isinstance(uri, UnsetType):
        return path.encode()
    return os.path.relpath(unquote_to_bytes(uri.removeprefix("file://")), os.fsencode(Path(diff.repo_path)))


def changed(content: bytes, file: DiffFileView) -> bytes:
    """`content` as the hunks of `file` change it; each line that they keep or delete must be there."""
    old = content.split(b"\n")
    old = [line + b"\n" for line in old[:-1]] + [line for line in old[-1:] if line]
    new: list[bytes] = []
    position = 0
    for hunk in file.hunks:
        # What has no lines stands behind the line that it names.
        start = hunk.old_start - (hunk.old_lines > 0)
        new += old[position:start]
        position = start
        assert len(new) == hunk.new_start - (hunk.new_lines > 0)
        for kind, line in lines_of(hunk):
            if kind != "add":
                assert old[position] == line
                position += 1
            if kind != "del":
                new.append(line)
    return b"".join(new + old[position:])


def lines_of(hunk: DiffHunkView) -> Iterator[tuple[str, bytes]]:
    """The kind of each line, and its bytes with the end that it has."""
    following = [*hunk.lines[1:], None]
    for line, after in zip(hunk.lines, following, strict=True):
        if is_marker(line):
            assert NO_NEWLINE == line.content
            continue
        exact = line.content_base64
        content = line.content.encode() if isinstance(exact, UnsetType) else b64decode(exact)
        yield line.type, content + (b"" if after is not None and is_marker(after) else b"\n")


def is_marker(line: DiffLineView) -> bool:
    return line.old_line is None and line.new_line is None


def check_hunk(hunk: DiffHunkView) -> None:
    """The header counts the lines, and the lines are numbered one after the other."""
    old = [line.old_line for line in hunk.lines if line.old_line is not None]
    new = [line.new_line for line in hunk.lines if line.new_line is not None]

    assert (hunk.old_lines, hunk.new_lines) == (len(old), len(new))
    assert old == list(range(hunk.old_start, hunk.old_start + len(old)))
    assert new == list(range(hunk.new_start, hunk.new_start + len(new)))
    for line in hunk.lines:
        assert line.type == "context" or (line.old_line is None) == (line.type == "add")
        assert is_marker(line) or (line.new_line is None) == (line.type == "del")
