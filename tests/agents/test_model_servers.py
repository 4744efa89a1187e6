"""Which server of models an agent asks, by the model's name and the settings."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest

from agentsrv.agents.codex.settings import CodexSettings
from agentsrv.agents.model_servers import require_llm_server
from agentsrv.config import Config, read_settings
from agentsrv.errors import Unavailable
from tests.fakes.model_api import ModelApi
from tests.fakes.responses_api import ResponsesApi
from tests.kit import Server, script

ServerMaker = Callable[..., Server]


def config(**settings: str) -> Config:
    return Config.from_env({"API_KEY": "a-key-for-this-test-alone", **settings})


def llm_server(url: str) -> dict[str, str]:
    """A server with an LLM server, and a key of the agent's own that must not reach it."""
    settings = {"LLM_SERVER_URL": url, "LLM_SERVER_KEY": "llm-key"}
    return settings | {"ANTHROPIC_API_KEY": "own-key", "OPENAI_API_KEY": "own-key"}


def test_claude_asks_the_llm_server(make_server: ServerMaker, real_claude: str, model: ModelApi) -> None:
    """`provider/model` reaches the LLM server under that name, with the LLM server's own key and no other."""
    server = make_server(CLAUDE_PATH=str(real_claude), **llm_server(model.url))
    job = server.ended_job(server.start_job(script("bash env > seen", "text done"), model="gemini/pro"))

    assert job["status"] == "completed", job
    assert {call.model for call in model.requests} == {"gemini/pro"}
    assert {call.headers.get("Authorization") for call in model.requests} == {"Bearer llm-key"}
    assert "own-key" not in (server.workspace / "seen").read_text()


def test_claude_asks_its_own_server_for_its_own_models(
    make_server: ServerMaker, real_claude: str, model: ModelApi
) -> None:
    """A model without a provider has nothing to do with an LLM server, not even with one that is dead."""
    settings = llm_server("http://127.0.0.1:9") | {"ANTHROPIC_BASE_URL": model.url}
    server = make_server(CLAUDE_PATH=str(real_claude), **settings)
    job = server.ended_job(server.start_job(script("text done"), model="claude-opus-4-8"))

    assert job["status"] == "completed", job
    assert model.requests[-1].headers.get("x-api-key") == "own-key"


def test_codex_asks_the_llm_server(
    make_server: ServerMaker, real_codex: str, responses: ResponsesApi
) -> None:
    """Codex likewise, and in the same session with a model of its own again."""
    settings = llm_server(responses.url) | {"OPENAI_BASE_URL": f"{responses.url}/v1"}
    server = make_server(CODEX_PATH=str(real_codex), **settings)
    models = ("gemini/pro", "gpt-5.5")
    jobs = [server.start_job(script("text done"), agent="codex", model=models[0])]
    jobs += [server.ended_job(jobs[0])["taskId"], server.start_job(script("text done"), model=models[1])]

    assert [server.ended_job(job)["status"] for job in jobs] == ["completed"] * 3
    asked = [(call.model, call.headers.get("Authorization")) for call in responses.requests]
    assert asked == [("gemini/pro", "Bearer llm-key"), ("gpt-5.5", "Bearer own-key")]


def test_codex_default_model(make_server: ServerMaker, real_codex: str, responses: ResponsesApi) -> None:
    """CODEX_DEFAULT_MODEL is what a prompt without a model works with."""
    settings = llm_server(responses.url) | {"CODEX_DEFAULT_MODEL": "mistral/large"}
    server = make_server(CODEX_PATH=str(real_codex), **settings)
    job = server.ended_job(server.start_job(script("text done"), agent="codex"))

    assert job["status"] == "completed", job
    assert responses.requests[-1].model == "mistral/large"


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({}, None),
        ({"OPENAI_BASE_URL": "http://o/v1"}, "http://o/v1"),
        ({"CODEX_BASE_URL": "http://c/v1", "OPENAI_BASE_URL": "http://o/v1"}, "http://c/v1"),
        ({"CUSTOM_SERVER_BASE_URL": "http://x/v1/"}, "http://x/v1"),
        ({"CUSTOM_SERVER_BASE_URL": "http://x/v1", "CODEX_DEFAULT_PROVIDER": "openai"}, None),
        (
            {
                "CUSTOM_SERVER_BASE_URL": "http://x",
                "CODEX_BASE_URL": "http://c",
                "CODEX_DEFAULT_PROVIDER": "custom",
            },
            "http://x",
        ),
        ({"CODEX_BASE_URL": "http://c", "CODEX_DEFAULT_PROVIDER": "mine"}, None),
    ],
)
def test_where_codex_asks(settings: dict[str, str], url: str | None) -> None:
    """The earlier image's variables: CODEX_DEFAULT_PROVIDER chooses, without it the first that is set counts."""
    assert CodexSettings(**read_settings(CodexSettings, settings)).url == url


async def test_llm_server_that_starts_late() -> None:
    """A prompt that comes before it answers waits for it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        waiting = asyncio.ensure_future(require_llm_server("a/b", config(LLM_SERVER_URL=url)))  # noqa: TID251
        await asyncio.sleep(0)
        assert not waiting.done()
        listener.listen()
        await waiting


async def test_llm_server_that_does_not_answer() -> None:
    """A clear error before the first byte, and when to try again."""
    with pytest.raises(Unavailable) as caught:
        await require_llm_server("a/b", config(LLM_SERVER_URL="http://127.0.0.1:9"), patience_s=0.1)

    assert (caught.value.code, caught.value.retry_after_s) == ("llm_server_unavailable", 10)
    await require_llm_server("opus", config(LLM_SERVER_URL="http://127.0.0.1:9"))
