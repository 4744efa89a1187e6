"""What the console does when something is refused, missing or away."""

from __future__ import annotations

import json

import pytest

from tests.browser import Page
from tests.client.proxy import proxy_to
from tests.conftest import ServerMaker
from tests.console.page import DRAFT, FEED, ROWS, SAID, click, fill, kept, open_console, shows
from tests.kit import KEY, Server, script

pytestmark = pytest.mark.tools


async def test_who_has_to_sign_in_again_keeps_the_draft(server: Server, page: Page) -> None:
    """My device's key is revoked while I write: I sign in over the page, and send what I had written."""
    server.ended_job(server.start_job("hello"))
    made = server.ask("POST", "/auth/tokens", {"name": "phone"}).json
    await page.go(f"http://127.0.0.1:{server.port}/console/#/s/s")
    await fill(page, "#key", made["token"])
    await click(page, "form button[type=submit]")
    await fill(page, "#composer", "Half a thought")
    assert server.ask("DELETE", f"/auth/tokens/{made['id']}").status == 200
    await page.type("\r")
    await fill(page, "dialog #key", KEY)
    await click(page, "dialog button[type=submit]")

    await page.until("!document.querySelector('dialog')", bool)
    assert await page.value(DRAFT) == "Half a thought"
    await page.value("document.getElementById('composer').focus()")
    await page.type("\r")
    await page.until(f"({ROWS}).filter(text => text == 'Half a thought').length", lambda count: count == 2)


async def test_a_draft_survives_a_reload(server: Server, page: Page) -> None:
    """What I have begun to write in a session is there when the page is loaded anew."""
    server.ended_job(server.start_job("hello"))
    await open_console(page, server, "#/s/s")
    await fill(page, "#composer", "Not yet")
    await page.until(kept("draft s"), bool)
    await page.reload()
    await open_console(page, server, "#/s/s")
    await page.until(DRAFT, lambda text: text == "Not yet")


async def test_enter_belongs_to_an_input_method_while_it_composes(server: Server, page: Page) -> None:
    """Choosing a word with Enter sends nothing."""
    server.ended_job(server.start_job("hello"))
    await open_console(page, server, "#/s/s")
    await fill(page, "#composer", "にほん")
    for event in ("{key: 'Enter', isComposing: true}", "{key: 'Enter', keyCode: 229}"):
        options = f"Object.assign({event}, {{bubbles: true, cancelable: true}})"
        await page.value(
            f"document.getElementById('composer').dispatchEvent(new KeyboardEvent('keydown', {options}))"
        )

    assert await page.value(DRAFT) == "にほん"
    assert [event.type for event in server.history()].count("user") == 1


async def test_it_misses_nothing_without_a_network(server: Server, page: Page) -> None:
    """Lost in mid-turn it says so; found again, and loaded anew in mid-message, all that was said is there, once."""
    task = server.start_job(script("rate 50 enough 200"))
    async with proxy_to(server.port) as net:
        await open_console(page, server, "#/s/s", net.port)
        seen = await page.until(SAID, lambda size: size > 1000)
        net.leave()
        await shows(page, "Connection lost.")
        net.is_away = False
        await page.value("dispatchEvent(new Event('online'))")
        await page.until(SAID, lambda size: size > seen + 1000)
        await page.reload()
        await open_console(page, server, "#/s/s", net.port)
        await page.until(SAID, lambda size: size > seen + 1000)
        (server.workspace / "enough").touch()
        server.ended_job(task)
        messages = [event.json["message"] for event in server.history() if event.type == "assistant"]
        said = sum(len(message["content"][0]["text"]) for message in messages)
        await page.until(f"{FEED}.scrollTop = 0; {SAID}", lambda size: size == said)


