"""Kinds of repositories that libgit2 1.9 does not know: which one it is, and what to do, in place of "damaged"."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from agentsrv.errors import Unprocessable
from agentsrv.workspace.paths import displayed

KINDS = (
    (
        "SHA-256 object names",
        r"\bobjectformat\s*=\s*\"?sha256",
        "agents can work in it, but diffs and worktrees need SHA-1",
    ),
    (
        "reftable references",
        r"\brefstorage\s*=\s*\"?reftable",
        "`git refs migrate --ref-format=files` makes it readable",
    ),
)
"""Which kind, the setting that says so, and what to do."""

KNOWN_EXTENSIONS = frozenset(
    {"noop", "objectformat", "worktreeconfig", "preciousobjects", "partialclone", "relativeworktrees"}
)
"""Those of libgit2, and `program.py`'s."""

ANOTHER_GIT = "agents can work in it with a git that knows it"

SPARSE_MARK = b"sdir\0\0\0\0"
SPARSE_INDEX = "a sparse index", "`git sparse-checkout reapply --no-sparse-index` makes it readable"
SPLIT_INDEX = "a split index", "`git update-index --no-split-index` makes it readable"
INDEX_TAIL_BYTES = 4096
"""Extensions stand at the end of an index, and that of a sparse one behind those that are long."""


def unknown_kind(root: Path, settings: str) -> Unprocessable | None:
    """By the text of the repository's `config`."""
    for kind, setting, advice in KINDS:
        if re.search(setting, settings, re.IGNORECASE):
            return _of_kind(root, kind, advice)
    version = re.search(
        r"^\s*repositoryformatversion\s*=\s*([2-9]|\d\d+)", settings, re.IGNORECASE | re.MULTILINE
    )
    if version:
        return _of_kind(root, f"the format {version[1]}", ANOTHER_GIT)
    for name in _extensions(settings):
        if name.lower() not in KNOWN_EXTENSIONS:
            return _of_kind(root, f"the extension {displayed(name)}", ANOTHER_GIT)
    return None


def unknown_index(root: Path, git_dir: Path) -> Unprocessable | None:
    """By the extensions of its index (git's Documentation/gitformat-index).

    A split index names the one beside it that it is based on.
    """
    with suppress(OSError, ValueError), open(git_dir / "index", "rb") as index:
        index.seek(max(0, os.fstat(index.fileno()).st_size - INDEX_TAIL_BYTES))
        if SPARSE_MARK in index.read(INDEX_TAIL_BYTES):
            return _of_kind(root, *SPARSE_INDEX)
        bases = [bytes.fromhex(path.suffix[1:]) for path in git_dir.glob("sharedindex.*")]
        index.seek(0)
        content = index.read() if bases else b""
        if any(re.search(b"link.{4}" + re.escape(base), content, re.DOTALL) for base in bases):
            return _of_kind(root, *SPLIT_INDEX)
    return None


def _of_kind(root: Path, kind: str, advice: str) -> Unprocessable:
    return Unprocessable(
        f"the repository at {displayed(str(root))} has {kind}, which cannot be read here; {advice}",
        code="repository_unreadable",
    )


def _extensions(settings: str) -> Iterator[str]:
    """What a repository's settings say it needs."""
    section = ""
    for line in settings.splitlines():
        if header := re.match(r"\s*\[\s*([^\]\s]+)[^\]]*\](.*)", line):
            section, line = header[1].lower(), header[2]
        if section == "extensions" and (setting := re.match(r"\s*([A-Za-z][A-Za-z0-9-]*)", line)):
            yield setting[1]
