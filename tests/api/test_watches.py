"""Whether a server lives that says nothing."""

from __future__ import annotations

import asyncio

import pytest

from agentsrv.api.watches import FAILURES, Watches
from agentsrv.fleet.registry import Peer
from agentsrv.tasks import Tasks


@pytest.mark.parametrize(
    ("answers", "lives"), [([True], True), ([False, True], True), ([False] * FAILURES, False)]
)
async def test_one_probe_is_for_all_that_wait(answers: list[bool], lives: bool) -> None:
    """Two hundred connections that are late are no two hundred questions more for a server that is busy."""
    left = list(answers)

    async def answer(peer: Peer, timeout_s: float) -> bool:
        await asyncio.sleep(0)
        return left.pop(0)

    tasks = Tasks("probes")
    watches = Watches(tasks, answer)
    found = await asyncio.gather(*(watches.lives(Peer("busy", "http://busy")) for _ in range(200)))
    await tasks.close()

    assert found == [lives] * 200
    assert left == []
