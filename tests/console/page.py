"""What tests do with the console's page, as a person would."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

from tests.browser import Page
from tests.kit import KEY, Server

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
LEAVE_THE_END = f"{FEED}.dispatchEvent(new WheelEvent('wheel', {{bubbles: true, deltaY: -1}}))"


async def open_console(
    page: Page, server: Server, place: str = "#/sessions", port: int | None = None
) -> None:
    """Sign in with the key, at the server's port or that of something before it."""
    await page.go(f"http://127.0.0.1:{port or server.port}/console/{place}")
    await fill(page, "#key", KEY)
    await click(page, "form button[type=submit]")
    await page.until("!!document.querySelector('nav')", bool)


async def fill(page: Page, selector: str, text: str) -> None:
    """Type into a field, as a person would: once it has the focus, which what is not shown yet does not take."""
    place = f"document.querySelector({json.dumps(selector)})"
    await page.until(f"{place}.focus(); document.activeElement === {place}", bool)
    await page.type(text)


async def click(page: Page, selector: str, words: str = "") -> None:
    """The first element that the selector finds, and that has the words."""
    all_of, has = json.dumps(selector), f"one => one.innerText.includes({json.dumps(words)})"
    place = f"[...document.querySelectorAll({all_of})].find({has})"
    await page.until(f"!!{place} && !{place}.disabled", bool)
    await page.value(f"{place}.click()")


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
