"""One server for the tests of the console; each finds it empty."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.console.scenes import make_player
from tests.kit import Server


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("console")
    base = directory / "base" / "workspaces"
    base.mkdir(parents=True)
    server = Server(directory, make_player(directory, base)).start()
    yield server
    server.close()


@pytest.fixture
def server(shared_server: Server) -> Iterator[Server]:
    """A server whose agent is the fake one, and plays the scenes."""
    yield shared_server
    empty(shared_server)


def empty(server: Server) -> None:
    """End what a test has begun in it, and remove what is left of that."""
    for terminal in server.ask("GET", "/terminals").json["terminals"]:
        server.ask("DELETE", f"/terminals/{terminal['terminalId']}").body()
    for session in server.ask("GET", "/sessions").json["sessions"]:
        with server.ask("DELETE", f"/sessions/{session['id']}?force=true") as answer:
            assert answer.status == 200, answer.json
    for left in server.workspace.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()
