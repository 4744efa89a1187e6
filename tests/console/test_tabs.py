"""Several tabs of one browser."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from tests.browser import Context, Page
from tests.console.page import click, open_console, shows
from tests.kit import KEY, Server, script

pytestmark = pytest.mark.tools

TABS = 7


async def test_a_question_that_was_answered_in_another_tab_is_gone_here(
    server: Server, context: Context, page: Page
) -> None:
    """Two of us look at the same question; one answers, and the other sees what was said."""
    task = server.start_job(script('ask 1 Bash {"command": "ls"}'), permission_mode="ask")
    await open_console(page, server, "#/s/s")
    await shows(page, "Run this command?")
    async with context.tab() as other:
        await open_console(other, server, "#/inbox")
        await shows(other, "Run this command?")
        await other.until("document.querySelector('[aria-disabled=true]') === null", bool)
        await click(other, "main button", "Allow")
        await shows(other, "Nothing waits for you.")

    assert server.ended_job(task)["status"] == "completed"
    await click(page, "article button[aria-expanded=false]", "steps")
    await shows(page, "Allowed")


async def test_of_seven_tabs_none_hangs(server: Server, context: Context, page: Page) -> None:
    """A browser has six connections to a server. All tabs work, and all hear of what is new."""
    server.ended_job(server.start_job("hello"))
    async with AsyncExitStack() as stack:
        tabs = [page, *[await stack.enter_async_context(context.tab()) for _ in range(TABS - 1)]]
        for tab in tabs:
            await open_console(tab, server, "#/s/s")
            await shows(tab, "hello")
        server.start_job(script('ask 1 Bash {"command": "ls"}'), permission_mode="ask")
        for tab in tabs:
            await tab.until("document.title", lambda title: title == "(1) agentsrv")
            answer = f"fetch('../permissions', {{headers: {{Authorization: 'Bearer {KEY}'}}}}).then(one => one.status)"
            assert await tab.value(answer) == 200
