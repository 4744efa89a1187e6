"""Programs that are asked about themselves."""

from __future__ import annotations

import os
import select
from pathlib import Path

import pytest

from agentsrv import programs
from agentsrv.programs import Program, ask
from agentsrv.threads import Threads

SHELL = Path("/bin/sh")


async def test_nothing_of_where_the_server_was_started_is_seen() -> None:
    """A repository there cannot say how the program is to behave."""
    assert await ask(Threads().programs, SHELL, "-c", "pwd", env={}) == (b"/\n", None)


async def test_a_program_that_does_not_answer_goes_with_all_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own processes too: nothing is left of the question."""
    monkeypatch.setattr(programs, "TIMEOUT_S", 1.0)
    os.mkfifo(pipe := tmp_path / "pipe")
    with open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        script = f"sleep 300 > {pipe} & sleep 300"
        output, trouble = await ask(Threads().programs, SHELL, "-c", script, env={"PATH": "/usr/bin:/bin"})
        poll = select.poll()
        poll.register(reader, 0)

        assert output is None
        assert trouble is not None
        # The last process that could have written to it is dead.
        assert [events for _, events in poll.poll(10_000)] == [select.POLLHUP]


def test_a_program_is_looked_for_again_once_it_is_gone(tmp_path: Path) -> None:
    """Somebody who installs an agent, or moves it, need not start the server again."""
    places = [tmp_path / "first", tmp_path / "second"]
    path = ":".join(map(str, places))
    program = Program(
        "agent",
        setting="AGENT_PATH",
        configured=None,
        package="no_such_package",
        inside="",
        environment={"PATH": path},
    )
    seen = [program.find()]
    for place in reversed(places):
        place.mkdir()
        (place / "agent").touch(0o755)
        seen.append(program.find())
    (places[1] / "agent").unlink()
    seen.append(program.find())

    assert seen == [None, places[1] / "agent", places[1] / "agent", places[0] / "agent"]
    assert program.why_missing() == "agent was not found; install the `agents` extra or set AGENT_PATH"
