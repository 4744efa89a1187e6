"""How what is unusual looks: nothing is cut, covered or torn apart, on a phone as on a desk."""

from __future__ import annotations

import json

import pytest

from tests.browser import Page
from tests.console.page import CAN_ANSWER, click, open_console, press, shows
from tests.console.scenes import called, make_repository, said
from tests.kit import Server, script

pytestmark = pytest.mark.tools

TABLE = """
| first | a longer head | third | fourth | fifth | sixth | seventh |
|---|---|---|---|---|---|---|
| 1 | some words that need space | 12,345 | x | `code_that_is_long()` | y | the_last_of_the_row |
"""


def lines_of(selector: str) -> str:
    """An expression: into how many lines the words of each such element are broken."""
    return f"""
        [...document.querySelectorAll({json.dumps(selector)})].map(one => {{
            const range = document.createRange();
            range.selectNodeContents(one);
            return new Set([...range.getClientRects()].map(box => Math.round(box.top))).size;
        }})
    """


async def test_a_wide_table_is_scrolled_and_its_words_stay_whole(server: Server, page: Page) -> None:
    """On a phone, too; the page itself does not become wider."""
    server.ended_job(server.start_job(script(said(TABLE))))
    await page.resize(390, 844)
    await open_console(page, server, "#/s/s")
    lines = await page.until(lines_of("article th"), bool)

    assert [lines[index] for index in (0, 2, 3, 4, 5, 6)] == [1] * 6
    assert await page.value("main.scrollWidth <= main.clientWidth")
    table = "document.querySelector('article table')"
    assert await page.value(f"{table}.scrollWidth > {table}.parentElement.clientWidth")


async def test_what_is_written_from_the_right_begins_there(server: Server, page: Page) -> None:
    """Each paragraph and list by its own first letters."""
    server.ended_job(server.start_job(script(said("שלום עולם\n\nHello\n\n- פריט"))))
    await open_console(page, server, "#/s/s")
    await page.until(
        "document.querySelectorAll('article[data-kind=text] p').length", lambda count: count >= 2
    )
    sides = await page.value("""
        [...document.querySelectorAll('article[data-kind=text] :is(p, li)')].map(one => {
            const range = document.createRange();
            range.selectNodeContents(one);
            const [text, box] = [range.getBoundingClientRect(), one.getBoundingClientRect()];
            return text.left - box.left > box.right - text.right ? "right" : "left";
        })
    """)

    assert sides[:3] == ["right", "left", "right"]


async def test_of_a_long_plan_what_comes_next_is_shown(server: Server, page: Page) -> None:
    """Thousands of steps are no thousands of lines; it says where in the plan they are."""
    states = ["completed"] * 100 + ["pending"] * 900
    todos = [
        {"content": f"step {n}", "activeForm": f"step {n}", "status": state} for n, state in enumerate(states)
    ]
    server.start_job(script(*called("TodoWrite", {"todos": todos}, "ok"), "hang"))
    await open_console(page, server, "#/s/s")
    await shows(page, "96 to 125 of 1000")

    steps = await page.value("[...document.querySelectorAll('article li')].map(one => one.innerText)")
    assert len(steps) == 30
    assert "step 100" in " ".join(steps)


LINES = [f"line {n}" for n in range(300)]


@pytest.mark.parametrize(
    ("tool", "given"),
    [
        ("Bash", {"command": "\n".join(LINES)}),
        ("Write", {"file_path": "a.txt", "content": "\n".join(LINES)}),
        ("Edit", {"file_path": "a.txt", "old_string": "a", "new_string": "\n".join(LINES)}),
        ("Other", {"words": "\n".join(LINES)}),
    ],
)
async def test_nobody_allows_what_is_below_an_edge(
    server: Server, page: Page, tool: str, given: dict[str, str]
) -> None:
    """All that a tool is to be called with stands above the buttons, however long it is."""
    server.start_job(script(f"ask 1 {tool} {json.dumps(given)}"), permission_mode="ask")
    await page.resize(390, 640)
    await open_console(page, server, "#/s/s")
    await page.until(CAN_ANSWER, bool)
    card = "document.querySelector('section[tabindex]')"
    pre = f"[...{card}.querySelectorAll('pre')].at(-1)"

    shown = await page.value(f"{card}.innerText")
    assert [line for line in LINES if line not in shown] == []
    assert await page.value(f"{pre}.scrollHeight <= {pre}.clientHeight")
    assert await page.value(
        f"{pre}.getBoundingClientRect().bottom <= {card}.querySelector('button').getBoundingClientRect().top"
    )


NUMBERS = """
    [...document.querySelectorAll('[data-line]')].map(one => {
        const code = one.parentElement.querySelector('code');
        return [one.getBoundingClientRect().top - code.getBoundingClientRect().top, code.getClientRects().length];
    })
"""


async def test_a_number_stands_at_the_beginning_of_its_line(server: Server, page: Page) -> None:
    """Also where that is wrapped into several; on a phone there are no two columns, whatever a desk has."""
    repository = make_repository(server.workspace / "app")
    (repository / "eventlog.py").write_text("x = '" + "long " * 200 + "'\n")
    server.ended_job(server.start_job("hello", cwd=str(repository)))
    await page.resize(1440, 900)
    await open_console(page, server, "#/s/s/changes")
    await page.value("localStorage.setItem('agentsrv-console-preferences', JSON.stringify({diff: 'split'}))")
    await page.reload()
    await open_console(page, server, "#/s/s/changes")
    await click(page, "summary", "eventlog.py")
    tops = await page.until(NUMBERS, bool)
    heights = await page.value(
        "[...document.querySelectorAll('[data-split] code')].map(one => one.offsetHeight)"
    )

    assert max(heights) > 3 * min(heights)
    assert [abs(top) <= 3 for top, _ in tops] == [True] * len(tops)
    assert await page.value("document.querySelector('[data-split]').dataset.split") == "true"
    await page.resize(390, 844)
    await page.until("document.querySelector('[data-split]').dataset.split", lambda split: split == "false")


async def test_a_narrow_window_has_all_views_at_once(server: Server, page: Page) -> None:
    """At 320 px no name of a view is cut."""
    server.ended_job(server.start_job("hello"))
    await page.resize(320, 640)
    await open_console(page, server, "#/s/s")
    views = "document.querySelector('nav[aria-label=\"Views of this session\"]')"
    await page.until(f"!!{views}", bool)

    assert await page.value(f"{views}.scrollWidth <= {views}.clientWidth")


@pytest.mark.parametrize(("scheme", "other"), [("dark", "Light"), ("light", "Dark")])
async def test_the_theme_that_is_offered_is_another_one(
    server: Server, page: Page, scheme: str, other: str
) -> None:
    """Than what the system has chosen."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    await page.do("Emulation.setEmulatedMedia", features=features)
    await open_console(page, server)
    await shows(page, "No sessions yet")
    await press(page, "k", modifiers=2)
    offered = await page.until(
        "[...document.querySelectorAll('[role=option]')].map(one => one.innerText)", bool
    )

    assert [each for each in offered if "theme" in each] == [f"{other} theme"]
