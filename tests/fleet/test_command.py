"""`agentsrv fleet list | forget`, and what a server needs to be one of several."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentsrv.fleet.scripts import Scripts
from tests.kit import ROOT, TIMEOUT_S
from tests.redis_server import RedisServer, real_redis

pytestmark = pytest.mark.tools

CANNOT_START = 78


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The book of a fleet: `a` lives, `b` has left and never said what it has."""
    with real_redis(tmp_path_factory.mktemp("redis")) as redis:
        asyncio.run(enter_two(redis.url))
        yield redis


async def enter_two(url: str) -> None:
    scripts = Scripts(url)
    for name in ("a", "b"):
        fields = {"address": f"http://{name}:3000", "active": "1", "capacity": "4", "accepts": "1"}
        await scripts.beat(
            name, name, ttl_ms=600_000, new_epoch="1", replaces=(), remembered=(), fields=fields
        )
    await scripts.publish("a", "1", ["s:mine"], is_last=True)
    await scripts.leave("b", "b")
    await scripts.close()


def agentsrv(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agentsrv", *words],
        env={"PATH": os.defpath, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_list_shows_who_is_there(redis: RedisServer) -> None:
    """A line for each server: does it live, how much does it do, where is it, what is wrong with it."""
    lines = agentsrv("fleet", "list", REDIS_URL=redis.url).stdout.splitlines()

    assert [
        ["a", "alive", "1/4", "http://a:3000"],
        ["b", "away", "1/4", "http://b:3000", "has", "not", "said", "yet", "what", "it", "has"],
    ] == [line.split() for line in lines]


def test_only_who_is_away_is_forgotten(redis: RedisServer) -> None:
    """Forgotten servers are waited for no more; one that lives, or that nobody knows, is refused in one line."""
    answers = [agentsrv("fleet", "forget", name, REDIS_URL=redis.url) for name in ("a", "b", "b")]

    assert [CANNOT_START, 0, CANNOT_START] == [answer.returncode for answer in answers]
    assert "server a is alive; stop it first" in answers[0].stderr
    assert "server b is forgotten" in answers[1].stdout
    assert "there is no server b" in answers[2].stderr
    assert 1 == redis.do("HLEN", "{agentsrv}:homes")


def test_a_name_needs_a_redis(tmp_path: Path) -> None:
    """SERVER_NAME without REDIS_URL: exit code 78, and one line that says which is missing."""
    answer = agentsrv("serve", SERVER_NAME="a", API_KEY="k" * 32, HOME=str(tmp_path))

    assert CANNOT_START == answer.returncode
    assert "SERVER_NAME needs REDIS_URL" in answer.stderr


def test_one_server_alone_imports_nothing_of_a_fleet(tmp_path: Path) -> None:
    """From its start to its end: no Redis, and of other servers no more than that there are none."""
    code = """
import asyncio, pathlib, sys
from agentsrv.app import make_app
from tests.api.kit import make_config, serve

async def main():
    async with serve(make_app(make_config(pathlib.Path(sys.argv[1])))) as server:
        assert (await server.generate()).status == 200

    of_a_fleet = ("redis", "agentsrv.fleet", "agentsrv.member", "agentsrv.api.routing", "agentsrv.api.forward")
    loaded = {name for name in sys.modules if name.startswith(of_a_fleet)}
    assert loaded == {"agentsrv.fleet", "agentsrv.fleet.connect", "agentsrv.fleet.homes"}, loaded

asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=True, timeout=TIMEOUT_S)
