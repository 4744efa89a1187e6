"""Which added file is a deleted one under a new name: the very choice that git makes. Pure.

Git 2.31 and later (diffcore-rename.c, diffcore-delta.c) looks three times, each time at what is left: for equal
contents; for similar contents under the same base name, where that name is unique on both sides; for the most
similar pair of all. Scores run to 60,000, as git's do.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from stat import S_ISREG
from typing import Protocol

MAX_SCORE = 60_000
MIN_SCORE = 54_000
"""90 %"""
MIN_BASENAME_SCORE = 57_000
"""Half way from 90 % to the top: a guess by name must be a good one."""

MAX_PAIRS = 1_000 * 1_000
"""Git gives up beyond its `diff.renameLimit` of 1,000 by 1,000."""
CANDIDATES = 4
"""For each new file git remembers so many old ones; its choice depends on it where several are alike."""
MAX_IDENTICAL = 100

MAX_WORK = 5_000_000
"""How many chunks may be compared, about a second's worth. Beyond it the rest count as deleted and added."""

CHUNK = re.compile(rb"[^\n]{0,63}\n|[^\n]{64}")
"""Contents are compared by the line, long lines by 64 bytes.

An unfinished last line does not count, as in git before 2.44: it makes the score of such files a little lower.
"""

_Row = tuple[int, bool, int, int]
"""Score, has it the same base name, destination, source."""


class File(Protocol):
    """One side of a possible rename. `key` is equal for equal contents; None stands for unreadable."""

    @property
    def path(self) -> bytes: ...
    @property
    def mode(self) -> int: ...
    def key(self) -> bytes | None: ...
    def size(self) -> int: ...
    def read(self) -> bytes | None: ...
    def is_binary(self) -> bool: ...


def find_renames(
    sources: Sequence[File], destinations: Sequence[File], kept: Collection[int] | None = None
) -> dict[int, tuple[int, int]]:
    """For each destination that is a renamed source: the index of that source, and the score.

    Both must be sorted by path, as git sorts them: where several pairs are equally good, the order decides.
    With `kept`, the indexes of sources that still exist, copies are looked for too, as `git diff -C` does: a
    source may then have several destinations.
    """
    search = _Search(sources, destinations, kept)
    search.match_identical()
    if kept is None:
        search.match_basenames()
    search.match_similar()
    return search.found


