"""The file routes, over HTTP."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import tarfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from agentsrv.app import make_app
from agentsrv.config import Config
from tests.api.kit import KEY, TIMEOUT_S, Answer, Server, make_config, serve

CONTENT = "/filesystem/content?path="
LIMIT = 3 * 1024 * 1024


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return make_config(tmp_path, max_upload_bytes=LIMIT, body_timeout_s=1.0, keepalive_s=0.2)


@pytest.fixture
def base(config: Config) -> Path:
    return config.workspace_base


async def put(server: Server, path: str, data: bytes, **headers: str) -> Answer:
    return await server.ask(
        "PUT", CONTENT + path, data=data, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


Part = tuple[str, str | None, bytes]
"""Field, file name (None: no file) and content."""


def form(parts: Sequence[Part]) -> bytes:
    """With `x` as its boundary."""
    body = b""
    for field, name, content in parts:
        body += f'--x\r\nContent-Disposition: form-data; name="{field}"'.encode()
        body += b"" if name is None else f'; filename="{name}"'.encode()
        body += b"\r\n\r\n" + content + b"\r\n"
    return body + b"--x--\r\n"


async def upload(server: Server, *parts: Part) -> Answer:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    return await server.ask("POST", "/filesystem/upload", data=io.BytesIO(form(parts)), headers=headers)


async def test_a_listing_says_what_is_there(server: Server, base: Path) -> None:
    """In the shape that earlier clients know, under the name that they know, too."""
    (base / "repo/.git").mkdir(parents=True)
    (base / "repo/.git/HEAD").write_text("ref: refs/heads/main\n")
    (base / "repo/file").write_text("four")
    answers = [
        (await server.ask("GET", f"{prefix}/filesystem/files?path=repo&includeFiles=true&maxDepth=99")).json
        for prefix in ("", "/sessions")
    ]
    for answer in answers:
        answer.pop("timestamp")
        answer["entries"][0].pop("modifiedAt")

    assert answers[0] == answers[1]
    assert answers[0] == {
        "path": "repo",
        "fullPath": str(base / "repo"),
        "maxDepth": 20,
        "currentInGitRepo": True,
        "currentGitRoot": "repo",
        "currentIsWorktree": False,
        "currentWorktreeDir": None,
        "entries": [
            {
                "name": "file",
                "type": "file",
                "path": "repo/file",
                "inGitRepo": True,
                "gitRoot": "repo",
                "size": 4,
            }
        ],
        "count": 1,
        "truncated": False,
    }


async def test_a_worktree_is_told(server: Server, base: Path) -> None:
    """Also from a directory inside; a submodule is none."""
    for name, pointer in {"tree": "/x/.git/worktrees/tree", "sub": "../.git/modules/sub"}.items():
        (base / name / "in").mkdir(parents=True)
        (base / name / ".git").write_text(f"gitdir: {pointer}\n")
    found = [(await server.ask("GET", f"/filesystem/files?path={name}/in")).json for name in ("tree", "sub")]

    assert [(True, "tree"), (False, None)] == [
        (a["currentIsWorktree"], a["currentWorktreeDir"]) for a in found
    ]
    assert ["tree", "sub"] == [answer["currentGitRoot"] for answer in found]


async def test_a_large_listing_comes_whole(server: Server, base: Path) -> None:
    """More than one batch, more than one write."""
    for number in range(6000):
        (base / f"{number:05}").touch()
    answer = (await server.ask("GET", "/filesystem/files?includeFiles=true")).json

    assert (answer["count"], answer["truncated"]) == (6001, False)
    assert [entry["name"] for entry in answer["entries"][1:]] == [f"{number:05}" for number in range(6000)]


async def test_a_client_of_http_1_0_sees_the_end(server: Server, base: Path) -> None:
    """It has no chunks, so the end is that the connection is closed, also for one that would keep it."""
    (base / "a").touch()
    async with server.connection() as (reader, writer), asyncio.timeout(TIMEOUT_S):
        writer.write(
            b"GET /filesystem/files?includeFiles=true HTTP/1.0\r\nConnection: keep-alive\r\n"
            b"Authorization: Bearer %b\r\n\r\n" % KEY.encode()
        )
        _, _, body = (await reader.read()).partition(b"\r\n\r\n")

    assert ["a"] == [entry["name"] for entry in json.loads(body)["entries"] if entry["type"] == "file"]


async def test_search_finds_entries_and_lines(server: Server, base: Path) -> None:
    """By name, by its earlier parameter, and by content."""
    (base / "src").mkdir()
    (base / "src/main.py").write_text("import os\n")
    by_name = (await server.ask("GET", "/filesystem/search?q=main&root=src&includeFiles=true")).json
    earlier = (await server.ask("GET", "/sessions/filesystem/search?path=SRC")).json
    lines = (await server.ask("GET", "/filesystem/grep?q=IMPORT")).json

    assert ["src/main.py"] == [entry["path"] for entry in by_name["entries"]]
    assert (earlier["path"], [entry["path"] for entry in earlier["entries"]]) == ("SRC", ["src"])
    assert lines["matches"] == [{"path": "src/main.py", "line": 1, "column": 1, "text": "import os"}]


async def test_a_file_is_read_in_parts(server: Server, base: Path) -> None:
    """Ranges from the start, from the end, too long, not there; what is no range is no error."""
    (base / "a").write_bytes(b"0123456789")
    wanted = {
        "bytes=0-3": (206, "0123", "bytes 0-3/10"),
        "bytes=8-": (206, "89", "bytes 8-9/10"),
        "bytes=-3": (206, "789", "bytes 7-9/10"),
        "bytes=5-99": (206, "56789", "bytes 5-9/10"),
        "bytes=0-9": (200, "0123456789", None),
        "bytes=5-4": (200, "0123456789", None),
        "bytes=0-1,3-4": (200, "0123456789", None),
        "lines=1": (200, "0123456789", None),
        "bytes=-": (200, "0123456789", None),
    }
    for header, expected in wanted.items():
        answer = await server.ask("GET", CONTENT + "a", headers={"Range": header})
        assert (answer.status, answer.text, answer.headers.get("Content-Range")) == expected, header
    for header in ("bytes=10-", "bytes=-0"):
        answer = await server.ask("GET", CONTENT + "a", headers={"Range": header})
        assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */10")
        assert answer.json["code"] == "range_not_satisfiable"


async def test_tags_save_transfers(server: Server, base: Path) -> None:
    """The same tag: 304, or the rest by `If-Range`; another one: everything."""
    (base / "a").write_bytes(b"0123456789")
    first = await server.ask("GET", CONTENT + "a")
    tag = first.headers["ETag"]
    for header in (tag, f'"x", {tag}', f"W/{tag}", "*"):
        assert (await server.ask("GET", CONTENT + "a", headers={"If-None-Match": header})).status == 304
    same = await server.ask("GET", CONTENT + "a", headers={"Range": "bytes=5-", "If-Range": tag})
    other = await server.ask("GET", CONTENT + "a", headers={"Range": "bytes=5-", "If-Range": '"x"'})
    head = await server.ask("HEAD", CONTENT + "a")

    assert (same.text, other.text, head.text) == ("56789", "0123456789", "")
    assert (head.headers["Content-Length"], head.headers["ETag"]) == ("10", tag)


@pytest.mark.parametrize("prefix", ["", "/sessions"])
async def test_a_look_at_the_headers_works_where_earlier_clients_look(
    server: Server, base: Path, prefix: str
) -> None:
    """HEAD answers under both names of the routes."""
    (base / "a").write_bytes(b"0123456789")
    head = await server.ask("HEAD", f"{prefix}{CONTENT}a")
    listing = await server.ask("HEAD", f"{prefix}/filesystem/files")

    assert (head.status, head.headers.get("Content-Length"), listing.status) == (200, "10", 200)


async def test_a_file_is_written_when_it_is_still_the_same(server: Server, base: Path) -> None:
    """Make, replace by tag, refuse an old tag, refuse to make it twice."""
    made = await put(server, "new/a", b"1", If_None_Match="*")
    replaced = await put(server, "new/a", b"22", If_Match=made.headers["ETag"])
    late = await put(server, "new/a", b"3", If_Match=made.headers["ETag"])
    again = await put(server, "new/a", b"4", If_None_Match="*")

    assert [201, 200, 412, 412] == [answer.status for answer in (made, replaced, late, again)]
    assert (replaced.json["size"], replaced.json["path"], replaced.json["etag"]) == (
        2,
        "new/a",
        replaced.headers["ETag"],
    )
    assert late.json["code"] == "precondition_failed"
    assert (base / "new/a").read_bytes() == b"22"
    assert (await server.ask("GET", CONTENT + "new/a")).headers["ETag"] == replaced.headers["ETag"]


async def test_names_that_are_not_utf8_make_the_round_trip(server: Server, base: Path) -> None:
    """List, read, write, move and delete by the URI that the listing gives."""
    os.mkdir(os.fsencode(base) + b"/d\xff")
    with open(os.fsencode(base) + b"/d\xff/caf\xe9", "wb") as file:
        file.write(b"old")
    listed = (await server.ask("GET", "/filesystem/files?includeFiles=true")).json["entries"]
    uri = next(entry["uri"] for entry in listed if entry["type"] == "file")
    read = await server.ask("GET", "/filesystem/content", params={"path": uri})
    written = await server.ask("PUT", "/filesystem/content", params={"path": uri}, data=b"new")
    moved = await server.ask("POST", "/filesystem/move", json={"from": uri, "to": uri.replace("%E9", "%E8")})

    assert (read.text, written.status, moved.status) == ("old", 200, 200)
    assert os.listdir(os.fsencode(base) + b"/d\xff") == [b"caf\xe8"]
    params = {"path": uri.rpartition("/")[0], "recursive": "true"}
    assert (await server.ask("DELETE", "/filesystem/entry", params=params)).status == 200
    assert (await server.ask("GET", "/filesystem/content?path=%ff")).status == 400


async def test_an_upload_arrives(server: Server, base: Path) -> None:
    """Directories by `relativePaths`, in any order of fields, as fields or as one array; empty files too."""
    files: list[Part] = [("files", "x.txt", b"123"), ("files", "y.txt", b"")]
    as_fields = await upload(
        server,
        *files,
        ("relativePaths", None, b"a/1"),
        ("relativePaths", None, b"2"),
        ("targetPath", None, b"up"),
    )
    as_array = await upload(server, ("relativePaths", None, b'["b/1", "\xc3\xa9\\n"]'), *files)
    plain = await upload(server, *files)

    assert as_fields.status == 201
    assert {**as_fields.json, "timestamp": None} == {
        "path": "up",
        "uploadedCount": 2,
        "skippedCount": 0,
        "files": [{"path": "up/a/1", "bytes": 3}, {"path": "up/2", "bytes": 0}],
        "timestamp": None,
    }
    assert [["b/1", "é\n"], ["x.txt", "y.txt"]] == [
        [file["path"] for file in answer.json["files"]] for answer in (as_array, plain)
    ]
    assert (base / "up/a/1").read_bytes() == b"123"


WRONG_UPLOADS: dict[str, tuple[list[Part], int, str]] = {
    "no file": ([("targetPath", None, b"x")], 400, "no_files"),
    "no file chosen": ([("files", "", b"")], 400, "no_files"),
    "fewer paths": (
        [("f", "a", b"1"), ("f", "b", b"2"), ("relativePaths", None, b"a")],
        400,
        "invalid_input",
    ),
    "more paths": ([("f", "a", b"1"), ("relativePaths", None, b'["a","b"]')], 400, "invalid_input"),
    "numbers as paths": ([("f", "a", b"1"), ("relativePaths", None, b"[1]")], 400, "invalid_input"),
    "a path that leaves": ([("f", "a", b"1"), ("relativePaths", None, b"../a")], 400, "invalid_input"),
    "an absolute path": ([("f", "a", b"1"), ("relativePaths", None, b"/etc/x")], 400, "invalid_input"),
    "one path twice": ([("f", "a", b"1"), ("f", "a", b"2")], 400, "invalid_input"),
    "a file in a file": (
        [("f", "a", b"1"), ("f", "b", b"2"), ("relativePaths", None, b'["a","a/b"]')],
        400,
        "not_a_directory",
    ),
    "not UTF-8": ([("f", "a", b"1"), ("targetPath", None, b"\xff")], 400, "invalid_input"),
    "NUL": ([("f", "a", b"1"), ("targetPath", None, b"a\0b")], 400, "invalid_input"),
    "two targets": (
        [("f", "a", b"1"), ("targetPath", None, b"a"), ("targetPath", None, b"b")],
        400,
        "invalid_input",
    ),
    "overwrite: yes": ([("f", "a", b"1"), ("overwrite", None, b"yes")], 400, "invalid_input"),
    "outside": ([("f", "a", b"1"), ("targetPath", None, b"../x")], 403, "outside_workspace"),
    "git config": ([("f", "config", b"1"), ("targetPath", None, b"x/.git")], 403, "protected_path"),
    "keys": ([("f", "authorized_keys", b"1"), ("targetPath", None, b".ssh")], 403, "protected_path"),
    "a shell's start-up": ([("f", ".bashrc", b"1")], 403, "protected_path"),
    "the agent's settings": ([("f", ".claude.json", b"1")], 403, "protected_path"),
    "a name of 256 bytes": ([("f", "x" * 256, b"1")], 400, "invalid_input"),
    "too large": ([("f", "a", b"x" * (LIMIT + 1))], 413, "too_large"),
    "too large together": ([("f", str(n), b"x" * (LIMIT // 4)) for n in range(5)], 413, "too_large"),
    "501 files": ([("f", str(n), b"") for n in range(501)], 413, "too_large"),
    "600 fields": ([("relativePaths", None, b"x")] * 600, 413, "too_large"),
    "3 MB in a field": ([("relativePaths", None, b"x" * (LIMIT - 1000))], 413, "too_large"),
}


@pytest.mark.parametrize("name", WRONG_UPLOADS)
async def test_a_wrong_upload_changes_nothing(server: Server, base: Path, name: str) -> None:
    """No file, no directory, nothing staged; the code says why."""
    parts, status, code = WRONG_UPLOADS[name]
    before = sorted(base.rglob("*"))
    answer = await upload(server, *parts)

    assert (answer.status, answer.json["code"]) == (status, code), answer.text
    assert sorted(base.rglob("*")) == before
    assert os.listdir(base.parent / "state/uploads") == []


FORM_TYPE = "multipart/form-data; boundary=x"

RAW_FORMS = {
    "no boundary": (b"", "multipart/form-data", 400),
    "no form": (b"x=1", "application/x-www-form-urlencoded", 415),
    "nothing": (b"", FORM_TYPE, 400),
    "only text": (b"hello\r\n" * 100, FORM_TYPE, 400),
    "a long line": (b"x" * 300_000, FORM_TYPE, 400),
    "no end": (b'--x\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\nabc', FORM_TYPE, 400),
    "no headers": (b"--x\r\n\r\nabc\r\n--x--\r\n", FORM_TYPE, 400),
    "a header of 100 kB": (b"--x\r\nX: " + b"y" * 100_000 + b"\r\n\r\nabc\r\n--x--", FORM_TYPE, 400),
    "1,000 headers": (b"--x\r\n" + b"X: y\r\n" * 1000 + b"\r\nabc\r\n--x--", FORM_TYPE, 400),
    "a name of 1 MB": (
        b'--x\r\nContent-Disposition: form-data; name="' + b"n" * 1_000_000 + b'"\r\n\r\nabc\r\n--x--',
        FORM_TYPE,
        400,
    ),
    "a form in a form": (
        b"--x\r\nContent-Type: multipart/mixed; boundary=y\r\n\r\n--y\r\n\r\nabc\r\n--y--\r\n--x--",
        FORM_TYPE,
        400,
    ),
    "a long charset": (
        b'--x\r\nContent-Disposition: form-data; name="_charset_"\r\n\r\n' + b"c" * 50 + b"\r\n--x--",
        FORM_TYPE,
        400,
    ),
    "a boundary of 100": (b"--" + b"x" * 100, "multipart/form-data; boundary=" + "x" * 100, 400),
}  # fmt: skip


@pytest.mark.parametrize("name", RAW_FORMS)
async def test_a_malformed_form_is_refused(server: Server, base: Path, name: str) -> None:
    """Whatever is wrong with it, it is 400 and leaves nothing."""
    body, kind, status = RAW_FORMS[name]
    head = f"POST /filesystem/upload HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Type: {kind}\r\n"
    answer = await server.send(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    assert b"Traceback" not in answer
    assert os.listdir(base.parent / "state/uploads") == []
    assert (await server.ask("GET", "/health", key=None)).status == 200


async def no_uploads(base: Path) -> None:
    """Until nothing is left of what was given up."""
    async with asyncio.timeout(TIMEOUT_S):
        while os.listdir(base.parent / "state/uploads"):  # noqa: ASYNC110  the server tells nobody
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", CONTENT + "a"), ("POST", "/filesystem/upload"), ("PUT", CONTENT + "b")]
)
async def test_a_body_that_stops_is_given_up(server: Server, base: Path, method: str, path: str) -> None:
    """408 after a while without a byte; a client that goes away leaves nothing either."""
    kind = "Content-Type: multipart/form-data; boundary=x\r\n"
    part = b'--x\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\nabc'
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n{kind}Content-Length: 9999\r\n\r\n"
    assert b" 408 " in await server.send(head.encode() + part)
    async with server.connection() as (_, writer):
        writer.write(head.encode() + part)
        await writer.drain()
    await no_uploads(base)

    assert [path.name for path in base.iterdir()] == ["workspaces"]


async def test_who_asks_before_sending_is_answered(server: Server) -> None:
    """`Expect: 100-continue`, which curl sends with large bodies; a refusal comes before the body."""
    head = f"Host: x\r\nAuthorization: Bearer {KEY}\r\nExpect: 100-continue\r\n"
    async with server.connection() as (reader, writer):
        writer.write(f"PUT {CONTENT}a HTTP/1.1\r\n{head}Content-Length: 3\r\n\r\n".encode())
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"abc")
        assert b" 201 " in await reader.readline()
    refused = await server.send(f"PUT {CONTENT}b HTTP/1.1\r\n{head}Content-Length: 99999999\r\n\r\n".encode())

    assert b" 413 " in refused


async def test_an_archive_is_the_directory(server: Server, base: Path) -> None:
    """As a file to save, with everything or without what programs made."""
    (base / "proj/node_modules").mkdir(parents=True)
    (base / "proj/a").write_text("x" * 1_000_000)
    url = f"http://127.0.0.1:{server.port}/filesystem/archive?path=proj&includeIgnored=false"
    async with server.client.get(url, headers={"Authorization": f"Bearer {KEY}"}) as answer:
        body = await answer.read()
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        names = tar.getnames()

    assert answer.headers["Content-Disposition"].startswith('attachment; filename="proj.tar.gz"')
    assert names == ["proj", "proj/a"]


async def test_a_file_of_a_tebibyte_holds_up_nobody(server: Server, base: Path) -> None:
    """Eight who fetch it read no further than its head: all other routes of files answer, its archive too."""
    (base / "proj").mkdir()
    for name in ("a", "z"):
        (base / "proj" / name).write_bytes(b"")
        os.truncate(base / "proj" / name, 1 << 40)
    (base / "proj/m").write_bytes(b"m")
    headers, url = {"Authorization": f"Bearer {KEY}"}, f"http://127.0.0.1:{server.port}"
    begun = [await server.client.get(f"{url}{CONTENT}proj/a", headers=headers) for _ in range(8)]
    others = [
        await server.ask("GET", "/filesystem/files?path=proj&includeFiles=true"),
        await server.ask("GET", "/filesystem/search?q=m&includeFiles=true"),
        await server.ask("GET", "/filesystem/grep?q=nowhere&path=proj"),
        await server.ask("GET", CONTENT + "proj/z", headers={"Range": "bytes=-3"}),
        await put(server, "b", b"b"),
    ]
    async with server.client.get(f"{url}/filesystem/archive?path=proj", headers=headers) as answer:
        archive = await answer.read()
    for answer in begun:
        answer.close()
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        sizes = {member.name: member.size for member in tar}

    assert {answer.status for answer in begun} == {200}
    assert [answer.status for answer in others] == [200, 200, 200, 206, 201]
    assert sizes == {"proj": 0, "proj/a": 1 << 40, "proj/m": 1, "proj/z": 1 << 40}


async def messages(server: Server, path: str) -> AsyncIterator[Any]:
    url = f"http://127.0.0.1:{server.port}/filesystem/watch?path={path}"
    async with server.client.get(url, headers={"Authorization": f"Bearer {KEY}"}) as answer:
        async for line in answer.content:
            if line.startswith(b"data: "):
                yield json.loads(line.removeprefix(b"data: "))


async def test_changes_come_as_they_happen(server: Server, base: Path) -> None:
    """From `ready` on, until the directory is gone; then the stream ends."""
    (base / "proj").mkdir()
    seen = []
    async for message in messages(server, "proj"):
        seen.append(message)
        if message["type"] == "ready":
            (base / "proj/a").touch()
        elif message["type"] == "changes" and message["changes"][0]["change"] == "added":
            (base / "proj/a").unlink()
            (base / "proj").rmdir()

    assert (seen[0]["path"], seen[0]["truncated"]) == ("proj", False)
    assert seen[1]["changes"][0] == {"path": "proj/a", "change": "added"}
    assert seen[-1]["type"] == "gone"


async def test_a_watch_ends_with_the_server(config: Config) -> None:
    """Cleanly, and without waiting for a change."""
    async with serve(make_app(config)) as server:
        url = f"http://127.0.0.1:{server.port}/filesystem/watch"
        answer = await server.client.get(url, headers={"Authorization": f"Bearer {KEY}"})
        await answer.content.readuntil(b"ready")
        async with asyncio.timeout(TIMEOUT_S):
            await server.app.shutdown()
            rest = await answer.read()

    assert rest.endswith(b"\n\n")


async def test_a_watch_whose_client_has_left_makes_room_at_once(server: Server) -> None:
    """Many short visits, one after the other, are not too many at once."""
    headers = {"Authorization": f"Bearer {KEY}"}
    statuses = set()
    for _ in range(40):
        answer = await server.client.get(f"http://127.0.0.1:{server.port}/filesystem/watch", headers=headers)
        statuses.add(answer.status)
        answer.close()

    assert statuses == {200}


async def test_there_are_only_so_many_watches(server: Server) -> None:
    """The next one is told to wait; one that ends makes room."""
    headers = {"Authorization": f"Bearer {KEY}"}
    url = f"http://127.0.0.1:{server.port}/filesystem/watch"
    answers = [await server.client.get(url, headers=headers) for _ in range(16)]
    refused = await server.ask("GET", "/filesystem/watch")
    for answer in answers:
        answer.close()

    assert (refused.status, refused.json["code"]) == (429, "too_many_watches")
    while (answer := await server.client.get(url, headers=headers)).status == 429:
        answer.close()
    answer.close()


async def test_entries_are_made_moved_and_removed(server: Server, base: Path) -> None:
    """One after the other, each with what it answers."""
    made = await server.ask("POST", "/filesystem/directory", json={"path": "a/b", "parents": True})
    moved = await server.ask("POST", "/filesystem/move", json={"from": "a/b", "to": "c"})
    full = await server.ask("DELETE", "/filesystem/entry?path=.")
    removed = await server.ask("DELETE", "/filesystem/entry?path=c")

    assert (made.status, made.json["path"]) == (201, "a/b")
    assert (moved.json["from"], moved.json["to"]) == ("a/b", "c")
    assert (full.status, full.json["code"]) == (400, "invalid_input")
    assert (removed.json["deleted"], removed.json["path"]) == (True, "c")
    assert sorted(path.name for path in base.iterdir()) == ["a", "workspaces"]


async def test_a_name_for_every_browser(server: Server, base: Path) -> None:
    """What is downloaded has its name, and cannot act as a page of ours."""
    (base / 'a"\nü.html').write_text("<script>")
    answer = await server.ask("GET", "/filesystem/content", params={"path": 'a"\nü.html'})

    assert answer.headers["Content-Disposition"] == (
        "attachment; filename=\"a___.html\"; filename*=UTF-8''a%22%0A%C3%BC.html"
    )
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert re.match("text/html", answer.headers["Content-Type"])


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("say %22hi%22.txt", 'say "hi".txt'),
        (r"say \"hi\".txt", 'say "hi".txt'),
        (r"back\slash.txt", r"back\slash.txt"),
        ("100%25.txt", "100%25.txt"),
    ],
)
async def test_an_uploaded_file_has_the_name_that_it_has_on_the_persons_disk(
    server: Server, base: Path, sent: str, kept: str
) -> None:
    """As browsers and curl write it; a backslash stays, as in `relativePaths`."""
    head = f'Content-Disposition: form-data; name="files"; filename="{sent}"'
    body = f"--b\r\n{head}\r\n\r\nx\r\n--b--\r\n".encode()
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = await server.ask("POST", "/filesystem/upload", data=body, headers=headers)

    assert (answer.status, (base / kept).read_text()) == (201, "x")


@pytest.mark.parametrize(
    "changed", ['W/"{}"', '"{}-gzip"', 'W/"{}-br"', '"{};gzip"', '"{}-zstd"', '"another", W/"{}"']
)
async def test_a_tag_that_a_proxy_has_changed_is_good(server: Server, base: Path, changed: str) -> None:
    """Proxies that compress make it weak (nginx), or another one (Apache, Caddy); it stands for the same bytes."""
    (base / "a").write_text("old")
    etag = (await server.ask("GET", "/filesystem/content?path=a")).headers["ETag"]
    told = changed.format(etag.strip('"'))
    known = await server.ask("GET", "/filesystem/content?path=a", headers={"If-None-Match": told})
    headers = {"If-Match": told, "Content-Type": "text/plain"}
    written = await server.ask("PUT", "/filesystem/content?path=a", data=b"new", headers=headers)
    again = await server.ask("PUT", "/filesystem/content?path=a", data=b"late", headers=headers)

    assert (known.status, written.status, again.status) == (304, 200, 412)
    assert (base / "a").read_text() == "new"


async def test_a_file_of_any_time_can_be_read(server: Server, base: Path) -> None:
    """A file may claim a time that no calendar has."""
    (base / "a").write_text("x")
    for seconds in (-(10**11), 10**12, 0):
        os.utime(base / "a", (seconds, seconds))
        answer = await server.ask("GET", "/filesystem/content?path=a")
        assert answer.status == 200


async def test_a_search_says_that_a_checkout_is_one(server: Server, base: Path) -> None:
    """Also of the directory itself, as a listing does."""
    (base / "repo/.git").mkdir(parents=True)
    (base / "repo/.git/HEAD").write_text("ref: refs/heads/main\n")
    answer = await server.ask("GET", "/filesystem/search?q=repo")

    assert [(True, "repo")] == [(e["inGitRepo"], e["gitRoot"]) for e in answer.json["entries"]]


async def test_archives_are_counted_before_they_are_begun(server: Server, base: Path) -> None:
    """Many asked for in the same moment: eight are made, the others are told to wait."""
    (base / "noise").write_bytes(os.urandom(20_000_000))
    url = f"http://127.0.0.1:{server.port}/filesystem/archive?path="
    headers = {"Authorization": f"Bearer {KEY}"}
    answers = await asyncio.gather(*(server.client.get(url, headers=headers) for _ in range(20)))
    statuses = sorted(answer.status for answer in answers)
    for answer in answers:
        answer.close()

    assert statuses == [200] * 8 + [429] * 12


FORM = b'--x\r\nContent-Disposition: form-data; name="f"'


@pytest.mark.parametrize(
    ("method", "path", "sent"),
    [
        ("PUT", CONTENT + "f", b""),
        ("PUT", CONTENT + "f", b"x" * 200_000),
        ("POST", "/filesystem/upload", FORM + b'; filename="f"\r\n\r\n'),
        ("POST", "/filesystem/upload", FORM + b"\r\n\r\n"),
        ("POST", "/filesystem/upload", FORM),
    ],
    ids=["body", "after-much", "file", "field", "head-of-a-part"],
)
async def test_a_body_that_trickles_is_given_up(
    server: Server, base: Path, method: str, path: str, sent: bytes
) -> None:
    """One byte now and then does not hold a place for ever, whatever came before: enough has to come all the time."""
    kind = "Content-Type: multipart/form-data; boundary=x\r\n"
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n{kind}"
    async with asyncio.timeout(TIMEOUT_S), server.connection() as (reader, writer):
        writer.write(f"{head}Content-Length: 1000000\r\n\r\n".encode() + sent)
        answer = asyncio.get_running_loop().create_task(reader.readuntil(b"\r\n\r\n"))
        while not answer.done():
            writer.write(b"x")
            await asyncio.sleep(0.05)

    assert answer.result().startswith(b"HTTP/1.1 408 ")
    await no_uploads(base)
    assert [path.name for path in base.iterdir()] == ["workspaces"]
