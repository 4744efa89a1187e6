"""`agentsrv` as a process of its own, forked from one that has imported what takes a start most of its time.

Nine tenths of the work of a start are imports, and the tests start hundreds of servers and commands. Those that are
about how a process starts (its interpreter, its memory, its environment) start one in full.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from agentsrv.__main__ import main

NOTHING = Path(os.devnull)
COMMANDS = ("start", "run", "ps", "diff", "answer")
PROCESSES = multiprocessing.get_context("forkserver")
IMPORTED = (
    "agentsrv.operate",
    "agentsrv.doctor",
    "agentsrv.serve",
    *(f"agentsrv.cli.{name}" for name in COMMANDS),
)
PROCESSES.set_forkserver_preload([__name__, *IMPORTED, "tests.frozen"])


class Forked:
    """What `subprocess.Popen` would be: `pid`, `stdout`, `poll`, `wait`."""

    def __init__(
        self,
        words: tuple[str, ...],
        *,
        variables: dict[str, str],
        cwd: Path,
        stderr: Path,
        stdin: Path = NOTHING,
    ) -> None:
        reader, writer = PROCESSES.Pipe(duplex=False)
        with reader, writer:
            self.stdout = open(os.dup(reader.fileno()), "rb")  # noqa: SIM115
            self._process = PROCESSES.Process(target=run, args=(words, variables, cwd, stdin, writer, stderr))
            self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it lives."""
        return self._process.exitcode

    def wait(self, timeout_s: float) -> int:
        """Its exit code; what has not ended by then is killed and fails the test."""
        self._process.join(timeout_s)
        if self._process.exitcode is None:
            self._process.kill()
            raise AssertionError(f"{self.pid} has not ended in {timeout_s} s")
        return self._process.exitcode


def run(
    words: tuple[str, ...],
    variables: dict[str, str],
    cwd: Path,
    stdin: Path,
    stdout: Path | Connection,
    stderr: Path,
) -> None:
    """Be `agentsrv` in the place of this process."""
    os.environ.clear()  # noqa: TID251
    os.environ.update({"LC_CTYPE": "C.UTF-8", **variables})  # noqa: TID251  (an interpreter that starts does so: PEP 538)
    os.chdir(cwd)
    for number, file in enumerate((stdin, stdout, stderr)):
        own = (
            os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND)
            if isinstance(file, Path)
            else os.dup(file.fileno())
        )
        os.dup2(own, number)
        os.close(own)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    sys.argv = ["agentsrv", *words]
    main()
