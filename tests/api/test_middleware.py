"""What every request passes: ids, the access log, origins, hosts, keys, limits, errors."""

from __future__ import annotations

import asyncio
import inspect
import logging
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web

from agentsrv import access
from agentsrv.api import sources
from agentsrv.api.keys import CONFIG, HEALTH
from agentsrv.app import make_app
from agentsrv.config import Config
from agentsrv.store.health import HealthCheck
from tests.api.kit import KEY, TIMEOUT_S, Server, make_config, serve

GOOD = "https://app.example"


async def test_a_sane_request_id_is_echoed(server: Server) -> None:
    """The client's own id comes back, so that both sides' logs can be joined."""
    answer = await server.ask("GET", "/sessions", headers={"X-Request-Id": "trace:1/a.b-c"})

    assert answer.headers["X-Request-Id"] == "trace:1/a.b-c"


@pytest.mark.parametrize("id_", ["", "a b", "x" * 129, "<script>", "ü"])
async def test_an_odd_request_id_is_replaced(server: Server, id_: str) -> None:
    """What could forge a log line is not taken over."""
    answer = await server.ask("GET", "/nope", headers={"X-Request-Id": id_})

    assert answer.headers["X-Request-Id"] not in ("", id_)


async def test_an_expectation_that_nobody_knows_is_refused_under_the_same_id(server: Server) -> None:
    """What is refused before any middleware runs carries the client's id as well."""
    request = b"GET /nope HTTP/1.1\r\nHost: x\r\nExpect: a-pony\r\nX-Request-Id: trace-1\r\n\r\n"
    head, _, _ = (await server.send(request)).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 417 ")
    assert b"\r\nX-Request-Id: trace-1" in head


@pytest.mark.parametrize("path", ["/generate/v2/jobs/{}/stream", "/filesystem/archive?path=."])
async def test_a_client_of_http_1_0_reads_to_the_end(server: Server, path: str) -> None:
    """Where it has to read until the connection closes, that is closed at once, whatever it has asked for."""
    job = await server.end_of(await server.start())
    head = (
        f"GET {path.format(job['taskId'])} HTTP/1.0\r\nConnection: keep-alive\r\nAuthorization: Bearer {KEY}"
    )
    async with asyncio.timeout(TIMEOUT_S), server.connection() as (reader, writer):
        writer.write(f"{head}\r\n\r\n".encode())
        answer, _, body = (await reader.read()).partition(b"\r\n\r\n")

    assert answer.startswith(b"HTTP/1.0 200 ")
    assert b"keep-alive" not in answer
    assert body


@pytest.mark.parametrize("path", ["/health", "/nope", "/sessions/s/events", "/generate/v2/jobs/x"])
async def test_an_allowed_origin_is_echoed_on_every_answer(server: Server, path: str) -> None:
    """The origin itself, never `*`, also on errors and streams."""
    await server.ask("POST", "/sessions", json={"sessionId": "s"})
    answer = await server.ask("HEAD", path, headers={"Origin": GOOD})

    assert answer.headers["Access-Control-Allow-Origin"] == GOOD
    assert answer.headers["Vary"] == "Origin"


async def test_an_event_stream_carries_the_allowed_origin(server: Server) -> None:
    """A browser can read what a prompt gives."""
    body = {"session_id": "s", "prompt": "hi"}
    answer = await server.ask("POST", "/generate/v2", json=body, headers={"Origin": GOOD})

    assert answer.headers["Access-Control-Allow-Origin"] == GOOD
    assert "X-Task-Id" in answer.headers["Access-Control-Expose-Headers"]


async def test_a_preflight_needs_no_key_and_runs_nothing(server: Server) -> None:
    """204 with what a browser may send."""
    headers = {"Origin": GOOD, "Access-Control-Request-Method": "POST"}
    answer = await server.ask("OPTIONS", "/generate/v2", key=None, headers=headers)

    assert answer.status == 204
    assert answer.headers["Access-Control-Allow-Origin"] == GOOD
    assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]


