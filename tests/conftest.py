"""Fixtures for tests against a real server process."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import ClientSession
from hypothesis import HealthCheck, settings

from agentsrv.store.database import Database
from bench.agent import compile_agent
from tests.browser import Context, Page, new_context, running_browser
from tests.door import ServerBehindDoor
from tests.fakes.model_api import ModelApi
from tests.fakes.responses_api import ResponsesApi
from tests.fakes.scripted import serve_in_thread
from tests.kit import Server, write_fake_agent
from tests.migrated import put_database

ServerMaker = Callable[..., Server]

OPENAI_KEY = f"fake-openai-key-{os.getpid()}"
"""Of this run alone: a test looks for it everywhere, and another run may be on the same machine."""

# The same examples everywhere, and no limits of time: a busy machine is no reason to fail.
settings.register_profile(
    "steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")


MAY_STAND_BEHIND = {"server_type", "serving"}
"""Fixtures of tests whose server may stand behind a door."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--door", action="store_true", help="ask every server through another one of its fleet")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What is marked `door` runs twice: the second time through a door."""
    is_marked = metafunc.definition.get_closest_marker("door") is not None
    if is_marked and not metafunc.config.option.door:
        door = pytest.param(ServerBehindDoor, id="door", marks=pytest.mark.tools)
        metafunc.parametrize("server_type", [pytest.param(Server, id="home"), door], indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --door: only what has a server that may stand behind one, and is not about the one that is asked."""
    if not config.option.door:
        return
    both: tuple[list[pytest.Item], list[pytest.Item]] = [], []
    for item in items:
        may = MAY_STAND_BEHIND.intersection(getattr(item, "fixturenames", ()))
        both[bool(may) and item.get_closest_marker("at_home") is None].append(item)
    others, items[:] = both
    config.hook.pytest_deselected(items=others)


@pytest.fixture(scope="session")
def server_type(request: pytest.FixtureRequest) -> type[Server]:
    """What kind of server the tests are for."""
    usual = ServerBehindDoor if request.config.option.door else Server
    kind: type[Server] = getattr(request, "param", usual)
    return kind


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a browser that all tests of this process share: starting one costs more than most of them."""
    with running_browser(tmp_path_factory.mktemp("chromium")) as address:
        yield address


@pytest.fixture
async def context(chromium: str) -> AsyncIterator[Context]:
    """Tabs of one test."""
    async with ClientSession() as client, new_context(client, chromium) as context:
        yield context


@pytest.fixture
async def page(context: Context) -> AsyncIterator[Page]:
    async with context.tab() as page:
        yield page


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    """An open database with nothing in it."""
    path = tmp_path / "test.db"
    put_database(path)
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
def make_server(
    tmp_path: Path, fake_agent: Path, server_type: type[Server], request: pytest.FixtureRequest
) -> Iterator[ServerMaker]:
    """Start servers: `make_server(CLAUDE_PATH=..., NAME=value)`. All that they started is gone afterwards."""
    servers: list[Server] = []
    command = (sys.executable,) if request.node.get_closest_marker("program") else None

    def make(**settings: str) -> Server:
        directory = tmp_path / f"server{len(servers)}"
        server = server_type(directory, fake_agent, settings, command=command)
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
