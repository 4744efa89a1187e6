"""The pictures of the console in the documents: `python3 dev.py pictures` takes them anew, from a real server."""

from __future__ import annotations

import asyncio
import base64
import sys
import tempfile
from pathlib import Path

from aiohttp import ClientSession

from tests.browser import Context, Page, new_context, running_browser
from tests.console.page import open_console
from tests.console.scenes import make_player, stage
from tests.kit import Server

PICTURES = {
    "console": ("#/s/tidy/changes", "dark", (1440, 900)),
    "console-inbox": ("#/inbox", "light", (390, 844)),
}
"""By file: what is shown, in which colours, how large."""


async def take_all(target: Path, directory: Path) -> None:
    """Write a PNG for each of PICTURES."""
    base = directory / "base" / "workspaces"
    base.mkdir(parents=True)
    server = Server(directory, make_player(directory, base)).start()
    try:
        stage(server)
        with running_browser(directory / "profile") as address:
            async with ClientSession() as client, new_context(client, address) as context:
                await take_each(target, context, server)
    finally:
        server.close()


async def take_each(target: Path, context: Context, server: Server) -> None:
    async with context.tab() as page:
        await open_console(page, server)
        for name, (place, scheme, size) in PICTURES.items():
            (target / f"{name}.png").write_bytes(await take(page, place, scheme, size))


async def take(page: Page, place: str, scheme: str, size: tuple[int, int]) -> bytes:
    await page.resize(*size)
    await page.do("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    await page.value(f"location.hash = {place!r}")
    sign = "section[aria-label=Changes] summary" if place.endswith("/changes") else "main article"
    await page.until(f"!!document.querySelector('{sign}')", bool)
    await page.value(
        "document.querySelectorAll('section[aria-label=Changes] summary').forEach(one => one.click())"
    )
    # Until nothing is on its way: questions can be answered, and hunks are there.
    await page.until("!document.querySelector('[aria-disabled=true], [role=status] > span + span')", bool)
    return base64.b64decode((await page.do("Page.captureScreenshot", format="png"))["data"])


def main() -> None:
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(take_all(target, Path(directory)))


if __name__ == "__main__":
    main()
