"""A real server process, and a client that sees every byte: what the end-to-end tests are made of.

Everything is synchronous: the server is another process, so a test reads as a script, and "a hundred at once" is a
hundred sockets that were written before the first is read.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from agentsrv.threads import Threads
from tests.forked import Forked
from tests.migrated import put_database

KEY = f"end-to-end-key-{os.getpid():010}"
"""Of this run alone: tests look for it in all processes, and another run may be on the same machine."""
TIMEOUT_S = 60.0
STREAM_TIMEOUT_S = 120.0
"""Only what hangs takes so long; a slow and busy machine does not."""
ROOT = Path(__file__).parents[1]
FAKE_AGENT = Path(__file__).parent / "fakes" / "fake_agent.py"
OWN_DATABASE = {"STATE_DIR", "DATABASE_PATH"}
"""Settings of a server that finds no database where others do."""


@dataclass(frozen=True, slots=True)
class Event:
    """One SSE frame. `data` is the exact text of its data line."""

    id: int
    data: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    @property
    def type(self) -> str:
        """The `type` of the message, empty where it has none; `done` for the last frame of a job."""
        message = self.json
        return "done" if message.get("done") else str(message.get("type", ""))


class Answer:
    """The answer to a request: its head is read, its body as far as the test asks for it."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection
        self._response = connection.getresponse()
        OPEN.add(self)
        self._buffer = b""
        self._next = 0
        self._deadline = time.monotonic() + STREAM_TIMEOUT_S
        self.size = 0
        """Bytes of the body so far."""
        self.events: list[Event] = []
        self.comments: list[bytes] = []
        self.retry_ms: int | None = None
        self.is_whole = False
        """Did the body end as HTTP says that it must?"""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Go away, whatever the server is sending."""
        self._response.close()
        self._connection.close()
        OPEN.discard(self)

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> http.client.HTTPMessage:
        return self._response.headers

    @property
    def json(self) -> Any:
        return json.loads(self.body())

    def body(self) -> bytes:
        with self:
            return self._response.read()

    def __iter__(self) -> Iterator[Event]:
        """The events that were not handed out yet, as they come; ends when the server ends the stream, or dies."""
        while True:
            while self._next < len(self.events):
                self._next += 1
                yield self.events[self._next - 1]
            if not (data := self._read(1 << 16)):
                return
            self._feed(data)

    def take(self, count: int) -> list[Event]:
        """The first `count` events of the stream; fewer when it ends before."""
        while len(self.events) < count and (data := self._read(1 << 16)):
            self._feed(data)
        self._next = min(count, len(self.events))
        return self.events[:count]

    def until(self, found: Callable[[Event], bool]) -> Event:
        """The first event that fits. Fails when the stream ends without."""
        for event in self:
            if found(event):
                return event
        raise AssertionError(f"the stream ended after {len(self.events)} events")

    def rest(self) -> list[Event]:
        """All events, to the end of the stream; the connection is closed then."""
        with self:
            for _ in self:
                pass
            return self.events

    def read_bytes(self, count: int) -> list[Event]:
        """Take exactly so many bytes of the body and go away; the events that were complete in them."""
        with self:
            while self.size < count and (data := self._read(count - self.size)):
                self._feed(data)
            return self.events

    def _read(self, size: int) -> bytes:
        if self.status == 204:  # nothing is left
            return b""
        assert self.status == 200, f"no stream: {self.status} {self._response.read()!r}"
        assert time.monotonic() < self._deadline, (
            f"no end after {len(self.events)} events: {self.events[-3:]}"
        )
        try:
            data = self._response.read1(size)
        except (ConnectionError, http.client.HTTPException):
            return b""
        self.is_whole = self.is_whole or (not data and self._response.length in {0, None})
        self.size += len(data)
        return data

    def _feed(self, data: bytes) -> None:
        *frames, self._buffer = (self._buffer + data).split(b"\n\n")
        for frame in frames:
            self._take(frame.split(b"\n"))

    def _take(self, lines: list[bytes]) -> None:
        """One frame: perhaps when to come back, and comments; then data, and nearly always an id."""
        while lines[0].startswith((b"retry: ", b":")):
            line = lines.pop(0)
            if line.startswith(b":"):
                self.comments.append(line)
            else:
                self.retry_ms = int(line.removeprefix(b"retry: "))
        # Of several frames of one event the last one alone has an id.
        last_id = self.events[-1].id if self.events else 0
        data, event_id = lines if len(lines) == 2 else (lines[0], b"id: %d" % last_id)
        assert data.startswith(b"data: "), lines
        self.events.append(Event(int(event_id.removeprefix(b"id: ")), data.removeprefix(b"data: ")))


OPEN: set[Answer] = set()
"""Answers that no test has closed: `Server.close` does."""


@dataclass(slots=True)
class Server:
    """`agentsrv serve` in a directory of its own, with `claude` as its agent.

    It survives its own death: `kill9` and `start` again keep directory and port.
    """

    directory: Path
    claude: Path
    settings: dict[str, str] = field(default_factory=dict)
    port: int = 0
    process: subprocess.Popen[bytes] | Forked | None = None
    command: tuple[str, ...] | None = None
    """The interpreter, and what runs it; None: it is forked from a process that has imported the server."""
    address: str = "127.0.0.1"

    @property
    def home(self) -> Path:
        return self.directory / "home"

    @property
    def workspace(self) -> Path:
        return self.directory / "base" / "workspaces"

    @property
    def database(self) -> Path:
        return self.directory / "state" / "agentsrv.db"

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],  # noqa: TID251
            "PYTHONPATH": str(ROOT),
            "HOME": str(self.home),
            "HOST": self.address,
            "PORT": str(self.port),
            "API_KEY": KEY,
            "STATE_DIR": str(self.directory / "state"),
            "WORKSPACE_BASE_PATH": str(self.directory / "base"),
            "CLAUDE_PATH": str(self.claude),
            "SHUTDOWN_GRACE": "5",
            "KEEPALIVE_INTERVAL": "5",
        } | self.settings

    def start(self) -> Self:
        """Returns when it answers requests."""
        self.home.mkdir(parents=True, exist_ok=True)
        self.process = self._forked() if self.command is None else self._begun(self.command)
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        ready = re.fullmatch(r"agentsrv listening on (?:http://127\.0\.0\.\d:(\d+)|unix:/.*)\n", line)
        assert ready, f"not ready: {line!r}\n{self.log[-2000:]}"
        self.port = int(ready[1] or 0)
        return self

    def _forked(self) -> Forked:
        if not os.path.lexists(self.database.parent) and OWN_DATABASE.isdisjoint(self.settings):
            put_database(self.database)
        log = self.directory / "log"
        return Forked(("serve",), variables=self.environment(), cwd=self.directory, stderr=log)

    def _begun(self, command: tuple[str, ...]) -> subprocess.Popen[bytes]:
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen(
                [*command, "-m", "agentsrv", "serve"],
                cwd=self.directory,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill9(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.ended()

    def terminate(self) -> int:
        """SIGTERM; the exit code."""
        os.kill(self.pid, signal.SIGTERM)
        return self.ended()

    def ended(self) -> int:
        assert self.process is not None
        code = self.process.wait(TIMEOUT_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def close(self) -> None:
        """End the server and everything that it and its agents have started."""
        for answer in list(OPEN):
            answer.close()
        if self.process is not None and self.process.stdout is not None:
            if self.process.poll() is None:
                with contextlib.suppress(ProcessLookupError):  # It ends by itself in this very moment.
                    os.kill(self.pid, signal.SIGTERM)
                self.ended()
            self.process.stdout.close()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def processes(self) -> list[int]:
        """Every living process of this server: by its HOME, by a working directory below its own, by descent."""
        home, directory = f"HOME={self.home}".encode(), str(self.directory)
        pids = [pid for pid in all_pids() if is_alive(pid)]
        mine = {pid for pid in pids if home in environ_of(pid) or cwd_of(pid).startswith(directory)}
        while more := {pid for pid in pids if parent_of(pid) in mine} - mine:
            mine |= more
        return sorted(mine)

    def agents(self) -> list[int]:
        """Those of the processes that run an agent, or what an agent has started with its environment."""
        home = f"HOME={self.home}".encode()
        return [pid for pid in self.processes() if pid != self.pid and home in environ_of(pid)]

    def zombies(self) -> int:
        """Dead processes that nobody has waited for, among the children of this server's."""
        mine = set(self.processes())
        return sum(stat_of(pid)[0] == "Z" and parent_of(pid) in mine for pid in all_pids())

    # -- requests

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> http.client.HTTPConnection:
        """Send a request; `Answer(connection)` reads what comes back."""
        connection = http.client.HTTPConnection(self.address, self.port, timeout=TIMEOUT_S)
        all_headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        all_headers |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, None if body is None else json.dumps(body), all_headers)
        return connection

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        return Answer(self.send(method, path, body, **headers))

    def generate(self, prompt: str, session: str = "s", **options: Any) -> Answer:
        """POST /generate/v2. Steps of a script may be given without their `SCRIPT: `, see `script`."""
        return self.ask("POST", "/generate/v2", {"session_id": session, "prompt": prompt, **options})

    def start_job(self, prompt: str, session: str = "s", **options: Any) -> str:
        """A background job; its id."""
        answer = self.generate(prompt, session, background=True, **options)
        body = answer.json
        assert answer.status == 202, body
        return str(body["taskId"])

    def job(self, task_id: str, *, wait_s: int = 0) -> dict[str, Any]:
        """GET /generate/v2/jobs/{taskId}; with `wait_s` long-polls for its end."""
        query = f"?wait={wait_s}" if wait_s else ""
        answer: dict[str, Any] = self.ask("GET", f"/generate/v2/jobs/{task_id}{query}").json
        return answer

    def ended_job(self, task_id: str) -> dict[str, Any]:
        job = self.job(task_id, wait_s=50)
        assert job["status"] not in {"queued", "running"}, job
        return job

    def follow(self, task_id: str, after: int | None = None) -> Answer:
        """The job's stream, from its start or after an event."""
        headers = {} if after is None else {"Last_Event_ID": str(after)}
        return self.ask("GET", f"/generate/v2/jobs/{task_id}/stream", **headers)

    def stop(self, session: str = "s") -> Answer:
        return self.ask("DELETE", f"/generate/{session}/stop")

    def history(self, session: str = "s") -> list[Event]:
        """All events of the session, as a follower from the start gets them now."""
        last = max(
            (job.get("lastEventId") or 0)
            for job in self.ask("GET", f"/generate/v2/jobs?session_id={session}").json["jobs"]
        )
        with self.ask("GET", f"/sessions/{session}/events") as answer:
            return answer.take(last)


