"""What servers say to Redis and ask it, when, and how often."""

from __future__ import annotations

import asyncio
import re

import pytest

from agentsrv.errors import Unavailable
from agentsrv.fleet import registry
from agentsrv.fleet.connect import TIMEOUT_S
from agentsrv.fleet.homes import session_key
from agentsrv.fleet.registry import Load
from agentsrv.fleet.scripts import Scripts
from agentsrv.tasks import Tasks
from tests.fleet.members import Members
from tests.redis_server import RedisServer

pytestmark = pytest.mark.tools

PUBLISH = ("EVALSHA", "sha", "3", "homes", "servers", "epoch", "name", "id", "is_last")
"""The words of a call before its entries."""


async def test_what_was_placed_counts_until_the_next_beat(
    members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of equals the one that is asked takes it; who says how much it does is counted by that alone."""
    monkeypatch.setattr(registry, "BEAT_S", 3600.0)  # So there are none but those that are asked for here.
    a, b = await members.start("a"), await members.start("b")
    b.load = Load(2, 4, accepts=True)
    await b.registry.look()
    placed = [await b.homes.place(session_key(f"new-{n}")) for n in range(4)]
    await a.registry.look()

    assert ["a", "a", "b", "a"] == placed
    assert ["a", "a"] == [await b.homes.place(session_key(f"later-{n}")) for n in range(2)]


async def test_beat_lasts_four_times_as_long_as_it_takes_to_the_next(members: Members) -> None:
    """By Redis's clock; who leaves is away from that moment on."""
    a, b = await members.start("a"), await members.start("b")
    assert (1.0, 4.0) == (registry.BEAT_S, registry.TTL_S)
    await b.registry.look()
    assert 0 < (await a.scripts.book())["servers"]["b"]["left"] <= 4000
    await b.registry.close()

    book = await a.scripts.book()
    assert book["servers"]["b"]["left"] <= 0
    assert {"a", "b"} == set(book["expected"])


async def test_all_is_said_a_thousand_at_a_time(members: Members) -> None:
    """So that Redis, which does one thing at a time, keeps nobody waiting for long."""
    a = await members.start("a")
    members.redis.do("CONFIG", "SET", "slowlog-log-slower-than", "0", "slowlog-max-len", "100000")
    a.keys, a.homes.must_publish = [f"s:{n}" for n in range(2500)], True
    await a.registry.look()

    told = [one[3] for one in members.redis.do("SLOWLOG", "GET", "-1")]
    assert [1000, 1000, 500] == [size for command in told[::-1] if (size := entries_in(command)) > 1]


def entries_in(command: list[str]) -> int:
    """How many keys a call of PUBLISH has. Redis's log says of the words behind the 31st only how many there are."""
    if command[0] != "EVALSHA" or not command[-1].startswith("..."):
        return 0
    return len(command) - 1 + int(re.findall(r"\d+", command[-1])[0]) - len(PUBLISH)


async def test_programs_are_sent_to_redis_once(members: Members) -> None:
    """By their hash from then on; also one that forgets them, or is a new one, has them again at once."""
    a = await members.start("a")
    for n in range(50):
        await a.homes.place(session_key(f"new-{n}"))
    assert calls(members.redis, "evalsha") >= 50
    assert calls(members.redis, "eval") <= len(("beat", "publish", "place"))
    members.redis.do("SCRIPT", "FLUSH")

    assert "a" == await a.homes.place(session_key("more"))


async def test_redis_that_is_away_is_not_asked(members: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two beats: whoever wants to know who has an id hears at once that nobody can say."""
    monkeypatch.setattr(registry, "BEAT_S", 3600.0)
    a = await members.start("a")
    members.redis.do("CONFIG", "SET", "maxmemory", "1")
    await a.registry.look()
    before = calls(members.redis, "evalsha")
    for n in range(20):
        for ask in (a.homes.find, a.homes.place):
            with pytest.raises(Unavailable, match="Redis is away"):
                await ask(session_key(f"new-{n}"))
        await a.registry.look()

    assert before == calls(members.redis, "evalsha")


async def test_all_is_said_again_to_a_redis_that_answers_again(members: Members) -> None:
    """The same process, and nothing tells that it has lost something meanwhile."""
    a = await members.start("a")
    a.keys = ["s:mine"]
    a.homes.must_publish = True
    await a.registry.look()
    members.redis.do("CONFIG", "SET", "maxmemory", "1")
    await a.registry.look()
    assert not await a.registry.is_heard()
    assert 1 == members.redis.do("HDEL", "{agentsrv}:homes", "s:mine")
    members.redis.do("CONFIG", "SET", "maxmemory", "0")
    await a.published()

    assert "a" == await a.homes.find("s:mine")


async def test_hundreds_who_look_again_share_an_answer(members: Members) -> None:
    """Redis is asked for all of them, and nobody waits for the looks of those before."""
    a = await members.start("a")
    await a.registry.look()
    before = beats(members.redis)
    await asyncio.gather(*(a.registry.look() for _ in range(300)))

    assert beats(members.redis) - before <= 3


def beats(redis: RedisServer) -> int:
    """How often any server has said that it is here."""
    return calls(redis, "zadd")


def calls(redis: RedisServer, command: str) -> int:
    return int(redis.do("INFO", "commandstats")[f"cmdstat_{command}"]["calls"])


async def test_call_is_cancelled_at_any_moment(members: Members) -> None:
    """Else the beat of a server that stops could go on for ever, and the server with it."""
    a, tasks = await members.start("a"), Tasks("test")
    for steps in range(20):
        asking = tasks.start(a.scripts.book(), name="asking")
        for _ in range(steps):
            await asyncio.sleep(0)
        if not asking.done():
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking


async def test_call_that_fails_is_not_made_again() -> None:
    """By nobody: neither the library nor we. What Redis may have done is not to be done twice."""
    asked = 0

    def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        writer.transport.abort()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        scripts = Scripts(f"redis://127.0.0.1:{port}/0")
        with pytest.raises(Unavailable):
            await scripts.find("s:x")
        await scripts.close()

    assert (1, 1.0) == (asked, TIMEOUT_S)
