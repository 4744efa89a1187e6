"""Terminals of a real server: they outlive it, leave nothing behind, and the programs that people use work in them."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pyte
import pytest
from aiohttp import ClientSession

from tests.conftest import ServerMaker
from tests.kit import KEY, Server, environ_of, is_alive, open_files, rss_bytes, wait_until
from tests.terminal_client import TIMEOUT_S, TerminalClient, terminal

KILLS = 20
TERMINALS = 500
COLS, ROWS = 80, 24
JWT_SECRET = "terminal-secret-0123456789abcdefghij"

Attach = Callable[..., AbstractAsyncContextManager[TerminalClient]]


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
    return lambda name="t", **options: terminal(client, server.port, KEY, name, **options)


def need(program: str) -> None:
    if shutil.which(program) is None:
        pytest.fail(f"{program} is not installed; apt-get install vim tmux less procps")


class Emulator(pyte.Screen):
    """Ignores what pyte takes for a colour and fails at: vim's question after the keyboard (CSI ? 4 m)."""

    def select_graphic_rendition(self, *attributes: int, private: bool = False) -> None:
        if not private:
            super().select_graphic_rendition(*attributes)


class Screen:
    """What a person would see of all that a socket has sent."""

    def __init__(self, shell: TerminalClient) -> None:
        self._shell = shell
        self._screen = Emulator(COLS, ROWS)
        self._stream = pyte.ByteStream(self._screen)
        self._fed = 0

    @property
    def lines(self) -> list[str]:
        self._stream.feed(bytes(self._shell.output[self._fed :]))
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


@pytest.mark.timeout(120)
async def test_shells_survive_twenty_kills(server: Server, attach: Attach) -> None:
    """`kill -9` under vim and under a running build: the same shell and screen each time, and input works."""
    need("vim")
    async with attach("build") as build, attach("edit") as edit:
        await build.type("echo pid=$$.; for i in {1..100000}; do echo line $i; sleep 0.01; done\n")
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
            await screen.becomes(lambda lines, before=before: lines == before)
            await edit.type(f"oafter {kill}\x1b")
            before = await screen.shows(f"after {kill}\n~" if kill < ROWS - 4 else f"after {kill}")
    async with attach("build") as build:
        await build.type("\x03echo pid=$$.\n")
        again = await build.matches(rb"C.*pid=(\d+)\.")
        numbers = [int(number) for number in re.findall(rb"line (\d+)\r", build.output)]
    async with attach("edit") as edit:
        await edit.type(":q!\recho pid=$$.\n")
        pids += [await edit.matches(rb"q!.*pid=(\d+)\.")]

    assert [again, pids[2]] == pids[:2]
    assert sorted(numbers) == numbers
    assert numbers[-1] - len(numbers) <= KILLS  # at most the bytes of one read are lost, and one is a line here
