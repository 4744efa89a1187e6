"""What an agent has left running, as it looks."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class BackgroundView(Struct, kw_only=True):
    id: str
    kind: Literal["command", "agent"]
    title: str


class BackgroundList(Struct, kw_only=True, rename="camel"):
    session_id: str
    tasks: list[BackgroundView]
    count: int
    timestamp: str
