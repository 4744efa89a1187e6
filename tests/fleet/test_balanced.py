"""Three servers behind HAProxy, which gives each connection to the next one."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.fleet.kit import (
    UPGRADE,
    FleetOfServers,
    fleet_of,
    free_port,
    home_of,
    over_a_hop,
    servers_of,
    wait_for_peers,
)
from tests.kit import TIMEOUT_S, Server, script, wait_until, write_fake_agent

pytestmark = pytest.mark.tools

CONFIGURATION = """
global
    maxconn 1000
defaults
    mode tcp
    timeout connect 5s
    timeout client 10m
    timeout server 10m
frontend agents
    bind 127.0.0.1:{port}
    default_backend servers
backend servers
    balance roundrobin
{servers}
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetOfServers]:
    directory = tmp_path_factory.mktemp("balanced")
    with fleet_of(directory, write_fake_agent(directory / "claude")) as fleet:
        wait_for_peers(*fleet.start_all("a", "b", "c"))
        yield fleet


@pytest.fixture(scope="module")
def balanced(fleet: FleetOfServers) -> Iterator[Server]:
    """The address behind which they are."""
    program = shutil.which("haproxy") or shutil.which("/usr/sbin/haproxy")
    if program is None:
        pytest.fail("haproxy is not installed; `python3 dev.py tools` does it")
    port = free_port()
    lines = [f"    server {name} 127.0.0.1:{one.port}" for name, one in fleet.servers.items()]
    settings = fleet.directory / "haproxy.cfg"
    settings.write_text(CONFIGURATION.format(port=port, servers="\n".join(lines)))
    proxy = subprocess.Popen([program, "-f", str(settings)])
    try:
        server = replace(fleet.servers["a"], port=port)
        wait_until(lambda: is_up(server), what="haproxy is ready")
        yield server
    finally:
        proxy.terminate()
        proxy.wait(TIMEOUT_S)


def is_up(server: Server) -> bool:
    try:
        return server.ask("GET", "/health").status == 200
    except OSError:
        return False


def test_sessions_live_on_all_and_are_found_from_all(fleet: FleetOfServers, balanced: Server) -> None:
    """I make sessions, prompt, follow and stop; every request may arrive anywhere."""
    for n in range(6):
        assert 201 == balanced.ask("POST", "/sessions", {"sessionId": f"s{n}"}).status
    for n in range(6):
        assert "completed" == balanced.generate(script("say hello"), f"s{n}").rest()[-1].json["status"]
    homes = {balanced.ask("GET", f"/sessions/s{n}").headers["X-Agentsrv-Server"] for n in range(6)}

    assert {"a", "b", "c"} == homes
    task = balanced.start_job(script("say one", "hang"), "s0")
    seen = balanced.follow(task).take(2)
    assert 200 == balanced.stop("s0").status
    seen += balanced.follow(task, after=seen[-1].id).rest()
    first = seen[0].id
    assert [event.id for event in seen] == list(range(first, first + len(seen)))


def test_lists_are_those_of_all(fleet: FleetOfServers, balanced: Server) -> None:
    """Page by page, each from another server: everything once, newest first."""
    made = [f"page-{n}" for n in range(7)]
    for name in made:
        assert 201 == balanced.ask("POST", "/sessions", {"sessionId": name, "name": "page"}).status
    found: list[str] = []
    cursor = ""
    while True:
        page = balanced.ask("GET", f"/sessions?limit=2{cursor}").json
        assert [] == page["unreachable"]
        found += [one["id"] for one in page["sessions"]]
        if page["nextCursor"] is None:
            break
        cursor = f"&cursor={page['nextCursor']}"

    assert made[::-1] == [name for name in found if name in made]
    assert len(set(found)) == len(found)


LISTS = {
    "/generate/v2/jobs": ("jobs", "sessionId", ["asks-a", "asks-b"]),
    "/permissions": ("permissions", "sessionId", ["asks-a", "asks-b"]),
    "/terminals": ("terminals", "terminalId", ["of-a", "of-b"]),
}


