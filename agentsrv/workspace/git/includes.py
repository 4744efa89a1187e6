"""Files that git does not have and a new worktree needs, such as `.env`: copied from the tree that it comes from.

Which ones say patterns like those of `.gitignore`: in the file `.worktreeinclude` at the root of the repository, and
with the request. Only what is ignored or untracked is looked at, and never what is a link or a repository of its own.
Runs in a git worker that may write.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pygit2

from agentsrv.errors import Unprocessable
from agentsrv.workspace.git.attributes import read_rules
from agentsrv.workspace.git.diff.contents import TooLarge, Unreadable, WorkingTree
from agentsrv.workspace.git.ignore import Patterns, require_few
from agentsrv.workspace.git.untracked import Untracked, is_repository

INCLUDE_FILE = ".worktreeinclude"
MAX_FILES = 1_000
MAX_BYTES = 64 * 1024 * 1024
MAX_SECONDS = 10.0


def copy_included(repo: pygit2.Repository, target: Path, patterns: Sequence[str]) -> list[str]:
    """The paths of what has been copied from the working tree of `repo`.

    Raises Unprocessable (`worktree_include_too_large`), OSError.
    """
    root = Path(repo.workdir)
    wanted = Patterns(
        require_few(read_rules(root / INCLUDE_FILE), INCLUDE_FILE) + b"\n" + "\n".join(patterns).encode()
    )
    if not wanted:
        return []
    copied, size, deadline = list[str](), 0, time.monotonic() + MAX_SECONDS
    with closing(WorkingTree(str(root))) as tree:
        untracked = Untracked(repo, tree, deadline)
        for path, mode in _files(root, tree, untracked.paths(with_ignored=True), wanted):
            try:
                content = tree.read(path, mode)
            except TooLarge as exc:
                raise _too_large() from exc
            except Unreadable:
                continue
            size += len(content)
            if len(copied) >= MAX_FILES or size > MAX_BYTES or time.monotonic() > deadline:
                raise _too_large()
            if _write(target / os.fsdecode(path), content, stat.S_IMODE(tree.mode(path) or 0o600)):
                copied.append(os.fsdecode(path))
    return copied


def _files(
    root: Path, tree: WorkingTree, paths: Iterable[bytes], wanted: Patterns
) -> Iterator[tuple[bytes, int]]:
    """Regular files that are wanted; `paths` of directories end in a slash."""
    for path in paths:
        is_directory = path.endswith(b"/")
        name = path.removesuffix(b"/")
        if not is_directory:
            mode = tree.mode(path) or 0
            if stat.S_ISREG(mode) and _is_wanted(path, wanted):
                yield path, mode
        elif not is_repository(root / os.fsdecode(name)):
            below = (
                name + b"/" + entry + (b"/" if stat.S_ISDIR(mode) else b"")
                for entry, mode in tree.entries(name)
            )
            yield from _files(root, tree, list(below), wanted)


def _is_wanted(path: bytes, wanted: Patterns) -> bool:
    """As git decides it: what lies in a directory that matches cannot be taken out again."""
    at = path.find(b"/")
    while at >= 0:
        if wanted.decide(path[:at], is_directory=True):
            return True
        at = path.find(b"/", at + 1)
    return bool(wanted.decide(path, is_directory=False))


def _write(path: Path, content: bytes, mode: int) -> bool:
    """False for what is there already: the commit has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    except FileExistsError:
        return False
    with open(descriptor, "wb") as file:
        file.write(content)
    return True


def _too_large() -> Unprocessable:
    return Unprocessable(
        f"what {INCLUDE_FILE} or `copy` name are more than {MAX_FILES} files or {MAX_BYTES >> 20} MiB; name less",
        code="worktree_include_too_large",
    )
