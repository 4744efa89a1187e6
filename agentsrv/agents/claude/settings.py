"""What the operator decides about Claude Code."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from agentsrv.config import env, flag, path


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaudeSettings:
    program: Path | None = field(default=None, metadata=env("CLAUDE_PATH", path))
    uses_stored_login: bool = field(default=False, metadata=env("USE_CLAUDE_CREDENTIALS", flag))
