"""The confinement: the one place that decides whether a path from outside may be used.

Three steps, always in this order. The text becomes an absolute path. Symlinks are resolved, and the result
must lie in the workspace, by components, and not belong to the server. Then it is opened, and the kernel is
asked *what* was opened: who swaps a directory for a link between the second step and the third is found out.
From there on everything is done relative to the open descriptor, and no link is followed any more.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from msgspec import Struct

from agentsrv.errors import Conflict, Forbidden, InvalidInput, NotFound, Problem
from agentsrv.users import User
from agentsrv.workspace.explain import explained, no_answer
from agentsrv.workspace.mounts import Mounts

MAX_PATH_BYTES = 4096

MAX_LINKS = 40
"""On the way to one file. Linux follows no more."""

DEFAULT_DIRECTORY = "workspaces"
"""Where a session works that names no directory; below the base."""

WORKTREES = ".worktrees"
"""Where the git worktrees of sessions are; below the base."""

FILE_URI = "file:///"

# fmt: off
PROTECTED_NAMES = frozenset(
    {
        ".git", ".ssh", ".gnupg",
        ".bashrc", ".bash_profile", ".bash_login", ".bash_logout", ".bash_aliases", ".profile", ".inputrc",
        ".zshrc", ".zshenv", ".zprofile", ".zlogin", ".zlogout",
        ".kshrc", ".mkshrc", ".cshrc", ".tcshrc", ".login", ".logout",
        ".xinitrc", ".xprofile", ".xsession", ".xsessionrc", ".pam_environment",
        ".gitconfig", ".netrc", ".pgpass", ".git-credentials",
    }
)
# fmt: on
"""Nothing of such a name, or below it, is written to: it would run, or let in, something else later."""

UTF8 = ("utf-8", "surrogateescape")


class Place(Struct, frozen=True):
    """Where something is written: a name in a directory that is held open. Nothing need be there yet."""

    directory: int
    path: str
    name: str


class Workspace:
    """Everything below `base` but the server's own files: `private` directories, and `private_files` with
    what stands beside them under a longer name (a database's journal, its copies).

    Agents may change links at any time, so a path is checked when it is used. In `home`, if that is in the
    workspace, what begins with a dot is the settings of programs and is not written to; `protected_names` are those of
    agents anywhere, beside PROTECTED_NAMES. Programs that work in it
    do so as `user`.
    """

    def __init__(
        self,
        base: Path,
        private: Iterable[Path] = (),
        private_files: Iterable[Path] = (),
        home: Path | None = None,
        user: User | None = None,
        protected_names: Collection[str] = (),
    ) -> None:
        self._protected = PROTECTED_NAMES.union(protected_names)
        self.base = resolved_path(base)
        self.user = user
        self._root = str(self.base)
        self._mounts = Mounts(self._root)
        private, private_files = tuple(private), tuple(private_files)
        resolved = (place for path in private for place in _places(path))
        # A database right in the base, or above it, cannot make all of the workspace private.
        self.private = tuple(str(path) for path in resolved if not self.base.is_relative_to(path))
        self.private_files = tuple(str(place) for path in private_files for place in _places(path))
        self._home = home and str(resolved_path(home))
        self._links = frozenset(str(link) for path in (*private, *private_files) for link in _links_to(path))
        self._private_parents = frozenset(map(os.path.dirname, (*self.private, *self.private_files)))

    # What a path is

    def directory(self, text: str | None, *, field: str = "cwd") -> Path:
        """The existing directory that `text` names, absolute or relative to the base; None: the default one.

        Raises Forbidden (`outside_workspace`), InvalidInput that names `field`.
        """
        path = Path(self._resolve(DEFAULT_DIRECTORY if text is None else text, field))
        try:
            with self._mounts.visit(str(path)):
                is_directory = path.is_dir()
        except TimeoutError as exc:
            raise no_answer(str(path)) from exc
        except OSError as exc:
            raise _invalid(field, f"{path} cannot be read: {exc.strerror}") from exc
        if not is_directory:
            raise _invalid(field, f"{path} is not an existing directory; make it first")
        return path

    def resolve(self, text: str, *, field: str = "path") -> str:
        """The absolute path that `text` names, links resolved. Whether anything is there is not looked at.

        `~`, `~/...` and `/` begin at the base, as earlier clients mean them. A `file:///...` URI names a path
        whose bytes are not UTF-8. Raises Forbidden (`outside_workspace`), InvalidInput that names `field`.
        """
        return self._resolve(_from_base(text), field)

    def resolve_inside(self, path: str, *, field: str = "path") -> str:
        """The same for an absolute path that this server has put together."""
        path = _real_path(path, field, self._mounts)
        self._require_inside(path)
        return path

    def probe(self, text: str) -> None:
        """Look at where `text` leads: this takes as long as its file system does to answer."""
        with suppress(InvalidInput, Forbidden, NotFound), explained(text):
            path = self.resolve(text)
            with self._mounts.visit(path):
                os.lstat(path)

    def relative(self, path: str) -> str:
        """`path` from the base on; empty for the base itself."""
        return "" if path == self._root else path[len(self._root.rstrip("/")) + 1 :]

    def is_private(self, path: str) -> bool:
        """Does this absolute path belong to the server?"""
        return any(path == own or path.startswith(own + "/") for own in self.private) or any(
            path == own or path.startswith((own + "-", own + ".")) for own in self.private_files
        )

    def contains(self, path: str) -> bool:
        """Does this absolute path, links resolved, lie in the workspace and not belong to the server?"""
        is_inside = path == self._root or path.startswith(self._root.rstrip("/") + "/")
        return is_inside and not self.is_private(path)

    def may_hold_private(self, directory: str) -> bool:
        """Can entries of this directory be private? Asked once for each directory of a walk."""
        return directory in self._private_parents

    def private_below(self, directory: str) -> list[str]:
        """What is private in a directory and below, relative to it; what stands beside a file is not named."""
        start = directory.rstrip("/") + "/"
        return [own[len(start) :] for own in (*self.private, *self.private_files) if own.startswith(start)]

    # Opening

    def enter(self, path: str) -> int:
        """A descriptor of the directory at a resolved `path`, for the caller to close.

        Raises OSError, Conflict (`moved`) when somebody has just put something else there.
        """
        with self._mounts.visit(path):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            self._require_still_there(descriptor, path)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    @contextmanager
    def open_directory(self, path: str, *, field: str = "path") -> Iterator[int]:
        """A descriptor of the directory at a resolved `path`, to list it and to work in it.

        Raises NotFound (`path_not_found`), InvalidInput (no directory), Forbidden.
        """
        with explained(self.relative(path), field):
            descriptor = self.enter(path)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def open_file(self, path: str, *, field: str = "path") -> int:
        """A descriptor to read the regular file at a resolved `path`, for the caller to close.

        What is no file is never opened. Raises NotFound, InvalidInput (`not_a_file`), Forbidden.
        """
        with explained(self.relative(path), field), self._mounts.visit(path):
            handle = os.open(path, os.O_PATH | os.O_NOFOLLOW)
            try:
                if not stat.S_ISREG(os.fstat(handle).st_mode):
                    raise InvalidInput(f"{field}: {self.relative(path)} is not a file", code="not_a_file")
                self._require_still_there(handle, path)
                return os.open(f"/proc/self/fd/{handle}", os.O_RDONLY)
            finally:
                os.close(handle)

    @contextmanager
    def make_directories(self, path: str, made: list[str], *, field: str = "path") -> Iterator[int]:
        """A descriptor of the directory at a resolved `path`. It and those above it are made when missing;
        `made` gets what was, outermost first, also when it fails half-way."""
        self.require_writable(path)
        reached = self._root
        directory = self.enter(reached)
        try:
            for name in filter(None, self.relative(path).split("/")):
                reached = os.path.join(reached, name)
                with explained(self.relative(reached), field):
                    if _make_directory(name, directory):
                        made.append(reached)
                    inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
                os.close(directory)
                directory = inner
            yield directory
        finally:
            os.close(directory)

    @contextmanager
    def open_place(self, text: str, *, field: str = "path", follow: bool = False) -> Iterator[Place]:
        """Where `text` names something that is to be made, changed or removed; its directory exists.

        A link at the end of `text` is itself the thing, unless `follow`: then it is what it leads to.
        Raises Forbidden (`outside_workspace`, `protected_path`), NotFound, InvalidInput.
        """
        path = self.resolve(text, field=field) if follow else self._resolve_parent(_from_base(text), field)
        if path == self._root:
            raise Forbidden(f"{field}: this is the workspace itself", code="protected_path")
        self.require_writable(path)
        parent, name = os.path.split(path)
        with self.open_directory(parent, field=field) as directory:
            yield Place(directory, path, name)

    def require_writable(self, path: str) -> None:
        """Refuse what only git, a shell or another program should change. Raises Forbidden."""
        if path in self._links:
            raise Forbidden("this link leads to the server's own files", code="protected_path")
        parts = self.relative(path).split("/")
        if not self._protected.isdisjoint(part.casefold() for part in parts):
            raise Forbidden(f"{self.relative(path)} is not changed through here", code="protected_path")
        is_setting = self._home is not None and path.startswith(f"{self._home}/.")
        if is_setting and not path.startswith(f"{self._root.rstrip('/')}/{WORKTREES}/"):
            raise Forbidden("settings in the home directory are not changed here", code="protected_path")
        # Bare repositories and git directories by another name have hooks and settings too.
        directory = self._root
        for part in parts:
            if is_git_directory(directory, with_new=part) and directory != self._root:
                raise Forbidden(f"{directory} is a git repository itself", code="protected_path")
            directory = os.path.join(directory, part)

    def require_removable(self, path: str) -> None:
        """Refuse to take away a directory that holds the server's own files."""
        if any(own.startswith(path + "/") for own in (*self.private, *self.private_files, *self._links)):
            raise Forbidden("the server's own files lie in there", code="protected_path")

    # The checks

    def _resolve(self, text: str, field: str) -> str:
        return self.resolve_inside(self._absolute(text, field), field=field)

    def _resolve_parent(self, text: str, field: str) -> str:
        parent, name = os.path.split(self._absolute(text, field).rstrip("/"))
        if name in ("", ".", ".."):
            raise _invalid(field, "must end in a name")
        path = os.path.join(_real_path(parent, field, self._mounts), name)
        self._require_inside(path)
        return path

    def _absolute(self, text: str, field: str) -> str:
        try:
            encoded = text.encode()
        except UnicodeEncodeError as exc:
            raise _invalid(field, "is not valid Unicode") from exc
        if text.startswith(FILE_URI):
            encoded = unquote_to_bytes(text.removeprefix("file://"))
        if not encoded or b"\0" in encoded or len(encoded) > MAX_PATH_BYTES:
            raise _invalid(field, f"must be a path of 1 to {MAX_PATH_BYTES} bytes without NUL")
        return os.path.join(self._root, encoded.decode(*UTF8))

    def _require_inside(self, path: str) -> None:
        if path != self._root and not path.startswith(self._root.rstrip("/") + "/"):
            raise Forbidden(
                f"the path lies outside the workspace {self.base}; name one below it",
                code="outside_workspace",
            )
        if self.is_private(path):
            raise Forbidden(
                "the path belongs to the server itself; name another one", code="outside_workspace"
            )

    def _require_still_there(self, descriptor: int, path: str) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}") != path:
            raise Conflict(f"{self.relative(path)} was moved or replaced just now; ask again", code="moved")


