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
    """An agent, as the suite has to speak to it.

    models: its own default, and another one; None where none can be asked for.
    efforts: a model of its that has some, and one that has none; None: none can be asked for, or all models have them.
    asks: it can be made to ask for leave. `counts`: it tells what its model has used. `says_why` a turn has failed.
    question: its tool to ask its user something. `patience_s` with a model that fails: those that give up are let.
    """

    name: str
    models: tuple[str, str | None]
    api: Callable[[], ScriptedApi[Any]]
    set_up: Callable[[Path, str], dict[str, str]]
    asks: bool = True
    counts: bool = True
    says_why: bool = True
    question: str | None = None
    efforts: tuple[str | None, str | None] = (None, None)
    patience_s: int = 15

    @property
    def path(self) -> Path:
        return INSTALLED / self.name

    def settings(self, directory: Path, url: str) -> dict[str, str]:
        """Of a server with this agent, whose model is at `url`."""
        home, agents = directory / "home", directory / "state" / "agents"
        home.mkdir(parents=True, exist_ok=True)
        agents.mkdir(parents=True, mode=0o700)
        (agents / self.name).symlink_to(self.path)
        return self.set_up(home, url)


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
        "models": {
            "fake-1": {"name": "Fake 1", **images},
            "fake-2": {"name": "Fake 2"},
            "fake-3": {"name": "Fake 3", "reasoning": True},
        },
    }
    settings = {"model": "fake/fake-1", "provider": {"fake": provider}}
    (directory / "opencode.json").write_text(json.dumps(settings))
    return {"OPENAI_API_KEY": "fake-model-key"}


def _qwen(home: Path, url: str) -> dict[str, str]:
    (home / ".qwen").mkdir(exist_ok=True)
    # A model that the environment alone names has no efforts, nor has one that begins like its own.
    models = [
        {"id": name, "name": name, "baseUrl": f"{url}/v1", "envKey": "OPENAI_API_KEY"}
        for name in ("fake-1", "qwen-2")
    ]
    (home / ".qwen" / "settings.json").write_text(json.dumps({"modelProviders": {"openai": models}}))
    return {"OPENAI_API_KEY": "fake-model-key", "OPENAI_BASE_URL": f"{url}/v1", "OPENAI_MODEL": "fake-1"}


def _copilot(home: Path, url: str) -> dict[str, str]:
    return {
        "COPILOT_OFFLINE": "true",
        "COPILOT_PROVIDER_BASE_URL": f"{url}/v1",
        "COPILOT_PROVIDER_API_KEY": "fake-model-key",
        "COPILOT_MODEL": "fake-1",
    }


def _kimi(home: Path, url: str) -> dict[str, str]:
    (home / ".kimi-code").mkdir(exist_ok=True)
    provider = f'type = "openai"\nbase_url = "{url}/v1"\napi_key = "fake-model-key"\n'
    efforts = 'support_efforts = ["low", "high"]\ndefault_effort = "low"\noff_effort = "none"'
    models = [
        f'[models.{name}]\nprovider = "fake"\nmodel = "{name}"\nmax_context_size = 200000\n{thinks}\n'
        for name, thinks in (
            ("fake-1", 'capabilities = ["image_in"]'),
            ("fake-2", 'capabilities = ["image_in"]'),
            ("fake-3", f'capabilities = ["thinking"]\n{efforts}'),
        )
    ]
    text = f'default_model = "fake-1"\n\n[providers.fake]\n{provider}\n' + "\n".join(models)
    (home / ".kimi-code" / "config.toml").write_text(text)
    return {}


def _vibe(home: Path, url: str) -> dict[str, str]:
    (home / ".vibe").mkdir(exist_ok=True)
    provider = (
        f'name = "fake"\napi_base = "{url}/v1"\napi_key_env_var = "MISTRAL_API_KEY"\n'
        'api_style = "openai"\nbackend = "generic"\n'
    )
    models = [
        f'[[models]]\nname = "{name}"\nprovider = "fake"\nalias = "{name}"\n' for name in ("fake-1", "fake-2")
    ]
    text = f'active_model = "fake-1"\n\n[[providers]]\n{provider}\n' + "\n".join(models)
    (home / ".vibe" / "config.toml").write_text(text)
    return {"VIBE_HOME": str(home / ".vibe"), "MISTRAL_API_KEY": "fake-model-key"}


def _pi(home: Path, url: str) -> dict[str, str]:
    (home / ".pi" / "agent").mkdir(parents=True, exist_ok=True)
    names = ("fake-1", "fake-2", "fake-3")
    models = [{"id": name, "input": ["text", "image"], "reasoning": name == "fake-3"} for name in names]
    provider = {
        "baseUrl": f"{url}/v1",
        "api": "openai-completions",
        "apiKey": "fake-model-key",
        "models": models,
    }
    (home / ".pi" / "agent" / "models.json").write_text(json.dumps({"providers": {"fake": provider}}))
    return {}


GOOSE = AcpDialect("goose", ("fake-1", "fake-2"), ChatApi, _goose, patience_s=60)
GEMINI = AcpDialect("gemini", ("auto", "gemini-2.5-pro"), GeminiApi, _gemini)
OPENCODE = AcpDialect(
    "opencode", ("fake/fake-1", "fake/fake-2"), ChatApi, _opencode, efforts=("fake/fake-3", "fake/fake-1")
)
QWEN = AcpDialect(
    "qwen", ("fake-1", "qwen-2"), ChatApi, _qwen, question="ask_user_question", efforts=("fake-1", "qwen-2")
)
COPILOT = AcpDialect("copilot", ("fake-1", None), ChatApi, _copilot)
KIMI = AcpDialect(
    "kimi",
    ("fake-1", "fake-2"),
    ChatApi,
    _kimi,
    counts=False,
    question="AskUserQuestion",
    efforts=("fake-3", "fake-1"),
)
VIBE = AcpDialect("vibe", ("fake-1", "fake-2"), ChatApi, _vibe, efforts=("fake-1", None))
PI = AcpDialect(
    "pi",
    ("fake/fake-1", "fake/fake-2"),
    ChatApi,
    _pi,
    asks=False,
    counts=False,
    says_why=False,
    efforts=("fake/fake-3", "fake/fake-1"),
    patience_s=60,
)

DIALECTS = {dialect.name: dialect for dialect in (GOOSE, GEMINI, OPENCODE, QWEN, COPILOT, KIMI, VIBE, PI)}
