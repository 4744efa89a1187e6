"""Both agents on any model: the real CLIs through the real LiteLLM, to scripted providers."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from tests.fakes.model_api import ModelApi
from tests.fakes.responses_api import ResponsesApi
from tests.image.conftest import HELPER_S, ContainerMaker, start_with_helper, with_providers
from tests.kit import KEY, script, wait_until

OWN_CONFIG = """
model_list:
  - {model_name: own/small, litellm_params: {model: openai/gpt-5.5, api_key: os.environ/OPENAI_API_KEY, api_base: %s}}
general_settings: {master_key: os.environ/LITELLM_MASTER_KEY}
"""

LLM_UID = 1003


def test_both_agents_on_any_model(
    make_agents: ContainerMaker, model: ModelApi, responses: ResponsesApi
) -> None:
    """Claude Code works on a model of OpenAI, Codex on one of Anthropic."""
    container = make_agents()
    with_providers(container, model, responses)
    start_with_helper(container)
    claude = container.job(script("text done"), "a", model="openai/gpt-5.5")
    codex = container.job(script("text done"), "b", agent="codex", model="anthropic/claude-opus-4-8")

    assert (claude["status"], codex["status"]) == ("completed", "completed"), container.log[-3000:]
    assert responses.requests[-1].model == "gpt-5.5"
    assert model.requests[-1].model == "claude-opus-4-8"
    keys = {call.headers.get("x-api-key") for call in model.requests}
    assert keys == {"provider-key"}


def test_both_agents_use_tools_on_any_model(
    make_agents: ContainerMaker, model: ModelApi, responses: ResponsesApi
) -> None:
    """Calls and their results come through the proxy in both directions: what was asked for is done, and told."""
    container = make_agents()
    with_providers(container, model, responses)
    start_with_helper(container)
    bash = script('tool Bash {"command": "echo from-$(id -un) | tee a.txt"}', "text made it")
    shell = script('tool exec_command {"cmd": "echo from-$(id -un) | tee b.txt"}', "text made it")
    claude = container.job(bash, "a", model="openai/gpt-5.5")
    codex = container.job(shell, "b", agent="codex", model="anthropic/claude-opus-4-8")

    assert (claude["status"], codex["status"]) == ("completed", "completed"), container.log[-3000:]
    for session, file, api in (("a", "a.txt", responses), ("b", "b.txt", model)):
        assert [path.read_text() for path in container.volume.rglob(file)] == ["from-agent\n"]
        assert "from-agent" in api.requests[-1].conversation
        assert "made it" in container.said(session)


def test_dead_helper(make_agents: ContainerMaker, model: ModelApi, responses: ResponsesApi) -> None:
    """With a mounted configuration. Its death is nothing to those who do not use it; it comes back and serves."""
    container = make_agents(LLM_CONFIG="/home/appuser/own.yaml")
    container.volume.mkdir()
    api = f"http://{container.gateway}:{responses.port}/v1"
    (container.volume / "own.yaml").write_text(OWN_CONFIG % api)
    start_with_helper(container)
    os.kill(container.pid_of("litellm"), signal.SIGKILL)

    assert container.job(script("text own model"), "own")["status"] == "completed"
    wait_until(lambda: container.log.count("Uvicorn running") == 2, HELPER_S, what="it is back")
    assert container.job(script("text back"), "other", model="own/small")["status"] == "completed"
    assert responses.requests[-1].model == "gpt-5.5"
    assert "llm helper: ended with 137, starts again in 1 s" in container.log


def test_paths_and_keys(make_agents: ContainerMaker, model: ModelApi, responses: ResponsesApi) -> None:
    """All three protocols, with /v1 and without; another key than its own is refused; nobody outside reaches it.

    It is a user of its own, and has the providers' keys alone.
    """
    container = make_agents()
    with_providers(container, model, responses)
    start_with_helper(container)
    asked = {"model": "anthropic/claude-opus-4-8", "max_tokens": 9, "input": "x"}
    body = json.dumps(asked | {"messages": [{"role": "user", "content": "x"}]})
    key = container.helper_key()

    def status(path: str, key: str) -> str:
        address = f"http://127.0.0.1:4141{path}"
        words = (
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "-d",
            body,
            "-H",
            f"Authorization: Bearer {key}",
        )
        return container.run("curl", *words, "-H", "Content-Type: application/json", address).stdout

    paths = [
        f"{prefix}/{name}" for prefix in ("/v1", "") for name in ("messages", "responses", "chat/completions")
    ]
    assert {path: status(path, key) for path in paths} == dict.fromkeys(paths, "200"), container.log[-3000:]
    assert "200" not in {status(path, "sk-wrong") for path in paths}
    assert container.port_is_closed(4141)
    process = Path(f"/proc/{container.pid_of('litellm')}")
    assert f"\nUid:\t{LLM_UID}\t" in (process / "status").read_text()
    assert "provider-key" in (process / "environ").read_text()
    assert KEY not in (process / "environ").read_text()
