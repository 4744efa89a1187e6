"""What a git worker reads outside of the workspace: the user's own git settings, and itself.

Everything else is out of its reach (`landlock.py`), whatever a repository puts in place of its own files after they
were looked at.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pygit2

import agentsrv
from agentsrv.workspace.git.landlock import restrict_reads

NAMED = ("core.excludesfile", "core.attributesfile")
INCLUDE = ("include.", "includeif.")

SYSTEM = ("/etc/gitconfig", "/etc/gitattributes")
MACHINE = ("/proc", "/dev", "/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime")

MAX_FILES = 100

Version = tuple[int, int, int] | None
"""Of a file: which one it is, and when it was changed; None where there is none."""


class Surroundings:
    """What may be read. Of a file that is replaced, the kernel would still allow the earlier one alone."""

    def __init__(self, home: str | None, config_home: str | None) -> None:
        self._home = home
        self._directories = [f"{config_home}/git"] if config_home else []
        files = [*SYSTEM, f"{home}/.gitconfig"] if home else []
        if config_home:
            files.append(f"{config_home}/git/config")
        self.files = self._with_named(files)
        """Settings, and what they name."""
        self._seen = self._versions()

    def confine(self, base: Path) -> bool:
        """From now on nothing else can be read but what is below `base`. False where the kernel has no Landlock."""
        modules = [agentsrv, msgspec, pygit2]
        programs = [os.path.dirname(str(module.__file__)) for module in modules]
        paths = [
            str(base),
            *self._directories,
            *self.files,
            sys.prefix,
            sys.base_prefix,
            *programs,
            *MACHINE,
        ]
        return restrict_reads(paths)

    @property
    def have_changed(self) -> bool:
        """Are the settings other files than they were?"""
        return self._versions() != self._seen

    def _versions(self) -> list[Version]:
        return [_version(path) for path in (*self.files, *self._directories)]

    def _with_named(self, files: list[str]) -> list[str]:
        """The settings, and what they name: other settings, and files of patterns."""
        found, pending = dict[str, None](), files[::-1]
        while pending and len(found) < MAX_FILES:
            path = pending.pop()
            if path in found:
                continue
            found[path] = None
            for name, value in _entries(path):
                if name in NAMED or (name.startswith(INCLUDE) and name.endswith(".path")):
                    pending.append(self._absolute(value, os.path.dirname(path)))
        return list(found)

    def _absolute(self, named: str, directory: str) -> str:
        if named.startswith("~/"):
            return f"{self._home}/{named[2:]}"
        return os.path.join(directory, named)


def _entries(path: str) -> Iterator[tuple[str, str]]:
    """What a file says, if it is one of settings."""
    try:
        yield from (
            [(entry.name, entry.value or "") for entry in pygit2.Config(path)] if os.path.isfile(path) else []
        )
    except (pygit2.GitError, OSError, ValueError):
        return


def _version(path: str) -> Version:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns
