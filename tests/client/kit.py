"""What the tests of the clients share."""

from __future__ import annotations

from typing import Any

from agentsrv.client import AsyncAgentsrv
from tests.kit import KEY, Server


def client_of(server: Server, url: str | None = None, **options: Any) -> AsyncAgentsrv:
    return AsyncAgentsrv(url or f"http://127.0.0.1:{server.port}", KEY, **options)


def frames_of(server: Server, task_id: str) -> list[Any]:
    """All frames of a finished job, as a follower from the start gets them now."""
    stream = server.ask("GET", f"/generate/v2/jobs/{task_id}/stream?format=acp")
    return [event.json for event in stream.rest()]