async def test_without_origin_nothing_is_allowed_to_other_pages(server: Server) -> None:
    """No CORS header where nobody asked, or was refused."""
    refused = await server.ask("GET", "/health", headers={"Origin": "https://evil.example"})

    assert refused.status == 403
    assert "Access-Control-Allow-Origin" not in refused.headers
    assert "Access-Control-Allow-Origin" not in (await server.ask("GET", "/health")).headers


@pytest.mark.parametrize(
    ("host", "is_allowed"),
    [
        ("localhost", True),
        ("LOCALHOST:3000", True),
        ("localhost.", True),
        ("localhost.:3000", True),
        ("[::1]", True),
        ("[::1]:3000", True),
        ("127.0.0.1:3000", True),
        ("api.example", True),
        ("evil.example", False),
        ("localhost.evil", False),
        ("evil.localhost", False),
        ("localhost:x", False),
        ("localhost@evil", False),
        ("", False),
        ("[::2]", False),
        ("10.0.0.1", False),
    ],
)
def test_hosts_are_compared_whole(host: str, is_allowed: bool) -> None:
    """A name counts with any port and a trailing dot; loopback addresses always do."""
    assert sources.is_allowed_host(host, {"localhost", "api.example"}) is is_allowed


async def test_other_hosts_are_refused_where_hosts_are_listed(tmp_path: Path) -> None:
    """ALLOWED_HOSTS keeps DNS rebinding out, on public routes too."""
    async with serve(make_app(make_config(tmp_path, allowed_hosts=frozenset({"localhost"})))) as server:
        refused = await server.ask("GET", "/health", headers={"Host": "evil.example"})
        answered = await server.ask("GET", "/health", headers={"Host": "localhost"})

    assert (refused.status, refused.json["code"], answered.status) == (403, "host_not_allowed", 200)


async def test_401_says_how_to_authenticate(server: Server) -> None:
    """WWW-Authenticate names the scheme."""
    assert (await server.ask("GET", "/sessions", key=None)).headers["WWW-Authenticate"] == "Bearer"


async def test_405_lists_the_methods(server: Server) -> None:
    """Allow names what the route takes."""
    assert (await server.ask("PATCH", "/sessions")).headers["Allow"] == "GET,HEAD,POST"


async def test_what_does_not_exist_looks_the_same_with_and_without_a_key(server: Server) -> None:
    """A 404 tells nothing about keys."""
    bodies = [(await server.ask("GET", "/nope", key=key)).json for key in (KEY, None)]
    for body in bodies:
        del body["timestamp"]

    assert bodies[0] == bodies[1]


def test_keys_are_compared_in_constant_time() -> None:
    """Every comparison with a key is `hmac.compare_digest`, of all keys, whatever their lengths."""
    source = inspect.getsource(access.is_key)

    assert "sum(hmac.compare_digest(token, key) for key in own)" in source
    assert "==" not in source


