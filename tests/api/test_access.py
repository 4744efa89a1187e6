"""Named keys, what they may do, and how it is remembered."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import logging
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from agentsrv import access, keys_command
from agentsrv.access import EVERYTHING, Caller
from agentsrv.api import hop
from agentsrv.api.keys import AUDIT, KEYRING
from agentsrv.app import make_app
from agentsrv.config import Config, networks
from agentsrv.errors import StartupError
from agentsrv.model import Scope
from agentsrv.once import MOST_OF_ONE, OneTime
from tests.api.kit import KEY, Answer, Server, events_of, make_config, serve

pytestmark = pytest.mark.at_home(
    "keys, tickets, rates and the audit log are those of the server that is asked"
)


async def key_of(server: Server, *scopes: Scope, **options: Any) -> str:
    _, token = await server.app[KEYRING].add("ci", scopes, **options)
    return token


@pytest.mark.parametrize(
    ("scopes", "method", "path", "status"),
    [
        ([Scope.READ], "GET", "/sessions", 200),
        ([Scope.READ], "POST", "/sessions", 403),
        ([Scope.PROMPT], "POST", "/sessions", 201),
        ([Scope.PROMPT], "GET", "/sessions", 403),
        ([Scope.READ, Scope.PROMPT], "GET", "/filesystem/files", 403),
        ([Scope.FILES], "GET", "/filesystem/files", 200),
        ([Scope.FILES], "GET", "/sessions/filesystem/files", 200),
        ([Scope.ANSWER], "POST", "/generate/v2/jobs/x/permissions/y", 404),
        ([Scope.READ], "POST", "/generate/v2/jobs/x/permissions/y", 403),
        ([Scope.TERMINALS], "GET", "/terminals", 200),
        ([Scope.READ], "GET", "/terminals", 403),
        ([Scope.READ, Scope.FILES], "GET", "/audit", 403),
        ([Scope.ADMIN], "GET", "/audit", 200),
        ([Scope.ADMIN], "POST", "/sessions", 201),
    ],
)
async def test_a_key_may_do_what_its_scopes_say(
    server: Server, scopes: list[Scope], method: str, path: str, status: int
) -> None:
    """And `admin` everything; 403 names the scope that is missing."""
    body = {"decision": "allow"} if "permissions" in path else {}
    answer = await server.ask(method, path, key=await key_of(server, *scopes), json=body)

    assert answer.status == status
    assert answer.status != 403 or answer.json["code"] == "scope_missing"


async def test_a_key_ends(server: Server) -> None:
    """At its time, or when it was not used for long."""
    for options in ({"lasts_ms": 0}, {"idle_ms": 0}):
        answer = await server.ask("GET", "/sessions", key=await key_of(server, Scope.READ, **options))

        assert answer.status == 401


async def test_a_revoked_key_is_refused_at_once(server: Server) -> None:
    """Also when it was good a moment ago."""
    token = await key_of(server, Scope.READ)
    before = await server.ask("GET", "/sessions", key=token)
    await server.app[KEYRING].revoke("ci")
    after = await server.ask("GET", "/sessions", key=token)

    assert (before.status, after.status) == (200, 401)


def command(config: Config, action: str, name: str | None = None, **options: Any) -> str:
    fields: dict[str, Any] = {"scope": "read", "expires": None, **options}
    return keys_command.run(argparse.Namespace(action=action, name=name, **fields), config)


async def test_keys_are_made_and_revoked_while_the_server_runs(server: Server, config: Config) -> None:
    """`agentsrv keys add ci --scope read --expires 90d`; what is revoked is noticed within a second."""
    token = await asyncio.to_thread(command, config, "add", "ci", expires="90d")
    good = await server.ask("GET", "/sessions", key=token)
    listed = await asyncio.to_thread(command, config, "list")
    await asyncio.to_thread(command, config, "revoke", "ci")
    await asyncio.sleep(access.FRESH_S)
    bad = await server.ask("GET", "/sessions", key=token)
    audited = [(each["action"], each["target"], each["address"]) for each in await audit_of(server)]

    assert (good.status, bad.status) == (200, 401)
    assert "ci  read  used" in listed
    who = f"uid {os.getuid()} on the command line"
    assert [("revoke_token", "ci", who), ("create_token", "ci", who)] == audited


@pytest.mark.parametrize(
    ("action", "name", "options"),
    [
        ("add", None, {}),
        ("add", "x" * 201, {}),
        ("add", "ci", {"scope": "everything"}),
        ("add", "ci", {"scope": ""}),
        ("add", "ci", {"expires": "soon"}),
        ("revoke", "nobody", {}),
    ],
)
def test_a_wrong_command_is_one_line(
    tmp_path: Path, action: str, name: str | None, options: dict[str, str]
) -> None:
    """It says what is wrong, and nothing has happened."""
    config = make_config(tmp_path)
    with pytest.raises(StartupError) as caught:
        command(config, action, name, **options)

    assert "\n" not in str(caught.value)
    assert "no named keys" in command(config, "list")


async def test_the_database_holds_no_key(server: Server, config: Config) -> None:
    """Who reads it learns names and scopes."""
    token = await key_of(server, Scope.READ)
    files = config.database_path.parent.glob(config.database_path.name + "*")

    assert not [path for path in files if token.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X-Api-Key": KEY}, 200),
        ({"X-Api-Key": KEY, "Authorization": f"Bearer {KEY}"}, 200),
        ({"X-Api-Key": "wrong"}, 401),
        ({"X-Api-Key": "wrong", "Authorization": f"Bearer {KEY}"}, 401),
    ],
)
async def test_a_key_may_come_in_its_own_header(server: Server, headers: dict[str, str], status: int) -> None:
    """`X-Api-Key` beside Bearer; two that differ are none."""
    assert (await server.ask("GET", "/sessions", key=None, headers=headers)).status == status


async def test_a_device_gets_a_key_of_its_own(server: Server) -> None:
    """With the rights of the key that it was made with, listed, and ended by its id."""
    made = await server.ask("POST", "/auth/tokens", json={"name": "phone"})
    token, key_id = made.json["token"], made.json["id"]
    good = await server.ask("GET", "/audit", key=token)
    listed = (await server.ask("GET", "/auth/tokens")).json["tokens"]
    deleted = await server.ask("DELETE", f"/auth/tokens/{key_id}")
    bad = await server.ask("GET", "/audit", key=token)

    assert (made.status, good.status, deleted.status, bad.status) == (201, 200, 200, 401)
    assert [entry["name"] for entry in listed] == ["phone"]
    assert token not in str(listed)


async def test_a_device_may_do_no_more_than_its_maker(server: Server) -> None:
    """Nor see or end the keys of others; and it ends with the key that it was made with."""
    maker = await key_of(server, Scope.READ)
    device = (await server.ask("POST", "/auth/tokens", key=maker, json={"name": "phone"})).json["token"]
    other = (await server.ask("POST", "/auth/tokens", json={"name": "desk"})).json["id"]
    seen = (await server.ask("GET", "/auth/tokens", key=maker)).json["tokens"]
    ended = await server.ask("DELETE", f"/auth/tokens/{other}", key=maker)
    prompted = await server.ask("POST", "/sessions", key=device, json={})
    await server.app[KEYRING].revoke("ci")

    assert [entry["name"] for entry in seen] == ["phone"]
    assert (ended.status, prompted.status) == (404, 403)
    assert (await server.ask("GET", "/sessions", key=device)).status == 401


async def test_a_device_is_forgotten_when_it_is_away_for_long(config: Config) -> None:
    """Its key ends 30 days after its last use, and with the key of `API_KEY` that it was made with."""
    before = time.time()
    async with serve(make_app(config)) as server:
        made = (await server.ask("POST", "/auth/tokens", json={"name": "phone"})).json
    ends = datetime.fromisoformat(made["expiresAt"]).timestamp()
    async with serve(make_app(replace(config, api_keys=("second-key-0123456789",)))) as other:
        after = await other.ask("GET", "/sessions", key=made["token"])

    assert made.keys() >= {"id", "token", "expiresAt"}
    assert 30 * 24 * 3600 - 60 < ends - before < 30 * 24 * 3600 + 60
    assert after.status == 401


async def redeem(server: Server, code: str) -> Answer:
    return await server.ask("POST", "/auth/codes/redeem", key=None, json={"code": code, "name": "phone"})


async def test_a_code_gives_a_key_once(server: Server) -> None:
    """What was scanned by somebody else as well is worth nothing any more."""
    code = (await server.ask("POST", "/auth/codes")).json["code"]
    first, second = await redeem(server, code), await redeem(server, code)

    assert (first.status, second.status, second.json["code"]) == (201, 403, "code_not_valid")
    assert (await server.ask("GET", "/sessions", key=first.json["token"])).status == 200


async def test_codes_cannot_be_tried_for_long(server: Server) -> None:
    """Ten tries a minute."""
    answers = [await redeem(server, f"guess-{number}") for number in range(11)]

    assert {answer.status for answer in answers[:10]} == {403}
    assert answers[10].status == 429
    assert int(answers[10].headers["Retry-After"]) >= 1


async def ticket_of(server: Server, key: str = KEY) -> str:
    made = await server.ask("POST", "/auth/tickets", key=key)
    assert made.status == 201, made.text
    return str(made.json["ticket"])


async def test_a_ticket_is_good_for_one_get(server: Server) -> None:
    """In place of the key, and then never again."""
    path = f"/sessions?ticket={await ticket_of(server)}"
    first, second = [await server.ask("GET", path, key=None) for _ in range(2)]

    assert (first.status, second.status, second.json["code"]) == (200, 401, "unauthorized")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/sessions?ticket={0}"),
        ("DELETE", "/sessions/s?ticket={0}"),
        ("POST", "/auth/tickets?ticket={0}"),
        ("HEAD", "/sessions?ticket={0}"),
        ("GET", "/sessions?ticket={0}&ticket={0}"),
        ("GET", "/sessions?ticket=%C3%A4"),
        ("GET", "/sessions?ticket=%ff"),
        ("GET", "/sessions?ticket="),
    ],
)
async def test_a_ticket_is_good_for_nothing_else(server: Server, method: str, path: str) -> None:
    """Neither to change something nor to get more of its kind; and it is not used up by that."""
    ticket = await ticket_of(server)
    refused = await server.ask(method, path.format(ticket), key=None)
    good = await server.ask("GET", f"/sessions?ticket={ticket}", key=None)

    assert (refused.status, good.status) == (401, 200)


async def test_what_needs_no_key_uses_no_ticket(server: Server) -> None:
    """Nor does a path that leads nowhere."""
    ticket = await ticket_of(server)
    for path, status in (("/health", 200), ("/nowhere", 404), ("/sessions", 200)):
        assert (await server.ask("GET", f"{path}?ticket={ticket}", key=None)).status == status


async def test_a_ticket_may_do_what_its_maker_may(server: Server) -> None:
    """And nothing any more when that one's key has ended."""
    maker = await key_of(server, Scope.READ)
    tickets = [await ticket_of(server, maker) for _ in range(3)]
    read = await server.ask("GET", f"/sessions?ticket={tickets[0]}", key=None)
    files = await server.ask("GET", f"/filesystem/files?ticket={tickets[1]}", key=None)
    await server.app[KEYRING].revoke("ci")
    late = await server.ask("GET", f"/sessions?ticket={tickets[2]}", key=None)

    assert (read.status, files.status, files.json["code"], late.status) == (200, 403, "scope_missing", 401)


