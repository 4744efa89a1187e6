"""What opens a terminal, and what does not."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import jwt
import pytest

from agentsrv.config import Config
from agentsrv.errors import AuthenticationFailed
from agentsrv.model import TerminalId
from agentsrv.terminals.tokens import Grant, TerminalTokens, signing_key
from tests.kit import THREADS

API_KEY = "an-api-key-0123456789"
SECRET = "a-secret-of-at-least-thirty-two-bytes"
GRANT = Grant(terminal_id=TerminalId("t"), deployment_id="local-dev", cwd="/srv", is_read_only=True)


def make_config(directory: Path, api_key: str = API_KEY, **settings: Any) -> Config:
    return Config(
        api_keys=(api_key,),
        workspace_base=directory,
        state_dir=directory / "state",
        database_path=directory / "db",
        **settings,
    )


@pytest.fixture
def tokens(tmp_path: Path) -> TerminalTokens:
    return TerminalTokens(make_config(tmp_path, terminal_jwt_secret=SECRET), THREADS.folding)


def forge(key: str | bytes = SECRET, algorithm: str = "HS256", **changes: Any) -> str:
    """A good token, but for `changes`; None takes a claim away."""
    claims = {
        "exp": int(time.time()) + 60,
        "iat": int(time.time()),
        "aud": "terminal",
        "scope": "terminal",
        "jti": "a1",
        "terminalId": "t",
        "deploymentId": "d",
    } | changes
    return jwt.encode({name: value for name, value in claims.items() if value is not None}, key, algorithm)


async def test_a_token_carries_its_grant(tokens: TerminalTokens) -> None:
    """What was asked for is what the socket gets."""
    token, expires_at = await tokens.issue(GRANT)

    assert 0 < expires_at - time.time() <= 60
    assert GRANT == await tokens.redeem(token)


async def test_a_token_says_what_it_is_for(tokens: TerminalTokens) -> None:
    """HS256, with expiry, audience, scope and an id."""
    token, expires_at = await tokens.issue(GRANT)
    claims = jwt.decode(token, SECRET, algorithms=["HS256"], audience="terminal")

    assert ("terminal", expires_at) == (claims["scope"], claims["exp"])
    assert len(claims["jti"]) == 32


async def test_a_token_works_once(tokens: TerminalTokens, tmp_path: Path) -> None:
    """Not a second time, also not after the server was killed and started again."""
    token, _ = await tokens.issue(GRANT)
    await tokens.redeem(token)
    restarted = TerminalTokens(make_config(tmp_path, terminal_jwt_secret=SECRET), THREADS.folding)

    for server in (tokens, restarted):
        with pytest.raises(AuthenticationFailed, match="used already"):
            await server.redeem(token)


async def test_a_token_may_be_allowed_to_work_often(tmp_path: Path) -> None:
    """TERMINAL_TOKEN_REUSE."""
    tokens = TerminalTokens(make_config(tmp_path, terminal_token_reuse=True), THREADS.folding)
    token, _ = await tokens.issue(GRANT)

    assert [GRANT, GRANT] == [await tokens.redeem(token) for _ in range(2)]


async def test_a_token_expires(tmp_path: Path) -> None:
    """After TERMINAL_TOKEN_TTL."""
    now = time.time()
    tokens = TerminalTokens(make_config(tmp_path, terminal_token_ttl_s=5), THREADS.folding, clock=lambda: now)
    token, _ = await tokens.issue(GRANT)
    now += 5.1

    with pytest.raises(AuthenticationFailed, match="expired"):
        await tokens.redeem(token)


async def test_used_tokens_are_forgotten_when_they_have_expired(
    tokens: TerminalTokens, tmp_path: Path
) -> None:
    """What is remembered of tokens does not pile up."""
    old = tmp_path / "state" / "terminal-tokens" / "old"
    old.parent.mkdir(parents=True)
    old.touch()
    os.utime(old, (1.0, 1.0))
    await tokens.redeem(forge())

    assert ["a1"] == [file.name for file in old.parent.iterdir()]


async def test_a_token_of_the_same_secret_is_good(tokens: TerminalTokens) -> None:
    """The forgery of the next test fails for the reasons that it names."""
    assert "t" == (await tokens.redeem(forge())).terminal_id


FUTURE = int(time.time()) + 3600

WRONG: dict[str, dict[str, Any]] = {
    "no exp": {"exp": None},
    "exp in the past": {"exp": int(time.time()) - 1},
    "exp in ten years": {"exp": int(time.time()) + 10 * 365 * 86400},
    "exp as text": {"exp": str(int(time.time()) + 60)},
    "exp as a switch": {"exp": True},
    "nbf in the future": {"nbf": FUTURE},
    "iat in the future": {"iat": FUTURE},
    "no audience": {"aud": None},
    "another audience": {"aud": "sessions"},
    "no scope": {"scope": None},
    "another scope": {"scope": "admin"},
    "no id": {"jti": None},
    "an id that is a path": {"jti": "../../x"},
    "an empty id": {"jti": ""},
    "an id that is a number": {"jti": 1},
    "no terminal": {"terminalId": None},
    "a terminal that is a path": {"terminalId": "../x"},
    "a label with a NUL": {"deploymentId": "a\0b"},
    "cwd as a number": {"cwd": 1},
    "readOnly as text": {"readOnly": "false"},
    "the API key as key": {"key": API_KEY},
    "another key": {"key": "x" * 40},
    "another algorithm": {"algorithm": "HS512"},
    "no algorithm": {"algorithm": "none", "key": ""},
}


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
@pytest.mark.parametrize("changes", WRONG.values(), ids=WRONG)
async def test_a_token_that_is_not_good_is_refused(tokens: TerminalTokens, changes: dict[str, Any]) -> None:
    """Whatever is wrong with it, the answer is the same."""
    with pytest.raises(AuthenticationFailed):
        await tokens.redeem(forge(**changes))


@pytest.mark.parametrize(
    "token", ["", "x", "a.b", "a.b.c", "e30.e30.e30", "ä.ö.ü", "\ud800", "x" * 100_000, "a" * 9000 + ".."]
)
async def test_what_is_no_token_is_refused(tokens: TerminalTokens, token: str) -> None:
    """Garbage of any kind."""
    with pytest.raises(AuthenticationFailed):
        await tokens.redeem(token)


@pytest.mark.parametrize("payload", ["[]", "1", "null", '"x"', "{}", "[" * 5000])
async def test_what_is_signed_but_no_object_is_refused(tokens: TerminalTokens, payload: str) -> None:
    """A good signature alone is not enough."""
    token = jwt.api_jws.encode(payload.encode(), SECRET, "HS256")
    with pytest.raises(AuthenticationFailed):
        await tokens.redeem(token)


def test_the_key_is_not_the_api_key(tmp_path: Path) -> None:
    """It is made from it so that nobody finds the way back; another API key gives another one."""
    key = signing_key(make_config(tmp_path))

    assert len(key) == 32
    assert API_KEY.encode() not in key
    assert key != signing_key(make_config(tmp_path, "another-api-key"))


async def test_a_token_is_for_the_server_that_it_names(tmp_path: Path) -> None:
    """Of two servers of a fleet with one secret, only the terminal's home takes it: there it is noted as used."""
    one, two = (
        TerminalTokens(
            make_config(tmp_path / name, terminal_jwt_secret=SECRET, server_name=name), THREADS.folding
        )
        for name in ("one", "two")
    )
    token, _ = await one.issue(GRANT)

    with pytest.raises(AuthenticationFailed, match="another server"):
        await two.redeem(token)
    assert GRANT == await one.redeem(token)
