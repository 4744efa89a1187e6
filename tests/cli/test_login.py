"""`agentsrv login`, `servers`, `logout`: keys that are kept for their servers."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.cli.conftest import Open
from tests.cli.kit import command, object_of
from tests.client.test_requests import answering
from tests.conftest import ServerMaker
from tests.kit import KEY, Server


@pytest.fixture
def nothing(tmp_path: Path) -> dict[str, Any]:
    """The variables of somebody who has told nothing yet, in a home of their own."""
    return {"AGENTSRV_URL": "", "AGENTSRV_API_KEY": "", "HOME": str(tmp_path)}


def url_of(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


def test_a_key_that_is_typed_is_not_seen(
    server: Server, open_window: Open, nothing: dict[str, Any], tmp_path: Path
) -> None:
    """`login` asks without an echo; what it keeps is for its owner alone, and is no key of others."""
    window = open_window("login", url_of(server), cols=250, **nothing)
    window.shows(f"Key for {url_of(server)}:")
    window.type(f"{KEY}\n")
    assert window.ended() == 0
    directory = tmp_path / ".config" / "agentsrv"
    kept = json.loads((directory / "servers.json").read_text())

    assert KEY.encode() not in window.output
    assert "is the server that is meant from now on" in window.text
    assert KEY not in json.dumps(kept)
    assert {path.stat().st_mode & 0o077 for path in (directory, *directory.iterdir())} == {0}


@pytest.mark.parametrize(
    ("key", "code", "told"),
    [
        ("wrong-key", 77, "does not take the key; it came from what was typed"),
        ("wrong key", 77, "does not take the key; it came from what was typed"),
        ("schlüssel", 78, "a key has characters that no key has"),
    ],
)
def test_a_wrong_key_is_told_and_not_kept(
    server: Server, nothing: dict[str, Any], tmp_path: Path, key: str, code: int, told: str
) -> None:
    """And not said to be missing."""
    done = command(server, "login", url_of(server), stdin=f"{key}\n", **nothing)

    assert done.returncode == code
    assert told in done.stderr
    assert key not in done.stderr
    assert not (tmp_path / ".config").exists()


def test_who_types_no_key_is_told(server: Server, open_window: Open, nothing: dict[str, Any]) -> None:
    """Ctrl-D is no key, too."""
    window = open_window("login", url_of(server), cols=250, **nothing)
    window.shows("Key for")
    window.type("\x04")

    assert window.ended() == 2
    assert "there is no key" in window.text


def test_login_is_to_the_server_that_is_meant(
    server: Server, nothing: dict[str, Any], tmp_path: Path
) -> None:
    """As for all commands: here, that of `.env`."""
    (tmp_path / ".env").write_text(f"PORT={server.port}\n")
    done = command(server, "login", stdin=f"{KEY}\n", cwd=tmp_path, **nothing)

    assert done.stderr.startswith(f"{url_of(server)} is kept in ")


def test_one_of_several_servers_is_meant(
    server: Server, make_server: ServerMaker, nothing: dict[str, Any]
) -> None:
    """The one of the last `login`, or of `servers URL`; after `logout` another one that is left."""
    other = make_server()
    first, second = url_of(server), url_of(other)
    for url in (first, second):
        assert command(server, "login", url, stdin=f"{KEY}\n", **nothing).returncode == 0
    shown = [command(server, "servers", **nothing).stdout]
    changed = command(server, "servers", first, **nothing)
    as_object = object_of(command(server, "servers", "--json", **nothing).stdout)
    left = command(server, "logout", first, **nothing)

    assert shown == [f"  {first}\n* {second}\n"]
    assert changed.stdout == f"* {first}\n  {second}\n"
    assert as_object == {"current": first, "servers": [first, second]}
    assert f"{second} is meant now" in left.stderr
    assert command(server, "ps", **nothing).returncode == 0
    assert command(server, "servers", first, **nothing).returncode == 5


@pytest.mark.parametrize(
    ("url", "exit_code", "code"), [("http://other", 5, "refused"), ("ftp://other", 78, "configuration")]
)
def test_an_error_of_servers_is_an_object_for_programs(
    server: Server, nothing: dict[str, Any], url: str, exit_code: int, code: str
) -> None:
    """As of all commands with `--json`."""
    done = command(server, "servers", url, "--json", **nothing)

    assert (done.returncode, done.stdout) == (exit_code, "")
    assert object_of(done.stderr)["code"] == code


async def test_a_server_that_makes_no_keys_is_given_the_one_that_was_typed(
    server: Server, nothing: dict[str, Any], tmp_path: Path
) -> None:
    """One that is older: the key is kept as it is."""

    async def older(request: web.Request) -> web.Response:
        if request.path == "/sessions":
            return web.json_response({"sessions": [], "nextCursor": None})
        return web.json_response({"error": "there is no such route", "code": "not_found"}, status=404)

    async with answering(older) as (client, asked):
        url = client.base_url
        login = await asyncio.to_thread(command, server, "login", url, stdin="typed\n", **nothing)

    kept = json.loads((tmp_path / ".config" / "agentsrv" / "servers.json").read_text())
    assert login.returncode == 0, login.stderr
    assert kept["servers"][url]["key"] == "typed"
    assert {request.headers["Authorization"] for request in asked} == {"Bearer typed"}


@pytest.mark.parametrize(("typed", "code"), [("\n", 2), ("wrong\n", 77)])
def test_what_is_no_key_is_not_kept(
    server: Server, nothing: dict[str, Any], tmp_path: Path, typed: str, code: int
) -> None:
    """It is tried first."""
    login = command(server, "login", url_of(server), stdin=typed, **nothing)

    assert login.returncode == code
    assert "wrong" not in login.stderr
    assert not (tmp_path / ".config").exists()
