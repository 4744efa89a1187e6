"""From a structured diff back to a patch that git can apply."""

from __future__ import annotations

import os
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote_to_bytes

from msgspec import UnsetType

from agentsrv.api.schemas import DiffFileView, DiffHunkView, DiffLineView, DiffView

NO_NEWLINE = "\\ No newline at end of file"
SIGNS = {"context": b" ", "add": b"+", "del": b"-"}


def to_patch(diff: DiffView) -> bytes:
    return b"".join(part for file in diff.files for part in _file(diff, file))


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


def _file(diff: DiffView, file: DiffFileView) -> Iterator[bytes]:
    old, new = old_path(diff, file), new_path(diff, file)
    lines = [line for hunk in file.hunks for line in hunk.lines]
    if file.binary:
        return
    if file.status == "typechange":
        split = next((i for i, line in enumerate(lines) if line.type == "add"), len(lines))
        yield from _deleted(old, file.old_mode, lines[:split])
        yield from _added(new, file.new_mode, lines[split:])
    elif old is None:
        yield from _added(new, file.new_mode, lines)
    elif new is None:
        yield from _deleted(old, file.old_mode, lines)
    else:
        yield from _changed(old, new, file)


def _changed(old: bytes, new: bytes, file: DiffFileView) -> Iterator[bytes]:
    assert file.old_mode is not None
    assert file.new_mode is not None
    yield b"diff --git %b %b\n" % (_quoted(b"a/" + old), _quoted(b"b/" + new))
    if file.old_mode != file.new_mode:
        yield f"old mode {file.old_mode}\nnew mode {file.new_mode}\n".encode()
    if file.status == "copied":
        yield b"copy from %b\ncopy to %b\n" % (_quoted(old), _quoted(new))
    elif old != new:
        yield b"rename from %b\nrename to %b\n" % (_quoted(old), _quoted(new))
    if file.hunks:
        mode = f" {file.new_mode}" if file.old_mode == file.new_mode else ""
        yield f"index 1111111..2222222{mode}\n".encode()
        yield b"--- %b\n+++ %b\n" % (_quoted(b"a/" + old), _quoted(b"b/" + new))
    for hunk in file.hunks:
        yield f"@@ -{hunk.old_start},{hunk.old_lines} +{hunk.new_start},{hunk.new_lines} @@\n".encode()
        yield from map(_line, hunk.lines)


def _added(path: bytes | None, mode: str | None, lines: list[DiffLineView]) -> Iterator[bytes]:
    assert path is not None
    yield b"diff --git %b %b\n" % (_quoted(b"a/" + path), _quoted(b"b/" + path))
    yield f"new file mode {mode}\nindex 0000000..2222222\n".encode()
    if lines:
        count = sum(line.type == "add" for line in lines)
        yield b"--- /dev/null\n+++ %b\n@@ -0,0 +1,%d @@\n" % (_quoted(b"b/" + path), count)
    yield from map(_line, lines)


def _deleted(path: bytes | None, mode: str | None, lines: list[DiffLineView]) -> Iterator[bytes]:
    assert path is not None
    yield b"diff --git %b %b\n" % (_quoted(b"a/" + path), _quoted(b"b/" + path))
    yield f"deleted file mode {mode}\nindex 1111111..0000000\n".encode()
    if lines:
        count = sum(line.type == "del" for line in lines)
        yield b"--- %b\n+++ /dev/null\n@@ -1,%d +0,0 @@\n" % (_quoted(b"a/" + path), count)
    yield from map(_line, lines)


def _line(line: DiffLineView) -> bytes:
    if line.old_line is None and line.new_line is None:
        assert NO_NEWLINE == line.content
        return line.content.encode() + b"\n"
    exact = line.content_base64
    content = line.content.encode() if isinstance(exact, UnsetType) else b64decode(exact)
    return SIGNS[line.type] + content + b"\n"


def _quoted(path: bytes) -> bytes:
    return b'"%b"' % b"".join(
        b"\\%03o" % byte if byte < 33 or byte in b'"\\' or byte > 126 else bytes([byte]) for byte in path
    )


def check_hunk(hunk: DiffHunkView) -> None:
    """The header counts the lines, and the lines are numbered one after the other."""
    old = [line.old_line for line in hunk.lines if line.old_line is not None]
    new = [line.new_line for line in hunk.lines if line.new_line is not None]

    assert (hunk.old_lines, hunk.new_lines) == (len(old), len(new))
    assert old == list(range(hunk.old_start, hunk.old_start + len(old)))
    assert new == list(range(hunk.new_start, hunk.new_start + len(new)))
    for line in hunk.lines:
        is_marker = line.old_line is None and line.new_line is None
        assert line.type == "context" or (line.old_line is None) == (line.type == "add")
        assert is_marker or (line.new_line is None) == (line.type == "del")
