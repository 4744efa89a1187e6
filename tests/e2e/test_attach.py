"""`agentsrv attach`, used as a person uses it: in a terminal of their own."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from agentsrv.cli.shell import LEAVE
from agentsrv.terminals.replay import MODES, Modes
from tests.conftest import ServerMaker
from tests.kit import KEY, ROOT, TIMEOUT_S, Server, wait_until
from tests.screen import Emulator, need

COLS, ROWS = 80, 24

Start = Callable[..., "Window"]


class Window:
    """A terminal window on this side, in which the command runs."""

    def __init__(
        self, server: Server, *arguments: str, directory: Path, key: str = KEY, before: Sequence[str] = ()
    ) -> None:
        self._master, slave = os.openpty()
        self.screen = Emulator(COLS, ROWS)
        self.resize(COLS, ROWS)
        self.process = subprocess.Popen(
            [*before, sys.executable, "-m", "agentsrv", "attach", *arguments],
            cwd=directory,
            env={
                "PATH": os.environ["PATH"],  # noqa: TID251
                "PYTHONPATH": str(ROOT),
                "PORT": str(server.port),
                "API_KEY": key,
            },
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self.modes_before = termios.tcgetattr(slave)
        self._slave = slave

    @property
    def modes(self) -> list[object]:
        return termios.tcgetattr(self._slave)

    def resize(self, cols: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("4H", rows, cols, 0, 0))
        self.screen.resize(rows, cols)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def shows(self, text: str) -> None:
        """Wait until `text` stands on the screen."""
        deadline = time.monotonic() + TIMEOUT_S
        while text not in self.text:
            assert time.monotonic() < deadline, self.text
            if select.select([self._master], [], [], 0.1)[0]:
                self.screen.feed(os.read(self._master, 65536))

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display)

    def ended(self) -> int:
        return self.process.wait(TIMEOUT_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)


@pytest.fixture
def server(make_server: ServerMaker) -> Server:
    return make_server(TERMINAL_SHELL="/bin/sh")


@pytest.fixture
def start(server: Server, tmp_path: Path) -> Iterator[Start]:
    windows = []

    def start(*arguments: str, **options: Any) -> Window:
        windows.append(Window(server, *arguments, directory=tmp_path, **options))
        return windows[-1]

    yield start
    for window in windows:
        window.close()


def test_it_is_like_a_terminal_here(start: Start) -> None:
    """Keys go there, its screen comes here, in the size of this window; its exit code is ours."""
    window = start()
    window.shows("#")
    window.type("echo $((6*7)); stty size\r")
    window.shows("42\n24 80")
    window.resize(100, 30)
    window.type("until stty size | grep '30 ''100'; do sleep 0.1; done\r")
    window.shows("30 100")
    window.type("sh -c 'echo sle''eping; exec sleep 100'\r")
    window.shows("sleeping")
    window.type("\x03")
    window.type("exit 7\r")

    assert 7 == window.ended()


def test_the_key_is_not_to_be_looked_up(start: Start) -> None:
    """Neither in its environment nor among its arguments, for who runs as the same user."""
    window = start("--key", KEY)
    window.shows("#")
    process = Path(f"/proc/{window.process.pid}")
    shown = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()

    assert b"--key" in shown
    assert KEY.encode() not in shown


def test_nobody_of_the_same_user_looks_into_it(start: Start) -> None:
    """Without rights of root, as other users have none: a process that hides nothing is seen, `attach` is not."""
    plain = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
    window = start("--key", KEY, before=plain)
    window.shows("#")
    look = [*plain, "head", "-c", "1"]
    seen = [
        subprocess.run([*look, f"/proc/{pid}/environ"], capture_output=True, check=False).stdout != b""
        for pid in ("self", window.process.pid)
    ]

    assert seen == [True, False]


def test_who_detaches_may_come_back(start: Start, server: Server) -> None:
    """Ctrl-] leaves the shell as it is, and this terminal as it was."""
    window = start("--terminal", "mine")
    window.shows("#")
    before = window.modes
    window.type("X=some; Y=thing\r")
    window.type("\x1d")
    assert 0 == window.ended()
    window.shows("agentsrv attach --terminal mine")

    assert before[3] != window.modes[3]  # raw it was, and is not any more
    again = start("--terminal", "mine")
    again.shows("X=some")
    again.type("echo $X$Y\r")
    again.shows("something")


def test_who_leaves_has_a_terminal_as_it_was() -> None:
    """Whatever a program over there has switched on: screens, mouse, keyboards, pasting, a hidden cursor."""
    depends_on_the_terminal = {12, 1007, 1048}
    modes = b"".join(b"\x1b[?%dh" % mode for mode in MODES - depends_on_the_terminal)
    left = Modes(b"\x1b[>5u" + modes + b"\x1b[?1049h\x1b[>1u\x1b[>4;2m\x1b=\x1b[?25l\x1b[?7l\x1b[5 q" + LEAVE)
    parts = left.sequence().split(b"\x1b")

    assert not left.is_full_screen
    assert [part for part in parts if part.endswith(b"h")] == [b"[?7h", b"[?25h"]
    assert [part for part in parts if part.endswith(b"u") or b"4;" in part or part == b"="] == []


def test_it_comes_back_by_itself(start: Start, server: Server) -> None:
    """The server is killed under vim and started again: the same screen, and keys work."""
    need("vim")
    window = start()
    window.shows("#")
    window.type("vim -u NONE -i NONE -n\r")
    window.shows("~\n~")
    window.type("ibefore")
    window.shows("before\n~")
    server.kill9()
    window.shows("trying to come back")
    window.screen.reset()
    server.start()
    window.shows("before\n~")
    window.type(" after")
    window.shows("before after\n~")

    assert "trying" not in window.text


def test_it_watches(start: Start) -> None:
    """--read-only shows, and types nothing."""
    window = start("--terminal", "shared")
    window.shows("#")
    watcher = start("--terminal", "shared", "--read-only")
    watcher.shows("#")
    watcher.type("echo from the wat''cher\r")
    window.type("echo from the ow''ner\r")
    watcher.shows("from the owner")

    assert "from the watcher" not in watcher.text


@pytest.mark.parametrize(
    ("arguments", "key", "code", "reason"),
    [
        ((), "a-wrong-key-0123456789", 77, "does not take the key"),
        (("--terminal", "a b"), KEY, 5, "terminalId"),
        (("--cwd", "/etc"), KEY, 5, "outside the workspace"),
        (("--url", "http://127.0.0.1:1"), KEY, 69, "does not answer"),
        (("--terminal", "nowhere", "--read-only"), KEY, 5, "no such terminal"),
    ],
    ids=["wrong key", "wrong name", "outside", "no server", "nothing to watch"],
)
def test_what_cannot_work_says_why(
    start: Start, arguments: tuple[str, ...], key: str, code: int, reason: str
) -> None:
    """The words and the exit code of all commands, and this terminal is as before."""
    window = start(*arguments, key=key)

    assert code == window.ended()
    window.shows(reason)


def test_it_needs_a_terminal(server: Server, tmp_path: Path) -> None:
    """In a pipe it says so."""
    done = subprocess.run(
        [sys.executable, "-m", "agentsrv", "attach"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "API_KEY": KEY},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )

    assert (78, "agentsrv: attach needs a terminal; stdin or stdout is none\n") == (
        done.returncode,
        done.stderr,
    )


def test_a_shell_that_is_killed_from_elsewhere_is_told(start: Start, server: Server) -> None:
    """128 and the signal, as a shell does it."""
    window = start("--terminal", "t")
    window.shows("#")
    server.ask("DELETE", "/terminals/t").body()

    assert 128 + 1 == window.ended()
    window.shows("SIGHUP")
    wait_until(lambda: not server.ask("GET", "/terminals").json["terminals"])