def script(*steps: str) -> str:
    """A prompt for the fakes: one step a line."""
    return "\n".join(f"SCRIPT: {step}" for step in steps)


def wait_until(fact: Callable[[], object], timeout_s: float = TIMEOUT_S, *, what: str = "") -> None:
    """Wait for something in another process that tells nobody when it happens."""
    end = time.monotonic() + timeout_s
    while not fact():
        assert time.monotonic() < end, f"still not so after {timeout_s} s: {what or fact}"
        time.sleep(0.01)


def wait_for_at_most(limits: tuple[int, ...], measure: Callable[[], tuple[int, ...]]) -> None:
    """Wait until none of the numbers is over its limit."""
    end = time.monotonic() + TIMEOUT_S
    numbers = measure()
    while any(now > limit for now, limit in zip(numbers, limits, strict=True)):
        assert time.monotonic() < end, f"{numbers} should be at most {limits}"
        time.sleep(0.05)
        numbers = measure()


def all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def environ_of(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def command_line_of(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def cwd_of(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return ""


def stat_of(pid: int) -> list[str]:
    """The fields of /proc/pid/stat from the state on; those of a dead process when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return ["X", "0"]


def started_at(pid: int) -> int:
    """In ticks since the boot. The order of ids tells nothing: they begin anew behind the largest."""
    fields = stat_of(pid)
    return int(fields[19]) if len(fields) > 19 else 0


def parent_of(pid: int) -> int:
    return int(stat_of(pid)[1])


def is_alive(pid: int) -> bool:
    """Is it there, and not a zombie?"""
    return stat_of(pid)[0] not in {"Z", "X"}


def rss_bytes(pid: int, field: str = "VmRSS") -> int:
    """The memory that a process has, or with `VmHWM` the most that it has had."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields[field].split()[0]) * 1024


def open_files(pid: int) -> list[str]:
    """What each descriptor of the process points at."""
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return found


def write_fake_agent(path: Path, *flags: str) -> Path:
    """An executable `claude` that is the fake agent. The interpreter is absolute: PATH may be anything."""
    arguments = "".join(f" --fake '{flag}'" for flag in flags)
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {FAKE_AGENT}{arguments} "$@"\n')
    path.chmod(0o755)
    return path


THREADS = Threads()
"""For what is tested without a server. Threads end with the process, and are started when they are needed."""
