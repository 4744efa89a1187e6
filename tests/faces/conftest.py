"""What tests of several faces use: a server that some share, and clients that are closed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.kit import KEY, Server, write_fake_agent

ClientMaker = Callable[..., openai.OpenAI]


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory: Path = tmp_path_factory.mktemp("shared")
    server = Server(directory, write_fake_agent(directory / "claude")).start()
    yield server
    server.close()


@pytest.fixture
def client_of() -> Iterator[ClientMaker]:
    """OpenAI's own client of a server; closed afterwards, also where its stream was left in the middle."""
    with ExitStack() as clients:

        def make(server: Server, **options: Any) -> openai.OpenAI:
            url = f"http://127.0.0.1:{server.port}/openai/v1"
            return clients.enter_context(openai.OpenAI(base_url=url, api_key=KEY, max_retries=0, **options))

        yield make
