"""A thousand turns leave nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

from tests.conftest import ServerMaker
from tests.kit import (
    open_files,
    rss_bytes,
    script,
    wait_for_at_most,
    wait_until,
)

MIB = 1 << 20
POOL_THREADS = min(32, (os.cpu_count() or 1) + 4)
SQLITE_THREADS = 4


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def test_a_thousand_turns_leave_nothing_behind(make_server: ServerMaker, bench_agent: Path) -> None:
    """After 1,000 turns in 60 sessions: no more descriptors, threads, processes or zombies than after the first 40."""
    server = make_server(CLAUDE_PATH=str(bench_agent), MAX_WARM_AGENTS="4")

    def play(turns: int, sessions: int) -> None:
        for turn in range(turns):
            prompt, session = script("lines 5 300"), f"session-{turn % sessions}"
            # This agent keeps no record of a conversation, and so cannot resume one.
            done = server.generate(prompt, session, if_lost="restart").rest()[-1]
            assert done.json["status"] == "completed"

    def counts() -> tuple[int, int, int]:
        return len(open_files(server.pid)), threads(server.pid), len(server.processes())

    play(40, 8)
    wait_until(lambda: len(server.agents()) <= 4, what="agents over the cap are ended")
    files, workers, processes = counts()
    rss_before = rss_bytes(server.pid)
    play(760, 4)
    play(200, 60)
    wait_until(lambda: len(server.agents()) <= 4, what="agents over the cap are ended")
    # asyncio starts the threads of its pool as it needs them.
    wait_for_at_most((files, max(workers, POOL_THREADS + SQLITE_THREADS), processes), counts)

    wait_until(lambda: server.zombies() == 0, what="the dead are waited for")
    assert rss_bytes(server.pid) - rss_before < 10 * MIB
    runners = server.directory / "state" / "runners"
    wait_until(lambda: len(list(runners.iterdir())) <= 4, what="files of ended runners are deleted")


def test_idle_agents_are_ended(make_server: ServerMaker) -> None:
    """After AGENT_IDLE_TIMEOUT a warm agent is gone; the next prompt starts another one that resumes the session."""
    server = make_server(AGENT_IDLE_TIMEOUT="0.3")
    server.generate("hi").rest()
    wait_until(lambda: not server.agents(), what="the idle agent is ended")

    events = server.generate(script("echo")).rest()
    argv = next(event.json["argv"] for event in events if event.type == "fake")
    assert any(word.startswith("--resume") for word in argv)
