"""The rows about terminals. The floor is a bare loop on a PTY; of other servers those that are installed take part."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from bench.agent import compile_agent
from bench.peers import Shell, peers
from bench.rows import MIB, Row, cpu_s, serving
from tests.kit import Server, rss_bytes

CAT_BYTES = 50_000_000
LINE = b"The quick brown fox jumps over the lazy dog, 0123456789, and then some more of it.\n"
ECHOES = 400
KEYSTROKES_EVERY_S = 0.01
STALL_S = 5.0
ROUNDS = 7
END = b"that-was-all"


class Terminal(Shell):
    """A terminal of ours, in one of its encodings; without a prompt, so that only what was asked for comes."""

    def __init__(self, server: Server, terminal_id: str, encoding: str = "binary") -> None:
        body = {"deploymentId": "bench", "terminalId": terminal_id}
        token = server.ask("POST", "/terminal/token", body).json["token"]
        super().__init__(server.port, f"/ws/terminal?token={token}&encoding={encoding}")
        self._is_binary = encoding == "binary"
        self.make_quiet()

    def type(self, data: bytes) -> None:
        if self._is_binary:
            self.send(0x82, data)
        else:
            self.send(0x81, json.dumps({"type": "data", "data": data.decode()}).encode())


def cat_text(directory: Path) -> Path:
    file = directory / "text"
    file.write_bytes(LINE * (CAT_BYTES // len(LINE)))
    return file


def throughput(directory: Path) -> Iterator[Row]:
    """(g) `cat` of 50 MB."""
    text = cat_text(directory)
    rates: dict[str, list[float]] = {}
    with serving(directory / "g", compile_agent(), TERMINAL_SHELL="/bin/sh") as server, peers() as others:
        terminals: dict[str, Shell] = {
            encoding: Terminal(server, encoding, encoding) for encoding in ("binary", "json")
        }
        terminals |= {name: connect() for name, connect in others.items()}
        for _ in range(ROUNDS):
            rates.setdefault("floor", []).append(bare_cat(text))
            for name, terminal in terminals.items():
                rates.setdefault(name, []).append(cat(terminal, text))
        for terminal in terminals.values():
            terminal.close()
    medians = {name: statistics.median(found) for name, found in rates.items()}
    floor = medians.pop("floor")
    targets = {"binary": 0.8 * floor, "json": 0.7 * floor}
    for name, rate in medians.items():
        yield Row(f"(g) terminal, cat of 50 MB, {name}", rate, "MB/s", floor, targets.get(name))


def cat(terminal: Shell, text: Path) -> float:
    """MB/s."""
    began = time.perf_counter()
    terminal.type(f"cat {text}; echo {END.decode()}\n".encode())
    terminal.read_to(END)
    return CAT_BYTES / (time.perf_counter() - began) / 1e6


def bare_cat(text: Path) -> float:
    """MB/s of the same program, read from a PTY by a bare loop and dropped."""
    master, slave = os.openpty()
    began = time.perf_counter()
    process = subprocess.Popen(["cat", str(text)], stdin=slave, stdout=slave, start_new_session=True)
    os.close(slave)
    try:
        while os.read(master, 65536):
            pass
    except OSError:  # EIO: the end.
        pass
    took = time.perf_counter() - began
    process.wait()
    os.close(master)
    return CAT_BYTES / took / 1e6


def echo(directory: Path) -> Iterator[Row]:
    """(h) From a keystroke to its echo: idle, and while another terminal floods."""
    with serving(directory / "h", compile_agent(), TERMINAL_SHELL="/bin/sh") as server:
        terminal = in_cat(Terminal(server, "echo"))
        idle = echo_times(terminal)
        yield Row("(h) terminal, echo idle, p50", 1000 * statistics.median(idle), "ms", None, -0.7)
        with peers() as others:
            for name, connect in others.items():
                idle = echo_times(in_cat(connect()))
                yield Row(f"(h) terminal, echo idle, p50, {name}", 1000 * statistics.median(idle), "ms")
        flood = Terminal(server, "flood")
        flood.type(b"yes 0123456789012345678901234567890123456789\n")
        flood.socket.setblocking(True)
        reader = subprocess.Popen(["cat"], stdin=flood.socket.fileno(), stdout=subprocess.DEVNULL)
        try:
            busy = echo_times(terminal)
        finally:
            reader.kill()
            reader.wait()
        began = time.perf_counter()
        flood.type(f"\x03echo {END.decode()}\n".encode())
        flood.read_to(END)
        interrupted = time.perf_counter() - began
    yield Row("(h) terminal, echo while another floods, p50", 1000 * statistics.median(busy), "ms", None, -1)
    yield Row("(h) terminal, Ctrl-C while `yes` floods", 1000 * interrupted, "ms", None, -300)


def in_cat(terminal: Shell) -> Shell:
    """Every key is echoed by the kernel, at once and alone."""
    terminal.type(b'stty raw echo; echo in-""cat; exec cat >/dev/null\n')
    terminal.read_to(b"in-cat")
    return terminal


def echo_times(terminal: Shell) -> list[float]:
    found = []
    for number in range(ECHOES):
        key = b"%c" % (97 + number % 26)
        began = time.perf_counter()
        terminal.type(key)
        terminal.read_to(key)
        found.append(time.perf_counter() - began)
        time.sleep(KEYSTROKES_EVERY_S)
    return found


def stall(directory: Path) -> Iterator[Row]:
    """(i) A client that stops reading while its program floods."""
    with serving(directory / "i", compile_agent(), TERMINAL_SHELL="/bin/sh") as server:
        terminal = Terminal(server, "stalled")
        before = rss_bytes(server.pid)
        terminal.type(b"yes\n")
        time.sleep(STALL_S / 5)
        cpu_before = cpu_s(server.pid)
        time.sleep(STALL_S)
        cpu = cpu_s(server.pid) - cpu_before
        growth = rss_bytes(server.pid) - before
        terminal.close()
    yield Row("(i) terminal, client stalled 5 s, RSS growth", growth / MIB, "MiB", None, -1)
    yield Row("(i) terminal, client stalled 5 s, CPU of the server", 100 * cpu / STALL_S, "%", None, -2)
