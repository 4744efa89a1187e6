"""A session is served by whichever server of a fleet is asked."""

from __future__ import annotations

import gzip
import io
import json
import os
import socket
import subprocess
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from agentsrv.access import EVERYTHING, Caller
from agentsrv.api import hop
from agentsrv.api.forward import IDLE_CONNECTIONS, IDLE_S
from agentsrv.api.watches import LOOK_S
from bench.files import upload
from tests.fleet.kit import FleetOfServers, fleet_secret, home_of, over_a_hop
from tests.kit import KEY, TIMEOUT_S, Server, rss_bytes, script, wait_until

pytestmark = pytest.mark.tools

MIB = 1 << 20
ESTABLISHED = "01"
"""In /proc/net/tcp."""


def test_prompt_through_another_server_streams(home: Server, door: Server) -> None:
    """I prompt, follow and read a session through a server that is not its home."""
    events = door.generate(script("say hello")).rest()

    assert events[-1].json["status"] == "completed"
    assert home_of(door, "s") == home_of(home, "s") == "home"
    assert [event.data for event in home.history()] == [event.data for event in events]
    assert [event.data for event in door.history()] == [event.data for event in events]


@pytest.mark.parametrize("more", ["", "?lastEventId="])
def test_who_has_seen_nothing_yet_begins_at_a_home(door: Server, more: str) -> None:
    """An empty `Last-Event-ID`, as some libraries send it with the first request, is no coming back."""
    prompt = {"session_id": f"new{len(more)}", "prompt": script("say hello")}
    events = door.ask("POST", f"/generate/v2{more}", prompt, **{"Last-Event-ID": ""}).rest()

    assert events[-1].json["status"] == "completed"
    assert home_of(door, prompt["session_id"]) == "home"


def test_answers_about_a_session_say_its_home(home: Server, door: Server) -> None:
    """`X-Agentsrv-Server`, whoever is asked; what is about no session does not have it."""
    task = door.start_job(script("say hello"), "told")
    door.ended_job(task)
    about = [
        *(("GET", f"/sessions/told{more}") for more in ("", "/messages", "/queue", "/allowances")),
        *(
            ("GET", f"/generate/v2/jobs{more}")
            for more in ("?session_id=told", f"/{task}", f"/{task}/stream")
        ),
        *(("HEAD", "/sessions/told"), ("PUT", "/sessions/told")),
    ]
    for server in (home, door):
        for method, path in about:
            with server.ask(method, path, {"name": "x"} if method == "PUT" else None) as answer:
                assert (200, "home") == (answer.status, answer.headers["X-Agentsrv-Server"]), path
        with server.generate(script("say more"), "told") as stream:
            assert "home" == stream.headers["X-Agentsrv-Server"]
        for path in ("/agents", "/servers", "/health", "/sessions"):
            assert None is server.ask("GET", path).headers["X-Agentsrv-Server"], path


def test_request_keeps_its_id_and_its_compression(home: Server, door: Server) -> None:
    """The home's log has the id that I gave; what is compressed for me there comes to me as it is."""
    for _ in range(5):
        door.generate(script("say hello"), "kept").rest()
    answers = [
        server.ask(
            "GET", "/generate/v2/jobs?session_id=kept", Accept_Encoding="gzip", X_Request_Id="mine-1234"
        )
        for server in (home, door)
    ]
    told = [json.loads(gzip.decompress(answer.body())) for answer in answers]

    assert ["gzip"] * 2 == [answer.headers["Content-Encoding"] for answer in answers]
    assert told[0]["jobs"] == told[1]["jobs"]
    assert ["mine-1234"] * 2 == [answer.headers["X-Request-Id"] for answer in answers]
    wait_until(lambda: home.log.count("request_id=mine-1234") == 2, what="the home has logged both")


def test_idle_connections_between_servers_are_bounded(home: Server, door: Server) -> None:
    """A hundred streams end at once: most of their connections end as well."""
    task = door.start_job(script("hang"), "many")
    streams = [door.follow(task) for _ in range(IDLE_CONNECTIONS + 40)]
    for stream in streams:
        stream.take(1)
    assert connections_of(door, home) >= len(streams)
    assert 200 == door.stop("many").status
    for stream in streams:
        stream.rest()

    # Well before they end by themselves.
    wait_until(lambda: connections_of(door, home) <= IDLE_CONNECTIONS + 2, timeout_s=IDLE_S / 3)


