"""A server that is ended or replaced, whatever its surroundings do."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import ROOT, TIMEOUT_S, Server, all_pids, is_alive, parent_of, script, wait_until

HOST = """
from agentsrv import Config, make_app
import os
import aiohttp.web

async def host():
    app = aiohttp.web.Application()
    app.add_subapp("/agents", make_app(Config.from_env(dict(os.environ))))
    return app
"""


def test_sigterm_ends_a_server_whose_workspace_holds_a_dead_mount(tmp_path: Path, fake_agent: Path) -> None:
    """Requests hang in it, in every pool; the server still ends by itself, with 0, and long before it is killed."""
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    helper = str(ROOT / "tests/e2e/dead_mount_server.py")
    server = Server(
        tmp_path, fake_agent, command=("unshare", "--mount", *as_root, sys.executable, helper)
    ).start()
    try:
        paths = ["/filesystem/read?path=dead/x", "/filesystem/files?path=dead", "/git/status?path=dead"]
        hung = [server.send("GET", path) for path in paths * 10]
        hung.append(server.send("POST", "/sessions", {"cwd": "dead"}))
        done = server.generate("hello").rest()
        code = server.terminate()
        for connection in hung:
            connection.close()
    finally:
        server.close()

    assert (done[-1].json["status"], code) == ("completed", 0)


class Host(Server):
    """A gunicorn that serves agentsrv below /agents of a host application."""

    def start(self) -> Host:
        self.home.mkdir(parents=True, exist_ok=True)
        (self.directory / "host.py").write_text(HOST)
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "host:host", "--worker-class", "aiohttp.GunicornWebWorker",
                 "--bind", "127.0.0.1:0", "--graceful-timeout", "20", "--no-control-socket"],
                cwd=self.directory,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )  # fmt: skip
        wait_until(lambda: re.search(r"Listening at: http://127\.0\.0\.1:(\d+)", self.log))
        self.port = int(re.findall(r"Listening at: http://127\.0\.0\.1:(\d+)", self.log)[-1])
        return self

    def workers(self) -> set[int]:
        return {pid for pid in all_pids() if parent_of(pid) == self.pid and is_alive(pid)}


@pytest.fixture
def host(tmp_path: Path, fake_agent: Path) -> Iterator[Host]:
    host = Host(tmp_path, fake_agent, {"SHUTDOWN_GRACE": "30"}).start()
    yield host
    host.close()


def test_a_host_that_reloads_goes_on_with_its_agents(host: Host) -> None:
    """`kill -HUP` of gunicorn: the new worker waits for the old one, takes its agent over, and nothing is lost."""
    body = {"session_id": "s", "prompt": script("rate 50 enough 100"), "background": True}
    task_id = host.ask("POST", "/agents/generate/v2", body).json["taskId"]
    stream = host.ask("GET", f"/agents/generate/v2/jobs/{task_id}/stream")
    seen = stream.take(20)
    (before,) = host.workers()
    os.kill(host.pid, signal.SIGHUP)
    wait_until(lambda: not is_alive(before), TIMEOUT_S)
    (host.workspace / "enough").touch()
    last = stream.rest()[-1].id
    rest = host.ask("GET", f"/agents/generate/v2/jobs/{task_id}/stream", Last_Event_ID=str(last)).rest()

    assert host.workers() != {before}
    assert len(seen) == 20
    assert [event.id for event in rest] == list(range(last + 1, last + 1 + len(rest)))
    assert rest[-1].json["status"] == "completed"
    assert "another server uses" not in host.log
