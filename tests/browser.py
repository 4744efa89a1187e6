"""Drives a real Chromium by its DevTools protocol: enough to type into a page and to see what is there."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = (
    "--headless=new", "--remote-debugging-port=0", "--no-first-run", "--no-sandbox", "--disable-gpu",
    "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--window-size=800,600",
)  # fmt: skip
TIMEOUT_S = 60.0
LOOK_AGAIN_S = 0.02


class Page:
    """One tab."""

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
        assert "error" not in answer, answer
        return answer["result"]

    async def go(self, url: str) -> None:
        await self.do("Page.navigate", url="about:blank")
        await self.do("Page.navigate", url=url)

    async def reload(self) -> None:
        """Return when the old page is gone; what is asked for until then is still answered by that."""
        await self.value("window.isOld = true")
        await self.do("Page.reload")
        await self.until("!window.isOld", bool)

    async def value(self, expression: str) -> Any:
        """What a JavaScript expression is in the page; None when it fails, as it does while the page loads."""
        found = await self.do("Runtime.evaluate", expression=expression, returnByValue=True)
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


@asynccontextmanager
async def browse(client: ClientSession, directory: Path) -> AsyncIterator[Page]:
    """A browser with a profile of its own in `directory`, gone afterwards."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.fail("there is no Chromium; `python3 dev.py tools` installs it")
    process = await asyncio.create_subprocess_exec(
        program,
        *OPTIONS,
        f"--user-data-dir={directory}",
        "about:blank",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        async with client.ws_connect(await _find_page(client, directory), max_msg_size=0) as ws:
            yield Page(ws)
    finally:
        process.terminate()
        await process.wait()


async def _find_page(client: ClientSession, directory: Path) -> str:
    """The address of the first tab, once the browser has written down which port it took, and has a tab."""
    file = directory / "DevToolsActivePort"
    async with asyncio.timeout(TIMEOUT_S):
        while not (file.exists() and "\n" in file.read_text()):  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(LOOK_AGAIN_S)
        port = file.read_text().split("\n")[0]
        while True:
            async with client.get(f"http://127.0.0.1:{port}/json/list") as answer:
                pages = json.loads(await answer.text())
            if tabs := [page for page in pages if page["type"] == "page"]:
                return str(tabs[0]["webSocketDebuggerUrl"])
            await asyncio.sleep(LOOK_AGAIN_S)
