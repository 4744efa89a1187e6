"""Bad input, byte for byte over raw sockets: what each class of it gets, and that nothing else happens.

The rows share one server: whatever a row sends, the same process answers `/health` afterwards.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from tests.api.kit import KEY, Serve, Server, make_config
from tests.pictures import PNG

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY_LIMIT = 9 * 1024 * 1024
PROMPT_LIMIT = 8 * 1024 * 1024


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory, serving: Serve) -> AsyncIterator[Server]:
    directory = tmp_path_factory.mktemp("bad")
    config = make_config(
        directory,
        allowed_origins=frozenset({"https://app.example"}),
        max_body_bytes=BODY_LIMIT,
        body_timeout_s=5.0,
    )
    (config.workspace_base / "out").symlink_to("/")
    (config.workspace_base / "loop").symlink_to("loop")
    (config.workspace_base / "file").write_text("")
    (config.workspace_base / "inside").mkdir()
    (config.workspace_base / "own").symlink_to(config.state_dir)
    os.mkfifo(config.workspace_base / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(config.workspace_base / "socket"))
    with (config.workspace_base / "huge.png").open("wb") as huge:
        huge.write(PNG)
        huge.truncate(1 << 40)
    async with serving(config) as running:
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


def http(method: str, path: str, *headers: str, body: bytes | None = None, key: str | None = KEY) -> bytes:
    """A request. With a body: as JSON, unless the headers say something else."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
    if key is not None:
        lines.append(f"Authorization: Bearer {key}")
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
        if not any(header.startswith("Content-Type:") for header in headers):
            lines.append("Content-Type: application/json")
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + (body or b"")


def json_body(method: str, path: str, fields: Any, *headers: str) -> bytes:
    return http(method, path, *headers, body=json.dumps(fields).encode())


def generate(*headers: str, **fields: Any) -> bytes:
    return json_body("POST", "/generate/v2", {"session_id": "new", "prompt": "hi"} | fields, *headers)


def create(**fields: Any) -> bytes:
    return json_body("POST", "/sessions", fields)


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
    ("POST", "/sessions/there/fork"),
    ("GET", "/sessions/there/queue"),
    ("PUT", "/sessions/there/queue"),
    ("DELETE", "/sessions/there/queue"),
    ("DELETE", "/sessions/there/queue/x"),
    ("GET", "/permissions"),
    ("GET", "/generate/v2/jobs/x/permissions"),
    ("POST", "/generate/v2/jobs/x/permissions/y"),
    ("GET", "/git/worktrees"),
    ("DELETE", "/git/worktrees?path=x"),
    ("GET", "/agents"),
    ("GET", "/env/PATH"),
]

CREDENTIALS = [
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
]


def keys() -> Iterator[Row]:
    for method, path in PROTECTED:
        yield Row(f"no key: {method} {path}", http(method, path, key=None), (401,), "unauthorized")
    for value in CREDENTIALS:
        request = http("GET", "/sessions", f"Authorization: {value}", key=None)
        yield Row(f"authorization: {value[:30]!r}", request, (401,), "unauthorized")
    valid = f"Authorization: Bearer {KEY}"
    lower = f"Authorization: bearer {KEY}"
    yield Row("two keys", http("GET", "/sessions", valid, valid, key=None), (401,))
    yield Row("key in the query", http("GET", f"/sessions?api_key={KEY}&token={KEY}", key=None), (401,))
    yield Row("key in a cookie", http("GET", "/sessions", f"Cookie: token={KEY}", key=None), (401,))
    yield Row("401 before the body", http("POST", "/sessions", "Content-Length: 99", key=None), (401,))
    yield Row("no such route, no key", http("GET", "/nope", key=None), (404,), "not_found")
    yield Row("no such route", http("GET", "/nope"), (404,), "not_found")
    yield Row("no such method, no key", http("PATCH", "/sessions", key=None), (405,), "method_not_allowed")
    yield Row("no such method", http("PATCH", "/sessions"), (405,), "method_not_allowed")
    yield Row("TRACE", http("TRACE", "/sessions"), (405,), "method_not_allowed")
    yield Row("lower case scheme is fine", http("GET", "/sessions", lower, key=None), (200,))
    yield Row("the other key is fine", http("GET", "/sessions", key="second-key-0123456789"), (200,))


