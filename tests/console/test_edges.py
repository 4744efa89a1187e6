"""What people seldom meet: a browser that refuses, a card under the finger, the page of an installed wheel."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.browser import Page
from tests.console.page import CAN_ANSWER, before_the_page, click, fill, key, open_console, pick, shows
from tests.console.test_questions import ASKS, answers
from tests.console.test_workplace import begin
from tests.kit import KEY, Server, write_fake_agent
from tests.wheel import build_wheel

pytestmark = pytest.mark.tools

OPENS = "section[aria-label=Changes] summary"
SPLIT = "document.querySelector('[data-split]')?.dataset.split"
REFUSES = "{open() { throw new DOMException('no', 'SecurityError'); }}"
CLICK_WHEN_IT_COMES = """
    new MutationObserver(() => {
        const buttons = [...document.querySelectorAll('section[tabindex] button')];
        const allow = buttons.find(one => one.innerText.startsWith('Allow'));
        if (!allow || window.early) return;
        window.early = `inert: ${allow.closest('[aria-disabled]').ariaDisabled}`;
        allow.click();
    }).observe(document.body, {childList: true, subtree: true}); true
"""


async def test_a_card_that_appears_under_the_finger_is_not_answered(server: Server, page: Page) -> None:
    """A click in the moment in which it comes does nothing; the next one allows."""
    server.ended_job(server.start_job("hello"))
    await open_console(page, server, "#/s/s")
    await page.until("!!document.getElementById('composer')", bool)
    await page.value(CLICK_WHEN_IT_COMES)
    task = server.start_job(ASKS, permission_mode="ask")
    await page.until(CAN_ANSWER, bool)

    assert await page.value("window.early") == "inert: true"
    assert answers(server) == []
    await click(page, "section[tabindex] button", "Allow")
    assert server.ended_job(task)["status"] == "completed"


async def test_a_browser_that_keeps_nothing_still_works(server: Server, page: Page) -> None:
    """Storage is refused: it says so, signs in, and shows what there is."""
    await before_the_page(page, f"Object.defineProperty(window, 'indexedDB', {{value: {REFUSES}}})")
    server.ended_job(server.start_job("hello"))
    await page.go(f"http://127.0.0.1:{server.port}/console/#/s/s")
    await fill(page, "#key", KEY)
    await page.value("document.querySelector('input[name=keep]').checked = true")
    await click(page, "form button[type=submit]")

    await shows(page, "This browser keeps nothing")
    await shows(page, "done")


async def test_a_page_over_plain_http_says_what_it_cannot_do(server: Server, page: Page) -> None:
    """From another machine, without TLS: no copying, no notifications, and the settings say why."""
    await before_the_page(page, "Object.defineProperty(window, 'isSecureContext', {value: false})")
    await open_console(page, server, "#/settings")

    await shows(page, "comes over plain http")


async def test_panel_and_side_by_side_are_kept(server: Server, page: Page) -> None:
    """A difference beside itself, in a panel that arrow keys make wider, also after a reload."""
    await page.resize(1440, 900)
    await begin(server, page, "#/s/s/changes")
    await pick(page, "select[aria-label='How differences are shown']", "split")
    await click(page, OPENS)
    await page.until(SPLIT, lambda split: split == "true")
    width = "Number(document.querySelector('[role=separator]').ariaValueNow)"
    before = await page.value(width)
    await page.value("document.querySelector('[role=separator]').focus()")
    await key(page, "ArrowLeft")
    wider = await page.until(width, lambda now: now is not None and now > before)
    await page.reload()
    await open_console(page, server, "#/s/s/changes")

    await page.until(width, lambda now: now == wider)
    await click(page, OPENS)
    await page.until(SPLIT, lambda split: split == "true")


async def test_an_installed_wheel_has_the_console(page: Page, tmp_path: Path) -> None:
    """What people install serves the page, with nothing of the checkout."""
    with zipfile.ZipFile(build_wheel(tmp_path)) as wheel:
        wheel.extractall(tmp_path / "site")
    where = {"PYTHONPATH": str(tmp_path / "site")}
    server = Server(
        tmp_path / "server", write_fake_agent(tmp_path / "claude"), where, command=(sys.executable,)
    )
    server.directory.mkdir()
    found = subprocess.check_output(
        [sys.executable, "-c", "import agentsrv; print(agentsrv.__file__)"],
        cwd=tmp_path,
        env=where,
        text=True,
    )
    try:
        server.start()
        server.ended_job(server.start_job("hello"))
        await open_console(page, server, "#/s/s")
        await shows(page, "done")
    finally:
        server.close()

    assert Path(found).is_relative_to(tmp_path)
