"""The rows about files: a real server against `find` and `fd` on the same trees, in the same run."""

from __future__ import annotations

import os
import re
import shutil
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.agent import compile_agent
from bench.rows import MIB, Row, serving
from tests.kit import KEY, Server, rss_bytes

TIMEOUT_S = 60.0
ROUNDS = 7
DIRECTORIES, FILES = 1000, 100_000
LISTED = 5000
LARGE_BYTES = 200 * MIB
SMALL_FILES, SMALL_BYTES = 500, 10_000
FORM = "Content-Type: multipart/form-data; boundary=x"


def files(directory: Path) -> Iterator[Row]:
    """(n) Listing, walking, searching; (o) uploads."""
    with serving(directory / "n", compile_agent()) as server:
        base = server.workspace.parent
        make_tree(base / "tree")
        make_flat(base / "flat")
        yield from _looking(server, base)
        yield from _uploading(server, base, directory)


def _looking(server: Server, base: Path) -> Iterator[Row]:
    listing = "/filesystem/files?includeFiles=true&maxDepth=20&limit=200000&path="
    bare = ms(command("find", str(base / "flat")))
    yield Row(f"(n) list {LISTED:,} entries", ms(get(server, f"{listing}flat", LISTED)), "ms", bare, -35)

    bare = ms(command("find", str(base / "tree")))
    walk = get(server, f"{listing}tree", FILES + DIRECTORIES - 1)
    yield Row(f"(n) walk {FILES:,} files", ms(walk), "ms", bare, -4 * bare)
    with meanwhile(lambda: health_ms(server), 0.01) as delays:
        ms(walk)
    yield Row("(n) health meanwhile, p99", statistics.quantiles(delays, n=100)[98], "ms", None, -20)

    found = ms(get(server, "/filesystem/search?includeFiles=true&root=tree&q=file_0999", 100))
    program = shutil.which("fd") or shutil.which("fdfind")
    bare_search = ms(command(program, "-uu", "file_0999", str(base / "tree"))) if program else None
    target = None if bare_search is None else -1.5 * bare_search
    yield Row(f"(n) search {FILES:,} names", found, "ms", bare_search, target)


def _uploading(server: Server, base: Path, directory: Path) -> Iterator[Row]:
    small = [(f"f{n}.bin", os.urandom(SMALL_BYTES)) for n in range(SMALL_FILES)]
    for name, parts in {
        f"{LARGE_BYTES // MIB} MiB": [("large.bin", bytes(LARGE_BYTES))],
        f"{SMALL_FILES} x {SMALL_BYTES // 1000} kB": small,
    }.items():
        run = upload(server, base / "up", parts)
        before = rss_bytes(server.pid)
        with meanwhile(lambda: rss_bytes(server.pid), 0.02) as sizes:
            found = ms(run, rounds=3)
        yield Row(f"(o) upload {name}", found, "ms", ms(written(directory / "bare", parts), rounds=3))
        yield Row(f"(o) upload {name}, memory more", (max(sizes) - before) / MIB, "MiB", None, -30)


def ask(server: Server, what: str, body: bytes = b"") -> bytes:
    """One request on a connection of its own; the end of the answer, which must be a good one."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S) as connection:
        connection.sendall(f"{what} HTTP/1.0\r\nAuthorization: Bearer {KEY}\r\n".encode())
        connection.sendall(f"Content-Length: {len(body)}\r\n{FORM}\r\n\r\n".encode())
        if body:
            connection.sendall(body)
        head = tail = b""
        while data := connection.recv(1 << 18):
            head, tail = head or data[:200], (tail + data)[-400:]
    assert re.match(rb"HTTP/1\.[01] 20[01] ", head), head
    return tail


def get(server: Server, path: str, count: int) -> Callable[[], None]:
    def run() -> None:
        assert b'"count":%d,' % count in ask(server, f"GET {path}")

    return run


def upload(server: Server, target: Path, parts: list[tuple[str, bytes]]) -> Callable[[], None]:
    """Into `target`, a directory of the workspace that is removed before."""
    fields = [
        ('name="targetPath"', target.name.encode()),
        *((f'name="f"; filename="{n}"', data) for n, data in parts),
    ]
    body = b"".join(
        f"--x\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + data + b"\r\n"
        for head, data in fields
    )

    def run() -> None:
        shutil.rmtree(target, ignore_errors=True)
        ask(server, "POST /filesystem/upload", body + b"--x--\r\n")

    return run


def written(directory: Path, parts: list[tuple[str, bytes]]) -> Callable[[], None]:
    """The same files, written by nothing but `write`."""

    def run() -> None:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        for name, data in parts:
            (directory / name).write_bytes(data)

    return run


def command(*words: str) -> Callable[[], None]:
    def run() -> None:
        subprocess.run(words, stdout=subprocess.DEVNULL, check=True)

    return run


def ms(run: Callable[[], None], rounds: int = ROUNDS) -> float:
    """The median; the first round, which fills caches, does not count."""
    taken = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        run()
        taken.append((time.perf_counter() - started) * 1000)
    return statistics.median(taken[1:])


@contextmanager
def meanwhile(sample: Callable[[], float], every_s: float) -> Iterator[list[float]]:
    """Take samples in a thread while the block runs."""
    samples: list[float] = []
    over = threading.Event()

    def take() -> None:
        while not over.wait(every_s):
            samples.append(sample())

    thread = threading.Thread(target=take)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def health_ms(server: Server) -> float:
    started = time.perf_counter()
    ask(server, "GET /health")
    return (time.perf_counter() - started) * 1000


def make_tree(root: Path) -> None:
    """`DIRECTORIES`, ten in each down to three levels, with as many files in each."""
    directories = [root]
    for parent in directories:
        parent.mkdir(parents=True)
        room = DIRECTORIES - len(directories)
        directories += [parent / f"dir_{n:02}" for n in range(min(10, room))]
    per_directory = FILES // DIRECTORIES
    for n, directory in enumerate(directories):
        for number in range(n * per_directory, (n + 1) * per_directory):
            (directory / f"file_{number:06}.py").touch()


def make_flat(root: Path) -> None:
    root.mkdir(parents=True)
    for n in range(LISTED):
        (root / f"file_{n:05}.txt").touch()
