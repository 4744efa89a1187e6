"""How the console signs in and reads: what it keeps, what it asks for, and when it gives a stream up."""

from __future__ import annotations

import pytest

from tests.browser import Page
from tests.client.proxy import proxy_to
from tests.console.page import ROWS, before_the_page, click, fill, kept, open_console, open_long, shows
from tests.kit import KEY, Server

pytestmark = pytest.mark.tools

TOLD_TIMERS = """
    const [begin, end, waiting] = [window.setTimeout, window.clearTimeout, new Map()];
    window.setTimeout = (work, ms, ...more) => {
        const timer = begin(work, ms, ...more);
        if (ms === 45000) waiting.set(timer, work);
        return timer;
    };
    window.clearTimeout = timer => { waiting.delete(timer); end(timer); };
    window.pass45s = () => { for (const [timer, work] of [...waiting]) { clearTimeout(timer); work(); } };
"""
"""`pass45s()`: as if nothing had come for so long, for those who wait for that."""
ASKED = """
    window.asked = [];
    const ask = window.fetch;
    window.fetch = (url, options) => { asked.push(String(url)); return ask(url, options); };
"""


async def sign_in(page: Page, key: str, *, is_kept: bool) -> None:
    await fill(page, "#key", key)
    if is_kept:
        await click(page, "input[name=keep]")
    await click(page, "form button[type=submit]")
    await page.until("!!document.querySelector('nav')", bool)


async def test_who_wants_it_stays_signed_in_by_a_token_of_the_device(server: Server, page: Page) -> None:
    """Also after a reload; the server's key itself is not kept. Who does not want it is asked again."""
    await page.go(f"http://127.0.0.1:{server.port}/console/")
    await sign_in(page, KEY, is_kept=False)
    await page.reload()
    await sign_in(page, KEY, is_kept=True)
    token = await page.until(kept("token"), bool)
    await page.reload()
    await page.until("!!document.querySelector('nav')", bool)

    assert token != KEY
    assert server.ask("GET", "/sessions", Authorization=f"Bearer {token}").status == 200
    assert token not in server.log
    await page.value("location.hash = '#/settings'")
    await click(page, "main button", "Sign out")
    await page.until(kept("token"), lambda left: left is None)


async def test_a_code_can_be_typed(server: Server, page: Page) -> None:
    """Where nobody can follow a link: it is good once, as a key is; a wrong one is refused."""
    code = server.ask("POST", "/auth/codes", {}).json["code"]
    await page.go(f"http://127.0.0.1:{server.port}/console/")
    await fill(page, "#key", "wrong")
    await click(page, "form button[type=submit]")
    await shows(page, "The server does not know this key.")
    await page.value("document.querySelector('#key').value = ''")
    await sign_in(page, code, is_kept=False)
    await page.reload()
    await fill(page, "#key", code)
    await click(page, "form button[type=submit]")
    await shows(page, "The server does not know this key.")


async def test_a_stream_in_which_nothing_comes_for_45_s_is_given_up(server: Server, page: Page) -> None:
    """The network keeps the connection and brings nothing: the page asks anew, and has what it missed, once."""
    await before_the_page(page, TOLD_TIMERS)
    server.ended_job(server.start_job("hello"))
    async with proxy_to(server.port) as net:
        await open_console(page, server, "#/s/s", net.port)
        await page.until(f"({ROWS}).length", lambda count: count == 3)
        net.passes.clear()
        server.ended_job(server.start_job("meanwhile"))
        await page.value("pass45s()")
        await shows(page, "Connection lost.")
        net.leave()
        net.is_away = False
        net.passes.set()
        await page.until(f"({ROWS}).filter(text => text === 'meanwhile').length", lambda count: count == 2)
        await page.until(
            "document.querySelector('main').innerText", lambda text: "Connection lost." not in text
        )


async def test_a_session_is_opened_at_its_end(server: Server, page: Page) -> None:
    """The last 100 messages, then what follows them; those before only when somebody goes there."""
    await before_the_page(page, ASKED)
    await open_long(page, server, 250)
    followed = await page.until("asked.find(url => url.includes('/events?'))", bool)
    pages = await page.value("asked.filter(url => url.includes('/messages?'))")

    assert (len(pages), "limit=100" in pages[0]) == (1, True)
    assert int(followed.partition("/events?format=acp&after=")[2]) > 1
    await page.until(
        "document.querySelector('[role=feed]').scrollTop = 0; asked.filter(url => url.includes('/messages?')).length",
        lambda count: count >= 2,
    )
