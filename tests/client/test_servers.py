"""Which server is meant, and with which key: the first that there is, and no key for another server."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agentsrv.client import ConfigurationError
from agentsrv.client.servers import (
    DEFAULT_URL,
    Server,
    Stored,
    checked_url,
    find_server,
    save_servers,
    servers_file,
)

GIVEN, OUTSIDE, KEPT, HERE = (f"http://{name}:1" for name in ("given", "environment", "kept", "127.0.0.2"))
VARIABLES = {"AGENTSRV_URL": OUTSIDE, "AGENTSRV_API_KEY": "own", "API_KEY": "shared"}


class Home:
    """A home and a directory with a `.env`."""

    def __init__(self, directory: Path) -> None:
        self.env_file = directory / ".env"
        self.key_file = directory / "key"
        self.key_file.write_text("from-file\n")
        self.variables = {"HOME": str(directory)}

    def keep(self, *urls: str) -> None:
        """As after a `login` at each; the first is the current one."""
        save_servers(Stored(urls[0], {url: f"kept-{url[7:]}" for url in urls}), self.variables)

    def find(self, url: str | None = None, key_file: Path | None = None, /, **variables: str) -> Server:
        environment = self.variables | variables
        return find_server(url, key_file=key_file, env_file=self.env_file, environment=environment)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def found(server: Server) -> tuple[str, str]:
    return server.url, server.key


def test_each_place_is_looked_at_in_its_turn(home: Home) -> None:
    """What is given, the environment, what `login` has kept, `.env`, and at last the default."""
    home.env_file.write_text("HOST=127.0.0.2\nPORT=1\nAPI_KEY=local\n")
    home.keep(KEPT, GIVEN)

    assert found(home.find(GIVEN, home.key_file, **VARIABLES)) == (GIVEN, "from-file")
    assert found(home.find(None, **VARIABLES)) == (OUTSIDE, "own")
    assert found(home.find(API_KEY="shared", AGENTSRV_URL=OUTSIDE)) == (OUTSIDE, "shared")
    assert found(home.find()) == (KEPT, "kept-kept:1")
    save_servers(Stored(), home.variables)
    assert found(home.find()) == (HERE, "local")
    home.env_file.unlink()
    assert found(home.find()) == (DEFAULT_URL, "")


def test_url_and_key_are_found_apart(home: Home) -> None:
    """A URL that is given is used with a key of the environment, and a key that is given with the URL that is kept."""
    home.keep(KEPT)

    assert found(home.find(GIVEN, API_KEY="shared")) == (GIVEN, "shared")
    assert found(home.find(None, home.key_file)) == (KEPT, "from-file")


def test_a_key_goes_to_its_own_server_alone(home: Home) -> None:
    """What is kept for a server, or stands in `.env`, is never sent to another one."""
    home.env_file.write_text("HOST=127.0.0.2\nPORT=1\nAPI_KEY=local\n")
    home.keep(KEPT)

    assert found(home.find(GIVEN)) == (GIVEN, "")
    assert found(home.find(f"{KEPT}/")) == (KEPT, "kept-kept:1")
    assert found(home.find(HERE)) == (HERE, "local")
    assert home.find(GIVEN).key_source == "none was found"


@pytest.mark.parametrize(
    ("content", "url", "key"),
    [
        ("HOST=0.0.0.0\nPORT=4000\nAPI_KEY='one,two'", "http://127.0.0.1:4000", "one"),
        ("export HOST=\"::\" # everywhere\nPORT='4000'", "http://[::1]:4000", ""),
        ("HOST=unix:/run//agentsrv.sock\nAPI_KEY=local", "unix:/run/agentsrv.sock", "local"),
        ("API_KEY=your-api-key-here\n", DEFAULT_URL, ""),
        ("#HOST=other\n  PORT = 81\nPORTS=5", "http://127.0.0.1:81", ""),
        ("API_KEY=a#b # c", DEFAULT_URL, "a#b"),
        ("API_KEY=#b\nPORT=81\t#\r\n", "http://127.0.0.1:81", ""),
        ("API_KEY=it's\"here", DEFAULT_URL, "it's\"here"),
        ("API_KEY=one , two", DEFAULT_URL, "one"),
    ],
)
def test_what_a_server_reads_from_env_is_understood(home: Home, content: str, url: str, key: str) -> None:
    """Quotes, comments, several keys, addresses that mean all of this machine, a Unix socket."""
    home.env_file.write_text(content)

    assert found(home.find()) == (url, key)


@pytest.mark.parametrize("content", ["[]", '{"servers": []}', '{"current": 5}', "{", '{"servers": {"a": 1}}'])
def test_what_is_kept_and_is_none_of_ours_is_said(home: Home, content: str) -> None:
    """With the file that has to be mended."""
    home.keep(KEPT)
    servers_file(home.variables).write_text(content)
    with pytest.raises(ConfigurationError, match=r"servers\.json cannot be read"):
        home.find()


def test_host_and_port_of_the_environment_win_over_the_files(home: Home) -> None:
    """As they do for the server, which is started with the same."""
    home.env_file.write_text("HOST=127.0.0.2\nPORT=1\nAPI_KEY=local\n")

    assert found(home.find(PORT="2")) == ("http://127.0.0.2:2", "local")


@pytest.mark.parametrize("host", ["example.org", "203.0.113.9", "2001:db8::1", "evil.example#127.0.0.1"])
def test_whose_directory_it_is_leads_nobody_elsewhere(home: Home, host: str) -> None:
    """A `.env` that came with a repository gets neither a key of the environment nor a prompt."""
    home.env_file.write_text(f'HOST="{host}"\nPORT=1\n')

    with pytest.raises(ConfigurationError, match="no address of this machine"):
        home.find(AGENTSRV_API_KEY="own")
    assert found(home.find(AGENTSRV_URL=OUTSIDE)) == (OUTSIDE, "")


def test_a_pipe_in_place_of_env_is_none(home: Home) -> None:
    """Nobody waits for what it might say."""
    os.mkfifo(home.env_file)

    assert found(home.find()) == (DEFAULT_URL, "")


@pytest.mark.parametrize(
    "wrong",
    ["ftp://u:secret@a", "a:3000", "http://", "http://u:secret@a", "http://a?k=secret", "unix:a.sock"],
)
def test_what_is_no_url_is_said(wrong: str) -> None:
    """And without the secret that may stand in it."""
    with pytest.raises(ConfigurationError) as told:
        checked_url(wrong)

    assert "secret" not in str(told.value)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"two\tparts\x00", "schlüssel".encode()])
def test_what_is_no_key_is_said(home: Home, content: bytes) -> None:
    """A file of something else is not sent to a server."""
    home.key_file.write_bytes(content)
    with pytest.raises(ConfigurationError):
        home.find(None, home.key_file)
