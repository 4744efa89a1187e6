"""Names of servers, and the numbers that the ids of jobs begin with."""

from __future__ import annotations

import re
import secrets
import uuid
from hashlib import sha256

from agentsrv.model import TurnId

NUMBERED = re.compile(r"([0-9a-f]{8})-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
"""A UUID of version 8 (RFC 9562), of which the first 32 bits are the number of a server."""


def number_of(server_name: str) -> str:
    """Eight hexadecimal digits."""
    return sha256(server_name.encode()).hexdigest()[:8]


def new_turn_id(number: str) -> TurnId:
    """The id of a new job of the server with this number."""
    rest = secrets.randbits(96) & ~(0xF << 76) & ~(0x3 << 62) | (0x8 << 76) | (0x2 << 62)
    return TurnId(str(uuid.UUID(int=int(number, 16) << 96 | rest)))


def number_in(turn_id: str) -> str | None:
    """The number of the server whose job this is; None for an id of before it had a name."""
    found = NUMBERED.fullmatch(turn_id)
    return None if found is None else found[1]
