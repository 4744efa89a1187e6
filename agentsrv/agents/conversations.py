"""What agents remember of sessions: its names, and what to say when it is gone."""

from __future__ import annotations

import re
from typing import Any

from agentsrv.errors import Conflict


def as_conversation(value: Any) -> str | None:
    """An agent's name for a conversation; None for what cannot be one. It becomes a file's name and an argument."""
    is_name = isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}", value)
    return value if is_name else None


def conversation_lost(conversation: str) -> Conflict:
    return Conflict(
        f"the agent has no record of conversation {conversation} any more, so it cannot be forked",
        code="conversation_lost",
    )
