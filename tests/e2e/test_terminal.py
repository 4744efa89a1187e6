"""Terminals of a real server: they outlive it, leave nothing behind, and the programs that people use work in them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from tests.conftest import ServerMaker
from tests.fakes.model_api import ModelApi
from tests.kit import (
    KEY,
    Server,
    environ_of,
    is_alive,
    open_files,
    rss_bytes,
    wait_for_at_most,
    wait_until,
)
from tests.screen import Emulator, need
from tests.terminal_client import TIMEOUT_S, TerminalClient, terminal

KILLS = 20
TERMINALS = 500
POOL_THREADS = min(32, (os.cpu_count() or 1) + 4) + 8  # asyncio's, and those of database and files
COLS, ROWS = 80, 24
JWT_SECRET = f"terminal-secret-0123456789-{os.getpid():010}"

Attach = Callable[..., AbstractAsyncContextManager[TerminalClient]]

BUILD = 'import itertools, time; any(print("line", n, flush=True) or time.sleep(0.01) for n in itertools.count(1))'
"""One process: between two programs of its own a shell may miss an interrupt."""


@pytest.fixture
def server(make_server: ServerMaker) -> Server:
    return make_server(TERMINAL_SHELL="/bin/bash", TERMINAL_JWT_SECRET=JWT_SECRET)


@pytest.fixture
async def client() -> AsyncIterator[ClientSession]:
    async with ClientSession() as client:
        yield client


@pytest.fixture
def attach(server: Server, client: ClientSession) -> Attach:
    """`async with attach("name") as shell`; the port is the one that the server has then."""

    def attach(name: str = "t", **options: Any) -> AbstractAsyncContextManager[TerminalClient]:
        return terminal(client, server.port, KEY, name, **options)

    return attach


class Screen:
    """What a person would see of all that a socket has sent."""

    def __init__(self, shell: TerminalClient) -> None:
        self._shell = shell
        self._screen = Emulator(COLS, ROWS)
        self._fed = 0

    @property
    def lines(self) -> list[str]:
        self._screen.feed(bytes(self._shell.output[self._fed :]))
        self._fed = len(self._shell.output)
        return [line.rstrip() for line in self._screen.display]

    async def becomes(self, is_so: Callable[[list[str]], object]) -> list[str]:
        async with asyncio.timeout(TIMEOUT_S):
            while not is_so(self.lines):
                assert await self._shell.take(), "\n".join(self.lines)
        return self.lines

    async def shows(self, text: str) -> list[str]:
        return await self.becomes(lambda lines: text in "\n".join(lines))


async def in_bash(shell: TerminalClient) -> Screen:
    await shell.say(type="resize", cols=COLS, rows=ROWS)
    return Screen(shell)


# ---- outliving the server


async def test_shells_survive_twenty_kills(server: Server, attach: Attach) -> None:
    """`kill -9` under vim and under a running build: the same shell and screen each time, and input works."""
    need("vim")
    async with attach("build") as build, attach("edit") as edit:
        await build.type(f"echo pid=$$.; {sys.executable} -Ic '{BUILD}'\n")
        pids = [await build.matches(rb"pid=(\d+)\.")]
        await edit.type("echo pid=$$.; vim -u NONE -i NONE -n\n")
        pids += [await edit.matches(rb"pid=(\d+)\.")]
        screen = await in_bash(edit)
        await screen.shows("~\n~")
        await edit.type("ibegin\x1b")
        before = await screen.shows("begin\n~")
    for kill in range(KILLS):
        server.kill9()
        server.start()
        async with attach("edit") as edit:
            screen = await in_bash(edit)
            await screen.becomes(before.__eq__)
            await edit.type(f"oafter {kill}\x1b")
            before = await screen.shows(f"after {kill}\n~" if kill < ROWS - 4 else f"after {kill}")
    async with attach("build") as build:
        await build.type("\x03")
        await build.matches(rb"(KeyboardInterrupt)\r")
        await build.type("echo again=$$.\n")
        again = [await build.matches(rb"again=(\d+)\.")]
        numbers = [int(number) for number in re.findall(rb"line (\d+)\r", build.output)]
    async with attach("edit") as edit:
        await edit.type(":q!\r")
        await edit.matches(rb"\?1049l")  # vim would swallow what comes sooner
        await edit.type("echo again=$$.\n")
        again += [await edit.matches(rb"again=(\d+)\.")]

    assert pids == again
    assert sorted(numbers) == numbers
    assert (
        numbers[-1] - len(numbers) <= KILLS
    )  # at most the bytes of one read are lost, and one is a line here


async def test_a_flood_survives_a_kill(server: Server, attach: Attach) -> None:
    """While a program prints as fast as it can: what the new server shows goes on where the old one ended."""
    async with attach(encoding="binary") as shell:
        await shell.type("stty -echo; for ((i = 0; ; i++)); do echo line $i; done\n")
        await shell.shows("line 5000\r\n")
        server.kill9()
    server.start()
    async with attach(encoding="binary") as shell:
        await shell.message("info")
        while len(shell.output) < 1_000_000:
            assert await shell.take()
    numbers = [int(number) for number in re.findall(rb"line (\d+)\r", shell.output)]
    gaps = [pair for pair in pairwise(numbers) if pair[1] != pair[0] + 1]

    assert len(gaps) <= 2  # where the old server died; where this client may have been caught up with
    assert sorted(numbers) == numbers


async def test_a_terminal_ends_though_no_server_comes_back(
    make_server: ServerMaker, client: ClientSession
) -> None:
    """After TERMINAL_LINGER its runner ends it."""
    server = make_server(TERMINAL_LINGER="0.5", TERMINAL_SHELL="/bin/sh")
    async with terminal(client, server.port, KEY) as shell:
        await shell.type("sleep 1000 & echo pid=$$.\n")
        [pid] = await shell.matches(rb"pid=(\d+)\.")
        assert is_alive(int(pid))
        server.kill9()

    wait_until(lambda: not server.processes(), what="the shell, what it started, and the runner are gone")


async def test_a_killed_runner_is_the_end_of_its_terminal(server: Server, attach: Attach) -> None:
    """The shell dies with it, its children are found, and the client is told."""
    async with attach() as shell:
        await shell.type("setsid sleep 1000 & echo pid=$$.\n")
        [pid] = await shell.matches(rb"pid=(\d+)\.")
        cookie = next(entry for entry in environ_of(int(pid)) if entry.startswith(b"AGENTSRV_RUNNER="))
        os.kill(parent_of(int(pid)), 9)

        assert "runner_lost" == (await shell.message("close"))["reason"]
        assert 1000 == await shell.closed()
    assert [] == [pid for pid in server.processes() if cookie in environ_of(pid)]


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


# ---- leaving nothing behind, telling nothing


async def test_five_hundred_terminals_leave_nothing_behind(server: Server, attach: Attach) -> None:
    """No descriptor, PTY, process, thread, file or memory, however they ended."""

    async def come_and_go(number: int) -> None:
        async with attach(f"t{number}") as shell:
            if number % 3 == 0:
                await shell.type("exit\n")
            elif number % 3 == 1:
                await shell.say(type="close")
            else:
                await shell.type("exec sleep 1000\n")
                server.ask("DELETE", f"/terminals/t{number}").body()
            await shell.closed()

    def counts() -> tuple[int, int, int]:
        threads = len(list(Path(f"/proc/{server.pid}/task").iterdir()))
        return len(open_files(server.pid)), threads, len(server.processes())

    async def come_and_go_together(first: int, last: int) -> None:
        for batch in range(first, last, 10):
            await asyncio.gather(*map(come_and_go, range(batch, batch + 10)))

    # As many at once as later: the server's pool of threads grows to its size, and so does the client's of connections.
    await come_and_go_together(0, 50)
    before, rss_before = counts(), rss_bytes(server.pid)
    await come_and_go_together(50, TERMINALS)
    files, threads, processes = before
    # asyncio starts the threads of its pool as it needs them.
    wait_for_at_most((files, max(threads, POOL_THREADS), processes), counts)

    wait_until(lambda: not list((server.directory / "state" / "terminals").iterdir()), what="files are gone")
    assert [] == [
        file for file in open_files(server.pid) if "ptmx" in file or "pts" in file or "ring" in file
    ]
    assert rss_bytes(server.pid) - rss_before < 10 * 1024 * 1024


async def test_secrets_are_out_of_reach(server: Server, attach: Attach) -> None:
    """Neither the shell's environment nor any process's has the API key, the tokens' key or a token; nor the log."""
    async with attach() as shell:
        await shell.type(
            "env; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'; ls -l /proc/$$/fd; echo that-'is' all\n"
        )
        shown = await shell.shows("that-is all")

    assert "TERMINAL_ID=t" in shown
    assert [False] * 3 == [secret in shown for secret in (KEY, JWT_SECRET, "server.lock")]
    assert [False] * 3 == [secret in server.log for secret in (KEY, JWT_SECRET, "eyJ")]


