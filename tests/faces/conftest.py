"""A server that the tests of a file share, where they leave nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import Server, write_fake_agent


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory: Path = tmp_path_factory.mktemp("shared")
    server = Server(directory, write_fake_agent(directory / "claude")).start()
    yield server
    server.close()
