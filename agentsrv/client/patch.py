"""A diff as the patch that `git apply` takes, in the shape of `git diff`."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from urllib.parse import unquote_to_bytes, urlsplit

from agentsrv.client.models import DiffFile, DiffHunk, DiffLine

MARKS = {"context": b" ", "add": b"+", "del": b"-"}
ESCAPES = {0x07: "\\a", 0x08: "\\b", 0x09: "\\t", 0x0A: "\\n", 0x0B: "\\v", 0x0C: "\\f", 0x0D: "\\r"}
NOWHERE = b"/dev/null"


def patch_of(files: Sequence[DiffFile]) -> bytes:
    """The sections of all files. One whose change is not told (`is_untold`) has none."""
    return b"".join([section for file in files for section in _sections(file)])


def is_untold(file: DiffFile) -> bool:
    """Is there more to its change than the diff says? A binary file that only moved, or only its mode, is told."""
    is_only_moved = file.old_path and file.new_path and file.similarity == 100
    return (file.binary and not is_only_moved) or file.truncated or file.unreadable


def _sections(file: DiffFile) -> list[bytes]:
    if is_untold(file):
        return []
    old, new = _path(file.old_path, file.old_uri), _path(file.new_path, file.new_uri)
    if file.status == "typechange":  # git takes away what was there, and adds what is
        return [
            _section(old, old, [f"deleted file mode {file.old_mode}"], _half(file, "del"), is_deleted=True),
            _section(new, new, [f"new file mode {file.new_mode}"], _half(file, "add"), is_added=True),
        ]
    return [
        _section(
            old or new,
            new or old,
            _head(file, old, new),
            file.hunks,
            is_added=file.old_path is None,
            is_deleted=file.new_path is None,
        )
    ]


def _head(file: DiffFile, old: bytes, new: bytes) -> list[str | bytes]:
    if file.old_path is None:
        return [f"new file mode {file.new_mode}"]
    if file.new_path is None:
        return [f"deleted file mode {file.old_mode}"]
    lines: list[str | bytes] = []
    if file.old_mode != file.new_mode:
        lines += [f"old mode {file.old_mode}", f"new mode {file.new_mode}"]
    if file.status in ("renamed", "copied"):
        verb = b"rename" if file.status == "renamed" else b"copy"
        lines.append(f"similarity index {file.similarity}%")
        lines += [verb + b" from " + _quoted(old), verb + b" to " + _quoted(new)]
    return lines


def _section(
    old: bytes,
    new: bytes,
    head: Sequence[str | bytes],
    hunks: Sequence[DiffHunk],
    *,
    is_added: bool = False,
    is_deleted: bool = False,
) -> bytes:
    lines = [b"diff --git " + _quoted(b"a/" + old) + b" " + _quoted(b"b/" + new)]
    lines += [line if isinstance(line, bytes) else line.encode() for line in head]
    if hunks:
        lines.append(b"--- " + (NOWHERE if is_added else _name(b"a/" + old)))
        lines.append(b"+++ " + (NOWHERE if is_deleted else _name(b"b/" + new)))
    for hunk in hunks:
        ends = (hunk.old_start, hunk.old_lines, hunk.new_start, hunk.new_lines)
        lines.append(b"@@ -%d,%d +%d,%d @@" % ends)
        lines += [_line(line) for line in hunk.lines]
    return b"\n".join(lines) + b"\n"


def _line(line: DiffLine) -> bytes:
    if line.old_line is None and line.new_line is None:  # "\ No newline at end of file"
        return line.content.encode()
    return MARKS[line.type] + _content(line)


def _content(line: DiffLine) -> bytes:
    if line.content_base64 is not None:
        return base64.b64decode(line.content_base64)
    return line.content.encode("utf-8", "surrogatepass")


def _half(file: DiffFile, kind: str) -> list[DiffHunk]:
    """Of the one hunk of a type change: what has gone, or what has come."""
    kept: list[DiffLine] = []
    was_kept = False
    for line in (line for hunk in file.hunks for line in hunk.lines):
        is_note = line.old_line is None and line.new_line is None
        was_kept = was_kept if is_note else line.type == kind
        if was_kept:
            kept.append(line)
    count = sum(line.type == kind for line in kept)
    if not count:
        return []
    gone, come = ((1, count), (0, 0)) if kind == "del" else ((0, 0), (1, count))
    return [DiffHunk(old_start=gone[0], old_lines=gone[1], new_start=come[0], new_lines=come[1], lines=kept)]


def _path(path: str | None, uri: str | None) -> bytes:
    """A path as bytes, from the repository's root on. The URI of one that is not UTF-8 is absolute."""
    if path is None:
        return b""
    if uri is None:
        return path.encode()
    parts = urlsplit(uri).path.split("/")
    return unquote_to_bytes("/".join(parts[-(path.count("/") + 1) :]))


def _name(path: bytes) -> bytes:
    """In a `---` or `+++` line, where a name with a blank ends in a tab."""
    quoted = _quoted(path)
    return quoted + b"\t" if b" " in quoted and quoted == path else quoted


def _quoted(path: bytes) -> bytes:
    """As C writes a string, where git would."""
    if not any(byte < 0x20 or byte >= 0x7F or byte in b'"\\' for byte in path):
        return path
    return b'"' + "".join(_escaped(byte) for byte in path).encode() + b'"'


def _escaped(byte: int) -> str:
    if byte in b'"\\':
        return f"\\{chr(byte)}"
    if 0x20 <= byte < 0x7F:
        return chr(byte)
    return ESCAPES.get(byte, f"\\{byte:03o}")
