"""What the machine allows: the same agent's stdout, read through a plain pipe and dropped."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.client import BUFFER, TIMEOUT_S, Latencies

IDLE = b'"state":"idle"'


@dataclass(slots=True)
class Piped:
    """An agent on pipes. Times are seconds since it was started, or since the prompt when it was warm."""

    process: subprocess.Popen[bytes]
    started_at: float

    def prompt(self, text: str) -> None:
        assert self.process.stdin is not None
        content = [{"type": "text", "text": text}]
        message = {"type": "user", "uuid": str(uuid.uuid4()), "message": {"role": "user", "content": content}}
        os.write(self.process.stdin.fileno(), json.dumps(message, separators=(",", ":")).encode() + b"\n")

    def read_turn(self) -> tuple[float, float, int]:
        """Read up to the end of the turn: when the first line came, when the last, and how many."""
        assert self.process.stdout is not None
        fd, first_at, newlines = self.process.stdout.fileno(), 0.0, 0
        while True:
            count = os.readv(fd, [BUFFER])
            now = time.perf_counter()
            assert count, "the agent has ended"
            first_at = first_at or now
            data = bytes(BUFFER[:count])
            newlines += data.count(b"\n")
            if IDLE in data[-400:].replace(b": ", b":"):
                return first_at, now, newlines

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def start(
    program: Path, arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Piped:
    started_at = time.perf_counter()
    process = subprocess.Popen(
        [str(program), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=None if environment is None else dict(environment),
    )
    return Piped(process, started_at)


def events_per_second(program: Path, prompt: str) -> float:
    """From the start of the process to its last line."""
    agent = start(program)
    agent.prompt(prompt)
    _, ended_at, lines = agent.read_turn()
    agent.end()
    return lines / (ended_at - agent.started_at)


def latencies(program: Path, prompt: str, agents: int, skip: int) -> Latencies:
    """Of `agents` at once, each on its own pipe."""
    found = Latencies(skip)
    piped = [start(program) for _ in range(agents)]
    waiting = selectors.DefaultSelector()
    for agent in piped:
        assert agent.process.stdout is not None
        waiting.register(agent.process.stdout, selectors.EVENT_READ)
        agent.prompt(prompt)
    while waiting.get_map():
        for key, _ in waiting.select(TIMEOUT_S):
            data = os.read(key.fd, 1 << 16)
            found.take(key.fd, data)
            if IDLE in data[-400:]:
                waiting.unregister(key.fileobj)
    for agent in piped:
        agent.end()
    return found
