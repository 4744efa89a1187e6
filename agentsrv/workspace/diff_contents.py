"""What a file holds, on either side of a diff: an object of the repository, or a file on disk as git sees it.

Nothing that a repository names is run to get there. Of the conversions that git can make to a file those are
made that are part of git itself (line ends, `$Id$`, encodings); `filter` and `textconv` are programs.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from stat import S_ISLNK, S_ISREG

import pygit2

GITLINK = 0o160000

MAX_CONTENT_BYTES = 64 * 1024 * 1024
"""A larger file is not read: not compared, not searched for renames."""
MAX_INFLATION = 1100
"""Deflate makes nothing smaller than this part of it."""

BINARY_PREFIX_BYTES = 8000
"""Git looks for a NUL in so many bytes."""

FORBIDDEN_NAMES = frozenset({b"", b".", b"..", b".git"})

PRINTABLE_CONTROLS = b"\b\t\n\r\x1b\f"
TEXT_BYTES = bytes(byte for byte in range(256) if byte >= 32 and byte != 127) + PRINTABLE_CONTROLS

ENCODINGS = {
    "utf-16": "utf-16",
    "utf-16le": "utf-16-le",
    "utf-16be": "utf-16-be",
    "utf-16le-bom": "utf-16",
    "utf-32": "utf-32",
    "utf-32le": "utf-32-le",
    "utf-32be": "utf-32-be",
    "latin1": "latin-1",
    "iso-8859-1": "latin-1",
    "windows-1252": "cp1252",
}

Attribute = bool | str | None


class Unreadable(Exception):
    """The content cannot be had: the object is missing or damaged, the file is not allowed to be read."""


class TooLarge(Unreadable):
    """There is more of it than MAX_CONTENT_BYTES."""


@dataclass(frozen=True, slots=True)
class Attributes:
    text: Attribute = None
    crlf: Attribute = None
    eol: Attribute = None
    ident: Attribute = None
    encoding: Attribute = None
    diff: Attribute = None


NO_ATTRIBUTES = Attributes()


@dataclass(frozen=True, slots=True)
class Entry:
    """A path and what is there. `id` is None for what lies on disk; `content` is given for what is made up."""

    path: bytes
    mode: int
    id: pygit2.Oid | None = None
    content: bytes | None = None


class Contents:
    """Reads entries of one repository."""

    def __init__(self, repo: pygit2.Repository) -> None:
        self._repo = repo
        self._odb = repo.odb
        self._objects = os.path.join(common_directory(repo), "objects")
        self.tree = WorkingTree(repo.workdir)
        self._rules = Rules(repo, self.tree)

    def close(self) -> None:
        self.tree.close()

    def size(self, entry: Entry) -> int:
        """In bytes; of a file on disk before it is converted. Raises Unreadable."""
        if entry.content is not None:
            return len(entry.content)
        if entry.id is None:
            return self.tree.size(entry.path)
        try:
            return int(self._odb.read_header(entry.id)[1])
        except (pygit2.GitError, KeyError, ValueError) as exc:
            raise Unreadable from exc

    def read(self, entry: Entry) -> bytes:
        """Raises Unreadable, TooLarge."""
        if entry.content is not None:
            return entry.content
        if entry.id is None:
            content = self.tree.read(entry.path, entry.mode)
            return self._rules.to_git(entry.path, content) if S_ISREG(entry.mode) else content
        if not self._is_surely_small(entry.id) and self.size(entry) > MAX_CONTENT_BYTES:
            raise TooLarge
        try:
            return bytes(self._odb.read(entry.id)[1])
        except (pygit2.GitError, KeyError, ValueError, MemoryError) as exc:
            raise Unreadable from exc

    def _is_surely_small(self, oid: pygit2.Oid) -> bool:
        """To learn the size of a loose object, libgit2 opens and inflates it. One so small can hold no more."""
        name = str(oid)
        try:
            stored = os.stat(f"{self._objects}/{name[:2]}/{name[2:]}").st_size
        except OSError:  # It is in a pack, which tells the size at once.
            return False
        return stored * MAX_INFLATION < MAX_CONTENT_BYTES

    def is_binary(self, entry: Entry, content: bytes) -> bool:
        """As git decides it: an attribute, else a NUL near the start."""
        wanted = self._rules.of(entry.path).diff if S_ISREG(entry.mode) else None
        if isinstance(wanted, bool):
            return not wanted
        return content.find(b"\0", 0, BINARY_PREFIX_BYTES) >= 0


def git_hash(content: bytes) -> bytes:
    """The id that git gives to a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).digest()


