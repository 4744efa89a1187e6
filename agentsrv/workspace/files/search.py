"""Finding files by name: any words, in this order, in any case; the best first."""

from __future__ import annotations

import heapq
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from agentsrv.errors import AgentsrvError
from agentsrv.workspace.files.checkouts import checkout_around, is_checkout, shown
from agentsrv.workspace.files.walk import Directory, Entry, EntryType, Walk, add_details, make_writable

NAMES_AT_ONCE = 1000
"""Between two looks at the time."""

SEPARATORS = re.compile(r"[\s/\\]+")

EXACT, FROM_START, AT_WORDS, IN_NAME, PARTLY_IN_NAME, IN_DIRECTORIES = range(6)
"""How good a match is: the name itself; begins with the words; has them where words of it begin; has them
anywhere; has the last ones; only directories above have them."""


class Match(NamedTuple):
    """In the order of quality: kind of match, then what is nearer, shorter, earlier in the alphabet."""

    rank: int
    depth: int
    length: int
    path: str
    directory: str
    type: EntryType


class NameSearch:
    """The best `limit` entries of `walk` whose path has all words of `text` in their order."""

    def __init__(self, walk: Walk, text: str, *, include_files: bool, limit: int) -> None:
        self.is_truncated = False
        """After `entries`: was more found, or did the walk not come to its end?"""
        self._walk = walk
        self._words = [word for word in SEPARATORS.split(text.lower()) if word]
        self._include_files = include_files
        self._limit = limit
        root = walk.workspace.relative(walk.root)
        self._root_length = len(root) + 1 if root else 0

    def entries(self) -> list[Entry]:
        """Best first, with details."""
        best: list[Match] = []
        for directory in self._walk:
            best += self._matches(directory)
            if len(best) > 4 * self._limit + 1000:
                self.is_truncated = True
                best = heapq.nsmallest(self._limit, best)
        self.is_truncated |= self._walk.is_truncated or len(best) > self._limit
        return list(self._detailed(heapq.nsmallest(self._limit, best)))

    def _matches(self, directory: Directory) -> list[Match]:
        missing = self._words
        if (above := directory.prefix[self._root_length :]) and missing:
            missing = missing[words_in(missing, above.lower()) :]
        kinds = self._kinds(directory)
        # One look at all names at once: in nearly all directories nothing matches.
        together = "\0".join([name for _, names in kinds for name in names]).lower()
        for word in missing:
            if word not in together:
                return []
        found: list[Match] = []
        depth = directory.prefix.count("/")
        for kind, names in kinds:
            for start in range(0, len(names), NAMES_AT_ONCE):
                if time.monotonic() > self._walk.deadline:
                    self.is_truncated = True
                    return found
                found += [
                    Match(rank, depth, len(name), directory.prefix + name, directory.path, kind)
                    for name in names[start : start + NAMES_AT_ONCE]
                    if (rank := self._rank(name.lower(), missing)) is not None
                ]
        return found

    def _kinds(self, directory: Directory) -> list[tuple[EntryType, list[str]]]:
        if not self._include_files:
            return [("directory", directory.folders)]
        return [
            ("file", directory.files),
            ("directory", directory.folders),
            ("symlink", directory.links),
            ("other", directory.others),
        ]

    def _rank(self, name: str, missing: list[str]) -> int | None:
        """`missing`: the words that the directories above do not have."""
        if words_in(missing, name) < len(missing):
            return None
        words = self._words
        if words_in(words, name) < len(words):
            return PARTLY_IN_NAME if missing else IN_DIRECTORIES
        if words and name in (" ".join(words), words[0]):
            return EXACT
        if not words or name.startswith(words[0]):
            return FROM_START
        return AT_WORDS if words_in(words, name, find_at_word) == len(words) else IN_NAME

    def _detailed(self, matches: list[Match]) -> Iterator[Entry]:
        workspace, roots = self._walk.workspace, dict[str, str | None]()
        for match in matches:
            if match.directory not in roots:
                roots[match.directory] = shown(workspace, checkout_around(workspace, match.directory))
            git_root = roots[match.directory]
            name = os.path.basename(match.path)
            place = f"{match.directory.rstrip('/')}/{name}"
            # What is mounted there may not answer: it is not looked into.
            is_mount = place in self._walk.mounts
            if match.type == "directory" and not is_mount and is_checkout(place):
                git_root = match.path
            entry = Entry(name, match.type, match.path, git_root is not None, git_root)
            if is_mount:
                entry.mount = True
                yield entry
                continue
            try:
                with workspace.open_directory(match.directory) as descriptor:
                    add_details(entry, descriptor)
            except AgentsrvError:
                continue
            make_writable([entry], workspace)
            yield entry


def words_in(words: list[str], text: str, find: Callable[[str, str, int], int] = str.find) -> int:
    """How many of the words, from the first on, occur in `text` one after the other."""
    position = 0
    for count, word in enumerate(words):
        found = find(text, word, position)
        if found < 0:
            return count
        position = found + len(word)
    return len(words)


def find_at_word(text: str, word: str, position: int) -> int:
    """Like `str.find`, only where a word of `text` begins."""
    while (position := text.find(word, position)) > 0 and text[position - 1].isalnum():
        position += 1
    return position
