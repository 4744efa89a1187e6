"""A terminal window in which `agentsrv` runs, as a person has it before them."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

from tests.kit import TIMEOUT_S
from tests.screen import Emulator


class Window:
    """`cols` by `rows`. With `stdin` that is piped in, and keys come from the window all the same."""

    def __init__(
        self,
        *words: str,
        cwd: Path,
        environment: dict[str, str],
        cols: int = 80,
        rows: int = 40,
        stdin: str | None = None,
        program: tuple[str, ...] = (sys.executable, "-m", "agentsrv"),
    ) -> None:
        self._master, slave = os.openpty()
        self.screen = Emulator(cols, rows)
        self.output = bytearray()
        self.resize(cols, rows)
        self.process = subprocess.Popen(
            [*program, *words],
            cwd=cwd,
            env={"TERM": "xterm-256color", **environment},
            stdin=slave if stdin is None else subprocess.PIPE,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(1, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        if self.process.stdin is not None:
            self.process.stdin.write((stdin or "").encode())
            self.process.stdin.close()

    def resize(self, cols: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("4H", rows, cols, 0, 0))
        self.screen.resize(rows, cols)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def shows(self, text: str) -> None:
        """Wait until `text` stands on the screen."""
        self.until(lambda: text in self.text, text)

    def hides(self, text: str) -> None:
        """Wait until `text` does not stand there any more."""
        self.until(lambda: text not in self.text, text)

    def until(self, fact: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not fact():
            assert time.monotonic() < deadline, f"no {what!r} in:\n{self.text}"
            self._read(0.1)

    def _read(self, wait_s: float) -> bool:
        """False when nothing more can come."""
        if not select.select([self._master], [], [], wait_s)[0]:
            return self.process.poll() is None
        try:
            data = os.read(self._master, 65536)
        except OSError:
            return False
        self.output += data
        self.screen.feed(data)
        return bool(data)

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    def ended(self) -> int:
        """Read to the end; the exit code."""
        deadline = time.monotonic() + TIMEOUT_S
        while self._read(0.1):
            assert time.monotonic() < deadline, self.text
        return self.process.wait(TIMEOUT_S)

    def hang_up(self) -> None:
        """The window is closed."""
        os.close(self._master)
        self._master = -1

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        if self._master >= 0:
            os.close(self._master)