ORIGINS = [
    "https://evil.example",
    "null",
    "https://app.example.evil",
    "http://app.example",
    "https://app.example:444",
    "https://APP.example/",
    "http://localhost:5173",
    "",
]


def origins() -> Iterator[Row]:
    for origin in ORIGINS:
        for method, path in [
            ("GET", "/health"),
            ("GET", "/sessions/there/events"),
            ("DELETE", "/sessions/there"),
            ("POST", "/sessions/there/fork"),
            ("POST", "/generate/v2/jobs/x/permissions/y"),
            ("DELETE", "/git/worktrees?path=x"),
        ]:
            request = http(method, path, f"Origin: {origin}")
            yield Row(f"origin {origin}: {method} {path}", request, (403,), "origin_not_allowed")
    preflight = http(
        "OPTIONS",
        "/sessions",
        "Origin: https://evil.example",
        "Access-Control-Request-Method: POST",
        key=None,
    )
    good = "Origin: https://app.example"
    yield Row("preflight from an evil page", preflight, (403,), "origin_not_allowed")
    yield Row("two origins", http("GET", "/sessions", good, good), (403,), "origin_not_allowed")
    yield Row("OPTIONS without an origin", http("OPTIONS", "/sessions"), (405,), "method_not_allowed")
    for kind in ["text/plain", "multipart/form-data", "application/json; charset=utf-16", ""]:
        request = generate(f"Content-Type: {kind}")
        yield Row(f"content type {kind!r}", request, (415,), "unsupported_media_type")


def not_http() -> Iterator[Row]:
    get = f"GET /sessions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n".encode()
    post = http("POST", "/sessions", "Transfer-Encoding: chunked", "Content-Type: application/json")
    for name, request in {
        "length and chunks": get + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "two lengths": get + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "length with a sign": get + b"Content-Length: +1\r\n\r\na",
        "space before the colon": get + b"X : y\r\n\r\n",
        "folded header": get + b"X: y\r\n z\r\n\r\n",
        "NUL in a header": get + b"X: a\0b\r\n\r\n",
        "bare LF": get.replace(b"\r\n", b"\n") + b"\n",
        "200 headers": get + b"X: y\r\n" * 200 + b"\r\n",
        "TLS": bytes.fromhex("1603010200010001fc0303") + b"\1" * 64 + b"\r\n\r\n",
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "HTTP/0.9": b"GET /\r\n\r\n",
        "garbage": b"\xff\xfe\r\n\r\n",
    }.items():
        yield Row(name, request, (400,), "bad_request")
    yield Row("a long header", get + b"X: " + b"y" * 9000 + b"\r\n\r\n", (431,), "bad_request")
    yield Row("a long URL", http("GET", "/sessions?x=" + "y" * 9000), (414,), "bad_request")
    yield Row("bad chunk", post + b"zz\r\n{}\r\n0\r\n\r\n", (400,))
    yield Row("bad second chunk", post + b"2\r\n{}\r\nzz\r\n", (400,))
    yield Row("compressed body", generate("Content-Encoding: gzip"), (415,), "unsupported_media_type")
    yield Row("unknown expectation, no route", http("GET", "/nope", "Expect: a-pony"), (404, 417))


BAD_JSON = [
    b"",
    b"{",
    b"{}x",
    b"{'a':1}",
    b"\xff\xfe{}",
    b"\xef\xbb\xbf{}",
    b'{"a":\x00}',
    b'{"a":"\xed\xa0\x80"}',
    '{"a":1}'.encode("utf-16"),
    b"[" * 100_000,
    b'{"a":' * 5000 + b"1" + b"}" * 5000,
    b'{"n":NaN}',
    b'{"n":-Infinity}',
    b'{"n":1e999}',
    b'{"n":' + b"9" * 5000 + b"}",
]