async def test_a_wrong_key_beside_a_ticket_is_a_wrong_key(server: Server) -> None:
    """Whoever sends both has made a mistake, which is told."""
    ticket = await ticket_of(server)

    assert (await server.ask("GET", f"/sessions?ticket={ticket}", key="wrong")).status == 401


async def test_the_tickets_of_one_key_are_bounded(server: Server) -> None:
    """What waits to be used; others are not held up by that."""
    maker = await key_of(server, Scope.READ)
    for _ in range(MOST_OF_ONE):
        await ticket_of(server, maker)
    refused = await server.ask("POST", "/auth/tickets", key=maker)

    assert (refused.status, refused.json["code"]) == (429, "too_many_tickets")
    assert await ticket_of(server)


def test_what_is_good_once_ends_with_its_time() -> None:
    """Used or not."""
    secrets = OneTime[int]("codes", code="too_many_codes", lasts_s=0.0)

    assert secrets.use(secrets.make(b"", 1)) is None


async def test_a_ticket_opens_a_stream_and_is_in_no_log(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """As `EventSource` asks for one; every line that was written meanwhile is looked at."""
    caplog.set_level(logging.DEBUG)
    task_id = await server.start()
    await server.end_of(task_id)
    ticket = await ticket_of(server)
    stream = await server.ask("GET", f"/generate/v2/jobs/{task_id}/stream?ticket={ticket}", key=None)
    used = await server.ask("GET", f"/generate/v2/jobs/{task_id}/stream?ticket={ticket}", key=None)

    assert (stream.status, events_of(stream.text)[-1][1].get("done"), used.status) == (200, True, 401)
    assert any("/stream" in record.getMessage() for record in caplog.records)
    assert not [record for record in caplog.records if ticket in str(vars(record))]


@pytest.fixture
async def strict(config: Config) -> AsyncIterator[Server]:
    limits = replace(config, rate_limit=5, auth_failure_limit=3)
    async with serve(make_app(limits)) as running:
        yield running


async def test_a_key_has_a_rate(strict: Server) -> None:
    """429 with `Retry-After`; another key is not concerned."""
    answers = [await strict.ask("GET", "/sessions") for _ in range(6)]
    other = await strict.ask("GET", "/sessions", key="second-key-0123456789")

    assert [answer.status for answer in answers] == [200] * 5 + [429]
    assert (answers[5].json["code"], answers[5].headers["Retry-After"]) == ("too_many_requests", "12")
    assert other.status == 200


async def test_more_keys_are_no_higher_rate(strict: Server) -> None:
    """Whoever has a named key, and makes keys of devices with it and with those, has one rate for all of them."""
    maker = await key_of(strict, Scope.READ)
    device = (await strict.ask("POST", "/auth/tokens", key=maker, json={"name": "a"})).json["token"]
    second = (await strict.ask("POST", "/auth/tokens", key=device, json={"name": "b"})).json["token"]
    statuses = [
        (await strict.ask("GET", "/sessions", key=key)).status for key in (second, maker, device, second)
    ]

    assert statuses == [200, 200, 200, 429]


async def test_wrong_keys_have_a_stricter_rate(strict: Server) -> None:
    """And do not hold up a right one."""
    answers = [await strict.ask("GET", "/sessions", key="wrong") for _ in range(4)]

    assert [answer.status for answer in answers] == [401, 401, 401, 429]
    assert (answers[3].json["code"], answers[3].headers["Retry-After"]) == ("too_many_failures", "20")
    assert (await strict.ask("GET", "/sessions")).status == 200


async def test_an_address_has_a_rate(config: Config) -> None:
    """Of all its keys together, with `Retry-After`; another address is not concerned."""
    limits = replace(config, address_rate_limit=3, trusted_proxies=networks("127.0.0.1,::1"))
    clients = ["192.0.2.7"] * 4 + ["192.0.2.8"]
    async with serve(make_app(limits)) as server:
        keys = [KEY, await key_of(server, Scope.READ)] * 3
        answers = [
            await server.ask("GET", "/sessions", key=key, headers={"X-Forwarded-For": client})
            for key, client in zip(keys, clients, strict=False)
        ]

    assert [answer.status for answer in answers] == [200, 200, 200, 429, 200]
    assert (answers[3].json["code"], answers[3].headers["Retry-After"]) == ("too_many_requests", "20")


async def audit_of(server: Server) -> list[Any]:
    await server.app[AUDIT].written()
    entries: list[Any] = (await server.ask("GET", "/audit")).json["entries"]
    return entries


async def test_the_audit_log_says_who_did_what(server: Server) -> None:
    """Prompts by hash and size, files by path; not what they say."""
    await server.generate("a secret plan", session_id="s")
    await server.ask("PUT", "/filesystem/content?path=workspaces/note", data=b"inside")
    await server.ask("DELETE", "/sessions/s")
    entries = await audit_of(server)

    assert [(entry["action"], entry["target"], entry["status"]) for entry in reversed(entries)] == [
        ("generate", "", 200),
        ("write_file", "workspaces/note", 201),
        ("delete_session", "s", 200),
    ]
    assert entries[-1]["details"] == {
        "session": "s",
        "bytes": 13,
        "sha256": hashlib.sha256(b"a secret plan").hexdigest(),
    }
    assert {(entry["key"], entry["address"]) for entry in entries} == {("API_KEY", "127.0.0.1")}
    assert "secret plan" not in str(entries)


@pytest.mark.parametrize(
    ("told", "address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("203.0.113.1, 192.0.2.7,10.0.0.9", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("203.0.113.1, unknown", "127.0.0.1"),
        ("", "127.0.0.1"),
    ],
)
async def test_a_trusted_proxy_says_whose_request_it_is(config: Config, told: str, address: str) -> None:
    """The last address that is no trusted proxy's: what a client has put before it is not believed."""
    trusting = replace(config, trusted_proxies=networks("127.0.0.1,::1,10.0.0.0/8"))
    async with serve(make_app(trusting)) as server:
        await server.ask("POST", "/sessions", json={}, headers={"X-Forwarded-For": told})
        entries = await audit_of(server)

    assert [entry["address"] for entry in entries] == [address]


async def test_wrong_keys_of_one_client_behind_a_proxy_are_its_own(config: Config) -> None:
    """Others by the same proxy are not held up; and without TRUSTED_PROXIES what is told counts for nothing."""
    for proxies, other in (("127.0.0.1,::1", 401), ("10.0.0.1", 429)):
        strict = replace(config, auth_failure_limit=1, trusted_proxies=networks(proxies))
        async with serve(make_app(strict)) as server:
            clients = ["192.0.2.7", "192.0.2.7", "192.0.2.8"]
            answers = [
                await server.ask("GET", "/sessions", key="wrong", headers={"X-Forwarded-For": client})
                for client in clients
            ]

        assert [answer.status for answer in answers] == [401, 429, other]


async def test_deletions_and_keys_are_on_disk_before_they_are_answered(
    server: Server, config: Config
) -> None:
    """Whoever ends the server in that moment leaves a trace all the same."""

    def written() -> list[str]:
        with closing(sqlite3.connect(config.database_path)) as db:
            return [action for (action,) in db.execute("SELECT action FROM audit ORDER BY id")]

    made = await server.ask("POST", "/auth/tokens", json={"name": "phone"})
    after_key = written()
    await server.ask("DELETE", f"/auth/tokens/{made.json['id']}")

    assert (after_key, written()) == (["create_token"], ["create_token", "revoke_token"])


async def test_who_names_a_key_as_another_one_is_told_from_it(server: Server) -> None:
    """By the id in the list of keys; the key of the settings has none."""
    ids = []
    for _ in range(2):
        made = (await server.ask("POST", "/auth/tokens", json={"name": "API_KEY"})).json
        await server.ask("POST", "/sessions", key=made["token"], json={})
        ids.append(made["id"])
    await server.ask("POST", "/sessions", json={})
    entries = [each for each in reversed(await audit_of(server)) if each["action"] == "create_session"]

    assert [entry["key"] for entry in entries] == ["API_KEY"] * 3
    assert [entry["details"].get("keyId") for entry in entries] == [*ids, None]


async def test_a_server_alone_believes_no_other(server: Server, config: Config) -> None:
    """It has no secret that a header could have, an empty one as little as that of a fleet with its key."""
    of_a_fleet = hop.secret_of(replace(config, server_name="x")).decode()
    for secret in ("", "0" * len(of_a_fleet), of_a_fleet):
        headers = {hop.HOP: secret, hop.CALLER: hop.told(Caller("mallory", EVERYTHING, b""))}
        assert 401 == (await server.ask("GET", "/sessions", key=None, headers=headers)).status


async def test_reading_is_not_in_the_audit_log_and_strangers_are_not(server: Server) -> None:
    """It says who has changed something, and nobody without a key can fill it."""
    await server.ask("GET", "/sessions")
    await server.ask("DELETE", "/sessions/s", key=None)

    assert await audit_of(server) == []


async def test_the_audit_log_has_pages(server: Server) -> None:
    """Newest first, and a cursor for what is older."""
    for number in range(3):
        await server.ask("POST", "/sessions", json={"sessionId": f"s{number}"})
    await server.app[AUDIT].written()
    first = (await server.ask("GET", "/audit?limit=2")).json
    rest = (await server.ask("GET", f"/audit?limit=2&cursor={first['nextCursor']}")).json

    assert (first["count"], rest["count"], rest["nextCursor"]) == (2, 1, None)
    assert first["entries"][-1]["id"] > rest["entries"][0]["id"]


async def test_answers_are_not_stored_by_caches(server: Server) -> None:
    """JSON is `no-store`, errors too."""
    for path in ("/sessions", "/sessions/nobody", "/health"):
        assert (await server.ask("GET", path)).headers["Cache-Control"] == "no-store"
