"""Every screen of the console, in both schemes, on a phone and on a desk: for everybody, and within its policy."""

from __future__ import annotations

import json

import pytest

from tests.browser import Page
from tests.console.page import open_console, violations
from tests.console.scenes import stage
from tests.kit import Server

pytestmark = pytest.mark.tools

SIZES = {"phone": (390, 844), "desk": (1440, 900)}
SCREENS = {
    "#/sessions": "h1, h2",
    "#/inbox": "main article",
    "#/new": "form select[name=agent]",
    "#/terminals": "main header button",
    "#/usage": "main table",
    "#/settings": "main li",
    "#/s/tidy": "article[data-kind=question]",
    "#/s/tidy/changes": "details",
    "#/s/tidy/files": "[role=search] ~ ul a",
    "#/s/tidy/files/eventlog.py%3A4": "[data-wanted=true] span",
    "#/s/tidy/terminal": ".xterm-screen",
    "#/s/tidy/details": "dl dd",
    "#/s/gone": "[role=alert]",
}
"""By address: what is there when it is."""
KEEP_ERRORS = """
    window.errors = [];
    addEventListener("error", event => errors.push(String(event.message)));
    addEventListener("unhandledrejection", event => errors.push(String(event.reason)));
    addEventListener("securitypolicyviolation", event => errors.push(event.violatedDirective + " " + event.blockedURI));
    const tell = console.error;
    console.error = (...words) => { errors.push(words.join(" ")); tell(...words); };
"""


@pytest.fixture
def staged(server: Server) -> Server:
    """A server with sessions in all states."""
    stage(server)
    return server


async def go(page: Page, place: str) -> None:
    """To one of SCREENS."""
    await page.value(f"location.hash = {place!r}")
    await page.until(f"!!document.querySelector({json.dumps(SCREENS[place])})", bool)


async def prefer(page: Page, scheme: str) -> None:
    await page.do("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])


@pytest.mark.parametrize("size", list(SIZES))
async def test_everybody_can_use_it(staged: Server, page: Page, size: str) -> None:
    """axe finds nothing on any screen in either scheme, the policy stops nothing, and nothing goes wrong."""
    await page.do("Page.enable")
    await page.do("Page.addScriptToEvaluateOnNewDocument", source=KEEP_ERRORS)
    await page.resize(*SIZES[size])
    await open_console(page, staged)
    found = {}
    for place in SCREENS:
        await prefer(page, "light")
        await go(page, place)
        found[place] = await violations(page)
        # Schemes differ in nothing but their colours.
        await prefer(page, "dark")
        found[place] += await violations(page, "color-contrast")

    assert {place: [] for place in found} == found
    assert await page.value("errors") == []


async def test_a_screen_fits_a_narrow_window(staged: Server, page: Page) -> None:
    """At 320 px nothing has to be scrolled sideways to be read."""
    await page.resize(320, 640)
    await open_console(page, staged)
    wide = {}
    for place in SCREENS:
        await go(page, place)
        wide[place] = await page.value("main.scrollWidth - main.clientWidth")

    assert dict.fromkeys(wide, 0) == wide


MARKS = """
    Object.fromEntries([...document.querySelectorAll('a [data-status]:not(:has([data-status]))')].map(one => {
        const style = getComputedStyle(one);
        const isFilled = style.backgroundColor !== 'rgba(0, 0, 0, 0)';
        const shape = [style.borderStyle, style.borderRadius, style.clipPath, isFilled].join();
        return [one.innerText, [shape, isFilled ? style.backgroundColor : style.borderColor]];
    }))
"""
"""By the word for a state: its shape and its colour."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_palette_of_ones_own_hides_nothing(staged: Server, page: Page, scheme: str) -> None:
    """With forced colours a state has its word and a shape that stands out from its ground; axe finds nothing."""
    features = {"forced-colors": "active", "prefers-color-scheme": scheme}
    listed = [{"name": name, "value": value} for name, value in features.items()]
    await page.do("Emulation.setEmulatedMedia", features=listed)
    await open_console(page, staged)
    assert await page.value("matchMedia('(forced-colors: active)').matches")
    await go(page, "#/sessions")
    marks = await page.until(MARKS, lambda found: found and len(found) >= 4)
    ground = await page.value("getComputedStyle(document.documentElement).backgroundColor")
    shapes = [shape for shape, _ in marks.values()]

    assert {"idle", "running", "waiting for you", "failed"} <= set(marks)
    assert len(set(shapes)) == len(shapes)
    assert ground not in [colour for _, colour in marks.values()]
    found = {}
    for place in SCREENS:
        await go(page, place)
        found[place] = await violations(page)
    assert {place: [] for place in found} == found
