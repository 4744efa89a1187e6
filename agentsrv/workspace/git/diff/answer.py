"""Structured diffs, equal to what `git diff` shows, as JSON that is ready to be sent. Runs in a git worker."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import msgspec
import pygit2
from msgspec import Struct
from pygit2.enums import DiffOption

from agentsrv.workspace.git.diff.changes import (
    Delta,
    find_changes,
    find_ends,
    is_wanted,
    wanted_paths,
)
from agentsrv.workspace.git.diff.contents import STAND_IN_START, Contents, TooLarge, Unreadable, Version
from agentsrv.workspace.git.diff.hunks import NO_HUNKS, Hunks, count_lines, render, replacement, without_head
from agentsrv.workspace.git.diff.pairing import with_renames
from agentsrv.workspace.git.diff.renames import MAX_SCORE
from agentsrv.workspace.git.diff.submodules import Part, submodules_of
from agentsrv.workspace.git.protocol import DiffRequest
from agentsrv.workspace.git.repositories import find_root, open_repository, reading
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


ODD_SPACES = b"\f\v"
STAND_INS = bytes(range(1, 8)) + bytes(range(14, 32)) + bytes(range(128, 256))
"""What a patch has not got but for its contents."""

WHITESPACE = {
    "none": DiffOption.NORMAL,
    "eol": DiffOption.IGNORE_WHITESPACE_EOL,
    "change": DiffOption.IGNORE_WHITESPACE_CHANGE,
    "all": DiffOption.IGNORE_WHITESPACE,
}
"""git's --ignore-space-at-eol, -b and -w."""


def diff(workspace: Workspace, request: DiffRequest) -> bytes:
    """The answer to `request`: a JSON object without its closing brace.

    Raises Forbidden, NotFound (`not_a_repository`), Unprocessable (`repository_unreadable`), InvalidInput
    (`unknown_revision` or a field that is wrong).
    """
    deadline = time.monotonic() + MAX_SECONDS
    root = find_root(workspace, request.path)
    repo = open_repository(workspace, root)
    with reading(root):
        ends = find_ends(repo, request)
    paths = wanted_paths(root, request.paths)
    renderer = Renderer(root, request, deadline)
    pending = [Part(root, b"", repo, ends)]
    while pending:
        part = pending.pop()
        with closing(Contents(part.repo)) as contents:
            with reading(part.root):
                changes, is_cut = find_changes(
                    workspace, part.root, part.repo, request, part.ends, contents, deadline
                )
            wanted = [
                change for change in changes if not paths or is_wanted(part.prefix + change.path, paths)
            ]
            paired = with_renames(wanted, contents, copies=request.copies, deadline=deadline)
            renderer.add(paired, contents, part.prefix)
        renderer.is_truncated |= is_cut
        if request.submodules == "contents":
            pending += submodules_of(workspace, part, changes)
    head = {
        "repoPath": displayed(str(root)),
        "relativePath": displayed(str(root.relative_to(workspace.base))),
        "base": request.base or "HEAD",
        "head": request.head,
        "baseId": ends.base_id,
        "headId": ends.head_id,
    }
    start = msgspec.json.encode(head).decode().removesuffix("}")
    files = renderer.files()
    return "".join([start, ',"files":[', *files, f'],"truncated":{_bool(renderer.is_truncated)}']).encode()


class Comparison(Struct, frozen=True):
    """What became of the content of one file. `hunks` are empty where a flag says why."""

    hunks: Hunks = NO_HUNKS
    additions: int = 0
    deletions: int = 0
    is_binary: bool = False
    is_truncated: bool = False
    is_unreadable: bool = False


