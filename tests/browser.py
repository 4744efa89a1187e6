"""Drives a real Chromium by its DevTools protocol: enough to type into a page and to see what is there."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse

from tests.kit import wait_until

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
UNUSED = (
    "PreloadTopChromeWebUI", "WebUIOmniboxAimPopup", "WebUIOmniboxFullPopup", "WebUIOmniboxPopup",
    "SpareRendererForSitePerProcess",
)  # fmt: skip
"""Pages of the browser's own that each new window would load, for an address bar in which nobody types, and a process
in advance for another page: more work than most pages that are tested.
"""
OPTIONS = (
    "--headless=new", "--remote-debugging-port=0", "--no-first-run", "--no-sandbox", "--disable-gpu",
    "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--window-size=800,600", f"--disable-features={','.join(UNUSED)}",
)  # fmt: skip
TIMEOUT_S = 60.0
LOOK_AGAIN_S = 0.02


class NotDoneError(AssertionError):
    """The browser has refused a command."""


class Connection:
    """To a tab, or to the browser itself."""

    def __init__(self, ws: ClientWebSocketResponse) -> None:
        self._ws = ws
        self._numbers = itertools.count(1)

    async def do(self, method: str, **params: Any) -> Any:
        """A command of the protocol and its result; what else the browser tells meanwhile is dropped."""
        number = next(self._numbers)
        await self._ws.send_json({"id": number, "method": method, "params": params})
        async with asyncio.timeout(TIMEOUT_S):
            while (answer := await self._ws.receive_json()).get("id") != number:
                pass
        if "error" in answer:
            raise NotDoneError(f"{method}: {answer['error']}")
        return answer["result"]


class Page(Connection):
    """One tab."""

    async def go(self, url: str) -> None:
        await self.do("Page.navigate", url="about:blank")
        await self.do("Page.navigate", url=url)

    async def reload(self) -> None:
        """Return when the old page is gone; what is asked for until then is still answered by that."""
        await self.value("window.isOld = true")
        await self.do("Page.reload")
        await self.until("!window.isOld", bool)

    async def value(self, expression: str) -> Any:
        """What a JavaScript expression is in the page, or comes to; None when it fails, as it does on loading."""
        try:
            found = await self.do(
                "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
            )
        except NotDoneError:  # Between two pages there is nothing that it could be asked of.
            return None
        return None if "exceptionDetails" in found else found["result"].get("value")

    async def until(self, expression: str, is_so: Callable[[Any], object]) -> Any:
        """Wait until an expression is as it should be; its value."""
        value = None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while not is_so(value := await self.value(expression)):  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(LOOK_AGAIN_S)
        except TimeoutError:
            pytest.fail(f"{expression} is still {value!r}")
        return value

    async def type(self, text: str) -> None:
        """Insert text where the focus is; a line's end is the Enter key, ESC the Escape key."""
        for part in re.split("([\r\x1b])", text):
            if part in ("\r", "\x1b"):
                await self._press(*("Enter", 13, "\r") if part == "\r" else ("Escape", 27, ""))
            elif part:
                await self.do("Input.insertText", text=part)

    async def _press(self, key: str, code: int, text: str) -> None:
        event = {"key": key, "code": key, "windowsVirtualKeyCode": code, "text": text}
        await self.do("Input.dispatchKeyEvent", type="keyDown", **event)
        await self.do("Input.dispatchKeyEvent", type="keyUp", **event)

    async def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self.do("Emulation.setDeviceMetricsOverride", **size)


class Context:
    """Tabs that share what they keep, and nothing with other tabs of the same browser."""

    def __init__(self, client: ClientSession, address: str, browser: Connection, context_id: str) -> None:
        self._client = client
        self._address = address
        self._browser = browser
        self._id = context_id

    @asynccontextmanager
    async def tab(self) -> AsyncIterator[Page]:
        """One more tab; it counts as looked at."""
        tab = await self.do("Target.createTarget", url="about:blank")
        address = self._address.partition("/devtools/")[0] + f"/devtools/page/{tab['targetId']}"
        async with self._client.ws_connect(address, max_msg_size=0) as ws:
            yield await _looked_at(Page(ws))

    async def do(self, method: str, **params: Any) -> Any:
        """A command to the browser about these tabs."""
        return await self._browser.do(method, browserContextId=self._id, **params)


@asynccontextmanager
async def new_context(client: ClientSession, address: str) -> AsyncIterator[Context]:
    """In the browser at `address`; gone afterwards, with its tabs and all that they have kept."""
    async with client.ws_connect(address, max_msg_size=0) as ws:
        browser = Connection(ws)
        made = await browser.do("Target.createBrowserContext", disposeOnDetach=True)
        yield Context(client, address, browser, made["browserContextId"])


@contextmanager
def running_browser(directory: Path) -> Iterator[str]:
    """A browser with its profile in `directory`, gone afterwards; its address."""
    process = subprocess.Popen(
        [*browser(directory), "about:blank"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until(lambda: all(_where(directory)), what="Chromium's port")
        port, path = _where(directory)
        yield f"ws://127.0.0.1:{port}{path}"
    finally:
        process.terminate()
        process.wait()


def browser(directory: Path) -> list[str]:
    """The command of a browser with its profile in `directory`."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.fail("there is no Chromium; `python3 dev.py tools` installs it")
    return [program, *OPTIONS, f"--user-data-dir={directory}"]


@asynccontextmanager
async def first_page(client: ClientSession, directory: Path) -> AsyncIterator[Page]:
    """Of the browser whose profile is in `directory`, and which somebody else has started."""
    address = await _find_page(client, directory)
    async with client.ws_connect(address, max_msg_size=0) as ws:
        yield await _looked_at(Page(ws))


async def _looked_at(page: Page) -> Page:
    await page.do("Emulation.setFocusEmulationEnabled", enabled=True)
    return page


async def _find_page(client: ClientSession, directory: Path) -> str:
    """The address of the first tab, once the browser has one."""
    async with asyncio.timeout(TIMEOUT_S):
        while not (port := _where(directory)[0]):  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(LOOK_AGAIN_S)
        while True:
            async with client.get(f"http://127.0.0.1:{port}/json/list") as answer:
                pages = json.loads(await answer.text())
            if tabs := [page for page in pages if page["type"] == "page"]:
                return str(tabs[0]["webSocketDebuggerUrl"])
            await asyncio.sleep(LOOK_AGAIN_S)


def _where(directory: Path) -> tuple[str, str]:
    """The port of the browser whose profile is in `directory`, and its path there; empty until it has written them."""
    file = directory / "DevToolsActivePort"
    port, _, path = file.read_text().partition("\n") if file.exists() else ("", "", "")
    return (port, path.strip()) if path else ("", "")