# ---- programs


@pytest.mark.tools
@pytest.mark.door
async def test_vim_works(server: Server, attach: Attach) -> None:
    """Write a file in it, over JSON."""
    need("vim")
    async with attach() as shell:
        screen = await in_bash(shell)
        await shell.type("vim -u NONE -i NONE -n file\n")
        await screen.shows("~\n~")
        await shell.type("ischön 🙂\x1b:wq\r")
        await shell.matches(rb"\?1049l")

    assert "schön 🙂\n" == (server.workspace / "file").read_text()


@pytest.mark.tools
async def test_less_works(attach: Attach) -> None:
    """Forward, back, resize, quit."""
    need("less")
    async with attach() as shell:
        screen = await in_bash(shell)
        await shell.type("seq 1000 | LESS= less\n")
        await screen.shows("22\n23\n:")
        await shell.type(" ")
        await screen.shows("45\n46\n:")
        await shell.type("b")
        await screen.shows("22\n23\n:")
        await shell.type("q")
        await shell.matches(rb"\?1049l")


@pytest.mark.tools
async def test_top_works_and_is_there_again(attach: Attach) -> None:
    """Who comes back to a program that draws by itself sees it draw."""
    need("top")
    async with attach() as shell:
        screen = await in_bash(shell)
        await shell.type("top -d 0.2\n")
        await screen.shows("load average")
    async with attach() as shell:
        screen = await in_bash(shell)
        await screen.shows("load average")
        before = len(shell.output)
        await screen.becomes(lambda _: len(shell.output) > before + 500)
        await shell.type("q")


