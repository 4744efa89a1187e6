"""The fixtures of tests/api."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentsrv.app import make_app
from agentsrv.config import Config
from tests.api.kit import Server, make_config, serve


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return make_config(
        tmp_path,
        allowed_origins=frozenset({"https://app.example"}),
        max_body_bytes=10 * 1024 * 1024,
    )


@pytest.fixture
async def server(config: Config) -> AsyncIterator[Server]:
    async with serve(make_app(config)) as running:
        yield running
