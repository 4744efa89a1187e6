"""What goes wrong between two steps of a person: clocks, networks, keys and other people do not wait."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.browser import Context, Page
from tests.console.page import CAN_ANSWER, DRAFT, before_the_page, click, fill, open_console, shows
from tests.console.test_questions import ASKS, answers
from tests.console.test_reading import sign_in
from tests.kit import KEY, Server, script, wait_until

pytestmark = pytest.mark.tools

TEXTS = "[...document.querySelectorAll('article:not([data-kind=done])')].map(row => row.innerText.trim())"


async def slow_down(page: Page, latency_ms: int, *, is_offline: bool = False) -> None:
    await page.do("Network.enable")
    rates = {"downloadThroughput": -1, "uploadThroughput": -1}
    await page.do("Network.emulateNetworkConditions", offline=is_offline, latency=latency_ms, **rates)


async def test_who_comes_back_before_it_is_there_sees_it_once(server: Server, page: Page) -> None:
    """From session to session and back, while the first has not been read yet: no text stands there twice."""
    for session in ("a", "b"):
        server.ended_job(server.start_job(f"I am {session}", session))
    await open_console(page, server)
    await shows(page, "I am a")
    await slow_down(page, 700)
    for session in "abababa":
        await page.value(f"location.hash = '#/s/{session}'")
        await page.value("new Promise(done => setTimeout(done, 100))")
    await slow_down(page, 0)
    texts = await page.until(TEXTS, lambda texts: texts and "I am a" in texts[0])
    await page.until(TEXTS, lambda texts: texts and len(texts) == 2)

    assert texts[0] == "I am a"
    await page.value("location.hash = '#/s/b'")
    await page.until(TEXTS, lambda texts: texts and texts[0] == "I am b")
    await page.value("location.hash = '#/s/a'")
    again = await page.until(TEXTS, lambda texts: texts and "I am a" in texts[0])
    assert again[0] == "I am a"


SKEW = "window.skew = 0; const now = Date.now; Date.now = () => now() + window.skew;"
CARD = "document.querySelector('section[tabindex]').innerText"


async def test_what_is_said_of_the_time_stays_true(server: Server, page: Page) -> None:
    """As it goes on, and where the clock of a phone is another one: what was asked has been."""
    await before_the_page(page, SKEW)
    server.start_job(ASKS, permission_mode="ask")
    await open_console(page, server, "#/s/s")
    await page.until(CARD, lambda text: text and "denied by itself in 10 min." in text)
    for minutes, asked, denied in (
        (8, "8 min. ago", "in 2 min."),
        (60, "1 hr. ago", "now"),
        (-60, "now", "in 1 hr."),
    ):
        await page.value(f"window.skew = {minutes} * 60000")
        await shows(page, f"asked {asked} · denied by itself {denied}")


async def test_a_device_that_is_full_does_not_say_that_it_has_kept(server: Server, page: Page) -> None:
    """Who wants to stay signed in is told that they will be asked again; everything else works."""
    origin = f"http://127.0.0.1:{server.port}"
    await page.go(f"{origin}/console/")
    await page.until("!!document.querySelector('#key')", bool)
    await page.do("Storage.overrideQuotaForOrigin", origin=origin, quotaSize=1)
    await sign_in(page, KEY, is_kept=True)

    await shows(page, "This browser keeps nothing")


async def test_a_question_that_is_answered_without_a_network_waits_for_it(server: Server, page: Page) -> None:
    """The card says that nothing has come of it, and can be answered again."""
    server.start_job(ASKS, permission_mode="ask")
    await open_console(page, server, "#/s/s")
    await page.until(CAN_ANSWER, bool)
    await slow_down(page, 0, is_offline=True)
    await click(page, "section[tabindex] button", "Allow")
    await shows(page, "The server does not answer.")
    await slow_down(page, 0)

    await page.until(CAN_ANSWER, bool)
    assert answers(server) == []


FIRST_SOMEBODY_ELSE = """
    const ask = window.fetch;
    window.fetch = async (url, options) => {
        if (String(url).includes('/permissions/') && options?.method === 'POST')
            await ask(url, {...options, body: JSON.stringify({decision: 'deny', message: 'Not now.'})});
        return ask(url, options);
    };