def common_directory(repo: pygit2.Repository) -> str:
    """Where a repository and its linked worktrees keep what they share."""
    path = repo.path or ""
    try:
        with open(os.path.join(path, "commondir"), "rb") as file:
            return os.path.join(path, os.fsdecode(file.read().rstrip(b"\r\n")))
    except OSError:
        return path


class WorkingTree:
    """Reads files below one directory and never leaves it: no link on the way is followed.

    The directory of the last file stays open. Diffs are in order of paths, so that most neighbours share it.
    """

    def __init__(self, root: str) -> None:
        self._root = os.open(root, os.O_PATH | os.O_DIRECTORY)
        self._parent = b""
        self._descriptor = self._root

    def close(self) -> None:
        self._leave()
        os.close(self._root)

    def size(self, path: bytes) -> int:
        """Raises Unreadable."""
        try:
            directory, name = self._locate(path)
            return os.lstat(name, dir_fd=directory).st_size
        except OSError as exc:
            raise Unreadable from exc

    def mode(self, path: bytes) -> int | None:
        """The type and permission bits of what is there; None when nothing is."""
        try:
            directory, name = self._locate(path)
            return os.lstat(name, dir_fd=directory).st_mode
        except OSError:
            return None

    def is_directory(self, path: bytes) -> bool:
        mode = self.mode(path)
        return mode is not None and stat.S_ISDIR(mode)

    def read(self, path: bytes, mode: int) -> bytes:
        """A regular file's content, or where a link leads. Raises Unreadable, also when it is neither."""
        try:
            directory, name = self._locate(path)
            if S_ISLNK(mode):
                return os.readlink(name, dir_fd=directory)
            # O_NONBLOCK: a pipe in the place of the file must not hold us up.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(name, flags, dir_fd=directory)
            try:
                return _read_regular(descriptor)
            finally:
                os.close(descriptor)
        except OSError as exc:
            raise Unreadable from exc

    def _locate(self, path: bytes) -> tuple[int, bytes]:
        """A descriptor of the directory that `path` is in, and the name there."""
        # A forged index may have any path in it.
        if not FORBIDDEN_NAMES.isdisjoint(path.split(b"/")):
            raise PermissionError(errno.EPERM, "not a path that git would use", path)
        parent, _, name = path.rpartition(b"/")
        if parent != self._parent:
            self._leave()
            if parent:
                self._descriptor = self._descend(parent)
            self._parent = parent
        return self._descriptor, name

    def _descend(self, parent: bytes) -> int:
        descriptor = os.dup(self._root)
        for name in parent.split(b"/"):
            try:
                below = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
            finally:
                os.close(descriptor)
            descriptor = below
        return descriptor

    def _leave(self) -> None:
        if self._descriptor != self._root:
            os.close(self._descriptor)
            self._descriptor = self._root
        self._parent = b""


def _read_regular(descriptor: int) -> bytes:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise Unreadable
    if found.st_size > MAX_CONTENT_BYTES:
        raise TooLarge
    content = os.read(descriptor, found.st_size + 1)
    while 0 < len(content) <= MAX_CONTENT_BYTES and (more := os.read(descriptor, 1 << 20)):
        # It grew, or came in parts.
        content += more
    return content[:MAX_CONTENT_BYTES]


