"""Bad input, byte for byte over raw sockets: what each class of it is answered, and that nothing else happens.

The rows share one server: whatever a row sends, the same process answers `/health` afterwards.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from agentsrv.app import make_app
from tests.api.kit import KEY, Server, make_config, serve

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY_LIMIT = 9 * 1024 * 1024


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    directory = tmp_path_factory.mktemp("bad")
    config = make_config(
        directory,
        allowed_origins=frozenset({"https://app.example"}),
        max_body_bytes=BODY_LIMIT,
        body_timeout_s=0.3,
    )
    (config.workspace_base / "out").symlink_to("/")
    (config.workspace_base / "loop").symlink_to("loop")
    (config.workspace_base / "file").write_text("")
    (config.workspace_base / "inside").mkdir()
    (config.workspace_base / "own").symlink_to(config.state_dir)
    async with serve(make_app(config)) as running:
        assert (await running.generate(session_id="there")).status == 200
        yield running


@dataclass(frozen=True, slots=True)
class Row:
    """`request` is sent as it is; one of `statuses` must come back, with `code` and `field` where given."""

    name: str
    request: bytes
    statuses: tuple[int, ...]
    code: str | None = None
    field: str | None = None


def http(
    method: str,
    path: str,
    body: bytes | None = None,
    *,
    key: str | None = KEY,
    headers: tuple[str, ...] = (),
    type: str | None = "application/json",
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
    if key is not None:
        lines.append(f"Authorization: Bearer {key}")
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
        if type is not None:
            lines.append(f"Content-Type: {type}")
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + (body or b"")


def generate(**fields: Any) -> bytes:
    return http("POST", "/generate/v2", json.dumps({"session_id": "new", "prompt": "hi"} | fields).encode())


def create(**fields: Any) -> bytes:
    return http("POST", "/sessions", json.dumps(fields).encode())


PROTECTED = [
    ("GET", "/sessions"),
    ("POST", "/sessions"),
    ("GET", "/sessions/there"),
    ("PUT", "/sessions/there"),
    ("DELETE", "/sessions/there"),
    ("GET", "/sessions/there/messages"),
    ("GET", "/sessions/there/events"),
    ("POST", "/generate/v2"),
    ("GET", "/generate/v2/jobs"),
    ("GET", "/generate/v2/jobs/x"),
    ("GET", "/generate/v2/jobs/x/stream"),
    ("DELETE", "/generate/there/stop"),
    ("GET", "/agents"),
    ("GET", "/env/PATH"),
    ("GET", "/health/ready"),
]


def keys() -> list[Row]:
    rows = [Row(f"no key: {m} {p}", http(m, p, key=None), (401,), "unauthorized") for m, p in PROTECTED]
    for value in (
        "Bearer wrong",
        "Bearer ",
        "Bearer",
        "Basic eA==",
        KEY,
        f"Bearer {KEY[:-1]}",
        f"Bearer {KEY}x",
        f"Bearer {KEY.upper()}",
        f"Bearer {KEY},second-key-0123456789",
        "Bearer \udcff\udcfe",
        "Bearer " + "x" * 5000,
    ):
        request = http("GET", "/sessions", key=None, headers=(f"Authorization: {value}",))
        rows.append(Row(f"authorization: {value[:30]!r}", request, (401,), "unauthorized"))
    twice = (f"Authorization: Bearer {KEY}",) * 2
    rows += [
        Row("two keys", http("GET", "/sessions", key=None, headers=twice), (401,)),
        Row("key in the query", http("GET", f"/sessions?api_key={KEY}&token={KEY}", key=None), (401,)),
        Row("key in a cookie", http("GET", "/sessions", key=None, headers=(f"Cookie: token={KEY}",)), (401,)),
        Row(
            "401 before the body",
            http("POST", "/sessions", key=None, headers=("Content-Length: 99",)),
            (401,),
        ),
        Row("no such route, no key", http("GET", "/nope", key=None), (404,), "not_found"),
        Row("no such route", http("GET", "/nope"), (404,), "not_found"),
        Row("no such method, no key", http("PATCH", "/sessions", key=None), (405,), "method_not_allowed"),
        Row("no such method", http("PATCH", "/sessions"), (405,), "method_not_allowed"),
        Row("TRACE", http("TRACE", "/sessions"), (405,)),
        Row(
            "lower case scheme",
            http("GET", "/sessions", key=None, headers=(f"Authorization: bearer {KEY}",)),
            (200,),
        ),
        Row("another key", http("GET", "/sessions", key="second-key-0123456789"), (200,)),
    ]
    return rows


def origins() -> list[Row]:
    rows = []
    for origin in (
        "https://evil.example",
        "null",
        "https://app.example.evil",
        "http://app.example",
        "https://app.example:444",
        "https://APP.example/",
        "",
        "http://localhost",
    ):
        header = (f"Origin: {origin}",)
        for method, path in (
            ("GET", "/health"),
            ("GET", "/sessions/there/events"),
            ("DELETE", "/sessions/there"),
        ):
            request = http(method, path, headers=header)
            rows.append(Row(f"origin {origin}: {path}", request, (403,), "origin_not_allowed"))
    preflight = ("Origin: https://evil.example", "Access-Control-Request-Method: POST")
    two = ("Origin: https://app.example", "Origin: https://app.example")
    simple = http("POST", "/generate/v2", b'{"session_id":"new","prompt":"hi"}', type="text/plain")
    rows += [
        Row("preflight", http("OPTIONS", "/generate/v2", headers=preflight, key=None), (403,)),
        Row("two origins", http("GET", "/sessions", headers=two), (403,)),
        Row("simple cross-site request", simple, (415,), "unsupported_media_type"),
        Row("OPTIONS without an origin", http("OPTIONS", "/sessions"), (405,)),
    ]
    for type_ in (
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json; charset=utf-16",
        None,
    ):
        rows.append(Row(f"type {type_}", http("POST", "/sessions", b"{}", type=type_), (415,)))
    return rows


def not_http() -> list[Row]:
    head = f"GET /sessions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
    both = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    return [
        Row("length and chunks", (head + both).encode(), (400,), "bad_request"),
        Row(
            "two lengths",
            (head + "Content-Length: 1\r\nContent-Length: 2\r\n\r\n").encode(),
            (400,),
            "bad_request",
        ),
        Row("length with a sign", (head + "Content-Length: +1\r\n\r\na").encode(), (400,), "bad_request"),
        Row("space before the colon", (head + "X : y\r\n\r\n").encode(), (400,), "bad_request"),
        Row("folded header", (head + "X: y\r\n z\r\n\r\n").encode(), (400,), "bad_request"),
        Row("NUL in a header", (head + "X: a\0b\r\n\r\n").encode(), (400,), "bad_request"),
        Row("bare LF", head.replace("\r\n", "\n").encode() + b"\n", (400,), "bad_request"),
        Row(
            "a long header",
            http("GET", "/sessions", headers=("X: " + "y" * 9000,)),
            (400, 431),
            "bad_request",
        ),
        Row("a long URL", http("GET", "/sessions?x=" + "y" * 9000), (400, 414), "bad_request"),
        Row("200 headers", http("GET", "/sessions", headers=("X: y",) * 200), (400, 431), "bad_request"),
        Row("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, 404, 405, 505)),
        Row("TLS", bytes.fromhex("1603010200010001fc0303") + b"\1" * 64 + b"\r\n\r\n", (400,), "bad_request"),
        Row("HTTP/0.9", b"GET /\r\n\r\n", (400,), "bad_request"),
        Row("garbage", b"\xff\xfe\r\n\r\n", (400,), "bad_request"),
        Row(
            "bad chunk",
            http(
                "POST", "/sessions", headers=("Transfer-Encoding: chunked", "Content-Type: application/json")
            )
            + b"zz\r\n{}\r\n0\r\n\r\n",
            (400,),
        ),
        Row(
            "bad second chunk",
            http(
                "POST", "/sessions", headers=("Transfer-Encoding: chunked", "Content-Type: application/json")
            )
            + b"2\r\n{}\r\nzz\r\n",
            (400,),
        ),
        Row(
            "cut off",
            http("POST", "/sessions", headers=("Content-Length: 9", "Content-Type: application/json"))
            + b"{}",
            (408,),
        ),
        Row("bad gzip", http("POST", "/sessions", b"not gzip", headers=("Content-Encoding: gzip",)), (415,)),
        Row("unknown expectation", http("GET", "/health", headers=("Expect: a-pony",)), (200, 417)),
        Row("unknown expectation, no route", http("GET", "/nope", headers=("Expect: a-pony",)), (404, 417)),
    ]


def bodies() -> list[Row]:
    rows = []
    for body in (b"", b"{", b"{}x", b"{'a':1}", b"\xff\xfe{}", b"\xef\xbb\xbf{}", b'{"a":\x00}', b"[" * 100_000,
                 b'{"a":' * 5000 + b"1" + b"}" * 5000, b'{"n":NaN}', b'{"n":-Infinity}', b'{"n":1e999}',
                 b'{"n":' + b"9" * 5000 + b"}", "{\"a\":1}".encode("utf-16"), b'{"a":"\xed\xa0\x80"}'):  # fmt: skip
        for path in ("/sessions", "/generate/v2"):
            rows.append(Row(f"body {body[:20]!r}: {path}", http("POST", path, body), (400,), "invalid_json"))
    for body in (b"[]", b'"x"', b"null", b"1", b"true", b"[{}]"):
        rows.append(Row(f"body {body!r}", http("POST", "/sessions", body), (400,), "invalid_body"))
    nested: Any = "x"
    for _ in range(100):
        nested = {"a": nested}
    chunked = ("Transfer-Encoding: chunked", "Content-Type: application/json")
    large = b"x" * (BODY_LIMIT + 1)
    slow = ("Content-Length: 99", "Content-Type: application/json")
    rows += [
        Row("nested deeply", generate(mcp_servers=nested), (400,), "invalid_input", "mcp_servers"),
        Row("too large", http("POST", "/generate/v2", large), (413,), "too_large"),
        Row("too large, chunked", http("POST", "/generate/v2", headers=chunked) + b"%x\r\n%b\r\n0\r\n\r\n" % (len(large), large), (413,), "too_large"),
        Row("says it is too large", http("POST", "/generate/v2", headers=(f"Content-Length: {10**15}", slow[1])), (413,), "too_large"),
        Row("too slow", http("POST", "/generate/v2", headers=slow) + b"{", (408,), "request_timeout"),
        Row("asks to send, too large", http("POST", "/sessions", headers=(f"Content-Length: {10**15}", slow[1], "Expect: 100-continue")), (413,)),
        Row("prompt over its limit", generate(prompt="x" * (8 * 1024 * 1024 + 1)), (413,), "too_large"),
        Row("prompt over its limit in bytes", generate(prompt="é" * (4 * 1024 * 1024 + 1)), (413,), "too_large"),
    ]  # fmt: skip
    return rows


WRONG = {
    "sessionId": [1, [], {}, True, None, "", "../x", "a/b", "a b", "<script>", "😀", "x" * 129, ".", "..", "-x", "filesystem", "a\n", "a\0"],
    "agent": [1, [], {}, True, None, "", "foo", "Claude-Code"],
    "cwd": [1, [], {}, True, None, "", "~", "missing", "file", "x" * 5000, "a\0b", "\ud800", "loop"],
    "model": [1, [], {}, True, None, "", "gpt;id", "$(id)", "-c", "--dangerously", "x" * 10_000, "a\nb", "a\n", "ü", "a\0"],
    "name": [1, [], {}, True, None, "", "x" * 201, "a\0b", "\ud83d"],
}  # fmt: skip

WRONG_IN_GENERATE: dict[str, list[Any]] = {
    "session_id": WRONG["sessionId"],
    "agent": WRONG["agent"],
    "cwd": WRONG["cwd"],
    "model": WRONG["model"],
    "prompt": [1, [], {}, True, None, "", "   ", "\n\t ", "a\0b", "\udfff"],
    "background": [1, 0, "true", [], {}, None],
    "use_worktree": [1, "true", [], {}, None],
    "images": [1, "a.png", {}, True, None, ["x"] * 21, ["a.png"], ["http://169.254.169.254/"]],
    "message_id": [1, [], {}, True, None, "", "a b", "x" * 201, "ü"],
    "permission_mode": [1, [], {}, True, None, "", "root", "ask"],
    "effort": [1, [], {}, True, None, "", "bogus"],
    "system_prompt": [1, [], {}, True, None, "", "x" * 100_001],
    "max_turns": ["1", 1.5, [], {}, True, None, 0, -1, 10**9, 10**30],
    "max_budget_usd": ["1", [], {}, True, None, 0, -0.0, -1, 1e30],
    "mcp_servers": [1, "x", [], True, None, {"a": 1}, {"a": {"b": "\0"}}],
    "output_schema": [1, "x", [], True, None],
    "partial_messages": [1, "true", [], {}, None],
    "format": [1, "xml", [], {}, True, None, "acp"],
    "on_disconnect": [1, "stop", [], {}, True, None],
}


def fields() -> list[Row]:
    codes = (400,)
    rows = [
        Row(f"{field}={str(value)[:20]!a}", create(**{field: value}), codes, None, field)
        for field, values in WRONG.items()
        for value in values
    ]
    rows += [
        Row(f"generate {field}={str(value)[:20]!a}", generate(**{field: value}), codes, None, field)
        for field, values in WRONG_IN_GENERATE.items()
        for value in values
    ]
    for field in ("name", "model"):
        rows += [
            Row(
                f"PUT {field}={str(value)[:20]!a}",
                http("PUT", "/sessions/there", json.dumps({field: value}).encode()),
                codes,
                None,
                field,
            )
            for value in WRONG[field]
        ]
    rows += [
        Row(
            "no prompt",
            http("POST", "/generate/v2", b'{"session_id":"new"}'),
            (400,),
            "invalid_input",
            "prompt",
        ),
        Row(
            "no session",
            http("POST", "/generate/v2", b'{"prompt":"hi"}'),
            (400,),
            "invalid_input",
            "session_id",
        ),
        Row("a field name with NUL", http("POST", "/sessions", b'{"a\\u0000":1}'), (400,), "invalid_input"),
        Row(
            "two message ids",
            http(
                "POST",
                "/generate/v2",
                b'{"session_id":"new","prompt":"hi","message_id":"a"}',
                headers=("Idempotency-Key: b",),
            ),
            (400,),
            "invalid_input",
            "message_id",
        ),
        Row(
            "a bad Idempotency-Key",
            http(
                "POST",
                "/generate/v2",
                b'{"session_id":"new","prompt":"hi"}',
                headers=("Idempotency-Key: a b",),
            ),
            (400,),
            "invalid_input",
            "Idempotency-Key",
        ),
        Row("another agent", generate(session_id="there", agent="codex"), (400, 409)),
        Row("another cwd", generate(session_id="there", cwd="inside"), (409,), "cwd_mismatch"),
        Row("an id that is taken", create(sessionId="there"), (409,), "session_exists"),
    ]
    return rows


def places() -> list[Row]:
    outside = [
        "/etc",
        "/",
        "..",
        "../..",
        "out",
        "out/etc",
        "workspaces/../../etc",
        "/etc/../etc",
        "own",
        "own/runners",
    ]
    rows = [Row(f"cwd {cwd}", create(cwd=cwd), (403,), "outside_workspace") for cwd in outside]
    return rows + [
        Row(f"generate cwd {cwd}", generate(cwd=cwd), (403,), "outside_workspace") for cwd in outside
    ]


def paths() -> list[Row]:
    rows = []
    for id_ in (
        "%zz",
        "%ff%fe",
        "%00",
        "%2e%2e%2f",
        "..%2f..%2fetc",
        "'%20OR%201=1--",
        "a%0ab",
        "%f0%9f%98%80",
        "x" * 300,
        "unknown",
    ):
        for method, path in (
            ("GET", "/sessions/{}"),
            ("PUT", "/sessions/{}"),
            ("DELETE", "/sessions/{}"),
            ("GET", "/sessions/{}/messages"),
            ("GET", "/sessions/{}/events"),
            ("GET", "/generate/v2/jobs/{}"),
            ("GET", "/generate/v2/jobs/{}/stream"),
            ("DELETE", "/generate/{}/stop"),
        ):
            body = b'{"name":"x"}' if method == "PUT" else None
            rows.append(Row(f"{method} {path} {id_[:20]}", http(method, path.format(id_), body), (400, 404)))
    return rows


def queries() -> list[Row]:
    numbers = ("-1", "1.5", "x", "1e9", "NaN", "%2B1", "%201", "0x1", "%D9%A3", "9" * 30, "%00", "")
    rows = []
    for path in (
        "/sessions?limit=",
        "/generate/v2/jobs?limit=",
        "/sessions/there/messages?limit=",
        "/sessions/there/messages?after=",
    ):
        field = path.rpartition("?")[2][:-1]
        rows += [
            Row(f"{path}{number}", http("GET", path + number), (400,), "invalid_input", field)
            for number in numbers
        ]
    for query, field in (
        ("/sessions?limit=0", "limit"),
        ("/sessions?limit=1001", "limit"),
        ("/sessions?limit=1&limit=2", "limit"),
        ("/sessions?cursor=nonsense", "cursor"),
        ("/sessions?cursor=" + "x" * 501, "cursor"),
        ("/sessions?cursor='%20OR%201=1--", "cursor"),
        ("/sessions?agent=foo", "agent"),
        ("/generate/v2/jobs?status=done", "status"),
        ("/generate/v2/jobs?session_id=a%20b", "session_id"),
        ("/generate/v2/jobs/x?wait=-1", "wait"),
        ("/generate/v2/jobs/x?wait=301", "wait"),
        ("/sessions/there/events?after=x", "after"),
        ("/sessions/there/events?after=999999", "Last-Event-ID"),
        ("/sessions/there/events?format=acp", "format"),
        ("/sessions/there/messages?format=xml", "format"),
    ):
        rows.append(Row(query, http("GET", query), (400,), None, field))
    for query, field in (
        ("force=yes", "force"),
        ("force=1", "force"),
        ("force=true&force=true", "force"),
        ("worktree=remove", "worktree"),
    ):
        rows.append(Row(f"DELETE {query}", http("DELETE", f"/sessions/there?{query}"), (400,), None, field))
    return rows


ROWS = [*keys(), *origins(), *not_http(), *bodies(), *fields(), *places(), *paths(), *queries()]


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
async def test_bad_input_is_refused_and_changes_nothing(
    server: Server, row: Row, caplog: pytest.LogCaptureFixture
) -> None:
    """The right status and code, the wrong field named, the one error shape; the server goes on."""
    with caplog.at_level(logging.INFO):
        status, body = parse(await server.send(row.request))

    assert status in row.statuses, body
    if status >= 400:
        assert {"error", "code", "timestamp"} <= body.keys()
        assert row.code in (None, body["code"])
        assert row.field is None or row.field in [
            problem["path"].partition(".")[0] for problem in body["details"]
        ]
    assert KEY not in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert await state_of(server) == UNCHANGED


async def test_health_answers_to_the_last(server: Server) -> None:
    """After all of the above."""
    assert (await server.ask("GET", "/health", key=None)).json["status"] == "healthy"


UNCHANGED = (["there"], 1)


async def state_of(server: Server) -> Any:
    """What bad input must not change. Asked over HTTP, by the same process."""
    assert (await server.ask("GET", "/health", key=None)).status == 200
    sessions = (await server.ask("GET", "/sessions")).json["sessions"]
    return [session["id"] for session in sessions], (await server.ask("GET", "/generate/v2/jobs")).json[
        "count"
    ]


def parse(answer: bytes) -> tuple[int, Any]:
    """Status and body; a body that is not JSON comes as text."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status = re.match(rb"HTTP/\d\.\d (\d{3}) ", head)
    assert status, answer[:200]
    text = body.decode()
    assert "Traceback" not in text
    return int(status[1]), json.loads(text) if b"application/json" in head else text