def connections_of(client: Server, server: Server) -> int:
    """How many one has to the other."""
    its_own = set()
    for link in Path(f"/proc/{client.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # It is closed by now.
            its_own.add(os.readlink(link))
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    to_server = [line for line in lines if line[2].endswith(f":{server.port:04X}") and line[3] == ESTABLISHED]
    return sum(f"socket:[{line[9]}]" in its_own for line in to_server)


def test_job_is_followed_and_stopped_through_another_server(home: Server, door: Server) -> None:
    """I begin a job, follow it from the middle and stop it, all through the wrong server."""
    task = door.start_job(script("say one", "hang"), "stopped")
    first = door.follow(task).take(2)
    assert door.stop("stopped").status == 200
    rest = door.follow(task, after=first[-1].id).rest()

    assert rest[-1].json["status"] == "cancelled"
    assert [event.id for event in first + rest] == list(range(1, len(first + rest) + 1))
    assert door.job(task)["status"] == home.job(task)["status"] == "cancelled"


def test_files_go_through_another_server(home: Server, door: Server) -> None:
    """I upload a file, get it back in an archive, and am told of a change, all through the wrong server."""
    base, data = home.workspace.parent, bytes(3_000_000)
    upload(door, base / "up", [("large.bin", data)])()
    with tarfile.open(fileobj=io.BytesIO(door.ask("GET", "/filesystem/archive?path=up").body())) as archive:
        assert [len(data)] == [member.size for member in archive if member.isfile()]

    with door.ask("GET", "/filesystem/watch?path=up") as watch:
        watch.take(1)
        (base / "up" / "new").touch()
        changes = watch.until(lambda event: event.type == "changes").json["changes"]
        assert [{"path": "up/new", "change": "added"}] == changes


def test_upload_is_refused_before_it_is_sent(home: Server, door: Server) -> None:
    """A file that says that it is too large: whichever server I ask, I hear that before I have sent any of it."""
    head = (
        f"PUT /filesystem/content?path=x HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
        "Content-Length: 1000000000000000\r\n"
    )
    for expect in ("", "Expect: 100-continue\r\n"):
        answers = []
        for server in (home, door):
            with socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S) as client:
                client.sendall(f"{head}{expect}\r\n".encode())
                answers.append(client.recv(20))
        assert [b"HTTP/1.1 413 Request"] * 2 == answers


def test_large_prompt_goes_through_another_server(door: Server) -> None:
    """Several MB of it."""
    text = "x" * 3_000_000
    assert "completed" == door.generate(text, "large").rest()[-1].json["status"]


def test_what_is_refused_leaves_its_id_free(home: Server, door: Server, standing: FleetOfServers) -> None:
    """Whether it is wrong at first sight or only at home: no id is taken for it."""
    wrong = [
        ("/generate/v2", {"session_id": "free", "prompt": 7}),
        ("/generate/v2", {"session_id": "free", "prompt": "x", "agent": "none"}),
        ("/sessions", {"sessionId": "free", "cwd": "/nowhere"}),
        ("/sessions", {"sessionId": "free", "server": "nobody"}),
        ("/sessions/none/fork", {"sessionId": "free"}),
    ]
    for server in (home, door):
        for path, body in wrong:
            assert server.ask("POST", path, body).status in {400, 403, 404}, (path, body)
            assert 0 == standing.redis.do("HEXISTS", "{agentsrv}:homes", "s:free")


def test_client_that_leaves_ends_the_hop(home: Server, door: Server) -> None:
    """I go away from a stream: within a second, in which it is looked twice, neither server holds anything for me."""
    assert 2 * LOOK_S <= 1
    task = door.start_job(script("hang"), "left")
    stream = door.follow(task)
    stream.take(1)
    stream.close()

    # A line of the access log is written when an answer has ended.
    wait_until(lambda: f"GET /generate/v2/jobs/{task}/stream" in home.log, what="the home's answer ends")
    assert door.stop("left").status == 200


def test_who_does_not_know_the_secret_is_no_server(home: Server, door: Server) -> None:
    """A hop, and whose request it is, are believed with the fleet's secret only; with it nothing is passed on again."""
    everything = hop.told(Caller("mallory", EVERYTHING, b""))
    secret = fleet_secret()
    assert 201 == door.ask("POST", "/sessions", {"sessionId": "mine", "server": "home"}).status
    for server in (home, door):
        forged = {"X_Agentsrv_Hop": "0" * len(secret), "X_Agentsrv_Caller": everything}
        assert 401 == server.ask("GET", "/sessions/mine", Authorization="", **forged).status
        assert 200 == server.ask("GET", "/sessions/mine", **forged).status
        assert 401 == server.ask("GET", "/sessions/mine", Authorization="", X_Agentsrv_Hop=secret).status

    told = {"Authorization": "", "X_Agentsrv_Hop": secret, "X_Agentsrv_Caller": everything}
    assert (200, 404) == tuple(one.ask("GET", "/sessions/mine", **told).status for one in (home, door))


