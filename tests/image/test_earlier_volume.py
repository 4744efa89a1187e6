"""Who ran the earlier server's image changes the image's name and nothing else."""

from __future__ import annotations

from tests.fakes.model_api import ModelApi
from tests.fakes.responses_api import ResponsesApi
from tests.image import earlier_volume
from tests.image.conftest import ContainerMaker
from tests.kit import KEY, script


def test_volume_is_taken_over(make_agents: ContainerMaker, model: ModelApi, responses: ResponsesApi) -> None:
    """Its sessions and messages are there, and both agents remember what was said in them."""
    container = make_agents()
    container.volume.mkdir()
    earlier_volume.fill(container.volume)
    container.start_healthy()
    sessions = {session["id"] for session in container.ask("GET", "/sessions")["sessions"]}

    assert sessions == {"old-claude", "old-codex"}
    for agent, said in earlier_volume.SAID.items():
        session = f"old-{agent.partition('-')[0]}"
        assert said in container.said(session)
        job = container.job(script("text hello"), session, agent=agent)
        assert job["status"] == "completed", job
    assert earlier_volume.SAID["claude-code"] in model.requests[-1].conversation
    assert earlier_volume.SAID["codex"] in responses.requests[-1].conversation


def test_configuration_is_kept(make_agents: ContainerMaker) -> None:
    """Files of the agents are as they were, and theirs to change."""
    container = make_agents()
    container.volume.mkdir()
    earlier_volume.fill(container.volume)
    container.start_healthy()

    assert (container.volume / ".codex/config.toml").read_text() == 'model_reasoning_summary = "none"\n'
    assert container.owner("/home/appuser/.codex/config.toml") == "agent"
    assert container.owner("/home/appuser/data/agent_ts.db") == "appuser"
    assert container.run("sh", "-c", "cat /home/appuser/data/*", user="agent").stdout == ""


def test_variables_of_the_earlier_image(make_container: ContainerMaker, responses: ResponsesApi) -> None:
    """They mean what they meant, those of Codex that had no effect there have one, and none needs another."""
    container = make_container(given={"/app/claude-credentials.json": "login"})
    container.environment.update(
        PORT="8080",
        NODE_ENV="production",
        APP_VERSION="7.7",
        ALLOWED_ORIGINS="https://app.example",
        USE_CLAUDE_CREDENTIALS="true",
        OPENAI_API_KEY="fake-openai-key",
        CODEX_BASE_URL=f"http://{container.gateway}:{responses.port}/v1",
        CODEX_DEFAULT_MODEL="gpt-5.5",
        ROOT_PASSWORD="root",
        PRESERVE_SSH_ON_SHUTDOWN="true",
    )
    container.start_healthy()
    job = container.job(script("text hello"), agent="codex")

    assert container.ask("GET", "/health")["version"] == "7.7"
    assert job["status"] == "completed", job
    assert responses.requests[-1].model == "gpt-5.5"
    assert (container.volume / ".claude/.credentials.json").read_text() == "login"
    assert container.owner("/home/appuser/.claude/.credentials.json") == "agent"
    assert container.port_is_closed(22)
    for origin, status in (("https://app.example", "200"), ("https://other.example", "403")):
        headers = ("-H", f"Authorization: Bearer {KEY}", "-H", f"Origin: {origin}")
        words = ("-so", "/dev/null", "-w", "%{http_code}", *headers, "http://127.0.0.1:8080/sessions")
        assert container.run("curl", *words).stdout == status
