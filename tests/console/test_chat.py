"""How a conversation reads: its turns, its steps, what stands in them, and what can be taken from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.browser import Context, Page
from tests.client.proxy import proxy_to
from tests.console.page import (
    CAN_ANSWER,
    DRAFT,
    FEED,
    LEAVE_THE_END,
    ROWS,
    TOP,
    before_the_page,
    click,
    fill,
    is_near,
    kept,
    number,
    open_console,
    open_long,
    press,
    shows,
)
from tests.console.scenes import called, make_repository, said
from tests.kit import Server, script

pytestmark = pytest.mark.tools

LIVE = "document.querySelector('main p.hidden[role=status]').innerText"
CLIPBOARD = "navigator.clipboard.readText()"


def todo(*done: str) -> dict[str, Any]:
    return {
        "todos": [
            {"content": one, "activeForm": one, "status": "completed" if one in done else "pending"}
            for one in ("read", "write")
        ]
    }


async def test_a_turn_that_ended_is_its_answer_and_a_line(server: Server, page: Page) -> None:
    """The steps are one line with how many, how many failed, and how long; it opens. Below it time, tokens and cost."""
    steps = [
        *called("Bash", {"command": "ls"}, "a"),
        *called("Bash", {"command": "false"}, "", is_error=True),
    ]
    server.ended_job(server.start_job(script(said("Let me see."), *steps, said("An answer."))))
    await open_console(page, server, "#/s/s")
    rows = await page.until(ROWS, lambda rows: rows and len(rows) == 4 and "tokens" in rows[3])

    folded = rows[1].split("\n")
    assert folded[:2] == ["3 steps", "1 failed"]
    assert folded[2].endswith("s")
    assert rows[2] == "An answer."
    assert [part.strip()[-1] for part in rows[3].split("·")[2:]] == ["s", "s", "5"]
    await click(page, "article button[aria-expanded=false]", "3 steps")
    await page.until(f"({ROWS}).length", lambda count: count == 7)


async def test_failures_and_what_runs_are_open(server: Server, page: Page) -> None:
    """What has gone well is a line; what failed shows why without a tap."""
    steps = [
        *called("Bash", {"command": "good"}, "fine words"),
        *called("Bash", {"command": "bad"}, "sad words", is_error=True),
    ]
    server.start_job(script(*steps, "hang"))
    await open_console(page, server, "#/s/s")
    await shows(page, "sad words")
    opened = "[...document.querySelectorAll('article [data-open]')].map(one => one.dataset.open)"

    assert await page.value(opened) == ["false", "true"]
    assert not any("fine words" in row for row in (await page.value(ROWS))[1:])


async def test_a_plan_is_one_block_that_changes(server: Server, page: Page) -> None:
    """It is told anew each time; I see one."""
    plans = [*called("TodoWrite", todo(), "ok"), *called("TodoWrite", todo("read"), "ok")]
    server.start_job(script(*plans, "hang"))
    await open_console(page, server, "#/s/s")
    await shows(page, "Plan: 1 of 2 done")

    assert await page.value("document.querySelectorAll('article[data-kind=plan]').length") == 1


async def test_long_output_shows_its_ends(server: Server, page: Page) -> None:
    """A hundred lines from the beginning, a hundred from the end, and all when I ask."""
    output = "\n".join(f"line {n}" for n in range(1000))
    server.start_job(script(*called("Bash", {"command": "seq"}, output, is_error=True), "hang"))
    await open_console(page, server, "#/s/s")
    lines = "document.querySelector('article pre').innerText.match(/line \\d+/g)"
    found = await page.until(lines, bool)
    await click(page, "article pre button", "800 more lines")

    assert (len(found), found[99], found[100]) == (200, "line 99", "line 900")
    await page.until(lines, lambda found: len(found) == 1000)


async def test_a_long_change_shows_its_ends(server: Server, page: Page) -> None:
    """A new file of thousands of lines is no thousands of rows, until I ask for them."""
    given = {
        "file_path": str(server.workspace / "a.txt"),
        "content": "".join(f"line {n}\n" for n in range(3000)),
    }
    server.start_job(script(*called("Write", given, "ok"), "hang"))
    await open_console(page, server, "#/s/s")
    rows = "document.querySelectorAll('article pre [data-kind=new]').length"
    await page.until(rows, lambda count: count == 200)
    await click(page, "article pre button", "2800 more lines")
    await page.until(rows, lambda count: count == 3000)


async def test_a_path_with_a_line_opens_it(server: Server, page: Page) -> None:
    """`eventlog.py:4` in an answer leads to that line of the file."""
    repository = make_repository(server.workspace / "app")
    server.ended_job(server.start_job(script(said("See `eventlog.py:4`.")), cwd=str(repository)))
    await open_console(page, server, "#/s/s")
    await click(page, "article a", "eventlog.py:4")
    await page.until(
        "document.querySelector('[data-wanted=true] code')?.innerText",
        lambda line: line and line.strip() == "async for row in self._rows(session, after):",
    )


async def test_messages_blocks_and_commands_are_copied(server: Server, context: Context, page: Page) -> None:
    """Each of them as it was written, not as it is drawn."""
    answer = "Some *words*:\n\n```py\nx = 1\n```\n"
    steps = [*called("Bash", {"command": "ls -la"}, "", is_error=True), said(answer)]
    await context.do(
        "Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"]
    )
    server.ended_job(server.start_job(script(*steps)))
    await open_console(page, server, "#/s/s")
    await page.until(f"({ROWS}).at(-1)", lambda text: text and "done" in text)
    written = {
        "article[data-kind=call] [title=Copy]": "ls -la",
        "article[data-kind=text] pre + [title=Copy]": "x = 1",
        "article[data-kind=text] > div > [title=Copy]": answer,
        "article[data-kind=user] [title=Copy]": script(*steps),
    }
    for place, text in written.items():
        await click(page, place)
        await page.until(CLIPBOARD, is_text(text))


def is_text(text: str) -> Callable[[object], bool]:
    return lambda found: found == text


async def test_without_a_clipboard_it_is_selected(server: Server, page: Page) -> None:
    """Over plain http a page may not copy; what it would have is selected, to be copied by hand."""
    await before_the_page(page, "Object.defineProperty(window, 'isSecureContext', {value: false})")
    server.ended_job(server.start_job("hello"))
    await open_console(page, server, "#/s/s")
    await click(page, "article[data-kind=user] [title=Select]")

    assert await page.value("getSelection().toString().trim()") == "hello"


async def test_the_place_where_i_read_stays_over_a_switch_and_a_resize(server: Server, page: Page) -> None:
    """I look at another session and come back, and turn the phone: I read on where I was."""
    server.ended_job(server.start_job("hello", "other"))
    await page.resize(1440, 900)
    await open_long(page, server, 90)
    await page.value(LEAVE_THE_END)
    half = f"{FEED}.scrollTop = {FEED}.scrollHeight * 0.8; {TOP}"
    await page.until(half, lambda text: "SCRIPT" not in (text or "") and 5 < number(text) < 80)
    read = number((await page.until(kept("place s"), bool))["key"])
    await page.value("location.hash = '#/s/other'")
    await page.until(f"({ROWS})[0]", lambda text: text == "hello")
    await page.value("location.hash = '#/s/s'")
    await page.until(TOP, lambda text: is_near(text, read))
    await page.resize(900, 500)
    await page.until(TOP, lambda text: is_near(text, read))


async def test_a_prompt_whose_answer_was_lost_starts_nothing_twice(server: Server, page: Page) -> None:
    """The server has it and the network breaks: it stays in the composer, and sent again it is the same one."""
    server.ended_job(server.start_job("hello"))
    async with proxy_to(server.port) as net:
        await open_console(page, server, "#/s/s", net.port)
        await fill(page, "#composer", "once")
        net.passes.clear()
        await page.type("\r")
        await page.until("!!document.querySelector('form button[type=submit]').disabled", bool)
        net.leave()
        await page.until("!document.querySelector('form button[type=submit]').disabled", bool)
        assert await page.value(DRAFT) == "once"
        net.is_away = False
        net.passes.set()
        await click(page, "form button", "Try again")
        await page.until(DRAFT, lambda text: text == "")
        await page.until(f"({ROWS}).at(-1)", lambda text: text and "done" in text)
    prompts = [event.json for event in server.history() if event.type == "user"]

    assert len(prompts) == 2


async def test_what_ears_hear(server: Server, page: Page) -> None:
    """That something is asked and that a turn has ended, once each and politely; not each word. The focus stays."""
    server.ended_job(server.start_job("hello"))
    await open_console(page, server, "#/s/s")
    await page.until(LIVE, lambda words: words == "Turn ended: completed")
    await fill(page, "#composer", "half a")
    server.start_job(script("say some words", 'ask 1 Bash {"command": "ls"}'), permission_mode="ask")
    await page.until(CAN_ANSWER, bool)

    assert (await page.value(LIVE)).startswith("s asks: ")
    assert (
        await page.value("document.querySelector('main p.hidden[role=status]').ariaLive ?? 'polite'")
        == "polite"
    )
    assert await page.value("document.activeElement.id") == "composer"
    await press(page, "y")
    assert await page.value(DRAFT) == "half ay"


async def test_what_a_subagent_does_is_in_its_call(server: Server, page: Page) -> None:
    """Its steps stand inside the call that made it, and not between those of the agent."""

    def line(message: dict[str, Any], parent: str | None) -> str:
        kind = "user" if message["role"] == "user" else "assistant"
        return "raw " + json.dumps({"type": kind, "message": message, "parent_tool_use_id": parent})

    def call(id_: str, name: str, given: dict[str, Any]) -> dict[str, Any]:
        content = [{"type": "tool_use", "id": id_, "name": name, "input": given}]
        return {"id": f"m{id_}", "role": "assistant", "content": content}

    steps = [
        line(call("t1", "Task", {"description": "explore", "prompt": "look"}), None),
        line(call("t2", "Bash", {"command": "inner command"}), "t1"),
    ]
    server.start_job(script(*steps, "hang"))
    await open_console(page, server, "#/s/s")
    await shows(page, "inner command")

    assert await page.value("document.querySelectorAll('article[data-kind=call]').length") == 1
    assert await page.value("document.querySelectorAll('article[data-kind=call] [data-status]').length") == 2
