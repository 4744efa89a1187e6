"""Opaque cursors of lists that are sorted by creation, newest first."""

from __future__ import annotations

import base64
import binascii

from agentsrv.errors import InvalidInput, Problem
from agentsrv.model import Millis


def encode_cursor(created_at: Millis, id_: str) -> str:
    """The place behind the row with this creation time and id."""
    return base64.urlsafe_b64encode(f"{created_at}:{id_}".encode()).decode().rstrip("=")


def decode_cursor(cursor: str | None) -> tuple[Millis, str] | None:
    """Raises InvalidInput for anything that `encode_cursor` has not made."""
    if cursor is None:
        return None
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        created_at, _, id_ = base64.b64decode(padded, altchars=b"-_", validate=True).decode().partition(":")
        if not (created_at.isascii() and created_at.isdigit() and len(created_at) < 16 and id_):
            raise ValueError(cursor)
        return int(created_at), id_
    except (ValueError, binascii.Error) as exc:
        problem = Problem("cursor", "must be the nextCursor of an earlier answer")
        raise InvalidInput(f"cursor: {problem.message}", problems=[problem]) from exc