def _make_directory(name: str, directory: int) -> bool:
    """True when it was not there."""
    try:
        os.mkdir(name, dir_fd=directory)
    except FileExistsError:
        return False
    return True


def is_git_directory(path: str, with_new: str = "") -> bool:
    """What git itself asks for: `HEAD`, and `objects/` and `refs/` there or where a `commondir` says.

    Would it be one with a new entry in it?
    """

    def has(name: str) -> bool:
        return name == with_new or os.path.lexists(f"{path}/{name}")

    return has("HEAD") and (has("commondir") or (has("objects") and has("refs")))


def resolved_path(path: Path) -> Path:
    """Links resolved as far as that goes; of links that lead in a circle one is left (`Path.resolve` raises then)."""
    return Path(os.path.realpath(path))


def _places(path: Path) -> set[Path]:
    """Where it is, and the link that leads there: who replaces that one replaces both."""
    return {resolved_path(path), resolved_path(path.parent) / path.name}


def _links_to(path: Path) -> set[Path]:
    """Every link on the way: without one of them the server does not find it at its next start."""
    links, waiting = set[Path](), [path]
    while waiting:
        way = waiting.pop()
        for each in (way, *way.parents):
            place = resolved_path(each.parent) / each.name
            if place not in links and place.is_symlink():
                links.add(place)
                waiting.append(place.parent / place.readlink())
    return links


