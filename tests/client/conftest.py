"""A server that the tests of a module share, each with sessions of its own, and one for who kills it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import ServerMaker
from tests.kit import Server, write_fake_agent


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose agent is the fake one."""
    directory = tmp_path_factory.mktemp("server")
    server = Server(directory, write_fake_agent(directory / "claude")).start()
    server.workspace.mkdir(parents=True, exist_ok=True)
    yield server
    server.close()


@pytest.fixture
def mortal(make_server: ServerMaker) -> Server:
    """A server that may be killed."""
    return make_server()
