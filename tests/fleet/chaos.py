"""Three servers and their Redis, clients at work, and somebody who breaks one thing after the other.

`python -m tests.fleet.chaos --seconds 600` does it for long. What is broken when follows from a seed, which is printed:
`--seed N` breaks the same again.
"""

from __future__ import annotations

import argparse
import http.client
import os
import random
import secrets
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.fleet.cable import Cable, loop_in_thread
from tests.fleet.kit import FleetOfServers, fleet_of, free_port, wait_for_peers
from tests.kit import Answer, Event, Server, script, write_fake_agent

NAMES = ("a", "b", "c")
CLIENTS = 6
TURNS_OF_A_SESSION = 5
TURN_TIMEOUT_S = 120.0
LONGEST_BREAK_S = 6.0
"""Longer than a server may be silent before it counts as away."""
CUT_OFF = (OSError, http.client.HTTPException)
TRY_AGAIN = {409, 503}


@dataclass(slots=True)
class Chaos:
    """What is played, and how it went. Everything that is decided comes from `seed`."""

    fleet: FleetOfServers
    cables: dict[str, Cable]
    seed: int
    acts: Counter[str] = field(default_factory=Counter)
    turns: Counter[str] = field(default_factory=Counter)
    """How many each session has had."""
    is_over: bool = False

    @property
    def servers(self) -> list[Server]:
        return list(self.fleet.servers.values())

    def run(self, seconds: float) -> None:
        """Break and mend for so long; then everything must be well. Raises AssertionError where it is not."""
        dice = random.Random(self.seed)
        end = time.monotonic() + seconds
        with ThreadPoolExecutor(CLIENTS) as pool:
            clients = [pool.submit(Client(self, f"client-{n}").work) for n in range(CLIENTS)]
            try:
                while time.monotonic() < end and not any(client.done() for client in clients):
                    self.act(dice, min(LONGEST_BREAK_S, seconds / 3))
            finally:
                self.is_over = True
            for client in clients:
                client.result()
        self.check()

    def act(self, dice: random.Random, longest_s: float) -> None:
        """Break one thing, and mend it after a while."""
        server, cable = dice.choice(self.servers), dice.choice(list(self.cables.values()))
        redis = self.fleet.redis
        breaks: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
            "kill": (server.kill9, server.start),
            "terminate": (server.terminate, server.start),
            "stop": (
                lambda: os.kill(server.pid, signal.SIGSTOP),
                lambda: os.kill(server.pid, signal.SIGCONT),
            ),
            "cut": (cable.cut, cable.mend),
            "flush": (lambda: redis.do("FLUSHALL"), lambda: None),
            "redis dies": (redis.stop, redis.start),
            "redis hangs": (redis.freeze, redis.thaw),
        }
        name = dice.choice(sorted(breaks))
        break_it, mend_it = breaks[name]
        self.acts[name] += 1
        break_it()
        time.sleep(dice.uniform(0.0, longest_s))
        mend_it()
        time.sleep(dice.uniform(0.0, 1.0))

    def check(self) -> None:
        """No id is in two databases, Redis knows all, and no session has lost or doubled anything."""
        wait_for_peers(*self.servers)
        homes = [id_ for server in self.servers for id_ in sessions_in(server)]
        assert sorted(homes) == sorted(self.turns)
        assert self.fleet.redis.do("HLEN", "{agentsrv}:homes") == len(homes)
        assert not any(server.ask("GET", "/health").json["fleet"]["clashes"] for server in self.servers)
        for session, turns in self.turns.items():
            self.check_history(session, turns)

    def check_history(self, session: str, turns: int) -> None:
        history = self.servers[0].history(session)
        said = [text for event in history if (text := text_of(event)).startswith("said ")]
        assert [f"said {session}-{n}" for n in range(turns)] == said
        assert list(range(1, len(history) + 1)) == [event.id for event in history]


