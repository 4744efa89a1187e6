"""What tests do with the console's page, as a person would."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

from tests.browser import Page
from tests.kit import KEY, Server, script

AXE = Path(__file__).parents[2] / "console" / "node_modules" / "axe-core" / "axe.min.js"
ROWS = "[...document.querySelectorAll('article')].map(row => row.innerText)"
FEED = "document.querySelector('[role=feed]')"
TOP = f"""
    [...document.querySelectorAll('article')]
        .find(row => row.getBoundingClientRect().bottom > {FEED}.getBoundingClientRect().top)?.innerText
"""
"""The row that somebody reads: the first one in the window."""
SAID = """
    [...document.querySelectorAll('article[data-kind=text]')].map(row => row.innerText.replace(/[^x]/g, '').length)
    .reduce((sum, one) => sum + one, 0)
"""
"""How many x the agent has said, of what is in the document."""
CAN_ANSWER = "!!document.querySelector('[role=feed] section[tabindex] [aria-disabled=false]')"
DRAFT = "document.getElementById('composer')?.value"
LEAVE_THE_END = f"{FEED}.dispatchEvent(new WheelEvent('wheel', {{bubbles: true, deltaY: -1}}))"


async def open_console(
    page: Page, server: Server, place: str = "#/sessions", port: int | None = None
) -> None:
    """Sign in with the key, at the server's port or that of something before it."""
    await page.go(f"http://127.0.0.1:{port or server.port}/console/{place}")
    await fill(page, "#key", KEY)
    await click(page, "form button[type=submit]")
    await page.until("!!document.querySelector('nav')", bool)


async def open_long(page: Page, server: Server, count: int, *then: str) -> None:
    """A session in which the agent has said so much and works on, at its end."""
    server.start_job(script(*(f"raw {message(n)}" for n in range(count)), *then, "hang"))
    await open_console(page, server, "#/s/s")
    await page.until(f"({ROWS}).at(-1)", lambda text: text == f"message {count - 1}")


def message(n: int) -> str:
    """A message of the agent's with an id of its own."""
    content = [{"type": "text", "text": f"message {n}"}]
    return json.dumps(
        {"type": "assistant", "message": {"id": f"m{n}", "role": "assistant", "content": content}}
    )


async def fill(page: Page, selector: str, text: str) -> None:
    """Type into a field, as a person would: once it has the focus, which what is not shown yet does not take."""
    place = f"document.querySelector({json.dumps(selector)})"
    await page.until(f"{place}.focus(); document.activeElement === {place}", bool)
    await page.type(text)


async def click(page: Page, selector: str, words: str = "") -> None:
    """With the mouse: the first element that has the words, once it can be used, stands still and nothing covers it."""
    reached = REACHED % (json.dumps(selector), json.dumps(words))
    has_come = False
    while has_come is False:  # It may have moved away in that moment; None: the page itself is another one.
        x, y = await page.until(reached, bool)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            await page.do("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        has_come = await page.value("window.clickHasCome")


REACHED = """
    (() => {
        const one = [...document.querySelectorAll(%s)].find(one => one.innerText.includes(%s));
        if (!one || one.disabled) return null;
        one.scrollIntoView({block: 'nearest', inline: 'nearest'});
        const box = one.getClientRects()[0];
        const place = box && [box.x + box.width / 2, box.y + box.height / 2];
        const isStill = String(place) === window.placeBefore;
        window.placeBefore = String(place);
        if (!isStill || !one.contains(document.elementFromPoint(...place))) return null;
        window.clickHasCome = false;
        one.addEventListener('click', () => window.clickHasCome = true, {once: true, capture: true});
        return place;
    })()
"""
"""Where a finger would reach it; null while it cannot."""


async def pick(page: Page, selector: str, value: str) -> None:
    """Choose an option of the `select` that the selector finds, once it offers that."""
    place = f"document.querySelector({json.dumps(selector)})"
    await page.until(f"[...{place}.options].map(one => one.value)", lambda offered: value in (offered or []))
    await page.value(
        f"{place}.value = {json.dumps(value)}; {place}.dispatchEvent(new Event('change', {{bubbles: true}}))"
    )


async def press(page: Page, keys: str, modifiers: int = 0) -> None:
    """Keys, one soon after the other however busy the machine is; letters type themselves. `modifiers`: 2 is Ctrl."""
    at = time.time()
    for key in keys:
        text = {"text": key} if len(key) == 1 and not modifiers else {}
        event = {"key": key, "modifiers": modifiers, "timestamp": at}
        await page.do("Input.dispatchKeyEvent", type="keyDown", **event, **text)
        await page.do("Input.dispatchKeyEvent", type="keyUp", **event)


async def before_the_page(page: Page, script: str) -> None:
    """Have this run before anything of the page."""
    await page.do("Page.enable")
    await page.do("Page.addScriptToEvaluateOnNewDocument", source=script)


async def key(page: Page, name: str) -> None:
    """One that has a name and types nothing."""
    for kind in ("keyDown", "keyUp"):
        await page.do("Input.dispatchKeyEvent", type=kind, key=name)


async def shows(page: Page, text: str) -> None:
    await page.until("document.body.innerText", lambda shown: shown is not None and text in shown)


async def violations(page: Page, *rules: str) -> list[str]:
    """What axe finds wrong with what is shown, by all of its rules or only these."""
    if not await page.value("!!window.axe"):
        await page.do("Runtime.evaluate", expression=AXE.read_text())
    options = json.dumps(
        {"resultTypes": ["violations"], "preload": False} | ({"runOnly": rules} if rules else {})
    )
    found = await page.value(
        f"axe.run({options}).then(all => all.violations.map(v => `${{v.id}}: ${{v.nodes[0].html}}`))"
    )
    assert isinstance(found, list)
    return found


def number(text: str | None) -> int:
    """Of `message 7`, or of what it is known by; -1 for what has none. Texts do not compare as numbers do."""
    found = re.search(r"\d+", text or "")
    return int(found[0]) if found else -1


def is_near(text: str | None, read: int) -> bool:
    """That row or one beside it: between two rows it is a matter of taste which of them is read."""
    return abs(number(text) - read) <= 1


def kept(key: str) -> str:
    """An expression: what the browser keeps for the page by this name."""
    return f"""
        new Promise(resolve => {{
            const request = indexedDB.open('agentsrv-console');
            request.onsuccess = () => {{
                const found = request.result.transaction('keep').objectStore('keep').get({json.dumps(key)});
                found.onsuccess = () => {{ request.result.close(); resolve(found.result); }};
            }};
        }})
    """
