"""`GET /activity` of a fleet tells of all servers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.fleet.kit import FleetOfServers, wait_for_peers
from tests.kit import Answer, Server

pytestmark = pytest.mark.tools


class Watching:
    """The messages of one stream, as they come."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._messages = self._read()

    def until(self, **wanted: Any) -> dict[str, Any]:
        """The next message with all of these."""
        return next(one for one in self._messages if wanted.items() <= one.items())

    def _read(self) -> Iterator[dict[str, Any]]:
        for event in self._answer:
            yield event.json


@pytest.fixture
def two(fleet: FleetOfServers) -> tuple[Server, Server]:
    a, b = fleet.start_all("a", "b")
    wait_for_peers(a, b)
    return a, b


def test_all_servers_tell(two: tuple[Server, Server]) -> None:
    """The snapshot has everybody's sessions, the newest first; what happens anywhere is told; who is lost is named."""
    a, b = two
    for name in ("b", "a"):
        assert 201 == a.ask("POST", "/sessions", {"sessionId": f"on-{name}", "server": name}).status
    with a.ask("GET", "/activity") as answer:
        watching = Watching(answer)
        snapshot = watching.until(type="snapshot")
        assert ["on-a", "on-b"] == [one["id"] for one in snapshot["sessions"]]
        assert [] == snapshot["unreachable"]

        for name in ("b", "a"):
            assert 200 == b.ask("DELETE", f"/sessions/on-{name}").status
            assert f"on-{name}" == watching.until(type="session_deleted")["sessionId"]

        assert 201 == a.ask("POST", "/sessions", {"sessionId": "left", "server": "a"}).status
        b.kill9()
        snapshot = watching.until(type="snapshot")
        assert (["left"], ["b"]) == ([one["id"] for one in snapshot["sessions"]], snapshot["unreachable"])
        b.start()
        assert [] == watching.until(type="snapshot")["unreachable"]
        a.terminate()
        assert [] == list(answer)
        assert answer.is_whole
