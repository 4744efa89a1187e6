"""A fleet whose Redis is replaced by sentinels."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from agentsrv.fleet.connect import connect
from agentsrv.fleet.scripts import Scripts
from tests.fleet.kit import FleetOfServers, home_of, wait_for_peers
from tests.fleet.sentinels import Sentinels
from tests.kit import Server, script, wait_until
from tests.redis_server import RedisServer

pytestmark = pytest.mark.tools


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[Sentinels]:
    with ExitStack() as stack:
        yield Sentinels(tmp_path, stack)


def test_failover_loses_nobody(sentinels: Sentinels, tmp_path: Path, fake_agent: Path) -> None:
    """The master dies, and its replica has not heard of the last sessions: no turn ends, no id gets a second home."""
    url = RedisServer(tmp_path)
    fleet = FleetOfServers(tmp_path, fake_agent, url)
    try:
        servers = fleet.start_all(a={"REDIS_URL": sentinels.url}, b={"REDIS_URL": sentinels.url})
        wait_for_peers(*servers)
        run_failover(sentinels, *servers)
    finally:
        fleet.close()


async def test_sentinel_that_hangs_is_passed_over(sentinels: Sentinels) -> None:
    """Within the second that Redis has for each answer."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        scripts = Scripts(sentinels.url.replace("//", f"//127.0.0.1:{port},"))
        book = await scripts.book()
        await scripts.close()

    assert {} == book["servers"]


def test_url_of_sentinels_names_them_and_the_master() -> None:
    """Ports that are left out are those of sentinels; user and password are Redis's own, percent-encoded."""
    pool: Any = connect("redis+sentinel://me:p%40ss@one,[::1]:7/agents/2").connection_pool
    options = pool.connection_kwargs
    addresses = [one.connection_pool.connection_kwargs for one in pool.sentinel_manager.sentinels]

    assert ("me", "p@ss", 2) == (options["username"], options["password"], options["db"])
    assert "agents" == pool.service_name
    assert [("one", 26379), ("::1", 7)] == [(one["host"], one["port"]) for one in addresses]


def run_failover(sentinels: Sentinels, a: Server, b: Server) -> None:
    task = a.start_job(script("say one", "hang"), "runs", server="a")
    sentinels.replica_process.send_signal(signal.SIGSTOP)
    for n in range(5):
        assert 201 == a.ask("POST", "/sessions", {"sessionId": f"last-{n}", "server": "a"}).status
    sentinels.master_process.kill()
    sentinels.replica_process.send_signal(signal.SIGCONT)

    for n in range(5):
        # Until the replica is the master and all have said what they have: refused. Never a second one.
        wait_until(lambda n=n: b.ask("POST", "/sessions", {"sessionId": f"last-{n}"}).status == 409)  # type: ignore[misc]
    assert {"a"} == {home_of(b, f"last-{n}") for n in range(5)}
    wait_for_peers(a, b)
    assert 201 == b.ask("POST", "/sessions", {"sessionId": "new"}).status
    assert "running" == b.job(task)["status"]
    assert 200 == b.stop("runs").status