def is_text(path: str) -> bool:
    """Can the path be written in JSON as it is? Otherwise `file_uri` can."""
    return path.isascii() or not any("\ud800" <= character <= "\udfff" for character in path)


def displayed(path: str) -> str:
    """The path for people: bytes that are not UTF-8 become U+FFFD."""
    return path if is_text(path) else path.encode(*UTF8).decode(errors="replace")


def file_uri(path: str) -> str:
    """The absolute path, exactly, in ASCII: `file:///base/caf%E9`. It is taken wherever a path is."""
    return "file://" + quote(path.encode(*UTF8))


def _from_base(text: str) -> str:
    if text in ("", "~", "/"):
        return "."
    return (text[2:].lstrip("/") or ".") if text.startswith("~/") else text


def real_path(path: str | Path, mounts: Mounts | None = None) -> str:
    """The absolute path without links; what is not there stays as it is.

    Raises OSError: ELOOP beyond the kernel's own limit of links, ETIMEDOUT for one of `mounts` that does not
    answer. Python's `realpath` has none, and takes minutes
    for a path through thousands.
    """
    pending = [*reversed(os.path.join(os.getcwd(), path).split("/"))]
    resolved, links = "", 0
    while pending:
        name = pending.pop()
        if name in ("", "."):
            continue
        if name == "..":
            resolved = resolved.rpartition("/")[0]
            continue
        target = _link_at(f"{resolved}/{name}", mounts)
        if target is None:
            resolved = f"{resolved}/{name}"
            continue
        links += 1
        if links > MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        resolved = "" if target.startswith("/") else resolved
        pending += reversed(target.split("/"))
    return resolved or "/"


def _link_at(path: str, mounts: Mounts | None) -> str | None:
    """Where the link at `path` leads; None when there is none, or nothing. Raises OSError for a NUL in it."""
    try:
        with mounts.visit(path) if mounts else nullcontext():
            return os.readlink(path)
    except TimeoutError:
        raise
    except OSError:
        return None
    except ValueError as exc:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from exc


def _real_path(path: str, field: str, mounts: Mounts) -> str:
    try:
        return real_path(path, mounts)
    except TimeoutError as exc:
        raise no_answer(path) from exc
    except OSError as exc:
        reason = os.strerror(exc.errno or errno.EINVAL)
        raise _invalid(field, f"cannot be resolved: {reason}") from exc


def _invalid(field: str, message: str) -> InvalidInput:
    return InvalidInput(f"{field}: {message}", problems=[Problem(field, message)])
