"""What every kind of `Homes` promises, and what those in Redis promise besides."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import uuid
from contextlib import AsyncExitStack
from hashlib import sha256
from pathlib import Path

import pytest

from agentsrv.errors import Conflict, StartupError, Unavailable
from agentsrv.fleet import registry
from agentsrv.fleet.connect import TIMEOUT_S as TIMEOUT_OF_REDIS_S
from agentsrv.fleet.homes import Homes, LocalHomes, session_key, terminal_key
from agentsrv.fleet.names import number_in, number_of
from agentsrv.fleet.registry import Load
from agentsrv.model import SessionId, TerminalId
from tests.fleet.kit import free_port
from tests.fleet.members import Members
from tests.kit import ROOT, TIMEOUT_S
from tests.redis_server import real_redis

pytestmark = pytest.mark.tools

S = SessionId("s")
REBUILT_S = 3
"""When every key is there again, after Redis has lost all."""


@pytest.fixture(params=["local", "redis"])
async def homes(request: pytest.FixtureRequest, members: Members) -> Homes:
    return LocalHomes() if request.param == "local" else (await members.start("a")).homes


# -- every kind


async def test_claimed_session_is_here(homes: Homes) -> None:
    """What I claim is at home here, however often I claim it."""
    await homes.claim(S)
    await homes.claim(S)

    assert homes.name == await homes.find(session_key(S)) == await homes.place(session_key(S))


async def test_released_session_can_be_claimed_again(homes: Homes) -> None:
    """Its id is free, and mine again when I want it. Releasing what nobody has is fine."""
    await homes.claim(S)
    await homes.release(S)
    await homes.release(S)
    await homes.claim(S)

    assert homes.name == await homes.find(session_key(S))


async def test_new_session_is_placed(homes: Homes) -> None:
    """A server alone takes everything, under an id or without one."""
    assert homes.name == await homes.place(session_key(S)) == await homes.place("")


async def test_announced_and_terminals_are_here(homes: Homes) -> None:
    """Ids that the server makes, and terminals, are at home where they are."""
    await homes.announce(S)
    await homes.claim_terminal(TerminalId("t"))
    await homes.release_terminal(TerminalId("t"))

    assert homes.name == await homes.find(session_key(S))


async def test_ids_of_jobs_are_uuids_and_differ(homes: Homes) -> None:
    """Whatever kind: an id is a UUID, and never comes twice."""
    ids = {homes.new_turn_id() for _ in range(1000)}

    assert 1000 == len(ids) == len({uuid.UUID(id_) for id_ in ids})


# -- a fleet


async def test_id_has_one_home(members: Members) -> None:
    """Of two servers that claim an id at once one gets it; the other hears whose it is."""
    a, b = await members.start("a"), await members.start("b")
    outcomes = await asyncio.gather(*(one.homes.claim(S) for one in (a, b)), return_exceptions=True)
    refusals = [outcome for outcome in outcomes if outcome is not None]

    assert ["session_elsewhere"] == [refusal.code for refusal in refusals if isinstance(refusal, Conflict)]
    assert [await a.homes.find(session_key(S))] == [
        refusal.extra["server"] for refusal in refusals if isinstance(refusal, Conflict)
    ]


async def test_hundreds_ask_at_once(members: Members) -> None:
    """More at once than there are connections to Redis: they wait for each other, and nobody is refused."""
    a = await members.start("a")
    keys = [session_key(f"new-{n}") for n in range(300)]

    assert ["a"] * 300 == await asyncio.gather(*(a.homes.place(key) for key in keys))


async def test_only_its_home_releases_an_id(members: Members) -> None:
    """Compare and delete: a stranger's release changes nothing."""
    a, b = await members.start("a"), await members.start("b")
    await a.homes.claim(S)
    await b.homes.release(S)

    assert "a" == await b.homes.find(session_key(S))


async def test_session_and_terminal_of_one_name_are_two_things(members: Members) -> None:
    """`x` may be a session here and a terminal there."""
    a, b = await members.start("a"), await members.start("b")
    await a.homes.claim(SessionId("x"))
    await b.homes.claim_terminal(TerminalId("x"))

    assert ("a", "b") == (await b.homes.find(session_key("x")), await a.homes.find(terminal_key("x")))


