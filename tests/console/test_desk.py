"""Changes, files and terminals in their less usual states; fingers, and who wants less motion."""

from __future__ import annotations

import json
import subprocess
from contextlib import AsyncExitStack

import pytest

from tests.browser import Context, Page
from tests.console.page import before_the_page, click, fill, kept, open_console, pick, shows
from tests.console.test_work import starts_with
from tests.console.test_workplace import begin, commit
from tests.kit import Server, script

pytestmark = pytest.mark.tools

SMALL = """
    [...document.querySelectorAll('button, select, nav a, input:not([type=checkbox], [type=radio]), summary')]
    .filter(one => one.checkVisibility() && getComputedStyle(one).clipPath === 'none')
    .filter(one => one.getBoundingClientRect().height < 43.5 && !one.matches('[aria-expanded]'))
    .map(one => one.outerHTML.slice(0, 120))
"""
"""What is too low for a finger. A call's button covers its whole line."""
NOTES = """
    [...document.querySelectorAll('details')].find(one => one.innerText.includes({})).querySelector('p')?.innerText
"""
"""What is said of a file in the changes."""
COUNTED = """
    window.open_ = {};
    const ask = window.fetch;
    window.fetch = async (url, options) => {
        const answer = await ask(url, options);
        const kind = /activity|events|watch/.exec(String(url))?.[0];
        if (kind && answer.headers.get('Content-Type')?.includes('event-stream')) {
            open_[kind] = (open_[kind] ?? 0) + 1;
            options.signal.addEventListener('abort', () => (open_[kind] -= 1));
        }
        return answer;
    };
"""
"""`open_`: how many streams of each kind a page has open."""


async def test_comments_are_kept_and_say_when_their_line_has_changed(server: Server, page: Page) -> None:
    """Over a reload, each with its line as it was."""
    await begin(server, page, "#/s/s/changes")
    await click(page, "details summary", "design.md")
    await click(page, "button[title='Comment on this line']", "3")
    await fill(page, "textarea[name=comment]", "Why a cursor?")
    await click(page, "button", "Add")
    await page.until(kept("comments s"), bool)
    design = server.workspace / "app" / "docs" / "design.md"
    design.write_text(design.read_text().replace("A cursor", "One cursor"))
    await page.reload()
    await open_console(page, server, "#/s/s/changes")
    await shows(page, "1 comment")
    await click(page, "details summary", "design.md")
    await shows(page, "Why a cursor? (the line has changed since)")


async def test_what_cannot_be_shown_as_lines_says_so(server: Server, page: Page) -> None:
    """Of each file: that it is no text, that it is in conflict, that there is too much of it."""
    repository = server.workspace / "app"
    await begin(server, page, "#/s/s")
    commit(repository)
    (repository / "picture.bin").write_bytes(bytes(range(256)) * 10)
    (repository / "large.txt").write_text(f"{'x' * 99}\n" * 90_000)
    for branch, text in (("side", "theirs"), ("main", "ours")):
        subprocess.run(
            ["git", "checkout", "-q", *(["-b"] if branch == "side" else []), branch],
            cwd=repository,
            check=True,
        )
        (repository / "README.md").write_text(text)
        subprocess.run(["git", "add", "README.md"], cwd=repository, check=True)
        author = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", *author, "commit", "-qm", "x"], cwd=repository, check=True)
    subprocess.run(["git", "merge", "-q", "side"], cwd=repository, check=False, capture_output=True)
    await page.value("location.hash = '#/s/s/changes'")
    for name, words in (
        ("picture.bin", "Not a text."),
        ("README.md", "In conflict"),
        ("large.txt", "Too large to show whole."),
    ):
        await click(page, "details summary", name)
        await page.until(NOTES.format(json.dumps(name)), starts_with(words))


async def test_lines_are_wrapped_when_i_want_it(server: Server, page: Page) -> None:
    """And still are after a reload."""
    await begin(server, page, "#/s/s/changes")
    await click(page, "details summary", "design.md")
    await click(page, "label", "Wrap")
    wraps = "document.querySelector('[data-wraps]')?.dataset.wraps"
    await page.until(wraps, lambda found: found == "true")
    await page.reload()
    await open_console(page, server, "#/s/s/changes")
    await click(page, "details summary", "design.md")
    await page.until(wraps, lambda found: found == "true")


async def test_what_one_turn_did_is_shown(server: Server, page: Page) -> None:
    """Chosen by when it was: its changes, and none of before."""
    await begin(server, page, "#/s/s/changes")
    (job,) = server.ask("GET", "/generate/v2/jobs?session_id=s").json["jobs"]
    await shows(page, "3 files changed")
    await pick(page, "select[aria-label='Compared with']", f"turn:{job['taskId']}")
    await shows(page, "0 files changed")


