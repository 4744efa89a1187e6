"""What a file holds, on either side of a diff: an object of the repository, or a file on disk as git sees it.

Nothing that a repository names is run to get there. Of the conversions that git can make to a file those are
made that are part of git itself (line ends, `$Id$`, encodings); `filter` and `textconv` are programs.
"""

from __future__ import annotations

import codecs
import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from stat import S_ISLNK, S_ISREG

import pygit2
from msgspec import Struct

from agentsrv.workspace.git.attributes import AttributeFiles, Value

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
# fmt: off
TEXT_CODECS = frozenset({
    "ascii", "utf-8", "utf-7", "utf-16", "utf-32", "big5", "big5hkscs", "gbk", "gb2312", "gb18030", "hz",
    "euc_jp", "euc_jis_2004", "euc_kr", "iso2022_jp", "iso2022_jp_2", "iso2022_kr", "johab",
    "shift_jis", "shift_jis_2004", "koi8-r", "koi8-u", "ptcp154", "tis-620",
    "mac-roman", "mac-cyrillic", "mac-greek", "mac-latin2",
    *(f"iso8859-{number}" for number in range(1, 17)), *(f"cp125{number}" for number in range(9)),
    *(f"cp{number}" for number in (437, 737, 775, *range(850, 870), 874, 932, 936, 949, 950)),
})
# fmt: on
"""By Python's names. Git asks iconv, which knows these too; Python has others that are no texts."""

ICONV = {
    "shift_jis": {"\\": "\N{YEN SIGN}", "~": "\N{OVERLINE}"},
    "johab": {"\\": "\N{WON SIGN}"},
    "mac-roman": {"\N{INCREMENT}": "\N{GREEK CAPITAL LETTER DELTA}"},
}
ICONV_TABLES = {codec: str.maketrans(table) for codec, table in ICONV.items()}
"""Where glibc's iconv, which git asks, reads a byte otherwise than Python."""

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%b\nsize %d\n"
LFS_START = b"version https://git-lfs.github.com/spec/"
"""Of git-lfs' docs/spec.md. A file is in the repository as such a pointer."""
MAX_LFS_BYTES = 1 << 30

STAND_IN = b"agentsrv: of this large file only size %d and time %d are kept\n"
STAND_IN_START = STAND_IN.partition(b"%d")[0]

ATTRIBUTES = (b"text", b"crlf", b"eol", b"ident", b"working-tree-encoding", b"diff", b"filter")
Attribute = bool | str | None


class Unreadable(Exception):
    """The content cannot be had: the object is missing or damaged, the file is not allowed to be read."""


class TooLarge(Unreadable):
    """There is more of it than MAX_CONTENT_BYTES."""


class Attributes(Struct, frozen=True):
    text: Attribute = None
    crlf: Attribute = None
    eol: Attribute = None
    ident: Attribute = None
    encoding: Attribute = None
    diff: Attribute = None
    filter: Attribute = None


NO_ATTRIBUTES = Attributes()


