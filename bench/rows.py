"""What is measured, row by row. Each function runs its own server in `directory` and yields figures."""

from __future__ import annotations

import importlib.util
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import floor, relay
from bench.agent import compile_agent
from bench.client import BUFFER, TIMEOUT_S, Latencies, Stream, drain, post, request
from tests.kit import Server, rss_bytes, script, stat_of, wait_until

FLOOD = 20_000
SIZE = 300
AROUND = 9
"""Events of a turn besides the agent's messages: the prompt, what surrounds them, `done`."""

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. A positive target is to be reached, a negative one not to be exceeded."""

    name: str
    value: float
    unit: str
    floor: float | None = None
    target: float | None = None

    @property
    def is_missed(self) -> bool:
        if self.target is None:
            return False
        return self.value < self.target if self.target > 0 else self.value > -self.target

    def text(self) -> str:
        mark = "!" if self.is_missed else " "
        columns = [self._number(self.value), self._number(self.floor), self._number(self.target)]
        return f"{self.name:52} {columns[0]:>12}{mark}{columns[1]:>12} {columns[2]:>12} {self.unit}"

    def json(self) -> dict[str, object]:
        target = None if self.target is None else abs(self.target)
        return {
            "name": self.name,
            "value": round(self.value, 4),
            "unit": self.unit,
            "floor": None if self.floor is None else round(self.floor, 4),
            "target": target,
            "isMissed": self.is_missed,
        }

    @staticmethod
    def _number(value: float | None) -> str:
        if value is None:
            return ""
        return f"{abs(value):,.0f}" if abs(value) >= 1000 else f"{abs(value):.3g}"


@contextmanager
def serving(directory: Path, program: Path, **settings: str) -> Iterator[Server]:
    directory.mkdir(exist_ok=True)
    many = {"MAX_CONCURRENT_TURNS": "200", "MAX_WARM_AGENTS": "64"}
    server = Server(directory, program, many | settings, command=(sys.executable,)).start()
    try:
        yield server
    finally:
        server.close()


def flooded(server: Server, session: str, count: int = FLOOD, turns_before: int = 0) -> Stream:
    stream = post(server, session, script(f"lines {count} {SIZE}"))
    drain([stream])
    stream.check(count + AROUND, turns_before)
    return stream


def throughput(directory: Path) -> Iterator[Row]:
    """(a) From POST to `done`, a new process each time."""
    program = compile_agent()
    prompt = script(f"lines {FLOOD} {SIZE}")
    with serving(directory / "a", program) as server:
        rates = []
        for n in range(7):
            stream = flooded(server, f"flood-{n}")
            rates.append(stream.events / (stream.done_at - stream.sent_at))
        bare = statistics.median(floor.events_per_second(program, prompt) for _ in range(7))
    name = f"(a) events/s, {FLOOD:,} of {SIZE} bytes, POST to done"
    yield Row(name, statistics.median(rates), "/s", bare, 120_000)


def latency(directory: Path) -> Iterator[Row]:
    """(b) From the agent's write to the client's read, 200 events/s in each of 1, 16, 64 sessions."""
    program = compile_agent()
    targets = {1: (0.6, 3.0, 200.0), 16: (0.5, 5.0, 80.0), 64: (1.0, 25.0, 46.0)}
    with serving(directory / "b", program) as server:
        for sessions, (p50, p99, cpu) in targets.items():
            count = 1000 if sessions == 1 else 800
            prompt = script(f"rate 200 {count} {SIZE}")
            bare = floor.latencies(program, prompt, sessions, skip=200)
            found = Latencies(skip=200)
            streams = [post(server, f"session-{sessions}-{n}", prompt) for n in range(sessions)]
            spent = Cpu(server.pid, found)
            drain(streams, spent.take)
            cpu_us = spent.per_event_us()
            for stream in streams:
                stream.check(count + AROUND)
            assert len(found.ns) == sessions * (count - 200)
            least_us = relayed_us(program, prompt, sessions)
            yield Row(f"(b) CPU of an event at 200/s, {sessions} sessions", cpu_us, "us", least_us, -cpu)
            for percent, target in ((50, p50), (99, p99)):
                name = f"(b) latency at 200/s, {sessions} sessions, p{percent}"
                yield Row(name, found.percentile_ms(percent), "ms", bare.percentile_ms(percent), -target)


def relayed_us(program: Path, prompt: str, agents: int) -> float:
    """Processor time of an event in a program that passes it on and does nothing else."""
    found = Latencies(skip=200)
    process, connections = relay.relaying(program, prompt, agents)
    spent = Cpu(process.pid, found)
    relay.drain(connections, spent.take)
    cpu_us = spent.per_event_us()
    process.wait(TIMEOUT_S)
    return cpu_us


class Cpu:
    """What a process spends on events, from the first one that `found` counts."""

    def __init__(self, pid: int, found: Latencies) -> None:
        self._pid = pid
        self._found = found
        self._began_s = 0.0

    def take(self, stream: object, body: bytes) -> None:
        was_empty = not self._found.ns
        self._found.take(id(stream), body)
        if was_empty and self._found.ns:
            self._began_s = cpu_s(self._pid)

    def per_event_us(self) -> float:
        return 1e6 * (cpu_s(self._pid) - self._began_s) / len(self._found.ns)


def cpu_s(pid: int) -> float:
    """Of all threads of a process, in user and kernel, since it began."""
    fields = stat_of(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def fan_out(directory: Path) -> Iterator[Row]:
    """(c) One flooding job and its followers, who were there before it began."""
    program = compile_agent()
    prompt = script(f"lines {FLOOD} {SIZE}")
    with serving(directory / "c", program) as server:
        flooded(server, "warm-up")
        for followers in (1, 8, 64):
            session = f"fan-{followers}"
            server.ask("POST", "/sessions", {"sessionId": session}).body()
            streams = [request(server, "GET", f"/sessions/{session}/events") for _ in range(followers)]
            began = time.perf_counter()
            server.start_job(prompt, session)
            drain(streams)
            for stream in streams:
                stream.check(FLOOD + AROUND)
            rate = sum(stream.events for stream in streams) / (max(s.done_at for s in streams) - began)
            bare = floor.events_per_second(program, prompt) if followers == 1 else None
            target = 600_000 if followers == 64 else None
            yield Row(f"(c) deliveries/s, {followers} followers", rate, "/s", bare, target)


def replay(directory: Path) -> Iterator[Row]:
    """(d) A finished job, from a server that was started after it."""
    with serving(directory / "d", compile_agent()) as server:
        flooded(server, "replayed")
        path = "/sessions/replayed/events"
        server.terminate()
        server.start()
        streams = []
        for _ in range(9):
            stream = request(server, "GET", path)
            drain([stream])
            stream.check(FLOOD + AROUND)
            streams.append(stream)
    took = [1000 * (stream.done_at - stream.sent_at) for stream in streams]
    first = [1000 * (stream.first_agent_at - stream.sent_at) for stream in streams]
    yield Row(f"(d) replay of {FLOOD:,} events, first time", took[0], "ms", None, -60)
    yield Row(f"(d) replay of {FLOOD:,} events", statistics.median(took), "ms", None, -60)
    yield Row("(d) replay, first event", statistics.median(first), "ms", None, -5)


def footprint(directory: Path) -> Iterator[Row]:
    """(e) Start and memory."""
    program = compile_agent()
    starts = []
    for _ in range(5):
        began = time.perf_counter()
        with serving(directory / "start", program) as server:
            assert server.ask("GET", "/health").status == 200
            starts.append(time.perf_counter() - began)
    yield Row("(e) cold start to the first 200", statistics.median(starts), "s", bare_start_s(), -0.6)
    with serving(directory / "e", program) as server:
        idle = rss_bytes(server.pid)
        yield Row("(e) RSS idle", idle / MIB, "MiB", None, -60)
        streams = [post(server, f"live-{n}", script(f"rate 20 60 {SIZE}")) for n in range(64)]
        highest = 0

        def watch(stream: Stream, body: bytes) -> None:
            nonlocal highest
            if stream is streams[0]:
                highest = max(highest, rss_bytes(server.pid))

        drain(streams, watch)
        yield Row("(e) RSS with 64 live streams", highest / MIB, "MiB")
        for n in range(100):
            flooded(server, f"before-{n % 20}", 5, n // 20)
        before = rss_bytes(server.pid)
        for n in range(1000):
            flooded(server, f"finished-{n % 20}", 5, n // 20)
        added = rss_bytes(server.pid) - before
        yield Row("(e) RSS added by 1,000 finished jobs", added / MIB, "MiB", None, -5)


def bare_start_s() -> float:
    """What an interpreter and the HTTP library alone take."""

    def once() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import aiohttp.web, aiosqlite"], check=True)
        return time.perf_counter() - began

    return statistics.median(once() for _ in range(3))


def first_event(directory: Path) -> Iterator[Row]:
    """(f) From POST to the agent's first event: a new process, and the warm one. What HTTP has of it."""
    program = compile_agent()
    with serving(directory / "f", program) as server:
        colds: list[float] = []
        warms: list[float] = []
        refusals: list[float] = []
        for n in range(31):
            for found in (colds, warms):
                stream = post(server, f"first-{n}", "hi")
                drain([stream])
                found.append(1000 * (stream.first_agent_at - stream.sent_at))
                time.sleep(0.02)  # what follows a turn is not part of the next one
            refusals.append(refusal_ms(server))
            time.sleep(0.02)
    bare_cold, bare_warm = bare_first_events(lambda: floor.start(program), 31)
    yield Row("(f) first event, fake agent, cold", statistics.median(colds), "ms", bare_cold, -7)
    yield Row("(f) first event, fake agent, warm", statistics.median(warms), "ms", bare_warm, -2)
    yield Row("(f) a prompt that is refused for its body", statistics.median(refusals), "ms")
    if (claude := find_claude()) is not None:
        yield from first_event_of_claude(directory, claude)