@pytest.mark.tools
async def test_tmux_works_and_survives_a_kill(server: Server, attach: Attach, tmp_path: Path) -> None:
    """Panes, and the same picture from the next server."""
    need("tmux")
    async with attach() as shell:
        screen = await in_bash(shell)
        await shell.type(f"tmux -u -f /dev/null -S {tmp_path}/tmux new 'PS1=left sh +m'\n")
        await screen.shows("left")
        await shell.type("clear; tmux split-window -h 'PS1=right sh +m'\r")
        before = await screen.becomes(
            lambda lines: re.match("left +│right", lines[0]) and all("│" in line for line in lines[:-1])
        )
        server.kill9()
    server.start()
    async with attach() as shell:
        screen = await in_bash(shell)
        await screen.becomes(lambda lines: lines[:-1] == before[:-1])  # the last one has a clock
        await shell.type("tmux kill-server\r")
        await shell.shows("[")


MODEL_KEY = "sk-ant-fake-model-key-0123456789abcdef"


async def test_claudes_own_interface_works_and_survives_a_kill(
    model: ModelApi, make_server: ServerMaker, client: ClientSession, real_claude: Path
) -> None:
    """A conversation in it, the server is killed, the conversation goes on; with the key that AGENT_ENV names."""
    server = make_server(
        TERMINAL_SHELL="/bin/bash",
        AGENT_ENV="ANTHROPIC_API_KEY,ANTHROPIC_BASE_URL",
        ANTHROPIC_API_KEY=MODEL_KEY,
        ANTHROPIC_BASE_URL=model.url,
    )
    (server.home / ".claude.json").write_text(json.dumps(claude_settings(str(server.workspace))))
    async with terminal(client, server.port, KEY) as shell:
        screen = await in_bash(shell)
        await shell.type(f"DISABLE_TELEMETRY=1 DISABLE_AUTOUPDATER=1 {real_claude}\n")
        await screen.shows("auto mode on")
        await shell.type("SCRIPT: text one answer")
        await screen.shows("SCRIPT: text one answer")
        await shell.type("\r")
        await screen.shows("● one answer")
        server.kill9()
    server.start()
    async with terminal(client, server.port, KEY) as shell:
        screen = await in_bash(shell)
        await screen.shows("● one answer")
        await shell.type("SCRIPT: text another one")
        await screen.shows("SCRIPT: text another one")
        await shell.type("\r")
        await screen.shows("● another one")


def claude_settings(workspace: str) -> dict[str, Any]:
    """What Claude Code remembers of its first start: a theme, this key, that this directory is trusted."""
    return {
        "hasCompletedOnboarding": True,
        "theme": "dark",
        "customApiKeyResponses": {"approved": [MODEL_KEY[-20:]], "rejected": []},
        "projects": {workspace: {"hasTrustDialogAccepted": True, "allowedTools": []}},
    }


async def test_codexs_own_interface_works_and_survives_a_kill(
    server: Server, attach: Attach, real_codex: Path
) -> None:
    """It asks how to sign in; the choice moves with the arrow keys, before the kill and after it."""
    async with attach() as shell:
        screen = await in_bash(shell)
        await shell.type(f"{real_codex}\n")
        await screen.shows("> 1. Sign in")
        before: list[str] = []
        while not before:  # it drops keys that come sooner than a person's
            await shell.type("\x1b[A" if "> 3." in "\n".join(screen.lines) else "\x1b[B")
            with suppress(TimeoutError):
                before = await asyncio.wait_for(screen.shows("> 2. Sign in"), 2)
        server.kill9()
    server.start()
    async with attach() as shell:
        screen = await in_bash(shell)
        await screen.shows("> 2. Sign in")
        await shell.type("\x1b[A")
        await screen.shows("> 1. Sign in")

    assert "Codex" in "\n".join(before)
