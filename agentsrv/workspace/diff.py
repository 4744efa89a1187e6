"""Structured diffs, equal to what `git diff` shows, as JSON that is ready to be sent. Runs in a git worker."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pygit2
from pygit2.enums import DiffOption

from agentsrv.workspace.diff_changes import (
    MAX_CHANGES,
    Change,
    find_changes,
    find_ends,
    is_wanted,
    wanted_paths,
    with_renames,
)
from agentsrv.workspace.diff_contents import Contents, Entry, Unreadable
from agentsrv.workspace.diff_hunks import NO_HUNKS, Hunks, render, replacement
from agentsrv.workspace.diff_renames import MAX_SCORE
from agentsrv.workspace.git import find_root, open_repository, reading
from agentsrv.workspace.git_protocol import DiffRequest
from agentsrv.workspace.paths import Workspace, displayed, file_uri

MAX_FILES = 10_000
MAX_FILE_BYTES = 8 * 1024 * 1024
MAX_BYTES = 32 * 1024 * 1024
"""Of patches, of one file and of all. A file that would go over it comes without hunks."""
MAX_LINES = 400_000
MAX_SECONDS = 6.0
"""After this long the files that are left come without hunks and counts. The worker is killed later."""

LINES = DiffOption.INDENT_HEURISTIC | DiffOption.FORCE_TEXT


def diff(workspace: Workspace, request: DiffRequest) -> bytes:
    """The answer to `request`: a JSON object without its closing brace.

    Raises Forbidden, NotFound (`not_a_repository`), Unprocessable (`repository_unreadable`), InvalidInput
    (`unknown_revision` or a field that is wrong).
    """
    deadline = time.monotonic() + MAX_SECONDS
    root = find_root(workspace, request.path)
    repo = open_repository(workspace, root)
    with closing(Contents(repo)) as contents:
        with reading(root):
            ends = find_ends(repo, request)
            changes = find_changes(workspace, root, repo, request, ends, contents)
        paths = wanted_paths(root, request.paths)
        wanted = [change for change in changes if is_wanted(change.path, paths)]
        renderer = Renderer(root, contents, request, deadline)
        files = renderer.files(with_renames(wanted, contents))
    head = {
        "repoPath": displayed(str(root)),
        "relativePath": displayed(str(root.relative_to(workspace.base))),
        "base": request.base or "HEAD",
        "head": request.head,
        "baseId": ends.base_id,
        "headId": ends.head_id,
    }
    is_truncated = renderer.is_truncated or len(changes) >= MAX_CHANGES
    return b'%b,"files":[%b],"truncated":%b' % (
        msgspec.json.encode(head)[:-1],
        ",".join(files).encode(),
        b"true" if is_truncated else b"false",
    )


@dataclass(frozen=True, slots=True)
class Comparison:
    """What became of the content of one file. `hunks` are empty where a flag says why."""

    hunks: Hunks = NO_HUNKS
    additions: int = 0
    deletions: int = 0
    is_binary: bool = False
    is_truncated: bool = False
    is_unreadable: bool = False


class Renderer:
    """Files as JSON, within the limits of one answer."""

    def __init__(self, root: Path, contents: Contents, request: DiffRequest, deadline: float) -> None:
        self._root = str(root)
        self._contents = contents
        self._request = request
        self._deadline = deadline
        self._bytes = 0
        self._lines = 0
        self.is_truncated = False

    def files(self, changes: Iterable[Change]) -> list[str]:
        found: list[str] = []
        for change in changes:
            if len(found) >= MAX_FILES:
                self.is_truncated = True
                break
            if (compared := self._compare(change)) is not None:
                self.is_truncated |= compared.is_truncated
                found.append(self._json(change, compared))
        return found

    def _compare(self, change: Change) -> Comparison | None:
        """None when a file on disk turns out to be as it was."""
        old, new, contents = change.old, change.new, self._contents
        try:
            if time.monotonic() > self._deadline or any(contents.is_large(one) for one in (old, new) if one):
                return Comparison(is_truncated=True)
            before = contents.read(old) if old else b""
            after = contents.read(new) if new else b""
        except Unreadable:
            return Comparison(is_unreadable=True)
        if before == after and change.is_untouched:
            return None
        if (old and contents.is_binary(old, before)) or (new and contents.is_binary(new, after)):
            return Comparison(is_binary=True)
        return self._compare_lines(before, after, is_replaced=change.is_typechange)

    def _compare_lines(self, before: bytes, after: bytes, *, is_replaced: bool) -> Comparison:
        context = 0 if self._request.summary else self._request.context
        patch = pygit2.Patch.create_from(before, after, flag=LINES, context_lines=context)
        _, additions, deletions = patch.line_stats
        if self._request.summary:
            return Comparison(NO_HUNKS, additions, deletions)
        body = replacement(before, after) if is_replaced else patch.data
        start = 0 if is_replaced else body.find(b"\n@@ ") + 1
        size = len(body) - start if start or is_replaced else 0
        if size > MAX_FILE_BYTES or self._bytes + size > MAX_BYTES or self._lines > MAX_LINES:
            return Comparison(NO_HUNKS, additions, deletions, is_truncated=True)
        hunks = render(body[start:]) if size else NO_HUNKS
        self._bytes += size
        self._lines += hunks.lines
        return Comparison(hunks, additions, deletions)

    def _json(self, change: Change, compared: Comparison) -> str:
        similarity = "null" if change.score is None else change.score * 100 // MAX_SCORE
        return (
            f'{{{self._named("old", change.old)},{self._named("new", change.new)},"status":"{change.status}",'
            f'"additions":{compared.additions},"deletions":{compared.deletions},"similarity":{similarity},'
            f'"binary":{_bool(compared.is_binary)},"conflicted":{_bool(change.is_conflicted)},'
            f'"truncated":{_bool(compared.is_truncated)},"unreadable":{_bool(compared.is_unreadable)},'
            f'"invalidUtf8":{_bool(not compared.hunks.is_exact)},"hunks":{compared.hunks.json}}}'
        )

    def _named(self, side: str, entry: Entry | None) -> str:
        """The fields `oldPath` and `oldMode`, and `oldUri` for a name that is not UTF-8."""
        if entry is None:
            return f'"{side}Path":null,"{side}Mode":null'
        mode = f'"{side}Mode":"{entry.mode:06o}"'
        try:
            return f'"{side}Path":{_string(entry.path.decode())},{mode}'
        except UnicodeDecodeError:
            uri = file_uri(os.path.join(self._root, os.fsdecode(entry.path)))
            return f'"{side}Path":{_string(entry.path.decode("utf-8", "replace"))},"{side}Uri":"{uri}",{mode}'


def _string(text: str) -> str:
    return msgspec.json.encode(text).decode()


def _bool(value: bool) -> str:
    return "true" if value else "false"
