"""Fixtures for tests against a real server process."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from agentsrv.store.database import Database
from agentsrv.store.migrate import migrate
from bench.agent import compile_agent
from tests.fakes.model_api import ModelApi
from tests.fakes.responses_api import ResponsesApi
from tests.fakes.scripted import serve_in_thread
from tests.kit import Server, write_fake_agent

ServerMaker = Callable[..., Server]

OPENAI_KEY = f"fake-openai-key-{os.getpid()}"
"""Of this run alone: a test looks for it everywhere, and another run may be on the same machine."""

# The same examples everywhere, and no limits of time: a busy machine is no reason to fail.
settings.register_profile(
    "steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    """An open database with nothing in it."""
    path = tmp_path / "test.db"
    migrate(path)
    database = Database(path)
    await database.open()
    yield database
    await database.close()


@pytest.fixture
def fake_agent(tmp_path: Path) -> Path:
    return write_fake_agent(tmp_path / "claude")


@pytest.fixture(scope="session")
def bench_agent() -> Path:
    """The fast agent of the benchmarks, compiled when needed."""
    if shutil.which("cc") is None:
        pytest.fail("there is no C compiler; install gcc")
    return compile_agent()


@pytest.fixture
def make_server(tmp_path: Path, fake_agent: Path) -> Iterator[ServerMaker]:
    """Start servers: `make_server(CLAUDE_PATH=..., NAME=value)`. All that they started is gone afterwards."""
    servers: list[Server] = []

    def make(**settings: str) -> Server:
        server = Server(tmp_path / f"server{len(servers)}", fake_agent, settings)
        server.directory.mkdir()
        servers.append(server)
        return server.start()

    yield make
    for server in servers:
        server.close()


@pytest.fixture
def server(make_server: ServerMaker) -> Server:
    """A server whose agent is the fake one."""
    return make_server()


@pytest.fixture
def model() -> Iterator[ModelApi]:
    with serve_in_thread(ModelApi()) as api:
        yield api


@pytest.fixture(scope="session")
def real_claude() -> Path:
    """The real CLI: CLAUDE_PATH, else the one inside the claude-agent-sdk wheel (extra `agents`)."""
    return real_program("CLAUDE_PATH", "claude_agent_sdk", "_bundled/claude")


@pytest.fixture
def claude_server(model: ModelApi, make_server: ServerMaker, real_claude: Path) -> Server:
    """A server whose agent is the real CLI, which talks to the scripted model, which outlives it."""
    return make_server(
        CLAUDE_PATH=str(real_claude),
        ANTHROPIC_BASE_URL=model.url,
        ANTHROPIC_API_KEY="fake-model-key",
    )


@pytest.fixture
def responses() -> Iterator[ResponsesApi]:
    with serve_in_thread(ResponsesApi()) as api:
        yield api


@pytest.fixture(scope="session")
def real_codex() -> Path:
    """The real CLI: CODEX_PATH, else the one inside the openai-codex-cli-bin wheel (extra `agents`)."""
    return real_program("CODEX_PATH", "codex_cli_bin", "bin/codex")


@pytest.fixture
def codex_server(responses: ResponsesApi, make_server: ServerMaker, real_codex: Path) -> Server:
    """A server with the real Codex, which talks to the scripted model, which outlives it."""
    return make_server(
        CODEX_PATH=str(real_codex),
        OPENAI_BASE_URL=f"{responses.url}/v1",
        OPENAI_API_KEY=OPENAI_KEY,
    )


def real_program(variable: str, package: str, inside: str) -> Path:
    """The program that `variable` names, else the one `inside` an installed `package`, which is not imported."""
    if path := os.environ.get(variable):  # noqa: TID251
        return Path(path)
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        pytest.fail(f"{package} is not installed (extra `agents`), and {variable} is not set")
    return Path(spec.origin).parent / inside
