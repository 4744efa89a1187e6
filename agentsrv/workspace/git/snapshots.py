"""What a working tree held when a turn began and ended, kept by git itself: how snapshots are found.

A snapshot is a tree object of all files that git tracks or shows as untracked: a diff has it as one of its ends. One
reference for each session, `refs/agentsrv/snapshots/<session>`, leads to a tree that has its snapshots by name
(`<milliseconds since 1970>-<turn>-<start or end>`); where there could be none, a blob there says why.
`snapshot_writer.py` takes them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

import pygit2
from msgspec import Struct

from agentsrv.errors import NotFound
from agentsrv.workspace.git.marks import ref_safe

REFERENCES = "refs/agentsrv/snapshots/"
KINDS = ("turn:", "session:")


class SnapshotName(Struct, frozen=True):
    stamp: str
    turn_id: str
    moment: str

    @classmethod
    def of(cls, entry: pygit2.Object) -> SnapshotName:
        stamp, _, rest = str(entry.name).partition("-")
        turn_id, _, moment = rest.rpartition("-")
        return cls(stamp, turn_id, moment)


def is_snapshot(revision: str | None) -> bool:
    return revision is not None and revision.startswith(KINDS)


def find_snapshot(repo: pygit2.Repository, name: str, *, is_end: bool) -> pygit2.Tree | None:
    """`turn:<id>` is how a turn began or, with `is_end`, has ended (None: that is not known yet); `session:<id>` how
    the first turn of a session began. Raises NotFound (`no_snapshot`)."""
    kind, _, wanted = name.partition(":")
    is_of_turn = kind == "turn"
    found: dict[str, pygit2.Object] = {}
    for entry in _entries(repo, None if is_of_turn else wanted):
        known = SnapshotName.of(entry)
        if known.turn_id == wanted or not is_of_turn:
            found.setdefault(known.moment, entry)
    if is_end and is_of_turn and found:
        return _required(found["end"], name) if "end" in found else None
    if "start" not in found:
        raise _no_snapshot(f"there is no snapshot of {name} here; it may be older than those that are kept")
    return _required(found["start"], name)


def references(repo: pygit2.Repository) -> list[str]:
    """Of all sessions."""
    names = map(os.fsdecode, repo.raw_listall_references())
    return [name for name in names if name.startswith(REFERENCES)]


def reference_of(session_id: str) -> str:
    return REFERENCES + ref_safe(session_id)


def tree_at(repo: pygit2.Repository, reference: str) -> pygit2.Tree | None:
    try:
        return repo.references[reference].peel(pygit2.Tree)
    except (KeyError, ValueError, OSError, pygit2.GitError):
        return None


def _entries(repo: pygit2.Repository, session_id: str | None) -> Iterator[pygit2.Object]:
    """The oldest first; of all sessions when none is named."""
    for reference in references(repo) if session_id is None else [reference_of(session_id)]:
        with suppress(KeyError, pygit2.GitError, ValueError, OSError):
            yield from tree_at(repo, reference) or ()


def _required(entry: pygit2.Object, name: str) -> pygit2.Tree:
    if isinstance(entry, pygit2.Tree):
        return entry
    reason = entry.data.decode("utf-8", "replace") if isinstance(entry, pygit2.Blob) else "it is damaged"
    raise _no_snapshot(f"no snapshot could be taken of {name}: {reason}")


def _no_snapshot(reason: str) -> NotFound:
    return NotFound(reason, code="no_snapshot")
