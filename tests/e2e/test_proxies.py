"""Proxies in front of the server, with the lines that docs/operations.md has for them."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import ClientSession

from tests.fleet.kit import free_port
from tests.kit import KEY, ROOT, TIMEOUT_S, Answer, Server, script, wait_until, write_fake_agent
from tests.terminal_client import terminal

pytestmark = pytest.mark.tools

OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
PATH = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"  # noqa: TID251
UPLOAD_BYTES = 200 << 20
LATE_S = 0.03
"""HAProxy holds these events back for 80 ms in the middle, when it is not told otherwise."""

AROUND_NGINX = """
daemon off; pid nginx.pid; error_log stderr; {user}
events {{}}
http {{
    client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
{lines}
}}
"""
WITH_PATH: dict[str, Callable[[str], str]] = {
    "nginx": lambda lines: lines.replace("location / {", "location /agents/ {").replace(":3000;", ":3000/;"),
    "haproxy": lambda lines: lines + r"    http-request replace-path /agents(/.*) \1" + "\n",
    "caddy": lambda lines: lines.replace(
        "reverse_proxy 127.0.0.1:3000", "handle_path /agents/* {\nreverse_proxy 127.0.0.1:3000\n}"
    ),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that says nothing in silence, so that a proxy has to tell by itself who has left."""
    directory = tmp_path_factory.mktemp("server")
    settings = {"KEEPALIVE_INTERVAL": "3600", "PUBLIC_URL": "https://example.com/agents"}
    server = Server(directory, write_fake_agent(directory / "claude"), settings)
    yield server.start()
    server.close()


