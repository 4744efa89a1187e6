"""Where folds over sessions' logs stood at some of their events. Kept in memory alone, and no more than fits."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import OrderedDict

from agentsrv.model import Seq, SessionId

MAX_BYTES = 16 * 1024 * 1024

Key = tuple[SessionId, str]


class Marks:
    """States of folds, by the last event that is in them. When they become too many, whole logs are forgotten.

    The logs that were asked for longest ago go first.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._logs: OrderedDict[Key, list[tuple[Seq, bytes]]] = OrderedDict()

    def keep(self, session_id: SessionId, kind: str, seq: Seq, state: bytes) -> None:
        marks = self._logs.setdefault((session_id, kind), [])
        self._logs.move_to_end((session_id, kind))
        insort(marks, (seq, state))
        self._bytes += len(state)
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._logs)))

    def find(self, session_id: SessionId, kind: str, first: Seq, last: Seq) -> tuple[Seq, bytes] | None:
        """The latest one at an event in this range."""
        marks = self._logs.get((session_id, kind))
        if not marks:
            return None
        self._logs.move_to_end((session_id, kind))
        place = bisect_right(marks, last, key=lambda mark: mark[0])
        return marks[place - 1] if place and marks[place - 1][0] >= first else None

    def forget(self, session_id: SessionId) -> None:
        """The log is gone, or another one."""
        for key in [key for key in self._logs if key[0] == session_id]:
            self._drop(key)

    def _drop(self, key: Key) -> None:
        self._bytes -= sum(len(state) for _, state in self._logs.pop(key))