class Version(Struct, frozen=True):
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

    def size(self, entry: Version) -> int:
        """In bytes; of a file on disk before it is converted. Raises Unreadable."""
        if entry.content is not None:
            return len(entry.content)
        if entry.id is None:
            return self.tree.size(entry.path)
        try:
            return int(self._odb.read_header(entry.id)[1])
        except (pygit2.GitError, KeyError, ValueError, OSError) as exc:
            raise Unreadable from exc

    def read(self, entry: Version) -> bytes:
        """Raises Unreadable, TooLarge."""
        if entry.content is not None:
            return entry.content
        if entry.id is None:
            if self.is_lfs(entry):
                return self.tree.lfs_pointer(entry.path)
            content = self.tree.read(entry.path, entry.mode)
            return self._rules.to_git(entry.path, content) if S_ISREG(entry.mode) else content
        if not self._is_surely_small(entry.id) and self.size(entry) > MAX_CONTENT_BYTES:
            raise TooLarge
        try:
            return bytes(self._odb.read(entry.id)[1])
        except (pygit2.GitError, KeyError, ValueError, OSError, MemoryError) as exc:
            raise Unreadable from exc

    def is_lfs(self, entry: Version) -> bool:
        return S_ISREG(entry.mode) and self._rules.of(entry.path).filter == "lfs"

    def stand_in(self, entry: Version) -> bytes:
        """In place of a file on disk that is too large to be kept in a snapshot. Raises Unreadable."""
        return STAND_IN % self.tree.stamp(entry.path)

    def _is_surely_small(self, oid: pygit2.Oid) -> bool:
        """To learn the size of a loose object, libgit2 opens and inflates it. One so small can hold no more."""
        name = str(oid)
        try:
            stored = os.stat(f"{self._objects}/{name[:2]}/{name[2:]}").st_size
        except OSError:  # It is in a pack, which tells the size at once.
            return False
        return stored * MAX_INFLATION < MAX_CONTENT_BYTES

    def begins_binary(self, entry: Version) -> bool:
        """Is a file on disk binary, as far as its beginning tells? What need not be read whole is not."""
        if entry.id is not None or entry.content is not None or not S_ISREG(entry.mode):
            return False
        rules = self._rules.of(entry.path)
        if rules.filter == "lfs" or isinstance(rules.encoding, str):
            return False
        if isinstance(rules.diff, bool):
            return not rules.diff
        return b"\0" in self.tree.start(entry.path)

    def is_binary(self, entry: Version, content: bytes) -> bool:
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

    def stamp(self, path: bytes) -> tuple[int, int]:
        """Size and time of the last change, in nanoseconds. Raises Unreadable."""
        try:
            directory, name = self._locate(path)
            found = os.lstat(name, dir_fd=directory)
        except OSError as exc:
            raise Unreadable from exc
        return found.st_size, found.st_mtime_ns

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

    def entries(self, path: bytes) -> list[tuple[bytes, int]]:
        """Names and kinds (as `st_mode` has them) in a directory; of none, or one that may not be read, nothing."""
        try:
            directory = os.open(b".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._enter(path))
        except OSError:
            return []
        try:
            with os.scandir(directory) as found:
                return sorted((os.fsencode(entry.name), _kind(entry)) for entry in found)
        except OSError:
            return []
        finally:
            os.close(directory)

    def start(self, path: bytes) -> bytes:
        """As much of a regular file as git looks at to tell whether it is text. Raises Unreadable."""
        with self._opened(path) as descriptor:
            return os.read(descriptor, BINARY_PREFIX_BYTES)

    def lfs_pointer(self, path: bytes) -> bytes:
        """What stands for a file in a repository with Git LFS; the file itself when it is one. Raises Unreadable."""
        with self._opened(path) as descriptor, open(descriptor, "rb", closefd=False) as file:
            start = file.read(BINARY_PREFIX_BYTES)
            if not start or start.startswith(LFS_START):
                return start
            size = os.fstat(descriptor).st_size
            if size > MAX_LFS_BYTES:
                raise TooLarge
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return LFS_POINTER % (digest.encode(), size)

    @contextmanager
    def _opened(self, path: bytes) -> Iterator[int]:
        """A regular file. Raises Unreadable."""
        try:
            directory, name = self._locate(path)
            # O_NONBLOCK: a pipe in the place of the file must not hold us up.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(name, flags, dir_fd=directory)
        except OSError as exc:
            raise Unreadable from exc
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Unreadable
            yield descriptor
        except OSError as exc:
            raise Unreadable from exc
        finally:
            os.close(descriptor)

    def read(self, path: bytes, mode: int) -> bytes:
        """A regular file's content, or where a link leads. Raises Unreadable, also when it is neither.

        Where a file system has no links (`core.symlinks`), a file says where one would lead.
        """
        try:
            directory, name = self._locate(path)
            if S_ISLNK(mode) and S_ISLNK(os.lstat(name, dir_fd=directory).st_mode):
                return os.readlink(name, dir_fd=directory)
        except OSError as exc:
            raise Unreadable from exc
        with self._opened(path) as descriptor:
            return _read_regular(descriptor)

    def _locate(self, path: bytes) -> tuple[int, bytes]:
        """A descriptor of the directory that `path` is in, and the name there."""
        # A forged index may have any path in it.
        if not FORBIDDEN_NAMES.isdisjoint(path.split(b"/")):
            raise PermissionError(errno.EPERM, "not a path that git would use", path)
        parent, _, name = path.rpartition(b"/")
        return self._enter(parent), name

    def _enter(self, parent: bytes) -> int:
        """The directory `parent`, which stays open. Begins where it is: from the root on, a tree of a thousand
        levels takes a million steps."""
        if parent != self._parent:
            if not (self._parent and parent.startswith(self._parent + b"/")):
                self._leave()
            descriptor = self._descend(parent[len(self._parent) :])
            self._leave()
            self._descriptor, self._parent = descriptor, parent
        return self._descriptor

    def _descend(self, path: bytes) -> int:
        """A new descriptor of the directory `path`, which begins at the one that is open."""
        descriptor = os.dup(self._descriptor)
        for name in filter(None, path.split(b"/")):
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


def _kind(entry: os.DirEntry[str]) -> int:
    if entry.is_symlink():
        return stat.S_IFLNK
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    return stat.S_IFREG if entry.is_file(follow_symlinks=False) else 0


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
        self._attributes = AttributeFiles(repo, common_directory(repo), self._read)

    def of(self, path: bytes) -> Attributes:
        found = self._attributes.of(path)
        return Attributes(*(_attribute(found.get(name)) for name in ATTRIBUTES)) if found else NO_ATTRIBUTES

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
        except (pygit2.GitError, KeyError, ValueError, OSError):
            return False
        return b"\r\n" in stored and not is_binary_text(stored)

    @cached_property
    def _is_auto(self) -> bool:
        try:
            value = (self._repo.config["core.autocrlf"] or "true").lower()
        except (pygit2.GitError, KeyError, ValueError, OSError):
            return False
        return value in ("true", "yes", "on", "1", "input")

    def _read(self, path: bytes) -> bytes:
        """A file of attributes on disk, or where it is not there in the index. A link is not followed."""
        mode = self._tree.mode(path)
        try:
            if mode is not None:
                return self._tree.read(path, mode) if S_ISREG(mode) else b""
            return bytes(self._repo.odb.read(self._repo.index[os.fsdecode(path)].id)[1])
        except (Unreadable, pygit2.GitError, KeyError, ValueError, OSError):
            return b""


def _attribute(value: Value) -> Attribute:
    return os.fsdecode(value) if isinstance(value, bytes) else value


def _text_codec(encoding: str) -> str | None:
    try:
        name = codecs.lookup(encoding).name
    except (LookupError, ValueError):
        return None
    return name if name in TEXT_CODECS else None


def is_binary_text(content: bytes) -> bool:
    """Git's guess before it touches line ends: a NUL, a lone CR, or more than one odd byte in 128."""
    if b"\0" in content or content.count(b"\r") != content.count(b"\r\n"):
        return True
    odd = len(content.translate(None, TEXT_BYTES))
    printable = len(content) - odd - content.count(b"\r") - content.count(b"\n")
    return printable >> 7 < odd - content.endswith(b"\x1a")


def _decoded(content: bytes, encoding: str) -> bytes:
    """`working-tree-encoding`: stored as UTF-8. Left as it is where git would complain."""
    codec = ENCODINGS.get(encoding.lower()) or _text_codec(encoding)
    try:
        if codec is None:
            return content
        return content.decode(codec).translate(ICONV_TABLES.get(codec, {})).encode()
    except ValueError:
        return content