def test_jobs_questions_and_terminals_are_those_of_all(fleet: FleetOfServers) -> None:
    """Whoever is asked tells of everything once, on whichever server it is."""
    for name in ("a", "b"):
        begin_all(fleet.servers[name], name)
    for server in fleet.servers.values():
        for path, (field, id_, wanted) in LISTS.items():
            page = server.ask("GET", path).json
            found = [one[id_] for one in page[field]]
            assert ([], len(found)) == (page["unreachable"], page["count"])
            assert wanted == sorted(name for name in found if name in wanted), path
    for name in ("a", "b"):
        assert 200 == fleet.servers["c"].stop(f"asks-{name}").status
        assert 200 == fleet.servers["c"].ask("DELETE", f"/terminals/of-{name}").status


def begin_all(server: Server, name: str) -> None:
    """A job that asks for leave, and a terminal."""
    asks = script('ask 1 Bash {"command": "ls"}')
    job = server.start_job(asks, f"asks-{name}", server=name, permission_mode="ask")
    with server.follow(job) as stream:
        stream.until(lambda event: event.type == "permission_request")
    body = {"deploymentId": "local-dev", "terminalId": f"of-{name}", "server": name}
    token = server.ask("POST", "/terminal/token", body).json["token"]
    assert 101 == server.ask("GET", f"/ws/terminal?token={token}", **UPGRADE).status


def test_page_names_who_is_missing(fleet: FleetOfServers, balanced: Server) -> None:
    """A server is away: what is there is not in any list, which says so."""
    fleet.servers["c"].kill9()
    try:
        for path in ("/sessions", "/generate/v2/jobs", "/permissions", "/terminals"):
            assert ["c"] == fleet.servers["a"].ask("GET", path).json["unreachable"], path
    finally:
        fleet.servers["c"].start()
        wait_for_peers(*fleet.servers.values())
    assert [] == fleet.servers["a"].ask("GET", "/sessions").json["unreachable"]


def test_session_that_is_made_anew_elsewhere_is_found(fleet: FleetOfServers) -> None:
    """What a server remembers of an id is no longer so: it finds out, also for a list, which would only be empty."""
    asked = fleet.servers["c"]
    for name in ("a", "b"):
        server = fleet.servers[name]
        assert 201 == server.ask("POST", "/sessions", {"sessionId": "anew", "server": name}).status
        assert "completed" == server.generate(script("say hello"), "anew").rest()[-1].json["status"]
        jobs = asked.ask("GET", "/generate/v2/jobs?session_id=anew")
        assert (1, name) == (len(jobs.json["jobs"]), jobs.headers["X-Agentsrv-Server"])
        assert 200 == server.ask("DELETE", "/sessions/anew").status
    assert [] == asked.ask("GET", "/generate/v2/jobs?session_id=anew").json["jobs"]


def test_session_that_was_placed_and_never_made_is_found(fleet: FleetOfServers) -> None:
    """It was to begin on one server, Redis has forgotten that, and it begins on another one: all know."""
    fleet.redis.do("HSET", "{agentsrv}:homes", "s:placed", "a")
    assert [404] * 3 == [server.ask("GET", "/sessions/placed").status for server in fleet.servers.values()]
    fleet.redis.do("FLUSHALL")
    epoch, all_said = "{agentsrv}:epoch", [f"p:{name}" for name in fleet.servers]
    wait_until(lambda: all(fleet.redis.do("HMGET", epoch, *all_said)), what="all have said what they have")
    made = fleet.servers["b"].ask("POST", "/sessions", {"sessionId": "placed", "server": "b"})
    assert 201 == made.status, made.json

    assert ["b"] * 3 == [home_of(server, "placed") for server in fleet.servers.values()]


