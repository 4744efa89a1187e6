"""Clients that come and go: reconnects, several followers, a client that does not read."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from agentsrv.eventlog import CONGESTED_BYTES
from tests.conftest import ServerMaker
from tests.kit import Event, Server, open_files, rss_bytes, script, wait_until

MIB = 1 << 20


def test_five_hundred_reconnects_at_random_bytes(server: Server) -> None:
    """My connection breaks 500 times, anywhere in a frame; the server restarts meanwhile; I get each event once."""
    chance = random.Random(2)
    task_id = server.start_job(script("rate 1000 5500 300"))
    seen: list[Event] = []
    for reconnect in range(500):
        if reconnect % 125 == 124:
            server.kill9()
            server.start()
        after = seen[-1].id if seen else 0
        seen += server.follow(task_id, after=after).read_bytes(chance.randrange(1, 6000))
    seen += server.follow(task_id, after=seen[-1].id).rest()

    assert [event.id for event in seen] == list(range(1, len(seen) + 1))
    assert seen == server.follow(task_id).rest()


def test_many_followers_see_the_same_bytes(server: Server) -> None:
    """Eight clients follow a flood, two of them from its middle: all get the same."""
    task_id = server.start_job(script("lines 2500 300", "sleep 0.3", "lines 2500 300"))
    with server.follow(task_id) as first:
        first.until(lambda event: event.id == 2000)
        followers = [server.follow(task_id, after=after) for after in (0, 0, 0, 0, 0, 0, 2000, 2000)]
        streams = [follower.rest() for follower in followers]

    whole = server.follow(task_id).rest()
    assert streams == [whole] * 6 + [whole[2000:]] * 2
    assert len(whole) == 5000 + 9


def test_lost_client_does_not_end_its_job(server: Server) -> None:
    """I post a prompt in the foreground and go away: the job is finished without me."""
    with server.generate(script("rate 200 40 300")) as stream:
        task_id = stream.headers["X-Task-Id"]
        stream.take(5)

    assert server.ended_job(task_id)["status"] == "completed"


@pytest.mark.door
def test_lost_client_may_ask_to_cancel(server: Server) -> None:
    """With on_disconnect=cancel my going away stops the job."""
    with server.generate(script("hang"), on_disconnect="cancel") as stream:
        task_id = stream.headers["X-Task-Id"]
        stream.take(3)

    assert server.ended_job(task_id)["status"] == "cancelled"


def test_client_with_the_last_event_gets_nothing_more(server: Server) -> None:
    """A browser that reconnects after `done` is told 204, so that it stops."""
    events = server.generate("hi").rest()
    task_id = events[-1].json["taskId"]

    assert server.follow(task_id, after=events[-1].id).status == 204
    assert server.follow(task_id, after=events[-1].id + 1).status == 400


def test_client_that_does_not_read_costs_little_and_slows_nobody(
    make_server: ServerMaker, bench_agent: Path
) -> None:
    """Twenty clients stop reading a flood of 60 MB: under 1 MB each, one that reads gets all, the stalled are cut."""
    server = make_server(CLAUDE_PATH=str(bench_agent), STALL_TIMEOUT="10")
    flood = script("lines 100000 600")
    server.generate(flood).rest()
    before, sockets_before = rss_bytes(server.pid), sockets(server)
    with server.generate(flood) as reader:
        task_id = reader.headers["X-Task-Id"]
        stalled = [server.follow(task_id) for _ in range(20)]
        highest = 0
        for event in reader:
            if event.id % 5000 == 0:
                highest = max(highest, rss_bytes(server.pid))
        received = len(reader.events)

    assert received == 100_000 + 9
    # Besides, what a slow disk has not taken yet is in memory twice: as data, and as it is sent.
    assert highest - before < 20 * MIB + 2 * CONGESTED_BYTES
    wait_until(lambda: sockets(server) <= sockets_before, what="the stalled clients are cut")
    assert all(stream.rest()[-1].type != "done" for stream in stalled)
    newest = stalled[0].events[-1].id
    assert server.follow(task_id, after=newest).take(1)[0].id == newest + 1


def sockets(server: Server) -> int:
    return sum(name.startswith("socket:") for name in open_files(server.pid))