ANSWER = "/generate/v2/jobs/x/permissions/y"

WITH_BODY = [
    ("POST", "/sessions"),
    ("POST", "/generate/v2"),
    ("POST", "/sessions/there/fork"),
    ("PUT", "/sessions/there/queue"),
    ("POST", ANSWER),
]


def bodies() -> Iterator[Row]:
    for method, path in WITH_BODY:
        # Without a body a fork is one with defaults.
        for body in BAD_JSON[path.endswith("/fork") :]:
            yield Row(f"{path} {body[:20]!r}", http(method, path, body=body), (400,), "invalid_json")
        for body in [b"[]", b'"x"', b"null", b"1", b"true", b"[{}]"]:
            yield Row(f"{path} {body!r}", http(method, path, body=body), (400,), "invalid_body")
    nested: Any = "x"
    for _ in range(100):
        nested = {"a": nested}
    yield Row("nested deeply", generate(mcp_servers=nested), (400,), "invalid_input", "mcp_servers")

    large = b"x" * (BODY_LIMIT + 1)
    head = ("POST", "/generate/v2", "Content-Type: application/json")
    chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(large), large)
    too_large = (413,), "too_large"
    yield Row("too large", http("POST", "/generate/v2", body=large), *too_large)
    yield Row("too large in chunks", http(*head, "Transfer-Encoding: chunked") + chunk, *too_large)
    yield Row("says it is too large", http(*head, f"Content-Length: {10**15}"), *too_large)
    yield Row("asks to send", http(*head, f"Content-Length: {10**15}", "Expect: 100-continue"), *too_large)
    yield Row("a prompt over its limit", generate(prompt="x" * (PROMPT_LIMIT + 1)), *too_large)
    two_bytes_each = http(
        *head, body=b'{"session_id":"new","prompt":"' + "é".encode() * (PROMPT_LIMIT // 2 + 1) + b'"}'
    )
    yield Row("a prompt over its limit in bytes", two_bytes_each, *too_large)
    yield Row("too slow", http(*head, "Content-Length: 99") + b"{", (408,), "request_timeout")


OF_NO_TYPE = [1, [], {}, True, None, ""]
"""Wrong for every field that is text."""

BAD_IDS = ["../x", "a/b", "a b", "<script>", "😀", ".", "..", "-x", "a\n", "a\0"]

WRONG_IN_SESSION: dict[str, list[Any]] = {
    "sessionId": [*OF_NO_TYPE, *BAD_IDS, "x" * 129, "filesystem"],
    "agent": [*OF_NO_TYPE, "foo", "Claude-Code"],
    "cwd": [*OF_NO_TYPE, "~", "missing", "file", "x" * 5000, "a\0b", "\ud800", "loop"],
    "model": [*OF_NO_TYPE, "gpt;id", "$(id)", "-c", "--dangerously", "x" * 10_000, "a\nb", "a\n", "ü", "a\0"],
    "name": [1, [], {}, True, None, "x" * 201, "a\0b", "\ud83d"],
}  # fmt: skip

PICTURE = b64encode(PNG).decode()

# fmt: off
NO_IMAGES: list[Any] = [
    1, None, True, [], {}, "",
    "missing.png", "inside", "pipe", "socket", "file", "loop", "huge.png", "a\0", "\ud800",
    "http://169.254.169.254/", "HTTPS://host/a.png", "file:///etc/passwd", "ftp://x", "javascript:1",
    "data:", "data:,x", "data:image/png;base64,", "data:image/png;base64,eA==", f"data:image/jpeg;base64,{PICTURE}",
    {"data": PICTURE}, {"data": 1, "mediaType": "image/png"}, {"data": PICTURE, "mediaType": None},
    {"data": PICTURE, "mediaType": "image/gif"}, {"data": PICTURE[:-1], "mediaType": "image/png"},
]
# fmt: on

OUTSIDE_IMAGES = ["/etc/shadow", "/proc/self/environ", "/dev/zero", "out/dev/zero", "own/agentsrv.db"]

WRONG_IN_GENERATE: dict[str, list[Any]] = {
    "session_id": WRONG_IN_SESSION["sessionId"],
    "agent": WRONG_IN_SESSION["agent"],
    "cwd": WRONG_IN_SESSION["cwd"],
    "model": WRONG_IN_SESSION["model"],
    "prompt": [*OF_NO_TYPE, "   ", "\n\t ", "a\0b", "\udfff"],
    "background": [1, 0, "true", [], {}, None],
    "use_worktree": [1, "true", [], {}, None],
    "images": [1, "a.png", {}, True, None, ["x"] * 21, *[[image] for image in NO_IMAGES]],
    "message_id": [*OF_NO_TYPE, "a b", "x" * 201, "ü"],
    "permission_mode": [*OF_NO_TYPE, "root", "Ask"],
    "effort": [*OF_NO_TYPE, "bogus"],
    "system_prompt": [*OF_NO_TYPE, "x" * 100_001],
    "max_turns": ["1", 1.5, [], {}, True, None, 0, -1, 10**9, 10**30],
    "max_budget_usd": ["1", [], {}, True, None, 0, -0.0, -1, 1e30],
    "mcp_servers": [1, "x", [], True, None, {"a": 1}, {"a": {"b": "\0"}}],
    "output_schema": [1, "x", [], True, None],
    "partial_messages": [1, "true", [], {}, None],
    "format": [*OF_NO_TYPE, "xml"],
    "if_busy": [*OF_NO_TYPE, "wait", "Queue"],
    "on_disconnect": [*OF_NO_TYPE, "stop"],
}

WRONG_IN_ANSWER: dict[str, list[Any]] = {
    "decision": [*OF_NO_TYPE, "ALLOW", "timed_out", "cancelled"],
    "remember": [*OF_NO_TYPE, "always"],
    "message": [*OF_NO_TYPE, "x" * 10_001, "a\0", "\ud800"],
    "updatedInput": [1, "x", [], True, None, {"a": "\0"}],
}

WRONG_IN_QUEUE: list[Any] = [1, "x", {}, True, None, [1], [None], [[]], ["a\0"], ["x"] * 10_001]


def fields() -> Iterator[Row]:
    for field, values in WRONG_IN_SESSION.items():
        for value in values:
            yield Row(f"POST {field} {str(value)[:20]!a}", create(**{field: value}), (400,), None, field)
            if field in ("name", "model"):
                change = json_body("PUT", "/sessions/there", {field: value})
                yield Row(f"PUT {field} {str(value)[:20]!a}", change, (400,), None, field)
            if field in ("sessionId", "name", "model"):
                fork = json_body("POST", "/sessions/there/fork", {field: value})
                yield Row(f"fork {field} {str(value)[:20]!a}", fork, (400,), None, field)
    for field, values in WRONG_IN_GENERATE.items():
        for value in values:
            yield Row(
                f"generate {field} {str(value)[:20]!a}", generate(**{field: value}), (400,), None, field
            )
    for field, values in WRONG_IN_ANSWER.items():
        for value in values:
            answer = json_body("POST", ANSWER, {"decision": "deny", field: value})
            yield Row(f"answer {field} {str(value)[:20]!a}", answer, (400,), None, field)
    for value in WRONG_IN_QUEUE:
        queue = json_body("PUT", "/sessions/there/queue", {"taskIds": value})
        yield Row(f"queue {str(value)[:20]!a}", queue, (400,), None, "taskIds")
    invalid = (400,), "invalid_input"
    remember = json_body("POST", ANSWER, {"decision": "deny", "remember": "session"})
    yield Row("a denial is not remembered", remember, *invalid, "remember")
    yield Row("no decision", json_body("POST", ANSWER, {}), *invalid, "decision")
    yield Row("no taskIds", json_body("PUT", "/sessions/there/queue", {}), *invalid, "taskIds")
    unknown = json_body("PUT", "/sessions/there/queue", {"taskIds": ["x"]})
    yield Row("a queue of jobs that do not wait", unknown, (409,), "queue_changed")
    taken = json_body("POST", "/sessions/there/fork", {"sessionId": "there"})
    yield Row("a fork with an id that is taken", taken, (409,), "session_exists")
    yield Row("no prompt", json_body("POST", "/generate/v2", {"session_id": "new"}), *invalid, "prompt")
    yield Row("no session", json_body("POST", "/generate/v2", {"prompt": "hi"}), *invalid, "session_id")
    yield Row("a field name with NUL", json_body("POST", "/sessions", {"a\0": 1}), *invalid)
    yield Row("two message ids", generate("Idempotency-Key: b", message_id="a"), *invalid, "message_id")
    yield Row("a bad message id", generate("Idempotency-Key: a b"), *invalid, "Idempotency-Key")
    two_keys = generate("Idempotency-Key: a", "Idempotency-Key: b")
    yield Row("two message ids in headers", two_keys, *invalid, "Idempotency-Key")
    yield Row("another agent", generate(session_id="there", agent="codex"), (409,), "agent_mismatch")
    yield Row("another cwd", generate(session_id="there", cwd="inside"), (409,), "cwd_mismatch")
    yield Row("an id that is taken", create(sessionId="there"), (409,), "session_exists")


OUTSIDE = [
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


def places() -> Iterator[Row]:
    for cwd in OUTSIDE:
        yield Row(f"POST cwd {cwd}", create(cwd=cwd), (403,), "outside_workspace")
        yield Row(f"generate cwd {cwd}", generate(cwd=cwd), (403,), "outside_workspace")
    for image in [*OUTSIDE, *OUTSIDE_IMAGES]:
        if image != "/":  # The workspace itself, which is a directory.
            yield Row(f"generate image {image}", generate(images=[image]), (403,), "outside_workspace")


IDS = [
    "%zz",
    "%ff%fe",
    "%00",
    "%2e%2e%2f",
    "..%2fetc",
    "'%20OR%201=1--",
    "a%0ab",
    "%f0%9f%98%80",
    "x",
    "x" * 300,
]

PATHS_WITH_ID = [
    ("GET", "/sessions/{}"),
    ("DELETE", "/sessions/{}"),
    ("GET", "/sessions/{}/messages"),
    ("GET", "/sessions/{}/events"),
    ("GET", "/generate/v2/jobs/{}"),
    ("GET", "/generate/v2/jobs/{}/stream"),
    ("DELETE", "/generate/{}/stop"),
    ("POST", "/sessions/{}/fork"),
    ("GET", "/sessions/{}/queue"),
    ("DELETE", "/sessions/{}/queue"),
    ("DELETE", "/sessions/there/queue/{}"),
    ("DELETE", "/sessions/{}/queue/x"),
    ("GET", "/generate/v2/jobs/{}/permissions"),
    ("DELETE", "/git/worktrees?path=.worktrees/{}/s"),
]


def paths() -> Iterator[Row]:
    for id_ in IDS:
        for method, path in PATHS_WITH_ID:
            yield Row(f"{method} {path} {id_[:20]}", http(method, path.format(id_)), (400, 404))
        change = json_body("PUT", f"/sessions/{id_}", {"name": "x"})
        yield Row(f"PUT /sessions/{id_[:20]}", change, (400, 404))
        queue = json_body("PUT", f"/sessions/{id_}/queue", {"taskIds": []})
        yield Row(f"PUT queue of {id_[:20]}", queue, (400, 404))
        for path in [f"/generate/v2/jobs/{id_}/permissions/y", f"/generate/v2/jobs/x/permissions/{id_}"]:
            yield Row(f"POST {path[:60]}", json_body("POST", path, {"decision": "deny"}), (400, 404))


NUMBERS = ["-1", "1.5", "x", "1e9", "NaN", "%2B1", "%201", "0x1", "%D9%A3", "9" * 30, "%00", ""]

QUERIES = [
    *[("GET", "/sessions?limit=" + number, "limit") for number in [*NUMBERS, "0", "1001", "1&limit=2"]],
    *[("GET", "/generate/v2/jobs?limit=" + number, "limit") for number in NUMBERS],
    *[("GET", "/sessions/there/messages?limit=" + number, "limit") for number in NUMBERS],
    *[("GET", "/sessions/there/messages?after=" + number, "after") for number in NUMBERS],
    ("GET", "/sessions?cursor=nonsense", "cursor"),
    ("GET", "/sessions?cursor=" + "x" * 501, "cursor"),
    ("GET", "/sessions?cursor='%20OR%201=1--", "cursor"),
    ("GET", "/sessions?agent=foo", "agent"),
    ("GET", "/generate/v2/jobs?status=done", "status"),
    ("GET", "/generate/v2/jobs?session_id=a%20b", "session_id"),
    ("GET", "/generate/v2/jobs/x?wait=-1", "wait"),
    ("GET", "/generate/v2/jobs/x?wait=301", "wait"),
    ("GET", "/sessions/there/events?after=x", "after"),
    ("GET", "/sessions/there/events?after=999999", "Last-Event-ID"),
    ("GET", "/sessions/there/events?format=ACP", "format"),
    ("GET", "/generate/v2/jobs/x/stream?format=", "format"),
    ("GET", "/sessions/there/messages?format=xml", "format"),
    ("DELETE", "/sessions/there?force=yes", "force"),
    ("DELETE", "/sessions/there?force=1", "force"),
    ("DELETE", "/sessions/there?force=true&force=true", "force"),
    ("DELETE", "/sessions/there?worktree=keep", "worktree"),
    ("DELETE", "/sessions/there?worktree=", "worktree"),
    ("DELETE", "/git/worktrees", "path"),
    ("DELETE", "/git/worktrees?path=a%00b", "path"),
    ("DELETE", "/git/worktrees?path=repo&force=yes", "force"),
]


def queries() -> Iterator[Row]:
    for path in ["file:///caf%25E9", ".worktrees", ".worktrees/r", "~", "", "out", "/etc"]:
        request = http("DELETE", f"/git/worktrees?force=true&path={path}")
        yield Row(f"remove worktree {path}", request, (403, 404, 409))
    for method, path, field in QUERIES:
        yield Row(f"{method} {path[:60]}", http(method, path), (400,), None, field)


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


@pytest.mark.parametrize(
    ("path", "wrong", "message"),
    [
        ("/generate/v2", {"prompt": " ", "session_id": "there"}, "prompt: must be more than white space"),
        (
            "/sessions",
            {"sessionId": "../x"},
            "sessionId: must be 1 to 128 letters, digits, dots, dashes and underscores, "
            "a letter or digit first, and not `filesystem`",
        ),
        ("/sessions", {"model": "a b"}, "model: must be the name of a model, in ASCII and without blanks"),
        ("/sessions/there/events?after=-1", None, "after: must be the id of an event, a whole number"),
        ("/sessions?limit=0", None, "limit: Expected `int` >= 1"),
        ("/filesystem/grep?q=", None, "q: must be one line of text"),
    ],
)
async def test_what_is_wrong_is_said_in_words(server: Server, path: str, wrong: Any, message: str) -> None:
    """I read what a value must be, not the pattern that it does not match."""
    answer = await server.ask("POST" if wrong else "GET", path, json=wrong)

    assert (answer.status, answer.json["error"]) == (400, message)


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


async def test_a_wrong_choice_is_answered_with_the_right_ones(server: Server) -> None:
    """Who misspells one of a few words is told them all, of a body and of a query."""
    prompt = {
        "session_id": "new",
        "prompt": "x",
        "permission_mode": "yolo",
        "if_busy": "wait",
        "format": "xml",
    }
    body = await server.ask("POST", "/generate/v2", json=prompt)
    query = await server.ask("GET", "/generate/v2/jobs?status=done")

    assert {problem["path"]: problem["message"] for problem in body.json["details"]} == {
        "permission_mode": "must be one of bypass, accept_edits, ask, plan",
        "if_busy": "must be one of reject, queue, steer",
        "format": "must be one of native, acp",
    }
    assert query.json["error"].startswith("status: must be one of queued, running, ")