async def test_a_log_that_is_shorter_than_what_was_seen_is_read_anew(server: Server, page: Page) -> None:
    """The session was deleted and begun again under its name: what I see is the new one, not a mixture."""
    server.ended_job(server.start_job(script(*(f"say old {n}" for n in range(20)))))
    await open_console(page, server, "#/s/s")
    await shows(page, "old 19")
    await page.do("Network.enable")
    offline = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    await page.do("Network.emulateNetworkConditions", **offline)
    assert server.ask("DELETE", "/sessions/s").status == 200
    server.ended_job(server.start_job("brand new"))
    await page.do("Network.emulateNetworkConditions", **offline | {"offline": False})
    await page.until(
        ROWS, lambda rows: rows and rows[0] == "brand new" and not any("old" in row for row in rows)
    )


async def test_a_session_that_is_gone_says_so(server: Server, page: Page) -> None:
    """A link to what was deleted leads to the list, not to nothing."""
    await open_console(page, server, "#/s/nowhere")
    await shows(page, "This session does not exist any more.")


async def test_a_busy_session_offers_to_queue(server: Server, page: Page) -> None:
    """Somebody else was faster than my list: I choose whether it steers or waits."""
    server.ended_job(server.start_job("hello"))
    await open_console(page, server, "#/s/s")
    await fill(page, "#composer", "me too")
    await page.value(refused(409, "session_busy"))
    await page.type("\r")
    await page.until("document.body.innerText.includes('Queue')", bool)
    await page.value("isRefused = false")
    await click(page, "button", "Queue")
    await page.until(f"({ROWS}).filter(text => text == 'me too').length", lambda count: count == 2)


@pytest.mark.parametrize(("status", "code"), [(429, "too_many_turns"), (503, "shutting_down")])
async def test_a_server_that_is_busy_is_asked_again_when_it_said_so(
    server: Server, page: Page, status: int, code: str
) -> None:
    """With Retry-After: I see how long it is, and my prompt goes out by itself, once."""
    server.ended_job(server.start_job("hello"))
    await open_console(page, server, "#/s/s")
    await fill(page, "#composer", "in a moment")
    await page.value(refused(status, code))
    await page.type("\r")
    await shows(page, "Again in")
    await page.value("isRefused = false")
    await page.until(f"({ROWS}).filter(text => text == 'in a moment').length", lambda count: count == 2)
    assert [event.type for event in server.history()].count("user") == 2


async def test_a_full_disk_is_said_above_everything(server: Server, page: Page) -> None:
    """What is there can be read; the draft stays."""
    server.ended_job(server.start_job("hello"))
    await open_console(page, server, "#/s/s")
    await fill(page, "#composer", "for later")
    await page.value(refused(507, "storage_full"))
    await page.type("\r")
    await shows(page, "The server's disk is full.")
    assert await page.value(DRAFT) == "for later"


async def test_it_opens_though_the_server_is_away(make_server: ServerMaker, page: Page) -> None:
    """The page itself is kept by the browser; when the server is back, I sign in and go on."""
    server = make_server()
    await open_console(page, server)
    await page.until(
        "navigator.serviceWorker.ready.then(one => one.active.state)", lambda now: now == "activated"
    )
    server.kill9()
    await page.reload()
    await fill(page, "#key", KEY)
    server.start()
    await click(page, "form button[type=submit]")
    await page.until("!!document.querySelector('nav')", bool)


def refused(status: int, code: str) -> str:
    """Prompts are answered with this status, and `Retry-After: 1`, for as long as `isRefused` is true."""
    body = json.dumps({"error": "not now", "code": code})
    return f"""
        (() => {{
            const real = window.fetch;
            window.isRefused = true;
            window.fetch = (url, options) => {{
                const isPrompt = String(url).includes('generate/v2') && options.method === 'POST';
                if (!isPrompt || !isRefused) return real(url, options);
                const answer = {{status: {status}, headers: {{'Retry-After': '1'}}}};
                return Promise.resolve(new Response({json.dumps(body)}, answer));
            }};
        }})()
    """
