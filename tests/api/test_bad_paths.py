"""Bad input for the file routes, byte for byte: nothing outside is shown, nothing hangs, nothing runs."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from agentsrv.api.keys import CONFIG
from tests.api.kit import TIMEOUT_S, Serve, Server, make_config
from tests.api.test_bad_inputs import http, json_body, parse

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET = "the-secret-outside"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory, serving: Serve) -> AsyncIterator[Server]:
    directory = tmp_path_factory.mktemp("bad-paths")
    (directory / "base2").mkdir()
    (directory / "base2/file").write_text(SECRET)
    config = make_config(directory, env_file=directory / "base/.env")
    base = config.workspace_base
    (base / ".env").write_text(SECRET)
    (base / "file").write_text("inside")
    (base / "dir").mkdir()
    os.mkfifo(base / "pipe")
    for name, target in {
        "out": "/",
        "loop": "loop",
        "near": "../base2",
        "own": "../state",
        "null": "/dev/null",
    }.items():
        (base / name).symlink_to(target)
    async with serving(config) as running:
        yield running


@dataclass(frozen=True, slots=True)
class Row:
    request: bytes
    statuses: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.request.split(b" HTTP/")[0].decode("ascii", "replace")[:80]


OUTSIDE = [
    "..", "../base2", "/../base2", "~/../base2", "dir/../..", "a/../../..", "/etc", "/etc/passwd", "%2e%2e/",
    "..%2f", "out", "out/etc/passwd", "near/file", "own", "own/agentsrv.db", "null", ".env", ".%2fdir/..%2f.env",
    "file:///etc/passwd", "file:///%65tc", "~/../../",
]  # fmt: skip

READS = [
    "/filesystem/files?path=",
    "/filesystem/search?q=a&root=",
    "/filesystem/grep?q=a&path=",
    "/filesystem/content?path=",
    "/filesystem/archive?path=",
    "/filesystem/watch?path=",
]


def outside() -> Iterator[Row]:
    for path in OUTSIDE:
        for route in READS:
            yield Row(http("GET", route + path), (403,))
            yield Row(http("GET", "/sessions" + route + path), (403,))
        yield Row(http("DELETE", f"/filesystem/entry?recursive=true&path={path}/x"), (400, 403, 404))
        yield Row(http("PUT", f"/filesystem/content?path={path}/x", body=b"x"), (400, 403))
        yield Row(
            json_body("POST", "/filesystem/directory", {"path": f"{path}/x".replace("%2f", "/")}),
            (400, 403, 404),
        )
        yield Row(json_body("POST", "/filesystem/move", {"from": "file", "to": f"{path}/x"}), (400, 403, 404))
        yield Row(json_body("POST", "/filesystem/move", {"from": f"{path}/x", "to": "y"}), (400, 403, 404))


NOT_THERE = [
    "missing",
    "....//",
    "..\\",
    "%255c",
    "~root",
    "dir/missing",
    "%0a",
    "$(id)",
    "-rf",
    "file/x",
    "loop/x",
]
UNUSABLE = ["%00", "x" * 5000, "y" * 256, "%ff", "a%ffb", "loop", "pipe/x", "file:///a%00"]


def odd() -> Iterator[Row]:
    for route in READS:
        for path in NOT_THERE:
            yield Row(http("GET", route + path), (400, 404))
        for path in UNUSABLE:
            yield Row(http("GET", route + path), (400, 404))
        yield Row(http("GET", route + "pipe"), (400,))
        is_for_directories = "content" not in route
        yield Row(http("GET", route + "file"), (400,) if is_for_directories else (200,))
    yield Row(http("GET", "/filesystem/content?path=file&path=file"), (400,))
    for path in sorted({*NOT_THERE, *UNUSABLE} - {"loop"}):
        yield Row(http("DELETE", f"/filesystem/entry?path={path}"), (400, 404))


NUMBERS = ["-1", "0", "x", "1.5", "1e9", "NaN", "%2B1", "", "9" * 30, "%D9%A3"]


def queries() -> Iterator[Row]:
    for route in READS[:3]:
        for number in NUMBERS:
            yield Row(http("GET", f"{route}&maxDepth={number}"), (400,))
            yield Row(http("GET", f"{route}&limit={number}"), (400,))
        yield Row(http("GET", f"{route}&includeIgnored=1"), (400,))
    yield Row(http("GET", "/filesystem/files?limit=1000000000&includeFiles=yes"), (400,))
    yield Row(http("GET", "/filesystem/search?q=a&maxDepth=1000000000"), (200,))
    yield Row(http("GET", "/filesystem/search?q=" + "x" * 1001), (400,))
    yield Row(http("GET", "/filesystem/grep?q="), (400,))
    yield Row(http("GET", "/filesystem/grep"), (400,))
    yield Row(http("GET", "/filesystem/grep?q=a%0ab"), (400,))
    yield Row(http("GET", "/filesystem/content"), (400,))
    yield Row(http("DELETE", "/filesystem/entry"), (400,))
    yield Row(http("DELETE", "/filesystem/entry?path="), (400,))
    yield Row(http("DELETE", "/filesystem/entry?path=dir&recursive=1"), (400,))
    for text in [
        "(",
        ".*",
        "(a%2B)%2B$",
        "-x%20rm",
        "--exec=touch%20CANARY",
        "$(id)",
        "%2A" * 300,
        "a%20" * 200,
    ]:
        yield Row(http("GET", f"/filesystem/search?q={text}&includeFiles=true"), (200,))
        yield Row(http("GET", f"/filesystem/search?path={text}"), (200,))
        yield Row(http("GET", f"/filesystem/grep?q={text}"), (200,))


WRONG = [1, [], {}, True, None, "a\0b", "\ud800"]


def bodies() -> Iterator[Row]:
    for value in WRONG:
        yield Row(json_body("POST", "/filesystem/directory", {"path": value}), (400,))
        yield Row(json_body("POST", "/filesystem/move", {"from": value, "to": "x"}), (400,))
        yield Row(json_body("POST", "/filesystem/move", {"from": "file", "to": value}), (400,))
    yield Row(json_body("POST", "/filesystem/directory", {"path": "x", "parents": 1}), (400,))
    yield Row(json_body("POST", "/filesystem/move", {"from": "file"}), (400,))
    yield Row(
        json_body("POST", "/filesystem/move", {"from": "file", "to": "dir", "overwrite": "yes"}), (400,)
    )
    for path in [
        ".git/config",
        "dir/.git/hooks/x",
        ".ssh/authorized_keys",
        ".bashrc",
        ".claude.json",
        "dir/.GIT/x",
    ]:
        yield Row(http("PUT", f"/filesystem/content?path={path}", body=b"x"), (403,))
        yield Row(json_body("POST", "/filesystem/directory", {"path": path, "parents": True}), (403,))
        yield Row(json_body("POST", "/filesystem/move", {"from": "file", "to": path}), (403, 404))
    for path in ["dir", "pipe", "", "/"]:
        yield Row(http("PUT", f"/filesystem/content?path={path}", body=b"x"), (400, 403))
    yield Row(http("PUT", "/filesystem/content?path=file", 'If-None-Match: W/"1"', body=b"x"), (400,))
    yield Row(http("PUT", "/filesystem/content?path=file", "If-Match: nonsense", body=b"x"), (412,))
    yield Row(http("PUT", "/filesystem/content?path=file", "Content-Encoding: gzip", body=b"x"), (415,))
    yield Row(http("PUT", "/filesystem/content?path=file", f"Content-Length: {10**15}"), (413,))


ROUTES = [
    ("GET", "/filesystem/files"),
    ("GET", "/sessions/filesystem/files"),
    ("GET", "/sessions/filesystem/content?path=file"),
    ("PUT", "/sessions/filesystem/content?path=file"),
    ("POST", "/filesystem/upload"),
    ("POST", "/sessions/filesystem/upload"),
    ("DELETE", "/filesystem/entry?path=file"),
    ("GET", "/filesystem/watch"),
]


def keys() -> Iterator[Row]:
    for method, path in ROUTES:
        yield Row(http(method, path, key=None), (401,))
        yield Row(http(method, path, "Content-Length: 99", key=None), (401,))
        yield Row(http(method, path, "Origin: https://evil.example"), (403,))
    yield Row(http("PATCH", "/filesystem/content"), (405,))
    yield Row(http("GET", "/filesystem/nope"), (404,))


ROWS = [*outside(), *odd(), *queries(), *bodies(), *keys()]


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
async def test_bad_input_is_refused_and_changes_nothing(
    server: Server, row: Row, caplog: pytest.LogCaptureFixture
) -> None:
    """The right status, in time; nothing from outside in the answer, no change, no warning in the log."""
    before = await state_of(server)
    started = time.monotonic()
    with caplog.at_level(logging.INFO):
        status, body = parse(await server.send(row.request))

    assert status in row.statuses, body
    assert SECRET not in str(body)
    assert time.monotonic() - started < 20
    assert status < 400 or {"error", "code", "timestamp"} <= body.keys()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert await state_of(server) == before


async def state_of(server: Server) -> list[str]:
    """Everything in the workspace and beside it; asked after the same process has answered."""
    async with asyncio.timeout(TIMEOUT_S):
        assert (await server.ask("GET", "/health", key=None)).status == 200
    base = server.app[CONFIG].workspace_base
    return sorted(str(path) for place in (base, base.parent / "base2") for path in place.rglob("*"))