class Rules:
    """`.gitattributes` and the settings on line ends: how a file on disk becomes what git stores."""

    def __init__(self, repo: pygit2.Repository, tree: WorkingTree) -> None:
        self._repo = repo
        self._tree = tree
        self._directories: dict[bytes, bool] = {}

    def of(self, path: bytes) -> Attributes:
        if not (self._is_global or self._has_attributes(path.rpartition(b"/")[0])):
            return NO_ATTRIBUTES
        get: Callable[[str], Attribute] = lambda name: self._get(path, name)  # noqa: E731
        return Attributes(
            get("text"), get("crlf"), get("eol"), get("ident"), get("working-tree-encoding"), get("diff")
        )

    def to_git(self, path: bytes, content: bytes) -> bytes:
        """The content of a file on disk as it would be added, `filter` left out."""
        rules = self.of(path)
        if isinstance(rules.encoding, str):
            content = _decoded(content, rules.encoding)
        if b"\r\n" in content and self._converts_crlf(rules, path, content):
            content = content.replace(b"\r\n", b"\n")
        if rules.ident is True and b"$Id:" in content:
            content = re.sub(rb"\$Id:[^$\n]*\$", b"$Id$", content)
        return content

    def _converts_crlf(self, rules: Attributes, path: bytes, content: bytes) -> bool:
        wanted = rules.crlf if rules.text is None else rules.text
        if wanted is False:
            return False
        if wanted is True or wanted == "input" or (wanted != "auto" and rules.eol in ("lf", "crlf")):
            return True
        if wanted != "auto" and not self._is_auto:
            return False
        # Git guesses: not what looks binary, and not what is in the index with such line ends.
        return not is_binary_text(content) and not self._has_crlf_in_index(path)

    def _has_crlf_in_index(self, path: bytes) -> bool:
        try:
            stored = self._repo.odb.read(self._repo.index[os.fsdecode(path)].id)[1]
        except (pygit2.GitError, KeyError, ValueError):
            return False
        return b"\r\n" in stored and not is_binary_text(stored)

    @cached_property
    def _is_auto(self) -> bool:
        try:
            value = (self._repo.config["core.autocrlf"] or "true").lower()
        except (pygit2.GitError, KeyError, ValueError):
            return False
        return value in ("true", "yes", "on", "1", "input")

    @cached_property
    def _is_global(self) -> bool:
        """Are there attributes that hold for all directories?"""
        try:
            is_set = "core.attributesfile" in self._repo.config
        except (pygit2.GitError, ValueError):
            is_set = True
        return is_set or os.path.exists(os.path.join(common_directory(self._repo), "info/attributes"))

    def _has_attributes(self, directory: bytes) -> bool:
        """Is there a `.gitattributes` in it or above? Mostly not, and asking libgit2 for each file is slow."""
        found = self._directories.get(directory)
        if found is None:
            name = directory + b"/.gitattributes" if directory else b".gitattributes"
            found = self._tree.mode(name) is not None or os.fsdecode(name) in self._repo.index
            if not found and directory:
                found = self._has_attributes(directory.rpartition(b"/")[0])
            self._directories[directory] = found
        return found

    def _get(self, path: bytes, name: str) -> Attribute:
        try:
            return self._repo.get_attr(path, name)
        except (pygit2.GitError, KeyError, ValueError):
            return None


def is_binary_text(content: bytes) -> bool:
    """Git's guess before it touches line ends: a NUL, a lone CR, or more than one odd byte in 128."""
    if b"\0" in content or content.count(b"\r") != content.count(b"\r\n"):
        return True
    odd = len(content.translate(None, TEXT_BYTES))
    printable = len(content) - odd - content.count(b"\r") - content.count(b"\n")
    return printable >> 7 < odd - content.endswith(b"\x1a")


def _decoded(content: bytes, encoding: str) -> bytes:
    """`working-tree-encoding`: stored as UTF-8. Left as it is where git would complain."""
    codec = ENCODINGS.get(encoding.lower())
    try:
        return content.decode(codec).encode() if codec else content
    except ValueError:
        return content