async def test_new_sessions_go_where_there_is_room(members: Members) -> None:
    """The least loaded gets the next one, what was placed since its last beat counted; of equals, this one."""
    a, b = await members.start("a", capacity=2), await members.start("b", capacity=4)
    a.load = b.load = Load(0, 4, accepts=True)
    b.load = Load(2, 4, accepts=True)
    await asyncio.gather(a.registry.look(), b.registry.look())

    assert ["a", "a"] == [await b.homes.place(session_key(f"new-{n}")) for n in range(2)]


async def test_who_takes_no_sessions_gets_none(members: Members) -> None:
    """A door places sessions elsewhere; where all are doors there is no place."""
    a, b = await members.start("a"), await members.start("b")
    a.load = Load(0, 4, accepts=False)
    await a.registry.look()
    assert ["b"] * 4 == [await a.homes.place("") for _ in range(4)]

    b.load = Load(0, 4, accepts=False)
    await b.registry.look()
    with pytest.raises(Unavailable) as refused:
        await a.homes.place(session_key("new"))
    assert "no_server" == refused.value.code


async def test_book_that_is_flushed_is_written_again(
    members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After FLUSHALL an unknown id is nobody's to give until all have said what they have: two beats of each."""
    assert 2 * registry.BEAT_S + TIMEOUT_OF_REDIS_S <= REBUILT_S
    monkeypatch.setattr(registry, "BEAT_S", 3600.0)  # So there are none but those that are asked for here.
    a, b = await members.start("a"), await members.start("b")
    a.keys, b.keys = [f"s:a{n}" for n in range(2500)], ["s:b", "t:b"]
    await a.homes.claim(SessionId("fresh"))  # Not in the database yet.
    a.homes.must_publish = b.homes.must_publish = True
    await asyncio.gather(a.registry.look(), b.registry.look())
    before = sorted(members.redis.do("KEYS", "*"))
    members.redis.do("FLUSHALL")
    with pytest.raises(Unavailable) as refused:
        await b.homes.place(session_key("unknown"))
    assert "directory_incomplete" == refused.value.code

    await asyncio.gather(a.registry.look(), b.registry.look())
    await asyncio.gather(a.registry.look(), b.registry.look())
    assert before == sorted(members.redis.do("KEYS", "*"))
    assert 2503 == members.redis.do("HLEN", "{agentsrv}:homes")
    assert ["a", "a", "b", "b", None] == [
        await b.homes.find(key) for key in ("s:a2499", "s:fresh", "s:b", "t:b", "s:unknown")
    ]


async def test_nobody_knows_what_a_server_has_that_is_away(members: Members) -> None:
    """Flushed while a server is away: unknown ids name it, until it is back or forgotten."""
    a, b = await members.start("a"), await members.start("b")
    await asyncio.gather(a.registry.look(), b.registry.look())
    await b.registry.close()
    members.redis.do("FLUSHALL")
    await a.registry.look()
    await a.published()
    with pytest.raises(Unavailable, match="b") as refused:
        await a.homes.claim(S)
    assert ["b"] == refused.value.extra["servers"]

    assert "forgotten" == await a.scripts.forget_server("b")
    await a.homes.claim(S)
    await a.registry.look()
    assert a.registry.peer("b") is None


async def test_who_leaves_is_still_expected(members: Members) -> None:
    """A graceful end keeps the name and all that is at home there; new sessions go elsewhere at once."""
    a, b = await members.start("a"), await members.start("b")
    await b.homes.claim(S)
    await b.registry.close()

    assert "b" == await a.homes.find(session_key(S))
    assert ["a"] * 3 == [await a.homes.place("") for _ in range(3)]
    with pytest.raises(Conflict):
        await a.homes.claim(S)


async def test_forgotten_server_frees_its_ids(members: Members) -> None:
    """`fleet forget`: what was there is nobody's. One that is alive is not forgotten."""
    a, b = await members.start("a"), await members.start("b")
    await b.homes.claim(S)
    assert ["alive", "unknown"] == [await a.scripts.forget_server(name) for name in ("b", "nobody")]
    await b.registry.close()

    assert "forgotten" == await a.scripts.forget_server("b")
    await a.homes.claim(S)


async def test_redis_that_starts_again_may_have_forgotten_the_last_moment(members: Members) -> None:
    """Another process of Redis, with the same data: those who were alive have to say again what they have."""
    a, b = await members.start("a"), await members.start("b")
    b.keys = ["s:lost"]
    # As a failover does it: the new master says another run_id, and has not heard of the last claim.
    members.redis.do("HSET", "{agentsrv}:epoch", "run", "another")
    with pytest.raises(Unavailable) as refused:
        await a.homes.claim(SessionId("lost"))
    assert "directory_incomplete" == refused.value.code

    await asyncio.gather(a.registry.look(), b.registry.look())
    await asyncio.gather(a.registry.look(), b.registry.look())
    with pytest.raises(Conflict):
        await a.homes.claim(SessionId("lost"))


@pytest.mark.parametrize("field", [("active", "many"), ("address", "http://b:99999"), ("address", "b")])
async def test_entry_that_cannot_be_read_harms_nobody(members: Members, field: tuple[str, str]) -> None:
    """Of a later version perhaps: it is as it was, and the others are known as ever."""
    a, b = await members.start("a"), await members.start("b")
    await a.registry.look()
    await b.registry.close()
    members.redis.do("HSET", "{agentsrv}:server:b", *field)
    await members.start("c")
    await a.registry.look()

    assert await a.registry.is_heard()
    assert ["http://b.example", "http://c.example"] == [peer.address for peer in a.registry.others()]


async def test_second_of_a_name_does_not_start(members: Members) -> None:
    """Two directories, one name: the first one stays."""
    await members.start("a")

    with pytest.raises(StartupError, match=r"a runs already, at http://a\.example"):
        await members.make("a", directory="elsewhere").registry.start()


async def test_successor_on_the_same_volume_takes_over_at_once(members: Members) -> None:
    """The directory's lock proves the one before dead: the name is free without waiting, and that one hears of it."""
    before = await members.start("a")
    await members.start("a", directory="a")
    await before.registry.look()

    assert ["a"] == before.superseded


async def test_two_names_with_one_number_do_not_go_together(members: Members) -> None:
    """Ids of jobs tell servers apart: who cannot be told apart does not start."""
    one, other = names_of_one_number()
    await members.start(one)

    with pytest.raises(StartupError, match="same number"):
        await members.make(other).registry.start()


async def test_ids_of_jobs_tell_their_server(members: Members) -> None:
    """Version 8, and the first 32 bits are those of the name's SHA-256."""
    a = await members.start("a")
    task_id = uuid.UUID(a.homes.new_turn_id())

    assert (8, uuid.RFC_4122) == (task_id.version, task_id.variant)
    assert sha256(b"a").hexdigest()[:8] == number_of("a") == number_in(str(task_id))
    assert number_in(str(uuid.uuid4())) is None


async def test_without_redis_nothing_new_is_claimed(members: Members) -> None:
    """Redis is away: a client's own id is refused, the server's own is told later, and nobody waits for a time-out."""
    a = await members.start("a")
    members.redis.stop()
    with pytest.raises(Unavailable) as refused:
        await a.homes.claim(S)
    assert "redis_unavailable" == refused.value.code
    await a.homes.announce(SessionId("own"))
    a.keys = ["s:own"]
    members.redis.start()

    await a.registry.look()
    await a.published()
    assert "a" == await a.homes.find("s:own")


@pytest.mark.parametrize("trouble", [("REPLICAOF", "127.0.0.1", "1"), ("CONFIG", "SET", "maxmemory", "1")])
async def test_redis_that_takes_nothing_is_as_good_as_none(
    members: Members, trouble: tuple[str, ...]
) -> None:
    """A replica, or one that is full: nothing new is claimed, and all is well again when it is."""
    a = await members.start("a")
    members.redis.do(*trouble)
    await a.registry.look()
    assert not await a.registry.is_heard()
    with pytest.raises(Unavailable) as refused:
        await a.homes.claim(S)
    assert "redis_unavailable" == refused.value.code

    members.redis.do("REPLICAOF", "NO", "ONE")
    members.redis.do("CONFIG", "SET", "maxmemory", "0")
    await a.published()
    await a.homes.claim(S)


async def test_redis_that_does_not_believe_us_is_as_good_as_none(members: Members) -> None:
    """A wrong password: the server starts without it, says why, and does not say the password."""
    members.redis.do("CONFIG", "SET", "requirepass", "right")
    a = members.make("a")
    await a.registry.start()

    assert "uthentic" in (a.registry.view.problem or "")
    assert not await a.registry.is_heard()
    members.redis.process.terminate()  # type: ignore[union-attr]  # It answers nobody here any more.


RIGHTS = re.findall(r"^user (agentsrv .+)$", (ROOT / "docs" / "fleet.md").read_text(), re.MULTILINE)
"""Those that the documentation gives to a user of Redis."""


@pytest.mark.parametrize("taken", ["", "-info", "~other:*"])
async def test_user_of_redis_needs_these_rights(members: Members, taken: str) -> None:
    """All that a server asks Redis for; where one is missing it starts without, and says so."""
    (user,) = RIGHTS
    rules = [taken if taken[:1] == rule[:1] == "~" else rule for rule in user.split()]
    members.redis.do("ACL", "SETUSER", *rules, *([taken] if taken.startswith("-") else []))
    a = members.make("a", url=f"unix://agentsrv:PASSWORD@{members.redis.path}")
    await a.registry.start()
    assert bool(taken) == bool(a.registry.view.problem), a.registry.view.problem
    if not taken:
        a.registry.serve()
        await a.published()
        await a.homes.claim(S)
        assert "a" == await a.homes.find(session_key(S))
        await a.homes.release(S)
        b = await members.start("b")
        await b.homes.claim(S)
        await b.registry.close()
        assert "forgotten" == await a.scripts.forget_server("b")
        assert None is await a.homes.find(session_key(S))


async def test_redis_behind_tls(tmp_path: Path) -> None:
    """`rediss://`: with the right certificate it is asked, with a wrong one it is not believed."""
    port, key, certificate = free_port(), tmp_path / "key.pem", tmp_path / "certificate.pem"
    make_certificate(key, certificate)
    options = ("--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key))
    with real_redis(tmp_path, *options, "--tls-auth-clients", "no") as redis:
        async with AsyncExitStack() as stack:
            members = Members(redis, tmp_path, stack)
            believed = members.make("a", url=f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}")
            await believed.start()
            await believed.homes.claim(S)
            doubted = members.make("b", url=f"rediss://127.0.0.1:{port}/0")
            await doubted.registry.start()
            assert "certificate" in (doubted.registry.view.problem or "").lower()
    assert 0 == len(doubted.registry.others())


def make_certificate(key: Path, certificate: Path) -> None:
    subject = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")
    files = ("-keyout", str(key), "-out", str(certificate))
    command = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *files, *subject)
    subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT_S)