class _Search:
    def __init__(
        self, sources: Sequence[File], destinations: Sequence[File], kept: Collection[int] | None
    ) -> None:
        self.found: dict[int, tuple[int, int]] = {}
        self._sources = sources
        self._destinations = destinations
        self._source_sizes = [file.size() for file in sources]
        self._destination_sizes = [file.size() for file in destinations]
        self._unused = set(range(len(sources))).difference(kept or ())
        self._usable = self._unused if kept is None else set(range(len(sources)))
        self._spans: dict[int, Mapping[bytes, int]] = {}
        self._work = 0

    def _record(self, destination: int, source: int, score: int) -> None:
        self.found[destination] = (source, score)
        self._unused.discard(source)

    def _open_destinations(self) -> Iterator[int]:
        return (index for index in range(len(self._destinations)) if index not in self.found)

    def match_identical(self) -> None:
        by_key: defaultdict[bytes, list[int]] = defaultdict(list)
        for index, source in enumerate(self._sources):
            if (key := source.key()) is not None:
                by_key[key].append(index)
        for index, destination in enumerate(self._destinations):
            key = destination.key()
            candidates = by_key.get(key, []) if key is not None else []
            if (best := self._best_identical(destination, candidates)) is not None:
                self._record(index, best, MAX_SCORE)

    def _best_identical(self, destination: File, candidates: Sequence[int]) -> int | None:
        """The first one that is not used yet and has the same base name; one of both counts for something."""
        best, best_score = None, -1
        for looked_at, index in enumerate(candidates):
            source = self._sources[index]
            are_files = S_ISREG(source.mode) and S_ISREG(destination.mode)
            if index not in self._usable or not (are_files or source.mode == destination.mode):
                continue
            score = (index in self._unused) + (_basename(source.path) == _basename(destination.path))
            if score > best_score:
                best, best_score = index, score
            if score == 2 or looked_at > MAX_IDENTICAL:
                break
        return best

    def match_basenames(self) -> None:
        sources = _unique_basenames(self._sources, sorted(self._unused))
        destinations = _unique_basenames(self._destinations, self._open_destinations())
        for name, source in sources.items():
            destination = destinations.get(name)
            if source is None or destination is None:
                continue
            score = self._similarity(source, destination, MIN_BASENAME_SCORE)
            if score >= MIN_BASENAME_SCORE:
                self._record(destination, source, score)

    def match_similar(self) -> None:
        destinations = list(self._open_destinations())
        if not destinations or len(self._usable) * len(destinations) > MAX_PAIRS:
            return
        by_size = sorted((self._source_sizes[source], source) for source in self._usable)
        table: list[_Row] = []
        for destination in destinations:
            table += self._candidates(destination, by_size)
            self._spans.pop(~destination, None)
        # Stable, as git's sort is: among equals the order of paths decides.
        table.sort(key=lambda row: row[:2], reverse=True)
        for usable in (self._unused, self._usable):
            for score, _, destination, source in table:
                if destination not in self.found and source in usable:
                    self._record(destination, source, score)

    def _candidates(self, destination: int, by_size: Sequence[tuple[int, int]]) -> list[_Row]:
        """The best sources for one destination, out of those that are not too small or too large."""
        name, size = _basename(self._destinations[destination].path), self._destination_sizes[destination]
        start, end = bisect_left(by_size, (size * 9 // 10, 0)), bisect_left(by_size, (size * 10 // 9 + 2, 0))
        best: list[_Row] = []
        for source in sorted(source for _, source in by_size[start:end]):
            score = self._similarity(source, destination, MIN_SCORE)
            if score >= MIN_SCORE:
                is_namesake = _basename(self._sources[source].path) == name
                _keep_best(best, (score, is_namesake, destination, source))
        return best

    def _similarity(self, source: int, destination: int, min_score: int) -> int:
        """How much of the larger file comes from the old one. Only regular files can be similar."""
        old, new = self._sources[source], self._destinations[destination]
        if not (S_ISREG(old.mode) and S_ISREG(new.mode)):
            return 0
        small, large = sorted((self._source_sizes[source], self._destination_sizes[destination]))
        if not small or large * (MAX_SCORE - min_score) < (large - small) * MAX_SCORE:
            return 0
        old_spans, new_spans = self._spans_of(source, old), self._spans_of(~destination, new)
        self._work += len(old_spans)
        if self._work > MAX_WORK:
            return 0
        copied = sum(min(count, new_spans.get(span, 0)) for span, count in old_spans.items())
        return copied * MAX_SCORE // large

    def _spans_of(self, slot: int, file: File) -> Mapping[bytes, int]:
        """Slots of destinations are negative."""
        if slot not in self._spans:
            self._spans[slot] = spans(file.read() or b"", is_text=not file.is_binary())
        return self._spans[slot]


def spans(content: bytes, *, is_text: bool) -> Mapping[bytes, int]:
    """How many bytes of `content` each distinct chunk makes up."""
    if is_text:
        content = content.replace(b"\r\n", b"\n")
    return {chunk: count * len(chunk) for chunk, count in Counter(CHUNK.findall(content)).items()}


def _keep_best(best: list[_Row], row: _Row) -> None:
    """Keep the CANDIDATES best rows, in git's way: a new one takes the place of the worst, if that is worse."""
    if len(best) < CANDIDATES:
        best.append(row)
        return
    worst = min(range(CANDIDATES), key=lambda index: best[index][:2])
    if best[worst][:2] < row[:2]:
        best[worst] = row


def _unique_basenames(files: Sequence[File], indexes: Iterable[int]) -> dict[bytes, int | None]:
    """The only file of each base name; None where several have it."""
    found: dict[bytes, int | None] = {}
    for index in indexes:
        name = _basename(files[index].path)
        found[name] = None if name in found else index
    return found


def _basename(path: bytes) -> bytes:
    return path.rpartition(b"/")[2]
