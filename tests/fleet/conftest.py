"""The fixtures of tests/fleet."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.fleet.kit import FleetOfServers, fleet_of, wait_for_peers
from tests.fleet.members import Members
from tests.kit import Server, write_fake_agent
from tests.redis_server import real_redis


@pytest.fixture
def fleet(tmp_path: Path, fake_agent: Path) -> Iterator[FleetOfServers]:
    """A fleet of one test, which may do to it what it likes."""
    with fleet_of(tmp_path, fake_agent) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetOfServers]:
    """A fleet of two for all tests of a module: `home` takes new sessions, `door` is in front of it."""
    directory = tmp_path_factory.mktemp("fleet")
    with fleet_of(directory, write_fake_agent(directory / "claude")) as fleet:
        fleet.start_all("home", door={"ACCEPTS_SESSIONS": "false"})
        wait_for_peers(*fleet.servers.values())
        yield fleet


@pytest.fixture
def home(standing: FleetOfServers) -> Server:
    return standing.servers["home"]


@pytest.fixture
def door(standing: FleetOfServers) -> Server:
    return standing.servers["door"]


@pytest.fixture
async def members(tmp_path: Path) -> AsyncIterator[Members]:
    """Makes servers' parts in a fleet of one test."""
    with real_redis(tmp_path) as redis:
        async with AsyncExitStack() as stack:
            yield Members(redis, tmp_path, stack)
