"""How often: so many a minute for each name, and as many at once after a pause."""

from __future__ import annotations

import math
import time
from heapq import nsmallest
from ipaddress import IPv6Address, ip_address

MAX_NAMES = 10_000
HOST_BITS = 64
"""Of an address of IPv6: whoever has one has them all."""


def household(address: str) -> str:
    """What counts as one client: an address of IPv4, a network of IPv6 as one gets it; empty: a Unix socket."""
    if ":" not in address:
        return address
    ip = ip_address(address.partition("%")[0])
    if not isinstance(ip, IPv6Address) or ip.is_link_local:
        return address
    return str(ip.ipv4_mapped or f"{int(ip) >> HOST_BITS:x}::/{HOST_BITS}")


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
        """Memory is bounded. Kept are those who have least left: many new names do not give it back to them."""

        def left(name: str) -> float:
            left, at = self._left[name]
            return left + (now - at) * self._per_minute / 60

        self._left = {name: self._left[name] for name in nsmallest(MAX_NAMES // 2, self._left, key=left)}
