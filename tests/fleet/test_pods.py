"""The pods of deploy/kubernetes, as processes: their environment makes a fleet of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.fleet.kit import free_port, home_of, wait_for_peers
from tests.kit import KEY, Server, wait_until
from tests.redis_server import real_redis
from tests.test_manifests import DOCKERFILE, FLEETS, environment, one

pytestmark = pytest.mark.tools

IMAGE = dict(re.findall(r"(?:^ENV|^   ) ([A-Z_]+)=(\S+)", DOCKERFILE, re.MULTILINE))


@dataclass(slots=True)
class Pod(Server):
    """A server with what its pod gets. What only a cluster has is somewhere else: volumes, addresses, names."""

    places: dict[str, str] = field(default_factory=dict)
    """What stands for what."""

    def environment(self) -> dict[str, str]:
        usual = Server.environment(self)
        pod = IMAGE | self.settings
        for place, instead in self.places.items():
            pod = {name: value.replace(place, instead) for name, value in pod.items()}
        # A network of one's own is an address of one's own here.
        own = {"HOST": self.address, "PORT": str(self.port), "API_KEY": KEY}
        return {"PATH": usual["PATH"], "PYTHONPATH": usual["PYTHONPATH"], "HOME": str(self.home)} | pod | own


@pytest.fixture(params=[FLEETS[0], pytest.param(FLEETS[1], marks=pytest.mark.nightly)])
def pods(request: pytest.FixtureRequest, tmp_path: Path, fake_agent: Path) -> Iterator[list[Pod]]:
    """As many as the StatefulSet has, at 127.0.0.2 and so on."""
    redis_port, port = free_port(), free_port()
    count = one(request.param, "StatefulSet", r"agentsrv\Z")["spec"]["replicas"]
    with ExitStack() as stack:
        stack.enter_context(real_redis(tmp_path, "--port", str(redis_port)))
        pods = []
        for n in range(count):
            volume, address = tmp_path / f"volume{n}", f"127.0.0.{n + 2}"
            volume.mkdir()
            places = {
                "agentsrv-redis:6379": f"127.0.0.1:{redis_port}",
                ":3000": f":{port}",
                "/home/appuser": str(volume),
                "/var/lib/agentsrv": str(volume / "data"),
            }
            settings = environment(request.param, f"agentsrv-{n}", address)
            pods.append(Pod(volume, fake_agent, settings, port, address=address, places=places))
            stack.callback(pods[-1].close)
        with ThreadPoolExecutor() as pool:
            list(pool.map(Pod.start, pods))
        yield pods


def test_pods_are_a_fleet(pods: list[Pod], tmp_path: Path) -> None:
    """They find each other; one that comes back at another address with its volume is found there."""
    wait_for_peers(*pods)
    assert 201 == pods[1].ask("POST", "/sessions", {"sessionId": "s", "server": "agentsrv-0"}).status
    pods[0].kill9()
    address = f"127.0.0.{len(pods) + 2}"
    settings = {name: value.replace(pods[0].address, address) for name, value in pods[0].settings.items()}
    moved = replace(pods[0], address=address, settings=settings).start()
    try:
        wait_until(lambda: pods[1].ask("GET", "/sessions/s").status == 200, what="it is found again")

        assert "agentsrv-0" == home_of(pods[2], "s")
        assert 200 == moved.ask("GET", "/health/ready", Authorization="").status
    finally:
        moved.close()
