"""The rows about terminals: a bare WebSocket client on a raw socket, and a bare loop on a PTY as the floor."""

from __future__ import annotations

import json
import os
import socket
import statistics
import struct
import subprocess
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

from bench.agent import compile_agent
from bench.rows import MIB, Row, serving
from tests.kit import Server, rss_bytes

CAT_BYTES = 50_000_000
LINE = b"The quick brown fox jumps over the lazy dog, 0123456789, and then some more of it.\n"
ECHOES = 400
TIMEOUT_S = 30.0
KEYSTROKES_EVERY_S = 0.01
STALL_S = 5.0
MARK = b"that-was-all"


class Terminal:
    """A client that costs next to nothing: it looks at frame headers, and at the end of what came."""

    def __init__(self, server: Server, terminal_id: str, encoding: str = "binary") -> None:
        body = {"deploymentId": "bench", "terminalId": terminal_id}
        token = server.ask("POST", "/terminal/token", body).json["token"]
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._is_binary = encoding == "binary"
        self._buffer = memoryview(bytearray(1 << 18))
        self.socket.sendall(
            f"GET /ws/terminal?token={token}&encoding={encoding} HTTP/1.1\r\nHost: x\r\n"
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {b64encode(os.urandom(16)).decode()}\r\n\r\n".encode()
        )
        head = b""
        while b"\r\n\r\n" not in head:
            head += self.socket.recv(4096)
        assert b" 101 " in head, head
        # No editing, no prompt: what comes back is what the kernel echoes and what programs write.
        self.type(f"exec env PS1= sh +i -c 'stty -echo; echo {MARK.decode()}; exec sh'\n".encode())
        self.read_to(MARK + b"\r\n" if self._is_binary else MARK + b"\\r\\n")

    def type(self, data: bytes) -> None:
        opcode, payload = 0x82, data
        if not self._is_binary:
            opcode, payload = 0x81, json.dumps({"type": "data", "data": data.decode()}).encode()
        length = (
            bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + struct.pack("!H", len(payload))
        )
        # A mask of zeros is a mask.
        self.socket.sendall(bytes([opcode]) + length + bytes(4) + payload)

    def read_to(self, end: bytes) -> int:
        """Read until `end` is among the last bytes; how many bytes came."""
        tail, count = b"", 0
        while end not in tail:
            size = self.socket.recv_into(self._buffer)
            assert size, "the server has closed the socket"
            count += size
            tail = (tail + bytes(self._buffer[max(0, size - 256) : size]))[-256:]
        return count

    def close(self) -> None:
        self.socket.close()


def cat_text(directory: Path) -> Path:
    file = directory / "text"
    file.write_bytes(LINE * (CAT_BYTES // len(LINE)))
    return file


def throughput(directory: Path) -> Iterator[Row]:
    """(g) `cat` of 50 MB."""
    text = cat_text(directory)
    with serving(directory / "g", compile_agent(), TERMINAL_SHELL="/bin/sh") as server:
        rates: dict[str, list[float]] = {"floor": [], "binary": [], "json": []}
        terminals = {encoding: Terminal(server, encoding, encoding) for encoding in ("binary", "json")}
        for _ in range(3):
            rates["floor"].append(bare_cat(text))
            for encoding, terminal in terminals.items():
                began = time.perf_counter()
                terminal.type(f"cat {text}; echo {MARK.decode()}\n".encode())
                terminal.read_to(MARK)
                rates[encoding].append(CAT_BYTES / (time.perf_counter() - began) / 1e6)
        for terminal in terminals.values():
            terminal.close()
    medians = {name: statistics.median(found) for name, found in rates.items()}
    floor = medians["floor"]
    yield Row("(g) terminal, cat of 50 MB, binary", medians["binary"], "MB/s", floor, 0.8 * floor)
    yield Row("(g) terminal, cat of 50 MB, JSON", medians["json"], "MB/s", floor, 0.7 * floor)


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
        terminal = Terminal(server, "echo")
        terminal.type(b"stty raw echo; echo; cat\n")
        terminal.read_to(b"\n")
        idle = echo_times(terminal)
        yield Row("(h) terminal, echo idle, p50", 1000 * statistics.median(idle), "ms", None, -0.7)
        flood = Terminal(server, "flood")
        flood.type(b"yes 0123456789012345678901234567890123456789\n")
        flood.socket.setblocking(True)
        reader = subprocess.Popen(["cat"], stdin=flood.socket, stdout=subprocess.DEVNULL)
        try:
            busy = echo_times(terminal)
        finally:
            reader.kill()
            reader.wait()
        began = time.perf_counter()
        flood.type(f"\x03echo {MARK.decode()}\n".encode())
        flood.read_to(MARK)
        interrupted = time.perf_counter() - began
    yield Row("(h) terminal, echo while another floods, p50", 1000 * statistics.median(busy), "ms", None, -1)
    yield Row("(h) terminal, Ctrl-C while `yes` floods", 1000 * interrupted, "ms", None, -300)


def echo_times(terminal: Terminal) -> list[float]:
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


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
