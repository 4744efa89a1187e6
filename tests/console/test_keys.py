"""The console without a mouse."""

from __future__ import annotations

import pytest

from tests.browser import Page
from tests.console.page import fill, open_console, press, shows
from tests.kit import Server

pytestmark = pytest.mark.tools

CTRL = 2


async def at(page: Page, place: str) -> None:
    await page.until("location.hash", lambda now: now == place)


async def test_everything_is_reached_by_keys(server: Server, page: Page) -> None:
    """Ctrl K finds a session by a word of its name; letters lead to the screens; Escape leads back."""
    server.ask("POST", "/sessions", {"sessionId": "a", "name": "Tidy the parser"}).close()
    await open_console(page, server)
    await shows(page, "Tidy the parser")
    await press(page, "k", CTRL)
    await fill(page, "dialog input", "tidy")
    await page.type("\r")
    await at(page, "#/s/a")
    await page.until("document.querySelector('dialog') === null", bool)
    for keys, place in (("gi", "#/inbox"), ("n", "#/new"), ("gs", "#/sessions"), ("gt", "#/terminals")):
        await press(page, keys)
        await at(page, place)
    await page.type("\x1b")
    await at(page, "#/sessions")
    await press(page, "?")
    await shows(page, "Write a message")


async def test_letters_are_words_where_somebody_writes(server: Server, page: Page) -> None:
    """I is for the composer; in it, N and ? are letters. Who does not want such keys switches them off."""
    server.ended_job(server.start_job("hello"))
    await open_console(page, server, "#/s/s")
    await shows(page, "hello")
    await page.until("!!document.getElementById('composer')", bool)
    await press(page, "i")
    await page.until("document.activeElement.id", lambda focused: focused == "composer")
    await press(page, "n?")
    assert await page.value("document.getElementById('composer').value") == "n?"
    await page.value("location.hash = '#/settings'")
    await page.until("!!document.querySelector('main input[type=checkbox]')", bool)
    await page.value("document.querySelector('main input[type=checkbox]').click()")
    await page.value("document.activeElement.blur()")
    await press(page, "n")
    assert await page.value("location.hash") == "#/settings"