def refusal_ms(server: Server) -> float:
    """What client, kernel and HTTP take, without a turn."""
    stream = post(server, session="", prompt="hi")
    stream.socket.recv_into(BUFFER)
    took_s = time.perf_counter() - stream.sent_at
    stream.socket.close()
    return 1000 * took_s


def first_event_of_claude(directory: Path, claude: Path) -> Iterator[Row]:
    """The real CLI and a model that answers at once."""
    command = [sys.executable, "-m", "tests.fakes.model_api"]
    model = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert model.stdout is not None
    url = model.stdout.readline().strip()
    settings = {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": "fake"}
    prompt = script("text hello")
    try:
        with serving(directory / "claude", claude, **settings) as server:
            drain([post(server, "warm-up", prompt)])
            server.ask("DELETE", "/sessions/warm-up").body()
            colds: list[float] = []
            warms: list[float] = []
            whole: list[float] = []
            for n in range(7):
                for found in (colds, warms):
                    stream = post(server, f"claude-{n}", prompt)
                    drain([stream])
                    found.append(1000 * (stream.first_agent_at - stream.sent_at))
                    whole.append(1000 * (stream.done_at - stream.sent_at))
                    time.sleep(0.3)  # the CLI still tidies up after its turn
                server.ask("DELETE", f"/sessions/claude-{n}").body()
                wait_until(lambda: not server.agents())
            environment = agent_environment(server)
            bare_cold, bare_warm = bare_first_events(
                lambda: floor.start(claude, CLAUDE_ARGUMENTS, environment), 7, prompt, pause_s=0.3
            )
    finally:
        model.terminate()
        model.wait()
        model.stdout.close()
    cold = statistics.median(colds)
    yield Row("(f) first event, real CLI, first turn", cold, "ms", bare_cold, -(bare_cold + 15))
    yield Row("(f) first event, real CLI, second turn", statistics.median(warms), "ms", bare_warm, -100)
    yield Row("(f) whole second turn, real CLI", statistics.median(whole[1::2]), "ms")


CLAUDE_ARGUMENTS = (
    "-p", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose",
    "--permission-mode", "bypassPermissions",
)  # fmt: skip


def agent_environment(server: Server) -> dict[str, str]:
    """What the server gives to Claude, as far as it decides on its speed."""
    names = ("PATH", "HOME", "ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY")
    fixed = {"DISABLE_TELEMETRY": "1", "DISABLE_AUTOUPDATER": "1", "DISABLE_ERROR_REPORTING": "1"}
    states = {"IS_SANDBOX": "1", "CLAUDE_CODE_EAGER_FLUSH": "1", "CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS": "1"}
    quiet = {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}
    given = {name: value for name, value in server.environment().items() if name in names}
    return given | fixed | states | quiet


def bare_first_events(
    start: Callable[[], floor.Piped], rounds: int, prompt: str = "hi", pause_s: float = 0.02
) -> tuple[float, float]:
    """First and second turn of a process on pipes, in ms to the first line."""
    colds: list[float] = []
    warms: list[float] = []
    for _ in range(rounds):
        agent = start()
        agent.prompt(prompt)
        colds.append(1000 * (agent.read_turn()[0] - agent.started_at))
        time.sleep(pause_s)
        began = time.perf_counter()
        agent.prompt(prompt)
        warms.append(1000 * (agent.read_turn()[0] - began))
        agent.end()
    return statistics.median(colds), statistics.median(warms)


def find_claude() -> Path | None:
    """CLAUDE_PATH, else the CLI inside the claude-agent-sdk wheel."""
    if path := os.environ.get("CLAUDE_PATH"):
        return Path(path)
    spec = importlib.util.find_spec("claude_agent_sdk")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "_bundled" / "claude"
