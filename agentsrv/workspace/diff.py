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
from agentsrv.workspace.diff_contents import Contents, Entry, TooLarge, Unreadable
from agentsrv.workspace.diff_hunks import NO_HUNKS, Hunks, count_lines, render, replacement, without_head
from agentsrv.workspace.diff_renames import MAX_SCORE
from agentsrv.workspace.git import find_root, open_repository, reading
from agentsrv.workspace.git_protocol import DiffRequest
from agentsrv.workspace.paths import Workspace, displayed, file_uri

MAX_FILES = 10_000
MAX_PATCH_BYTES = 8 * 1024 * 1024
"""Of one file. A file that would go over it, or the answer over what follows, comes without hunks."""
MAX_BYTES = 32 * 1024 * 1024
"""Of hunks as JSON, in one answer."""
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
        wanted = [change for change in changes if not paths or is_wanted(change.path, paths)]
        renderer = Renderer(root, contents, request, deadline)
        files = renderer.files(with_renames(wanted, contents, copies=request.copies))
    head = {
        "repoPath": displayed(str(root)),
        "relativePath": displayed(str(root.relative_to(workspace.base))),
        "base": request.base or "HEAD",
        "head": request.head,
        "baseId": ends.base_id,
        "headId": ends.head_id,
    }
    is_truncated = renderer.is_truncated or len(changes) >= MAX_CHANGES
    start = msgspec.json.encode(head).decode().removesuffix("}")
    return "".join([start, ',"files":[', *files, f'],"truncated":{_bool(is_truncated)}']).encode()


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
        """The items of `files`, in pieces."""
        json: list[str] = []
        count = 0
        for change in changes:
            if count >= MAX_FILES:
                self.is_truncated = True
                break
            if (compared := self._compare(change)) is not None:
                self.is_truncated |= compared.is_truncated
                json += ["," if count else "", self._head(change, compared), *compared.hunks.json, "}"]
                count += 1
        return json

    def _compare(self, change: Change) -> Comparison | None:
        """None when a file on disk turns out to be as it was."""
        old, new, contents = change.old, change.new, self._contents
        try:
            if time.monotonic() > self._deadline:
                return Comparison(is_truncated=True)
            before = contents.read(old) if old else b""
            after = contents.read(new) if new else b""
            if before == after and change.is_untouched:
                return None
            if (old and contents.is_binary(old, before)) or (new and contents.is_binary(new, after)):
                return Comparison(is_binary=True)
            return self._compare_lines(change, before, after)
        except TooLarge:
            return Comparison(is_truncated=True)
        except (Unreadable, pygit2.GitError):
            return Comparison(is_unreadable=True)

    def _compare_lines(self, change: Change, before: bytes, after: bytes) -> Comparison:
        if change.old is None or change.new is None:
            # All of it has come or gone; there is nothing to compare.
            additions, deletions = count_lines(after), count_lines(before)
            patch = replacement(before, after)
        else:
            context = 0 if self._request.summary else self._request.context
            compared = pygit2.Patch.create_from(before, after, flag=LINES, context_lines=context)
            _, additions, deletions = compared.line_stats
            patch = replacement(before, after) if change.is_typechange else without_head(compared.data)
        if self._request.summary:
            return Comparison(NO_HUNKS, additions, deletions)
        hunks = render(patch) if len(patch) <= MAX_PATCH_BYTES else None
        size = 0 if hunks is None else hunks.size
        if hunks is None or self._bytes + size > MAX_BYTES or self._lines + hunks.lines > MAX_LINES:
            return Comparison(NO_HUNKS, additions, deletions, is_truncated=True)
        self._bytes += size
        self._lines += hunks.lines
        return Comparison(hunks, additions, deletions)

    def _head(self, change: Change, compared: Comparison) -> str:
        """A file up to the value of `hunks`."""
        similarity = "null" if change.score is None else change.score * 100 // MAX_SCORE
        return (
            f'{{{self._named("old", change.old)},{self._named("new", change.new)},"status":"{change.status}",'
            f'"additions":{compared.additions},"deletions":{compared.deletions},"similarity":{similarity},'
            f'"binary":{_bool(compared.is_binary)},"conflicted":{_bool(change.is_conflicted)},'
            f'"truncated":{_bool(compared.is_truncated)},"unreadable":{_bool(compared.is_unreadable)},'
            f'"invalidUtf8":{_bool(not compared.hunks.is_exact)},"hunks":'
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
