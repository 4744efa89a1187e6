"""What the operator decides about Codex."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from agentsrv.config import env, path, text, web_address


@dataclass(frozen=True, slots=True, kw_only=True)
class CodexSettings:
    program: Path | None = field(default=None, metadata=env("CODEX_PATH", path))
    model: str | None = field(default=None, metadata=env("CODEX_DEFAULT_MODEL", text))
    provider: str | None = field(default=None, metadata=env("CODEX_DEFAULT_PROVIDER", text))
    openai_base_url: str | None = field(
        default=None, metadata=env("OPENAI_BASE_URL", web_address), repr=False
    )
    base_url: str | None = field(default=None, metadata=env("CODEX_BASE_URL", web_address), repr=False)
    custom_base_url: str | None = field(
        default=None, metadata=env("CUSTOM_SERVER_BASE_URL", web_address), repr=False
    )

    @property
    def url(self) -> str | None:
        """Where models are asked for by default; None: where the program's own configuration says."""
        match self.provider:
            case None:
                return self.base_url or self.openai_base_url or self.custom_base_url
            case "openai":
                return self.base_url or self.openai_base_url
            case "custom":
                return self.custom_base_url
            case _:
                return None

    @property
    def own_provider(self) -> str | None:
        """A provider that the program knows, by its configuration or by itself."""
        return None if self.provider == "custom" else self.provider
