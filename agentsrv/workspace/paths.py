"""The confinement: the one place that decides whether a path from outside may be used."""

from __future__ import annotations

import os
from pathlib import Path

from agentsrv.errors import Forbidden, InvalidInput, Problem

MAX_PATH_BYTES = 4096

DEFAULT_DIRECTORY = "workspaces"
"""Where a session works that names no directory; below the base."""


class Workspace:
    """Everything below `base` but the server's own `private` directories (database, spools, settings).

    Symlinks are resolved first, then paths are compared by components: a link that leads out of the workspace
    is outside, and so is `..`. Agents may change links at any time, so a path is checked when it is used.
    """

    def __init__(self, base: Path, private: tuple[Path, ...] = ()) -> None:
        self.base = base.resolve()
        resolved = (path.resolve() for path in private)
        # A database right in the base, or above it, cannot make all of the workspace private.
        self._private = tuple(path for path in resolved if not self.base.is_relative_to(path))

    def directory(self, text: str | None, *, field: str = "cwd") -> Path:
        """The existing directory that `text` names, absolute or relative to the base; None: the default one.

        Raises Forbidden (`outside_workspace`), InvalidInput that names `field`.
        """
        path = self._resolve(DEFAULT_DIRECTORY if text is None else text, field)
        self._require_inside(path)
        try:
            is_directory = path.is_dir()
        except OSError as exc:
            raise _invalid(field, f"{path} cannot be read: {exc.strerror}") from exc
        if not is_directory:
            raise _invalid(field, f"{path} is not an existing directory; make it first")
        return path

    def _resolve(self, text: str, field: str) -> Path:
        try:
            encoded = text.encode()
        except UnicodeEncodeError as exc:
            raise _invalid(field, "is not valid Unicode") from exc
        if not encoded or b"\0" in encoded or len(encoded) > MAX_PATH_BYTES:
            raise _invalid(field, f"must be a path of 1 to {MAX_PATH_BYTES} bytes without NUL")
        try:
            return Path(os.path.realpath(self.base / text))
        except OSError as exc:
            raise _invalid(field, f"cannot be resolved: {exc.strerror}") from exc

    def _require_inside(self, path: Path) -> None:
        if not path.is_relative_to(self.base):
            raise Forbidden(
                f"the path lies outside the workspace {self.base}; name one below it",
                code="outside_workspace",
            )
        if any(path.is_relative_to(private) for private in self._private):
            raise Forbidden(
                "the path belongs to the server itself; name another one", code="outside_workspace"
            )


def _invalid(field: str, message: str) -> InvalidInput:
    return InvalidInput(f"{field}: {message}", problems=[Problem(field, message)])