async def test_what_is_remembered_is_for_nobody_else(members: Members, tmp_path: Path) -> None:
    """STATE_DIR/fleet.json: 0600, with the others' addresses; one that is damaged, or a link, is made anew."""
    file = tmp_path / "a" / "fleet.json"
    file.parent.mkdir()
    for damage in (lambda: file.write_text("{"), lambda: file.symlink_to(tmp_path / "elsewhere")):
        file.unlink(missing_ok=True)
        damage()
        a, b = await members.start("a"), await members.start("b")
        await a.registry.look()
        assert {"b": "http://b.example"} == json.loads(file.read_text())["peers"]
        assert (0o100600, False) == (file.lstat().st_mode, (tmp_path / "elsewhere").exists())
        await asyncio.gather(a.registry.close(), b.registry.close())


async def test_clash_is_named_and_changes_nothing(members: Members, caplog: pytest.LogCaptureFixture) -> None:
    """What two servers have stays where it was known first; the other says so, once in its log."""
    a, b = await members.start("a"), await members.start("b")
    await a.homes.claim(S)
    b.keys = [session_key(S)]
    b.homes.must_publish = True
    await b.registry.look()

    b.homes.must_publish = True
    await b.registry.look()

    assert ["s:s is here, and at home on server a"] == [one.message for one in caplog.records]
    assert {session_key(S): "a"} == b.registry.clashes
    assert "a" == await b.homes.find(session_key(S))


def names_of_one_number() -> tuple[str, str]:
    """Found by trying some hundred thousand."""
    seen: dict[str, str] = {}
    for n in range(1_000_000):
        name = f"s{n}"
        if (other := seen.setdefault(number_of(name), name)) != name:
            return other, name
    raise AssertionError("there are none")