class Renderer:
    """Files as JSON, within the limits of one answer."""

    def __init__(self, root: Path, request: DiffRequest, deadline: float) -> None:
        self._root = str(root)
        self._request = request
        self._deadline = deadline
        self._flags = LINES | WHITESPACE[request.ignore_whitespace]
        if request.ignore_blank_lines:
            self._flags |= DiffOption.IGNORE_BLANK_LINES
        self._json: dict[bytes, list[str]] = {}
        self._bytes = 0
        self._lines = 0
        self.is_truncated = False

    def add(self, changes: Iterable[Delta], contents: Contents, prefix: bytes) -> None:
        """The changes of a repository that lies at `prefix`."""
        # What git tracks comes first, when there is not room or time for all.
        for change in sorted(changes, key=lambda change: change.old is None):
            if len(self._json) >= MAX_FILES:
                self.is_truncated = True
                return
            if (comparison := self._compare(change, contents)) is not None:
                self.is_truncated |= comparison.is_truncated
                head = self._head(change, comparison, prefix)
                self._json[prefix + change.path] = [",", head, *comparison.hunks.json, "}"]

    def files(self) -> list[str]:
        """The items of `files`, in pieces."""
        return [piece for _, pieces in sorted(self._json.items()) for piece in pieces][1:]

    def _compare(self, change: Delta, contents: Contents) -> Comparison | None:
        """None when a file turns out to be as it was, or in nothing different that counts."""
        old, new = change.old, change.new
        try:
            if time.monotonic() > self._deadline:
                return Comparison(is_truncated=True)
            if old is None and new is not None and contents.begins_binary(new):
                return Comparison(is_binary=True)
            before = contents.read(old) if old else b""
            if before.startswith(STAND_IN_START):
                return self._compare_stand_in(change, before, contents)
            after = contents.read(new) if new else b""
            if after.startswith(STAND_IN_START):
                return Comparison(is_truncated=True)
            if before == after and change.is_untouched:
                return None
            if (old and contents.is_binary(old, before)) or (new and contents.is_binary(new, after)):
                return Comparison(is_binary=True)
            compared = self._compare_lines(change, before, after)
            is_equal = change.is_untouched and not (compared.additions or compared.deletions)
            return None if is_equal else compared
        except TooLarge:
            return Comparison(is_truncated=True)
        except (Unreadable, pygit2.GitError, OSError):
            return Comparison(is_unreadable=True)

    def _compare_stand_in(self, change: Delta, before: bytes, contents: Contents) -> Comparison | None:
        """With a file that was too large for a snapshot: is it the same?"""
        new = change.new
        is_same = new is not None and new.id is None and contents.stand_in(new) == before
        return None if is_same and change.is_untouched else Comparison(is_truncated=not is_same)

    def _compare_lines(self, change: Delta, before: bytes, after: bytes) -> Comparison:
        is_replaced = change.is_typechange or change.old is None or change.new is None
        if is_replaced and not self._request.ignore_blank_lines:
            # All of it has come or gone; there is nothing to compare.
            additions, deletions = count_lines(after), count_lines(before)
            patch = replacement(before, after)
        else:
            context = 0 if self._request.summary else self._request.context
            patch, additions, deletions = compare(before, after, self._flags, context)
            patch = replacement(before, after) if change.is_typechange else patch
        if self._request.summary:
            return Comparison(NO_HUNKS, additions, deletions)
        hunks = render(patch) if len(patch) <= MAX_PATCH_BYTES else None
        size = 0 if hunks is None else hunks.size
        if hunks is None or self._bytes + size > MAX_BYTES or self._lines + hunks.lines > MAX_LINES:
            return Comparison(NO_HUNKS, additions, deletions, is_truncated=True)
        self._bytes += size
        self._lines += hunks.lines
        return Comparison(hunks, additions, deletions)

    def _head(self, change: Delta, compared: Comparison, prefix: bytes) -> str:
        """A file up to the value of `hunks`."""
        similarity = "null" if change.score is None else change.score * 100 // MAX_SCORE
        return (
            f"{{{self._named('old', change.old, prefix)},{self._named('new', change.new, prefix)},"
            f'"status":"{change.status}",'
            f'"additions":{compared.additions},"deletions":{compared.deletions},"similarity":{similarity},'
            f'"binary":{_bool(compared.is_binary)},"conflicted":{_bool(change.is_conflicted)},'
            f'"truncated":{_bool(compared.is_truncated)},"unreadable":{_bool(compared.is_unreadable)},'
            f'"invalidUtf8":{_bool(not compared.hunks.is_exact)},"hunks":'
        )

    def _named(self, side: str, entry: Version | None, prefix: bytes) -> str:
        """The fields `oldPath` and `oldMode`, and `oldUri` for a name that is not UTF-8."""
        if entry is None:
            return f'"{side}Path":null,"{side}Mode":null'
        path, mode = prefix + entry.path, f'"{side}Mode":"{entry.mode:06o}"'
        try:
            return f'"{side}Path":{_string(path.decode())},{mode}'
        except UnicodeDecodeError:
            uri = file_uri(os.path.join(self._root, os.fsdecode(path)))
            return f'"{side}Path":{_string(path.decode("utf-8", "replace"))},"{side}Uri":"{uri}",{mode}'


def compare(before: bytes, after: bytes, flags: DiffOption, context: int) -> tuple[bytes, int, int]:
    """The hunks as a patch, and how many lines have come and gone."""
    there, back = _stand_ins(before, after)
    if there is not None:
        before, after = before.translate(there), after.translate(there)
    compared = pygit2.Patch.create_from(before, after, flag=flags, context_lines=context)
    _, additions, deletions = compared.line_stats
    patch = without_head(compared.data)
    return patch if back is None else patch.translate(back), additions, deletions


def _stand_ins(before: bytes, after: bytes) -> tuple[bytes | None, bytes | None]:
    """Form feeds and vertical tabs are white space to libgit2 and not to git: bytes that stand for them, and back."""
    if not any(byte in text for byte in ODD_SPACES for text in (before, after)):
        return None, None
    free = bytes(set(STAND_INS) - set(before) - set(after))[: len(ODD_SPACES)]
    if len(free) < len(ODD_SPACES):
        return None, None
    return bytes.maketrans(ODD_SPACES, free), bytes.maketrans(free, ODD_SPACES)


def _string(text: str) -> str:
    return msgspec.json.encode(text).decode()


def _bool(value: bool) -> str:
    return "true" if value else "false"
