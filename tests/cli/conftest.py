"""A server that the tests of a module share, and windows that are closed when a test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from zlib import crc32

import pytest

from tests.cli.kit import environment
from tests.cli.window import Window
from tests.kit import Server, write_fake_agent

Open = Callable[..., Window]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, server_type: type[Server]) -> Iterator[Server]:
    """A server whose agent is the fake one. Each test has a session of its own in it."""
    directory = tmp_path_factory.mktemp("server")
    server = server_type(directory, write_fake_agent(directory / "claude")).start()
    server.workspace.mkdir(parents=True, exist_ok=True)
    yield server
    server.close()


@pytest.fixture
def session(request: pytest.FixtureRequest) -> str:
    """The id of a session that no other test has."""
    return f"s{crc32(request.node.nodeid.encode()):x}"


@pytest.fixture
def open_window(server: Server) -> Iterator[Open]:
    """`open_window("run", "hello")`: the command in a window of its own; variables by name."""
    windows: list[Window] = []

    def open_(
        *words: str, cols: int = 80, rows: int = 40, stdin: str | None = None, **variables: str
    ) -> Window:
        given = environment(server, server.directory, **variables)
        windows.append(
            Window(*words, cwd=server.workspace, environment=given, stdin=stdin, cols=cols, rows=rows)
        )
        return windows[-1]

    yield open_
    for window in windows:
        window.close()
