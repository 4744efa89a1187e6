"""Terminals on the wire: tokens, the WebSocket, the list."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import WSServerHandshakeError

from agentsrv.app import make_app
from agentsrv.config import Config
from tests.api.kit import KEY, Server, make_config, serve
from tests.kit import all_pids, environ_of, is_alive, rss_bytes
from tests.terminal_client import TIMEOUT_S, TerminalClient, get_token, terminal

SECRET = "a-secret-of-at-least-thirty-two-bytes"

Open = Callable[..., AbstractAsyncContextManager[TerminalClient]]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return make_config(
        tmp_path,
        allowed_origins=frozenset({"https://app.example"}),
        terminal_shell=Path("/bin/sh"),
        terminal_jwt_secret=SECRET,
        max_terminals=4,
    )


@pytest.fixture
async def server(config: Config) -> AsyncIterator[Server]:
    async with serve(make_app(config)) as running:
        yield running
        for found in (await running.ask("GET", "/terminals")).json["terminals"]:
            await running.ask("DELETE", f"/terminals/{found['terminalId']}")


@pytest.fixture
def open_terminal(server: Server) -> Open:
    """`async with open_terminal("name") as shell`."""

    def open_terminal(terminal_id: str = "t", **options: Any) -> AbstractAsyncContextManager[TerminalClient]:
        return terminal(server.client, server.port, KEY, terminal_id, **options)

    return open_terminal


async def listed(server: Server) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await server.ask("GET", "/terminals")).json["terminals"]
    return found


async def eventually(is_true: Callable[[], Any]) -> None:
    """Wait for something that nobody announces."""
    async with asyncio.timeout(TIMEOUT_S):
        while not is_true():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.01)


# ---- what it is for


async def test_a_shell_answers(open_terminal: Open, config: Config) -> None:
    """The first message says what one has; what is typed is run."""
    async with open_terminal() as shell:
        info = await shell.message("info")
        await shell.type("echo $((6*7)) $TERM $DEPLOYMENT_ID $TERMINAL_ID; pwd; tty\n")
        shown = await shell.shows("/dev/pts/")

    cwd = str(config.workspace_base / "workspaces")
    assert ("t", "/bin/sh", cwd, 80, 24, False) == tuple(
        info[name] for name in ("terminalId", "shell", "cwd", "cols", "rows", "readOnly")
    )
    assert "42 xterm-256color local-dev t" in shown
    assert cwd in shown


async def test_it_begins_in_the_directory_of_its_token(open_terminal: Open, config: Config) -> None:
    """`cwd`, inside the workspace."""
    (config.workspace_base / "project").mkdir()
    async with open_terminal(cwd="project") as shell:
        await shell.type("echo in $PWD.\n")
        await shell.shows(f"in {config.workspace_base}/project.")


@pytest.mark.parametrize("encoding", ["json", "binary"])
async def test_output_arrives_whole(open_terminal: Open, tmp_path: Path, encoding: str) -> None:
    """Every byte, in order; characters that a read tears apart are whole again."""
    text = "".join(f"{number} äöü 😀 日本\n" for number in range(40_000))
    (tmp_path / "text").write_text(text)
    async with open_terminal(encoding=encoding) as shell:
        await shell.type(f"stty -opost -echo; cat {tmp_path}/text; echo the-'end'\n")
        shown = await shell.shows("the-end\n")

    assert text == shown[shown.index("0 äöü") : shown.index("the-end")]


async def test_bytes_that_are_no_text_do_no_harm(open_terminal: Open) -> None:
    """JSON replaces them, binary has them as they are."""
    async with open_terminal() as shell, open_terminal(encoding="binary") as raw:
        await shell.type(r"printf 'x\377\376y'; echo -'done'" + "\n")

        assert "x\ufffd\ufffdy" in await shell.shows("-done")
        await raw.shows("-done")
        assert b"x\xff\xfey" in raw.output


async def test_what_comes_is_what_was_typed(open_terminal: Open) -> None:
    """A megabyte of input reaches the program, though it is slow to read it."""
    text = "".join(f"line {number}\n" for number in range(90_000))
    async with open_terminal(encoding="binary") as shell:
        await shell.type("stty -echo -icanon; echo ready-'steady'; sleep 0.3; head -c 1000000 | sha256sum\n")
        await shell.shows("ready-steady")
        await shell.type(text[:600_000])
        await shell.type(text[600_000:1_000_000])
        await shell.shows(hashlib.sha256(text[:1_000_000].encode()).hexdigest())
