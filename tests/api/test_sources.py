"""Which pages may call: those that are listed, and the server's own under a name that nobody can take."""

from __future__ import annotations

import pytest

from agentsrv.api.sources import is_own_origin, origin_of

HOSTS = frozenset({"agents.example"})


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://127.0.0.1:3000", "127.0.0.1:3000"),
        ("http://[::1]:3000", "[::1]:3000"),
        ("http://localhost:3000", "localhost:3000"),
        ("http://192.168.1.5:3000", "192.168.1.5:3000"),
        ("https://agents.example", "agents.example"),
        ("https://agents.example", "agents.example:443"),
        ("http://localhost", "LOCALHOST:80"),
    ],
)
def test_the_servers_own_page_may_call(origin: str, host: str) -> None:
    """Its address, `localhost`, and a name of ALLOWED_HOSTS cannot be anybody else's."""
    assert is_own_origin(origin, host, HOSTS)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://evil.example:3000", "evil.example:3000"),  # rebound to our address
        ("http://127.0.0.1:5173", "127.0.0.1:3000"),  # what an agent serves on another port
        ("http://localhost:3000", "127.0.0.1:3000"),
        ("http://127.0.0.1", "127.0.0.1:3000"),
        ("null", "127.0.0.1:3000"),
        ("null", "null"),
        ("", ""),
        ("://", ""),
        ("file://127.0.0.1:3000", "127.0.0.1:3000"),
        ("http://127.0.0.1:3000/", "127.0.0.1:3000"),
        ("http://a@127.0.0.1:3000", "127.0.0.1:3000"),
        ("http://localhost.evil", "localhost.evil"),
        ("http://evil.localhost", "evil.localhost"),
        ("http://127.0.0.1.evil", "127.0.0.1.evil"),
    ],
)
def test_other_pages_may_not(origin: str, host: str) -> None:
    """That `Origin` equals `Host` says nothing when anybody can give that name to our address."""
    assert not is_own_origin(origin, host, HOSTS)


def test_the_public_url_names_an_origin() -> None:
    """Path and default port are not part of it."""
    assert origin_of("https://Example.com:443/agents") == "https://example.com"
    assert origin_of("http://example.com:8080") == "http://example.com:8080"
