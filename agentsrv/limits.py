"""How often: so many a minute for each name, and as many at once after a pause."""

from __future__ import annotations

import math
import time

MAX_NAMES = 10_000


class Rates:
    """`per_minute` 0: as often as one likes."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._left: dict[str, tuple[float, float]] = {}
        """What each may still do, as of when. Who is not here may do all."""

    def take(self, name: str) -> int:
        """Count one for `name`; the seconds that it has to wait first, 0 when it need not."""
        if not self._per_minute:
            return 0
        now = time.monotonic()
        left, at = self._left.get(name, (float(self._per_minute), now))
        left = min(left + (now - at) * self._per_minute / 60, self._per_minute)
        if left < 1:
            return math.ceil((1 - left) * 60 / self._per_minute)
        if name not in self._left and len(self._left) >= MAX_NAMES:
            self._forget(now)
        self._left[name] = left - 1, now
        return 0

    def _forget(self, now: float) -> None:
        """Those who may do nearly all again, or else everybody: memory is bounded."""
        kept = {name: entry for name, entry in self._left.items() if now - entry[1] < 60}
        self._left = kept if len(kept) < MAX_NAMES else {}