async def test_files_are_searched_and_large_ones_are_not_shown(server: Server, page: Page) -> None:
    """By what is in them, to the line; more than 2 MiB is for downloading."""
    await begin(server, page, "#/s/s/files")
    (server.workspace / "app" / "large.txt").write_text("x" * (2 * 1024 * 1024 + 1))
    await pick(page, "form[role=search] select", "contents")
    await fill(page, "form[role=search] input[type=search]", "cursor per")
    await shows(page, "1 line")
    await click(page, "main ul a", "design.md:3")
    await page.until(
        "document.querySelector('[data-wanted=true]')?.innerText", lambda text: "A cursor per" in (text or "")
    )
    await page.value("location.hash = '#/s/s/files/large.txt'")
    await shows(page, "Too large to be shown here: download it.")


async def test_a_directory_is_watched_only_while_it_is_shown(server: Server, page: Page) -> None:
    """One stream for files, gone with them; one for all sessions, one for the conversation."""
    await before_the_page(page, COUNTED)
    await page.resize(1440, 900)
    await begin(server, page, "#/s/s/files")
    await page.until("open_", lambda now: now == {"activity": 1, "events": 1, "watch": 1})
    await page.value("location.hash = '#/s/s'")
    await page.until("open_", lambda now: now == {"activity": 1, "events": 1, "watch": 0})


async def test_tabs_share_their_streams(server: Server, context: Context, page: Page) -> None:
    """One of seven follows all sessions, four follow the conversation; when the first one goes, another takes over."""
    server.ended_job(server.start_job("hello"))
    async with AsyncExitStack() as stack:
        tabs = [await stack.enter_async_context(context.tab()) for _ in range(7)]
        for tab in tabs:
            await before_the_page(tab, COUNTED)
            await open_console(tab, server, "#/s/s")
            await shows(tab, "hello")

        async def opened() -> list[int]:
            counts = [await tab.value("open_") or {} for tab in tabs]
            return [sum(count.get(kind, 0) for count in counts) for kind in ("activity", "events")]

        assert await opened() == [1, 4]
        await tabs[0].do("Page.navigate", url="about:blank")
        server.start_job(script('ask 1 Bash {"command": "ls"}'), permission_mode="ask")
        for tab in tabs[1:]:
            await tab.until("document.title", lambda title: title == "(1) agentsrv")


async def test_a_terminal_has_keys_and_can_be_heard(server: Server, page: Page) -> None:
    """A phone's keyboard has no Ctrl: the bar interrupts what runs. Screen readers are told what is shown."""
    await page.resize(390, 844)
    await begin(server, page, "#/s/s/terminal")
    rows = "document.querySelector('.xterm-rows')?.innerText ?? ''"
    await page.until(rows, lambda text: text.strip())
    await page.value("document.querySelector('.xterm-helper-textarea').focus()")
    await page.type("sleep 1000; echo interrupt''ed\r")
    await click(page, "[role=toolbar] button", "^C")
    await page.until(rows, lambda text: "^C" in text)

    assert "^C" in await page.until(
        "document.querySelector('.xterm-accessibility')?.innerText", lambda text: "^C" in (text or "")
    )
    assert await page.value("document.activeElement.className.includes('xterm')")


@pytest.mark.parametrize(
    "place", ["#/sessions", "#/inbox", "#/new", "#/settings", "#/s/s", "#/s/s/changes", "#/s/s/files"]
)
async def test_everything_can_be_hit_by_a_finger(server: Server, page: Page, place: str) -> None:
    """On a touch screen nothing that is tapped is lower than 44 px."""
    await hold_as_a_phone(page)
    await begin(server, page, place)
    server.start_job(script('ask 1 Bash {"command": "ls"}'), permission_mode="ask")
    await page.until("document.title", lambda title: title == "(1) agentsrv")

    assert await page.value(SMALL) == []


async def test_a_line_of_a_difference_stays_a_line_on_a_phone(server: Server, page: Page) -> None:
    """However much a finger needs elsewhere."""
    await hold_as_a_phone(page)
    await begin(server, page, "#/s/s/changes")
    await click(page, "details summary", "design.md")
    heights = "[...document.querySelectorAll('[data-line]')].map(one => one.parentElement.offsetHeight)"

    assert set(await page.until(heights, bool)) == {24}


async def hold_as_a_phone(page: Page) -> None:
    await page.do("Emulation.setTouchEmulationEnabled", enabled=True)
    features = [{"name": "pointer", "value": "coarse"}]
    await page.do("Emulation.setEmulatedMedia", features=features)
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    await page.do("Emulation.setDeviceMetricsOverride", **size)
    assert await page.value("matchMedia('(pointer: coarse)').matches")


async def test_who_wants_no_motion_gets_none(server: Server, page: Page) -> None:
    """`prefers-reduced-motion`: nothing pulses or turns."""
    await page.do(
        "Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}]
    )
    call = {"type": "tool_use", "id": "t", "name": "Bash", "input": {"command": "make"}}
    line = {"type": "assistant", "message": {"id": "m", "role": "assistant", "content": [call]}}
    server.start_job(script(f"raw {json.dumps(line)}", "hang"))
    await open_console(page, server, "#/s/s")
    await page.until("!!document.querySelector('[data-status=in_progress]')", bool)

    assert await page.value("document.getAnimations().length") == 0