"""


async def test_of_two_answers_at_the_same_moment_the_first_counts(server: Server, page: Page) -> None:
    """Somebody at a terminal was faster than the finger: the page says what they said, and changes nothing."""
    await before_the_page(page, FIRST_SOMEBODY_ELSE)
    task = server.start_job(ASKS, permission_mode="ask")
    await open_console(page, server, "#/s/s")
    await page.until(CAN_ANSWER, bool)
    await click(page, "section[tabindex] button", "Allow")
    await shows(page, "Not now.")

    server.ended_job(task)
    assert [one["decision"] for one in answers(server)] == ["deny"]


PASTE = """
    (() => {
        const data = new DataTransfer();
        for (const n of [1, 2]) {
            const bytes = new Uint8Array(20 * 1024 * 1024).fill(n);
            data.items.add(new File([bytes], `${n}.png`, {type: 'image/png'}));
        }
        document.getElementById('composer')
            .dispatchEvent(new ClipboardEvent('paste', {bubbles: true, clipboardData: data}));
    })()
"""
PICTURES = "document.querySelectorAll('form img').length"


async def test_pictures_that_are_too_large_are_refused_and_kept(server: Server, page: Page) -> None:
    """Two of 20 MB: the server says what is too much; the words stay, the pictures can be taken out, and it is sent."""
    server.ended_job(server.start_job("hello"))
    await open_console(page, server, "#/s/s")
    await page.until("!!document.getElementById('composer')", bool)
    await page.value(PASTE)
    await page.value(PASTE)
    await page.until(PICTURES, lambda count: count == 2)
    await fill(page, "#composer", "What is this?")
    await page.type("\r")
    await page.until("document.querySelector('form [role=alert]')?.innerText", bool)
    assert await page.value(DRAFT) == "What is this?"
    for left in (1, 0):
        await click(page, "form li button")
        await page.until(f"{PICTURES} === {left}", bool)
    await click(page, "form button[type=submit]")

    await page.until(DRAFT, lambda text: text == "")


async def test_a_download_outlives_the_key_of_its_device(
    server: Server, context: Context, page: Page, tmp_path: Path
) -> None:
    """What has begun is whole; what is asked for afterwards asks to sign in, over what was there."""
    content = bytes(range(256)) * 100_000
    (server.workspace / "data.bin").write_bytes(content)
    server.ended_job(server.start_job("hello"))
    await context.do("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    await page.go(f"http://127.0.0.1:{server.port}/console/#/s/s/files/data.bin")
    await sign_in(page, KEY, is_kept=True)
    await click(page, "button[title=Download]")
    wait_until(lambda: any(tmp_path.iterdir()))
    for device in server.ask("GET", "/auth/tokens").json["tokens"]:
        assert server.ask("DELETE", f"/auth/tokens/{device['id']}").status in (200, 204)
    saved = tmp_path / "data.bin"
    wait_until(lambda: saved.exists() and saved.read_bytes() == content)
    await page.value("location.hash = '#/usage'")
    await shows(page, "Sign in again")


async def test_a_question_without_choices_can_be_refused(server: Server, page: Page) -> None:
    """An agent offers nothing to choose: the card takes words of my own, or can be refused."""
    odd = {"questions": [{"question": "Which?", "header": "H", "multiSelect": False, "options": []}]}
    task = server.start_job(script(f"ask 1 AskUserQuestion {json.dumps(odd)}"), permission_mode="ask")
    await open_console(page, server, "#/s/s")
    await page.until(CAN_ANSWER, bool)
    await click(page, "section[tabindex] button", "Deny")
    await click(page, "button", "Deny now")

    server.ended_job(task)
    assert [one["decision"] for one in answers(server)] == ["deny"]
