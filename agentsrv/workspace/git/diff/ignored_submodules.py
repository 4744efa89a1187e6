"""Which submodules do not count: `submodule.<name>.ignore`, of the settings or of `.gitmodules`, as git has it."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping

import pygit2

from agentsrv.workspace.git.diff.contents import Unreadable, WorkingTree

FILE = b".gitmodules"
VALUES = ("all", "dirty", "untracked", "none")
MAX_BYTES = 1024 * 1024
SECTION = re.compile(rb'\s*\[\s*submodule\s+"((?:[^"\\]|\\.)*)"\s*\]\s*(.*)', re.IGNORECASE)
SETTING = re.compile(rb"\s*([A-Za-z][A-Za-z0-9-]*)\s*=\s*(.*)")


def ignored_submodules(repo: pygit2.Repository, tree: WorkingTree) -> Mapping[bytes, str]:
    """By path: `all`, `dirty`, `untracked` or `none`. Under the empty path stands what holds for all others."""
    found = {b"": _setting(repo, "diff.ignoresubmodules") or "none"}
    for name, values in _modules(_read(repo, tree)).items():
        own = _setting(repo, f"submodule.{os.fsdecode(name)}.ignore")
        ignore = own or values.get(b"ignore", b"").decode("latin-1")
        if ignore in VALUES and b"path" in values:
            found[values[b"path"]] = ignore
    return found


def _setting(repo: pygit2.Repository, name: str) -> str | None:
    try:
        value = str(repo.config[name])
    except (KeyError, ValueError, OSError, pygit2.GitError):
        return None
    return value if value in VALUES else None


def _read(repo: pygit2.Repository, tree: WorkingTree) -> bytes:
    """On disk, or where it is not there in the index."""
    try:
        if stat.S_ISREG(tree.mode(FILE) or 0):
            content = tree.read(FILE, stat.S_IFREG)
        else:
            content = bytes(repo.odb.read(repo.index[os.fsdecode(FILE)].id)[1])
    except (Unreadable, KeyError, OSError, pygit2.GitError, ValueError):
        return b""
    return content if len(content) <= MAX_BYTES else b""


def _modules(content: bytes) -> dict[bytes, dict[bytes, bytes]]:
    """The settings of each submodule, by its name."""
    found: dict[bytes, dict[bytes, bytes]] = {}
    values: dict[bytes, bytes] = {}
    for line in content.split(b"\n"):
        if line.lstrip().startswith(b"["):
            section = SECTION.match(line)
            values, line = {}, b""
            if section is not None:
                name, line = re.sub(rb"\\(.)", rb"\1", section[1]), section[2]
                values = found.setdefault(name, {})
        if setting := SETTING.match(line):
            values[setting[1].lower()] = _value(setting[2])
    return found


def _value(text: bytes) -> bytes:
    """Without quotation marks and comments."""
    value, is_quoted, end = bytearray(), False, 0
    at = 0
    while at < len(text):
        byte = text[at : at + 1]
        if byte == b"\\":
            at += 1
            value += text[at : at + 1]
            end = len(value)
        elif byte == b'"':
            is_quoted = not is_quoted
            end = len(value)
        elif byte in b"#;" and not is_quoted:
            break
        else:
            value += byte
            end = len(value) if is_quoted or not byte.isspace() else end
        at += 1
    return bytes(value[:end])