@pytest.fixture(params=["nginx", "haproxy", "caddy"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def start_proxy(tmp_path: Path, kind: str) -> Iterator[Callable[..., int]]:
    """Start the proxy before a server, `with_path` or without; its port. What it logs is in `proxy.log`."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(server: Server, *, with_path: bool = False) -> int:
        lines = lines_of(kind)
        port = free_port()
        lines = WITH_PATH[kind](lines) if with_path else lines
        for documented, here in (
            ("127.0.0.1:3000", f"127.0.0.1:{server.port}"),
            ("listen 80;", f"listen 127.0.0.1:{port};"),
            ("bind :80", f"bind 127.0.0.1:{port}"),
            (":80 {", f"http://127.0.0.1:{port} {{"),
            ("/var/log/nginx/agentsrv.log", str(tmp_path / "access.log")),
        ):
            lines = lines.replace(documented, here)
        log = (tmp_path / "proxy.log").open("ab")
        with log:
            command = command_of(kind, lines, tmp_path)
            environment = {"PATH": PATH, "HOME": str(tmp_path)}
            processes.append(subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log))
        wait_until(lambda: answers(port), what=f"{kind} answers")
        return port

    yield start
    for process in processes:
        process.terminate()
        process.wait(TIMEOUT_S)


def lines_of(kind: str) -> str:
    found = re.search(rf"^```{kind}\n(.*?)^```$", OPERATIONS, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def command_of(kind: str, lines: str, directory: Path) -> list[str]:
    """How the proxy is started in the foreground, with nothing outside of `directory`."""
    if (program := shutil.which(kind, path=PATH)) is None:
        pytest.fail(f"{kind} is not installed; `python3 dev.py tools` does it")
    file = directory / "proxy.conf"
    if kind == "nginx":
        user = "user root;" if os.geteuid() == 0 else ""
        file.write_text(AROUND_NGINX.format(user=user, lines=lines))
        return [program, "-p", str(directory), "-c", str(file)]
    if kind == "haproxy":
        file.write_text(lines)
        return [program, "-db", "-f", str(file)]
    file.write_text("{\nadmin off\n}\n" + lines)
    return [program, "run", "--adapter", "caddyfile", "--config", str(file)]


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def ask(port: int, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
    """A request to a proxy."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    connection.request(method, path, body, {"Authorization": f"Bearer {KEY}", **headers})
    return Answer(connection)


def arrivals(answer: Answer, into: dict[int, float]) -> None:
    """When each event of a stream has come."""
    with answer:
        for event in answer:
            into[event.id] = time.monotonic()


def median_delay_s(server: Server, port: int) -> float:
    """How much later events of a new job come by the proxy than without it."""
    job = server.start_job(script("rate 100 100 300"))
    path = f"/generate/v2/jobs/{job}/stream"
    directly: dict[int, float] = {}
    by_proxy: dict[int, float] = {}
    thread = threading.Thread(target=arrivals, args=(ask(port, "GET", path), by_proxy))
    thread.start()
    arrivals(server.follow(job), directly)
    thread.join()
    assert by_proxy.keys() == directly.keys()
    return statistics.median(by_proxy[id] - at for id, at in directly.items())


def test_events_are_not_late_by_a_proxy(server: Server, start_proxy: Callable[..., int]) -> None:
    """A proxy passes each event on by itself. A busy machine may be late, but not each time."""
    port = start_proxy(server)

    assert any(median_delay_s(server, port) < LATE_S for _ in range(4))


def test_a_lost_client_of_a_proxy_is_noticed(server: Server, start_proxy: Callable[..., int]) -> None:
    """While nothing is sent, and no comment is due: `on_disconnect` ends the job."""
    body = b'{"session_id": "lost", "prompt": "SCRIPT: hang", "on_disconnect": "cancel"}'
    port = start_proxy(server)
    with ask(port, "POST", "/generate/v2", body, **{"Content-Type": "application/json"}) as stream:
        stream.take(2)
        job = stream.headers["X-Task-Id"]

    assert server.ended_job(job)["status"] == "cancelled"


async def test_a_terminal_by_a_proxy(
    server: Server, start_proxy: Callable[..., int], kind: str, tmp_path: Path
) -> None:
    """It shows what is typed, ends as it should, and its token is in no access log."""
    port = start_proxy(server)
    async with ClientSession() as client, terminal(client, port, KEY, f"by-{kind}") as shell:
        await shell.type("echo $((6 * 7))x; exit 3\n")
        await shell.shows("42x")
        assert (await shell.message("close"))["exitCode"] == 3
        assert await shell.closed() == 1000

    if (log := tmp_path / "access.log").exists():  # the others keep none
        wait_until(lambda: "/ws/terminal" in log.read_text())
        assert "token=" not in log.read_text()


def test_a_large_upload_by_a_proxy(server: Server, start_proxy: Callable[..., int]) -> None:
    """200 MB go up as they are, and nothing of them stays with the proxy meanwhile."""
    port = start_proxy(server)
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="large"\r\n\r\n'
    body = head + bytes(UPLOAD_BYTES) + b"\r\n--x--\r\n"
    kind = "multipart/form-data; boundary=x"
    answer = ask(port, "POST", "/filesystem/upload", body, **{"Content-Type": kind})
    uploaded = answer.json
    (server.directory / "base" / "large").unlink()

    assert uploaded["files"] == [{"path": "large", "bytes": UPLOAD_BYTES}]


def test_a_path_of_a_proxy(server: Server, start_proxy: Callable[..., int], kind: str) -> None:
    """The proxy takes the path away, and what the server tells leads below it."""
    port = start_proxy(server, with_path=True)
    body = b'{"sessionId": "%b"}' % kind.encode()
    made = ask(port, "POST", "/agents/sessions", body, **{"Content-Type": "application/json"})

    assert made.status == 201
    assert ask(port, "GET", made.headers["Location"]).json["id"] == kind
    assert ask(port, "GET", "/agents/openapi.json").json["servers"] == [{"url": "https://example.com/agents"}]
    assert b"<html" in ask(port, "GET", "/agents/console/").body()
    for changed in set(WITH_PATH[kind](lines_of(kind)).splitlines()) - set(lines_of(kind).splitlines()):
        assert changed.strip() in OPERATIONS + "}"
