"""The command line as it is typed: real processes against a real server."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.forked import Forked
from tests.kit import KEY, ROOT, TIMEOUT_S, Server


def environment(server: Server, home: Path, **variables: str) -> dict[str, str]:
    """Of somebody who has told where the server is."""
    return {
        "PATH": os.environ["PATH"],  # noqa: TID251
        "PYTHONPATH": str(ROOT),
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "AGENTSRV_URL": f"http://127.0.0.1:{server.port}",
        "AGENTSRV_API_KEY": KEY,
    } | variables


def command(
    server: Server, *words: str, cwd: Path | None = None, stdin: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """What `agentsrv` with these words has done. An empty variable is not set.

    It is a process of its own, forked from one that has imported already what would take it most of its time.
    """
    given = environment(server, server.directory, **variables)
    with tempfile.TemporaryDirectory() as directory:
        typed, said = Path(directory, "stdin"), Path(directory, "stderr")
        typed.write_text(stdin)
        process = Forked(
            words,
            variables={name: value for name, value in given.items() if value},
            cwd=cwd or server.workspace,
            stdin=typed,
            stderr=said,
        )
        with process.stdout:
            stdout = process.stdout.read().decode()
        return subprocess.CompletedProcess(words, process.wait(TIMEOUT_S), stdout, said.read_text())


def object_of(text: str) -> Any:
    """The one line of JSON that it is."""
    [line] = text.splitlines()
    return json.loads(line)


def handles_interrupts(pid: int) -> bool:
    """Is SIGINT one of the signals that it catches, and has its loop begun?"""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    caught = int(status["SigCgt"], 16)
    return bool(caught & (1 << (signal.SIGHUP - 1)))


def has_a_loop(pid: int) -> bool:
    """Has it come so far as to wait for its server?"""
    with contextlib.suppress(OSError):  # what it closes just now
        return any("eventpoll" in os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir())
    return False
