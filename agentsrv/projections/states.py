"""The state of a fold as bytes, in memory and in the database: a pickle in which nothing but values can be."""

from __future__ import annotations

import io
import pickle
from typing import Any

READERS = "agentsrv.agents."
"""Where each agent has what a fold over its lines consists of."""

OTHERS = frozenset({("agentsrv.projections.acp", "_Turn"), ("collections", "deque")})


def dumps(state: Any) -> bytes:
    return pickle.dumps(state)


def loads(data: bytes) -> Any:
    """Raises pickle.UnpicklingError for anything but what `dumps` makes of a fold: it calls no function."""
    return _Values(io.BytesIO(data)).load()


class _Values(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        is_ours = (module, name) in OTHERS or (module.startswith(READERS) and "." not in name)
        found = super().find_class(module, name) if is_ours else None
        if not isinstance(found, type) or found.__module__ != module:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of a fold")
        return found