class Client:
    """Has conversations, one prompt after the other, with whichever server there is."""

    def __init__(self, chaos: Chaos, name: str) -> None:
        self._chaos = chaos
        self._name = name
        self._dice = random.Random(f"{chaos.seed} {name}")

    def work(self) -> None:
        number = 0
        while not self._chaos.is_over:
            session = f"{self._name}-{number // TURNS_OF_A_SESSION}"
            self._play(session, number % TURNS_OF_A_SESSION)
            number += 1

    def _play(self, session: str, n: int) -> None:
        """One turn to its end: every event once and in order, over however many connections."""
        message_id = f"{session}-{n}"
        prompt = script(f"rate 50 {self._dice.randrange(10, 80)} 50", f"say said {message_id}")
        deadline = time.monotonic() + TURN_TIMEOUT_S
        task = self._begin(session, prompt, message_id, deadline)
        self._chaos.turns[session] += 1
        seen: list[Event] = []
        while not seen or seen[-1].type != "done":
            assert time.monotonic() < deadline, f"{message_id} does not end: {len(seen)} events"
            seen += self._follow(task, seen[-1].id if seen else None)
        first = seen[0].id
        assert list(range(first, first + len(seen))) == [event.id for event in seen], message_id
        assert "completed" == seen[-1].json["status"], seen[-1].json

    def _begin(self, session: str, prompt: str, message_id: str, deadline: float) -> str:
        """Ask two servers at once, until one says that it has begun: whatever they say is about one job."""
        while True:
            answers = [self._ask(server, session, prompt, message_id) for server in self._two()]
            tasks = {task for task in map(task_of, answers) if task}
            assert len(tasks) <= 1, f"{message_id} was begun twice: {tasks}"
            if tasks:
                return tasks.pop()
            assert time.monotonic() < deadline, f"{message_id} does not begin"
            time.sleep(0.1)

    def _two(self) -> list[Server]:
        return self._dice.sample(self._chaos.servers, 2)

    def _ask(
        self, server: Server, session: str, prompt: str, message_id: str
    ) -> http.client.HTTPConnection | None:
        body = {"session_id": session, "prompt": prompt, "message_id": message_id, "background": True}
        try:
            return server.send("POST", "/generate/v2", body)
        except CUT_OFF:
            return None

    def _follow(self, task: str, after: int | None) -> list[Event]:
        """What a server sends until the stream breaks off, or until we go away."""
        try:
            with self._dice.choice(self._chaos.servers).follow(task, after) as stream:
                if stream.status in TRY_AGAIN:
                    time.sleep(0.1)
                    return []
                return list(stream.take(self._dice.randrange(1, 200)))
        except CUT_OFF:
            time.sleep(0.1)
            return []


def task_of(connection: http.client.HTTPConnection | None) -> str:
    """The job that was begun; empty where the answer is to ask again, or none."""
    if connection is None:
        return ""
    try:
        with Answer(connection) as answer:
            body = answer.json
    except CUT_OFF:
        return ""
    assert answer.status in {202, *TRY_AGAIN}, body
    return str(body["taskId"]) if answer.status == 202 else ""


def text_of(event: Event) -> str:
    """What the agent says in this event."""
    message = event.json
    if message.get("type") != "assistant":
        return ""
    return str(message["message"]["content"][0].get("text", ""))


def sessions_in(server: Server) -> list[str]:
    with closing(sqlite3.connect(server.database)) as database:
        return [id_ for (id_,) in database.execute("SELECT id FROM sessions")]


@contextmanager
def chaos(directory: Path, seed: int) -> Iterator[Chaos]:
    """Servers that reach each other over cables."""
    agent = write_fake_agent(directory / "claude")
    with fleet_of(directory, agent) as fleet, loop_in_thread() as loop:
        cables = {name: Cable(free_port(), loop) for name in NAMES}
        for name, cable in cables.items():
            cable.mend()
            server = fleet.add(name, SERVER_URL=f"http://127.0.0.1:{cable.port}")
            server.port = cable.to_port
        try:
            with ThreadPoolExecutor() as pool:
                list(pool.map(Server.start, fleet.servers.values()))
            wait_for_peers(*fleet.servers.values())
            yield Chaos(fleet, cables, seed)
        finally:
            for cable in cables.values():
                cable.cut()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fleet.chaos")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    arguments = parser.parse_args()
    sys.stdout.write(f"seed {arguments.seed}\n")
    with (
        tempfile.TemporaryDirectory(prefix="agentsrv-chaos-") as name,
        chaos(Path(name), arguments.seed) as it,
    ):
        it.run(arguments.seconds)
        sys.stdout.write(f"{it.turns.total()} turns, {it.acts.total()} acts: {dict(it.acts)}\n")


if __name__ == "__main__":
    main()
