"""What somebody sees of the console in a real Chromium: when a long session is there, and how steadily it moves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import ClientSession

from bench.rows import Row, serving
from tests.browser import Page, new_context, running_browser
from tests.kit import Server, script, write_fake_agent

EVENTS = 20_000
SIZE = 200
RATE = 500
STEP_S = 0.1


def messages(count: int, name: str) -> str:
    """A step of the fake agent: so many messages at once."""
    content = [{"type": "text", "text": "message # of the agent @"}]
    message = {"id": f"{name}#", "role": "assistant", "content": content}
    return f"many {count} {SIZE} {json.dumps({'type': 'assistant', 'message': message})}"


LONG = script(messages(EVENTS, "m"))
LIVE = script(
    *(step for n in range(60) for step in (messages(int(RATE * STEP_S), f"n{n}-"), f"sleep {STEP_S}"))
)

PHONE = {"offline": False, "latency": 150, "downloadThroughput": 200_000, "uploadThroughput": 200_000}
"""1.6 Mbit/s both ways; ms."""
SLOWER = 4

KEEP_TIMES = """
    window.shifted = 0;
    new PerformanceObserver(list => {
        for (const entry of list.getEntries()) if (!entry.hadRecentInput) shifted += entry.value;
    }).observe({type: 'layout-shift', buffered: true});
    const look = () => {
        if ([...document.querySelectorAll('article')].some(row => row.innerText.startsWith('done')))
            window.paintedAt = performance.now();
        else requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
"""
"""`paintedAt`: when the end of the session was on the screen, in ms from the navigation."""

FRAMES = """
    new Promise(resolve => {
        const place = document.querySelector('[role=feed]');
        const took = [];
        let last = performance.now();
        const end = last + 4000;
        const tick = now => {
            took.push(now - last);
            last = now;
            %s;
            if (now < end) requestAnimationFrame(tick);
            else resolve(took.sort((a, b) => a - b)[Math.floor(took.length * 0.95)]);
        };
        requestAnimationFrame(tick);
    })
"""
"""The p95 of what frames take, while something is done in each."""
SCROLL = "place.scrollTop -= 60"
UPWARDS = "document.querySelector('[role=feed]').dispatchEvent(new WheelEvent('wheel', {deltaY: -1, bubbles: true}))"


def frames(directory: Path) -> Iterator[Row]:
    """(s) The console: painted, scrolled, and live; the floor is an empty page's frame."""
    directory.mkdir(exist_ok=True)
    with serving(directory / "server", write_fake_agent(directory / "claude")) as server:
        server.ended_job(server.start_job(LONG))
        with running_browser(directory / "profile") as address:
            yield from asyncio.run(_rows(server, address))


async def _rows(server: Server, address: str) -> list[Row]:
    async with _looking(server, address) as page:
        await page.do("Performance.enable", timeDomain="threadTicks")
        painted = await page.until("window.paintedAt", bool)
        spent = {one["name"]: one["value"] for one in (await page.do("Performance.getMetrics"))["metrics"]}
        shifted = await page.value("shifted")
        await page.value(UPWARDS)
        scrolled = await page.value(FRAMES % SCROLL)
    async with _looking(server, address) as page:
        await page.until("window.paintedAt", bool)
        server.start_job(LIVE)
        await page.until("document.querySelectorAll('article[data-kind=user]').length", bool)
        live = await page.value(FRAMES % "")
        await page.do("Page.navigate", url="about:blank")
        floor = await page.value(FRAMES % "")
    async with _looking(server, address, is_phone=True) as page:
        on_a_phone = await page.until("window.paintedAt", bool)
        first = await page.value("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    return [
        Row("(s) console: a session of 20,000 events painted", painted, "ms", target=-1000),
        Row("(s) of it the page's own processor time", 1000 * spent["TaskDuration"], "ms"),
        Row("(s) the same on a phone, cold", on_a_phone, "ms", target=-2500),
        Row("(s) its first paint", first, "ms", target=-1500),
        Row("(s) a frame while scrolling, p95", scrolled, "ms", floor, -1.2 * floor),
        Row(f"(s) a frame at {RATE} events/s, p95", live, "ms", floor, -1.2 * floor),
        Row("(s) layout shift", shifted, "", target=-0.02),
    ]


@asynccontextmanager
async def _looking(server: Server, address: str, *, is_phone: bool = False) -> AsyncIterator[Page]:
    """At the session, in a browser that has nothing of it yet."""
    code = server.ask("POST", "/auth/codes", {}).json["code"]
    async with ClientSession() as client, new_context(client, address) as context, context.tab() as page:
        await page.do("Page.enable")
        await page.do("Page.addScriptToEvaluateOnNewDocument", source=KEEP_TIMES)
        await page.resize(*((390, 844) if is_phone else (1440, 900)))
        if is_phone:
            await page.do("Network.enable")
            await page.do("Network.emulateNetworkConditions", **PHONE)
            await page.do("Emulation.setCPUThrottlingRate", rate=SLOWER)
        await page.go(f"http://127.0.0.1:{server.port}/console/#code={code}&to=s/s")
        yield page
