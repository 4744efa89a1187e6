"""What differs between the agents that speak ACP: how each is set up for a scripted model, and what its model is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes.chat_api import ChatApi
from tests.fakes.gemini_api import GeminiApi
from tests.fakes.scripted import ScriptedApi
from tests.kit import ROOT

INSTALLED = ROOT / ".venv" / "acp" / "agents"
"""Where `dev.py test` has `agentsrv agents install` put them."""


@dataclass(frozen=True, slots=True)
class AcpDialect:
    """An agent, as the suite has to speak to it. `models`: its own default, and another one."""

    name: str
    program: str
    models: tuple[str, str]
    api: Callable[[], ScriptedApi[Any]]
    set_up: Callable[[Path, str], dict[str, str]]
    arguments: tuple[str, ...]
    patience_s: int = 15
    can_resume_at_once: bool = True

    @property
    def path(self) -> Path:
        return INSTALLED / self.name / "bin" / self.program

    def settings(self, directory: Path, url: str) -> dict[str, str]:
        """Of a server with this agent, whose model is at `url`."""
        home = directory / "home"
        home.mkdir(parents=True, exist_ok=True)
        table = directory / "agents.toml"
        table.write_text(f"[agents.{self.name}]\ncommand = {json.dumps([str(self.path), *self.arguments])}\n")
        return self.set_up(home, url) | {
            "AGENTS_FILE": str(table),
            "AGENT_PATIENCE": str(self.patience_s),
        }


def _goose(home: Path, url: str) -> dict[str, str]:
    directory = home / ".config" / "goose"
    directory.mkdir(parents=True, exist_ok=True)
    extension = {"enabled": True, "type": "builtin", "name": "developer", "timeout": 300, "bundled": True}
    (directory / "config.yaml").write_text(json.dumps({"extensions": {"developer": extension}}))
    return {
        "GOOSE_PROVIDER": "openai",
        "GOOSE_MODEL": "fake-1",
        "OPENAI_HOST": url,
        "OPENAI_API_KEY": "fake-model-key",
    }


def _gemini(home: Path, url: str) -> dict[str, str]:
    return {"GEMINI_API_KEY": "fake-model-key", "GOOGLE_GEMINI_BASE_URL": url}


def _opencode(home: Path, url: str) -> dict[str, str]:
    directory = home / ".config" / "opencode"
    directory.mkdir(parents=True, exist_ok=True)
    images = {"attachment": True, "modalities": {"input": ["text", "image"], "output": ["text"]}}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": f"{url}/v1", "apiKey": "{env:OPENAI_API_KEY}"},
        "models": {"fake-1": {"name": "Fake 1", **images}, "fake-2": {"name": "Fake 2"}},
    }
    settings = {"model": "fake/fake-1", "provider": {"fake": provider}}
    (directory / "opencode.json").write_text(json.dumps(settings))
    return {"OPENAI_API_KEY": "fake-model-key"}


GOOSE = AcpDialect("goose", "goose", ("fake-1", "fake-2"), ChatApi, _goose, ("acp",))
GEMINI = AcpDialect(
    "gemini", "gemini", ("auto", "gemini-2.5-pro"), GeminiApi, _gemini, ("--acp",), can_resume_at_once=False
)
OPENCODE = AcpDialect("opencode", "opencode", ("fake/fake-1", "fake/fake-2"), ChatApi, _opencode, ("acp",))

DIALECTS = {dialect.name: dialect for dialect in (GOOSE, GEMINI, OPENCODE)}
