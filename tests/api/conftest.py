"""The fixtures of tests/api."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentsrv.config import Config
from tests.api.kit import Serve, Server, make_config, serve_behind_door, serve_configured


@pytest.fixture(scope="session")
def serving(request: pytest.FixtureRequest) -> Serve:
    """A server that tests share: as it is, or with --door behind one."""
    return serve_behind_door if request.config.option.door else serve_configured


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return make_config(
        tmp_path,
        allowed_origins=frozenset({"https://app.example"}),
        max_body_bytes=10 * 1024 * 1024,
    )


@pytest.fixture
async def server(config: Config, serving: Serve) -> AsyncIterator[Server]:
    async with serving(config) as running:
        yield running
