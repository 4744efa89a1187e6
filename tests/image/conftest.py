"""What tests of the image share: its files, containers, and scripted models inside their networks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.fakes.model_api import ModelApi
from tests.fakes.responses_api import ResponsesApi
from tests.fakes.scripted import serve_in_thread
from tests.image.container import Container, Image, unpacked
from tests.kit import wait_until

NAME = os.environ.get("AGENTSRV_IMAGE", "")  # noqa: TID251  # set by `make test-image`
collect_ignore_glob = [] if NAME else ["test_*.py"]

HELPER_S = 300.0
"""Some 10 s on an idle machine."""


class ContainerMaker(Protocol):
    """Make a container that has not started: `make_container(NAME="value")`."""

    def __call__(
        self,
        *,
        user: str = ...,
        is_read_only: bool = ...,
        capabilities: tuple[str, ...] = ...,
        memory_mb: int = ...,
        volume_of: Container | None = ...,
        given: dict[str, str] | None = ...,
        **environment: str,
    ) -> Container: ...


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    with unpacked(NAME, tmp_path_factory.mktemp("image")) as found:
        yield found


@pytest.fixture
def make_container(image: Image, tmp_path: Path) -> Iterator[ContainerMaker]:
    """Containers that are gone after the test, with all their processes."""
    made: list[Container] = []

    def make(
        *,
        user: str = "0:0",
        is_read_only: bool = False,
        capabilities: tuple[str, ...] = (),
        memory_mb: int = 0,
        volume_of: Container | None = None,
        given: dict[str, str] | None = None,
        **environment: str,
    ) -> Container:
        directory = tmp_path / f"container{len(made)}" if volume_of is None else volume_of.directory
        directory.mkdir(exist_ok=True)
        container = Container(
            image,
            directory,
            environment,
            user,
            is_read_only,
            capabilities=capabilities,
            memory_mb=memory_mb,
            given=given or {},
        )
        made.append(container)
        return container

    yield make
    for container in made:
        container.close()


@pytest.fixture
def model() -> Iterator[ModelApi]:
    """The Messages API; a container finds it at its gateway."""
    with serve_in_thread(ModelApi("0.0.0.0")) as api:
        yield api


@pytest.fixture
def responses() -> Iterator[ResponsesApi]:
    with serve_in_thread(ResponsesApi("0.0.0.0")) as api:
        yield api


@pytest.fixture
def make_agents(make_container: ContainerMaker, model: ModelApi, responses: ResponsesApi) -> ContainerMaker:
    """Containers whose agents are the real ones, with scripted models behind them."""

    def make(**options: Any) -> Container:
        container = make_container(**options)
        container.environment.update(
            ANTHROPIC_API_KEY="fake-anthropic-key",
            ANTHROPIC_BASE_URL=f"http://{container.gateway}:{model.port}",
            OPENAI_API_KEY="fake-openai-key",
            OPENAI_BASE_URL=f"http://{container.gateway}:{responses.port}/v1",
        )
        return container

    return make


def with_providers(container: Container, model: ModelApi, responses: ResponsesApi) -> None:
    """Providers that are not the agents' own: `anthropic/...` and `openai/...`, each at a scripted API."""
    container.environment.update(
        LLM_SERVER="true",
        ANTHROPIC_API_KEY="provider-key",
        ANTHROPIC_API_BASE=f"http://{container.gateway}:{model.port}",
        OPENAI_API_KEY="provider-key",
        OPENAI_API_BASE=f"http://{container.gateway}:{responses.port}/v1",
        ANTHROPIC_BASE_URL="",
        OPENAI_BASE_URL="",
    )


def start_with_helper(container: Container) -> None:
    """The server does not wait for the helper; this does."""
    container.start_healthy()
    assert "Uvicorn running" not in container.log
    wait_until(lambda: "Uvicorn running" in container.log, HELPER_S, what="the helper is up")
