"""The rows about git: a real server against `git diff` and `find` on the same repositories, in the same run."""

from __future__ import annotations

import os
import random
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.agent import compile_agent
from bench.files import ROUNDS, ask, command, health_ms, meanwhile, ms
from bench.rows import Row, serving
from tests.kit import Server
from tests.workspace.git_kit import ENVIRONMENT, commit, make_repository, write_files

FILES, CHANGED, UNTRACKED = 2000, 1000, 200
LINES = 60
BIG_LINES = 50_000
DIRECTORIES, REPOSITORIES = 20_000, 200


def git(directory: Path) -> Iterator[Row]:
    """(l) Diffs, small and large; (m) finding repositories."""
    with serving(directory / "l", compile_agent()) as server:
        base = server.workspace.parent
        small, big = make_changed(base / "small"), make_changed(base / "big", big=True)
        bare_small, bare_big = ms(git_diff(small)), ms(git_diff(big))
        diff = ms(get(server, "small"))
        yield Row(f"(l) diff of {CHANGED:,} files", diff, "ms", bare_small, -1.5 * bare_small)
        summary = ms(get(server, "small", "&summary=true"))
        yield Row(f"(l) summary of {CHANGED:,} files", summary, "ms", bare_small, -bare_small)
        yield Row(f"(l) and of {BIG_LINES:,} lines", ms(get(server, "big")), "ms", bare_big, -2 * bare_big)
        summary = ms(get(server, "big", "&summary=true"))
        yield Row("(l) summary of these", summary, "ms", bare_big, -bare_big)
        with meanwhile(lambda: health_ms(server), 0.005) as delays:
            ms(get(server, "big"))
        yield Row("(l) health meanwhile, p99", statistics.quantiles(delays, n=100)[98], "ms", None, -20)
        more = make_changed(base / "more")
        write_files(more, {f"new/u{n}": "".join(lines(random.Random(n), LINES)) for n in range(UNTRACKED)})
        taken = more_ms(get(server, "small"), get(server, "more"))
        yield Row(f"(l) {UNTRACKED} untracked files more", taken, "ms", None, -20)
    yield from _finding(directory)


def _finding(directory: Path) -> Iterator[Row]:
    with serving(directory / "m", compile_agent()) as server:
        base = server.workspace.parent
        make_forest(base)
        find = ms(command("find", str(base), "-name", ".git"))
        found = ms(lambda: require(ask(server, "GET /git/repositories"), b'"count":%d,' % REPOSITORIES))
        name = f"(m) {REPOSITORIES} repositories in {DIRECTORIES:,} folders"
        yield Row(name, found, "ms", find, -2 * find)


def more_ms(less: Callable[[], None], more: Callable[[], None]) -> float:
    """How much longer `more` takes; one after the other, so that a busy machine slows both."""
    differences = [ms(more, rounds=1) - ms(less, rounds=1) for _ in range(ROUNDS)]
    return statistics.median(differences)


def get(server: Server, path: str, options: str = "") -> Callable[[], None]:
    return lambda: require(ask(server, f"GET /git/diff?path={path}{options}"), b'"truncated":false,')


def require(answer: bytes, part: bytes) -> None:
    assert part in answer, answer


def git_diff(root: Path) -> Callable[[], None]:
    def run() -> None:
        subprocess.run(
            ["git", "--no-pager", "diff", "HEAD"],
            cwd=root,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            check=True,
        )

    return run


def lines(chance: random.Random, count: int) -> list[str]:
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta"]
    return [
        " ".join(chance.choices(words, k=chance.randint(2, 6))) + f" {chance.random():.6f}\n"
        for _ in range(count)
    ]


def make_changed(root: Path, *, big: bool = False) -> Path:
    """2,000 files, of which 1,000 have three changed lines; `big`: one more, all of its 50,000 lines changed."""
    chance = random.Random(1)
    contents = {f"src/p{n % 50:02}/f{n:04}.txt": lines(chance, LINES) for n in range(FILES)}
    if big:
        contents["big.txt"] = lines(chance, BIG_LINES)
    make_repository(root, {name: "".join(content) for name, content in contents.items()})
    for content in list(contents.values())[:CHANGED]:
        content[20:22] = lines(chance, 2)
        content[40:40] = lines(chance, 1)
    if big:
        contents["big.txt"] = lines(chance, BIG_LINES)
    write_files(root, {name: "".join(content) for name, content in contents.items()})
    refresh(root)
    return root


def refresh(root: Path) -> None:
    """Make files older than the index, and have git see that: a file as old as that has to be looked into."""
    long_ago = time.time() - 60
    for directory, _, names in os.walk(root):
        for name in names if ".git" not in directory else ():
            os.utime(os.path.join(directory, name), (long_ago, long_ago))
    command = ["git", "status", "--short"]
    subprocess.run(command, cwd=root, env=ENVIRONMENT, stdout=subprocess.PIPE, check=True)


def make_forest(base: Path) -> None:
    """20,000 folders with three files each, 200 of them repositories."""
    chance = random.Random(2)
    folders = [base]
    while len(folders) < DIRECTORIES:
        parent = chance.choice(folders[-4000:])
        folder = parent / f"d{len(folders)}"
        if len(folder.parts) - len(base.parts) <= 12:
            folder.mkdir()
            for number in range(3):
                (folder / f"f{number}").touch()
            folders.append(folder)
    template = make_repository(base.parent / "template")
    commit(template)
    for folder in chance.sample(folders[1:], REPOSITORIES):
        shutil.copytree(template / ".git", folder / ".git")
