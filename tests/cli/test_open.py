"""`agentsrv open` in the browser that this machine has."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import ClientSession

from tests.browser import browser, first_page
from tests.cli.kit import command
from tests.kit import Server

pytestmark = pytest.mark.tools


async def test_the_browser_is_signed_in(server: Server, session: str, tmp_path: Path) -> None:
    """By the code: it shows the session, nobody types a key, and the code is in no history of it."""
    server.generate("hello", session).rest()
    profile = tmp_path / "profile"
    (tmp_path / "browser").write_text(
        f'#!/bin/sh\necho $$ >{tmp_path}/pid\nexec {shlex.join(browser(profile))} "$@" >/dev/null 2>&1\n'
    )
    (tmp_path / "browser").chmod(0o755)
    opened = await asyncio.to_thread(command, server, "open", session, BROWSER=f"{tmp_path}/browser %s &")
    try:
        assert (0, "") == (opened.returncode, opened.stdout), opened.stderr
        async with ClientSession() as client, first_page(client, profile) as page:
            await page.until("document.querySelector('[role=feed]')?.innerText ?? ''", says("hello"))
            assert await page.value("location.hash") == f"#/s/{session}"
            assert await page.value("!document.querySelector('#key')")
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)


def says(text: str) -> Callable[[object], bool]:
    return lambda found: text in str(found)