@pytest.mark.at_home("each server on the way has a line of its own")
async def test_one_access_line_holds_no_secret(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Method, path, status, size, time, id and peer: no query, no header, no body."""
    with caplog.at_level(logging.INFO, "agentsrv.access"):
        await server.ask(
            "POST",
            f"/sessions?token={KEY}",
            json={"sessionId": "s", "name": "a private name"},
            headers={"X-Forwarded-For": "6.6.6.6", "Referer": "https://private.example"},
        )
    lines = [record for record in caplog.records if record.name == "agentsrv.access"]
    told: dict[str, Any] = vars(lines[0])

    assert len(lines) == 1
    assert lines[0].getMessage() == "POST /sessions 201"
    assert (told["method"], told["path"], told["status"], told["peer"]) == (
        "POST",
        "/sessions",
        201,
        "127.0.0.1",
    )
    assert told["bytes"] > 100
    for secret in (KEY, "private", "6.6.6.6"):
        assert secret not in str(told)


async def test_a_failure_of_ours_is_logged_and_not_told(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    """500 with an id to look up; the traceback is in the log alone."""

    class Broken:
        async def check(self) -> None:
            raise RuntimeError("the secret reason")

    app = make_app(config)
    app[HEALTH] = cast(HealthCheck, Broken())
    async with serve(app) as server:
        answer = await server.ask("GET", "/health", headers={"X-Request-Id": "look-me-up"})
    failure = next(record for record in caplog.records if record.levelno == logging.ERROR)

    assert (answer.status, answer.json["code"]) == (500, "internal_error")
    assert "look-me-up" in answer.json["error"]
    assert "secret" not in answer.text
    assert failure.exc_info is not None
    assert "the secret reason" in caplog.text


async def test_embedded_in_a_host_all_of_it_works(config: Config) -> None:
    """Mounted with `add_subapp`: own errors and links below the prefix; the host's routes stay its own."""
    host = web.Application(client_max_size=100)

    async def hosts_own(_request: web.Request) -> web.Response:
        return web.Response(text="host")

    host.router.add_get("/", hosts_own)
    host.add_subapp("/agents", make_app(config))
    async with serve(host) as server:
        made = await server.ask("POST", "/agents/sessions", json={"sessionId": "s", "name": "n" * 150})
        missing = await server.ask("GET", "/agents/nope", headers={"Origin": GOOD})
        document = await server.ask("GET", "/agents/openapi.json", key=None)
        stream = await server.ask(
            "POST", "/agents/generate/v2", json={"session_id": "s", "prompt": "x" * 200}
        )
        own = await server.ask("GET", "/", key=None)

    assert (made.status, made.headers["Location"]) == (201, "/agents/sessions/s")
    assert (missing.status, missing.json["code"], missing.headers["Access-Control-Allow-Origin"]) == (
        404,
        "not_found",
        GOOD,
    )
    assert document.json["servers"] == [{"url": "/agents"}]
    assert '"done": true' in stream.text
    assert (own.text, "X-Request-Id" in own.headers) == ("host", False)


async def test_embedded_the_body_limit_is_ours(tmp_path: Path) -> None:
    """413 beyond our limit although the host allows more."""
    host = web.Application(client_max_size=10**9)
    host.add_subapp("/agents", make_app(make_config(tmp_path, max_body_bytes=1024)))
    async with serve(host) as server:
        answer = await server.ask("POST", "/agents/sessions", json={"name": "x" * 2000})

    assert (answer.status, answer.json["code"]) == (413, "too_large")


async def test_a_body_is_invited_only_after_the_key(server: Server) -> None:
    """`Expect: 100-continue`: without a key the answer is 401 at once; with one, the body is asked for."""
    head = (
        b"POST /sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: 2\r\nExpect: 100-continue\r\n"
    )
    refused = await server.send(head + b"\r\n")
    async with server.connection() as (reader, writer):
        writer.write(head + f"Authorization: Bearer {KEY}\r\n\r\n".encode())
        invited = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"{}")
        made = await reader.readuntil(b"\r\n")

    assert refused.startswith(b"HTTP/1.1 401 ")
    assert (invited, made) == (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 201 Created\r\n")


async def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_error(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """One line with 499 in the access log, no traceback."""
    with caplog.at_level(logging.INFO):
        async with server.connection() as (_, writer):
            writer.write(
                b"POST /sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                + f"Content-Length: 20\r\nAuthorization: Bearer {KEY}\r\n\r\n{{".encode()
            )
            await writer.drain()
            await server.ask("GET", "/health")
        async with asyncio.timeout(TIMEOUT_S):
            while 499 not in [vars(record).get("status") for record in caplog.records]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    assert 499 in [vars(record).get("status") for record in caplog.records]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.at_home("health is that of the server that is asked")
async def test_draining_is_told_to_load_balancers(server: Server) -> None:
    """`/health/ready` turns to 503 with Retry-After; `/health` stays 200."""
    ready = await server.ask("GET", "/health/ready")
    await server.app.shutdown()
    draining = await server.ask("GET", "/health/ready")
    refused = await server.generate()

    assert (ready.status, draining.status, draining.json["code"]) == (200, 503, "draining")
    assert int(draining.headers["Retry-After"]) > 0
    assert (refused.status, refused.json["code"]) == (503, "draining")
    assert (await server.ask("GET", "/health")).status == 200


def test_the_configuration_is_where_handlers_look(config: Config) -> None:
    """`app[CONFIG]` is the configuration the application was made with."""
    assert make_app(config)[CONFIG] is config