def test_files_are_somebodys(fleet: FleetOfServers, balanced: Server) -> None:
    """Three servers, three workspaces: a request about files says whose, by a server or a session."""
    assert "server_required" == balanced.ask("GET", "/filesystem/files").json["code"]
    assert 201 == balanced.ask("POST", "/filesystem/directory", {"path": "b-only", "server": "b"}).status
    assert 201 == balanced.ask("POST", "/sessions", {"sessionId": "on-b", "server": "b"}).status
    assert (
        "server_mismatch"
        == balanced.ask("POST", "/sessions", {"sessionId": "on-b", "server": "a"}).json["code"]
    )

    statuses = {
        where: balanced.ask("GET", f"/filesystem/files?path=b-only&{where}").status
        for where in ("server=b", "session_id=on-b", "server=a", "server=nobody")
    }
    assert {"server=b": 200, "session_id=on-b": 200, "server=a": 404, "server=nobody": 400} == statuses
    assert 200 == balanced.ask("GET", "/filesystem/files?path=b-only", X_Session_Id="on-b").status
    codes = [
        balanced.ask("GET", f"/git/diff?path=b-only{where}").json["code"]
        for where in ("", "&server=b", "&session_id=on-b", "&server=a")
    ]
    assert ["server_required", "not_a_repository", "not_a_repository", "path_not_found"] == codes
    terminals = [
        balanced.ask("POST", "/terminal/token", {"deploymentId": "local-dev", **more}).json
        for more in ({}, {"server": "b"}, {"session_id": "on-b"})
    ]
    assert "server_required" == terminals[0]["code"]
    assert ["b", "b"] == [claims_in(made["token"])["srv"] for made in terminals[1:]]


def claims_in(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


def test_fork_is_where_its_source_is(fleet: FleetOfServers, balanced: Server) -> None:
    """Under a new id; one that is at home elsewhere is taken."""
    for session, server in (("source", "a"), ("taken", "b")):
        assert 201 == balanced.ask("POST", "/sessions", {"sessionId": session, "server": server}).status
    assert "completed" == balanced.generate(script("say hello"), "source").rest()[-1].json["status"]
    forks = [balanced.ask("POST", "/sessions/source/fork", {"sessionId": id_}) for id_ in ("fork", "taken")]

    assert [(201, None), (409, "session_elsewhere")] == [(one.status, one.json.get("code")) for one in forks]
    assert ["a"] * 3 == [home_of(server, "fork") for server in fleet.servers.values()]


def test_no_id_is_given_twice_whoever_is_wrong_about_its_home(fleet: FleetOfServers) -> None:
    """Two servers that each take a new id for their own, as when routing errs: where sessions are made one refuses."""
    made, refused = (
        fleet.servers[name].ask("POST", "/sessions", {"sessionId": "unrouted"}, **over_a_hop(name))
        for name in ("a", "b")
    )
    prompt = {"session_id": "unrouted", "prompt": "no"}
    also = fleet.servers["b"].ask("POST", "/generate/v2", prompt, **over_a_hop("b"))

    assert 201 == made.status, made.json
    for answer in (refused, also):
        assert (409, "session_elsewhere") == (answer.status, answer.json["code"])
    assert ["a"] * 3 == [home_of(server, "unrouted") for server in fleet.servers.values()]


def test_no_terminal_is_in_two_places_whoever_is_wrong_about_its_home(fleet: FleetOfServers) -> None:
    """The same for terminals: the second server does not begin one of this name, and says where it is."""
    answers = []
    for name in ("a", "b"):
        server, body = fleet.servers[name], {"deploymentId": "local-dev", "terminalId": "unrouted"}
        token = server.ask("POST", "/terminal/token", body, **over_a_hop(name)).json["token"]
        answers.append(server.ask("GET", f"/ws/terminal?token={token}", **UPGRADE))
    told = answers[1].json

    assert [101, 409] == [answer.status for answer in answers]
    assert ("terminal_elsewhere", "a") == (told["code"], told["server"])
    assert 200 == fleet.servers["c"].ask("DELETE", "/terminals/unrouted").status


def test_shared_workspace_is_everybodys(fleet: FleetOfServers, tmp_path: Path) -> None:
    """`WORKSPACE_SHARED`: whoever is asked about files answers; nobody has to say whose."""
    server = fleet.start("shared", WORKSPACE_SHARED="true", ACCEPTS_SESSIONS="false")
    try:
        wait_until(lambda: sum(one["accepts"] for one in servers_of(server).values()) == 3)
        assert 201 == server.ask("POST", "/filesystem/directory", {"path": "here"}).status
        assert (server.workspace.parent / "here").is_dir()
    finally:
        server.close()
        del fleet.servers["shared"]