def test_secret_is_made_of_the_first_key() -> None:
    """By HKDF, as another program has it: nobody finds the way back to the key, nor to what else is made of it."""
    words = ("digest:SHA256", f"key:{KEY}", "info:agentsrv fleet 1")
    options = [part for word in words for part in ("-kdfopt", word)]
    command = ("openssl", "kdf", "-keylen", "32", *options, "-binary", "HKDF")
    made = subprocess.run(command, capture_output=True, check=True, timeout=TIMEOUT_S)

    assert made.stdout.hex() == fleet_secret()


@pytest.mark.parametrize(
    "change", [lambda s: s[:-1], lambda s: s + "0", str.upper, lambda s: s[::-1], lambda s: ""]
)
def test_secret_that_is_nearly_right_is_none(home: Server, change: Callable[[str], str]) -> None:
    """Its beginning, more than it, the same in capitals: such a request is a stranger's, with a key a client's."""
    given = over_a_hop("home") | {"X_Agentsrv_Hop": change(fleet_secret())}
    del given["X_Agentsrv_To"]

    assert [401, 200] == [
        home.ask("GET", "/sessions", **given, **key).status for key in ({"Authorization": ""}, {})
    ]
    assert 200 == home.ask("GET", "/sessions", **over_a_hop("home"), Authorization="").status


def test_request_is_its_callers(home: Server, door: Server) -> None:
    """Whoever it says that it is from: the door has looked at its key, and tells the home whose it is."""
    forged = {"X_Agentsrv_Caller": hop.told(Caller("mallory", EVERYTHING, b""))}
    made = door.ask("POST", "/auth/tokens", {"name": "phone"}).json
    assert 201 == door.ask("POST", "/sessions", {"sessionId": "whose", "server": "home"}).status
    for headers in ({}, {"Authorization": f"Bearer {made['token']}"}):
        assert 200 == door.ask("PUT", "/sessions/whose", {"name": "x"}, **headers, **forged).status

    def told() -> list[str]:
        entries = home.ask("GET", "/audit").json["entries"]
        return [one["key"] for one in entries if one["target"] == "whose"]

    wait_until(lambda: len(told()) == 2, what="the audit log is written, a moment later")
    assert ["phone", "API_KEY"] == told()


def test_clashes_are_counted_for_all_and_named_with_a_key(
    home: Server, door: Server, standing: FleetOfServers
) -> None:
    """An id that two servers have: `/health`, which anybody may ask, says how many, `GET /servers` says which."""
    assert 201 == door.ask("POST", "/sessions", {"sessionId": "twice", "server": "home"}).status
    try:
        for owner, count in (("door", 1), ("home", 0)):
            standing.redis.do("HSET", "{agentsrv}:homes", "s:twice", owner)
            standing.redis.do("HDEL", "{agentsrv}:epoch", "p:home")  # So it says again what it has.
            wait_until(
                lambda: home.ask("GET", "/health", Authorization="").json["fleet"]["clashes"] == count  # noqa: B023
            )
            assert ["twice"] * count == home.ask("GET", "/servers").json["clashes"]
    finally:
        standing.redis.do("HSET", "{agentsrv}:homes", "s:twice", "home")


def test_client_that_takes_nothing_holds_back_the_home(home: Server, door: Server) -> None:
    """I ask for 100 MB and read none of it: it waits where it is, not in the memory of another server."""
    with (home.workspace.parent / "huge.bin").open("wb") as file:
        file.truncate(100 * MIB)
    before = rss_bytes(door.pid)
    answer = door.ask("GET", "/filesystem/content?path=huge.bin")
    wait_until(lambda: is_held_back(home), what="nobody takes what the home sends")

    assert rss_bytes(door.pid) - before < 8 * MIB
    assert 100 * MIB == len(answer.body())


def is_held_back(server: Server) -> bool:
    """Does the kernel keep much that the server has sent, and nobody has taken?"""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    queues = [line[4].partition(":")[0] for line in lines if line[1].endswith(f":{server.port:04X}")]
    return any(int(queue, 16) > MIB // 4 for queue in queues)
