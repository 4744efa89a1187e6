"""The console in a real browser, against a real server with the fake agent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.browser import Page
from tests.conftest import ServerMaker
from tests.console.page import (
    FEED,
    LEAVE_THE_END,
    ROWS,
    SAID,
    TOP,
    click,
    fill,
    is_near,
    kept,
    message,
    number,
    open_console,
    open_long,
    press,
    shows,
)
from tests.console.scenes import called, make_repository
from tests.kit import KEY, Server, script, write_fake_agent

pytestmark = pytest.mark.tools

PROMPTS = "[...document.querySelectorAll('article[data-kind=user]')].map(row => row.innerText)"
ALL = "document.querySelector('article')?.ariaSetSize"
"""How many rows the conversation has, once the first of them are there."""
WHOLE = "document.documentElement.outerHTML"
LOADED = "performance.getEntriesByType('resource').map(entry => entry.name)"
HOSTILE = """</div><script>window.ran = 1</script><img src=x onerror="window.ran = 2"> [a](javascript:window.ran=3)
![pixel](http://127.0.0.1:9/x.png) \u202egnp.exe"""


def said(rows: list[str]) -> list[str]:
    """Without how turns have ended: what they have cost is told a little later."""
    return [row for row in rows if not row.startswith("done")]


async def begin(page: Page, prompt: str) -> None:
    """A new session, with the first agent that can work."""
    await page.until("document.querySelector('select[name=agent]')?.value", bool)
    await fill(page, "textarea[name=prompt]", prompt)
    await click(page, "main form button[type=submit]")


async def test_a_prompt_is_sent_answered_and_there_after_a_reload(server: Server, page: Page) -> None:
    """Start a session, read the answer, write again; what was said is still there when the page is loaded anew."""
    await open_console(page, server, "#/new")
    await begin(page, "Hello there")
    await page.until(ROWS, lambda rows: rows and len(rows) == 3)
    await fill(page, "textarea", "And again")
    await page.type("\r")
    rows = await page.until(ROWS, lambda rows: rows and len(rows) == 6)
    assert (rows[0], rows[3]) == ("Hello there", "And again")

    await page.reload()
    await open_console(page, server, await page.value("location.hash"))
    await page.until(ROWS, lambda again: again and said(again) == said(rows))
    assert KEY not in await page.value(f"{WHOLE} + location + {LOADED}.join()")
    assert KEY not in server.log


async def test_a_question_is_answered_by_keyboard_alone(server: Server, page: Page) -> None:
    """The whole command is shown, what is hidden in it too; Y on the focused card allows it."""
    command = "true #" + "x" * 500 + "\u202e the end"
    steps = script("ask 1 Bash " + json.dumps({"command": command}))
    task = server.start_job(steps, permission_mode="ask")
    await open_console(page, server, "#/inbox")
    await shows(page, "x" * 500 + "⟨U+202E⟩ the end")
    await page.value("document.querySelector('section[tabindex]').focus()")
    await page.until("document.querySelector('[aria-disabled=true]') === null", bool)
    await press(page, "y")

    assert server.ended_job(task)["status"] == "completed"
    await shows(page, "Nothing waits for you.")


async def test_it_misses_nothing_when_the_server_dies(make_server: ServerMaker, page: Page) -> None:
    """Killed in the middle of a turn and started again: all that was said is there, once."""
    server = make_server()
    task = server.start_job(script("rate 50 enough 200"))
    await open_console(page, server, "#/s/s")
    seen = await page.until(SAID, lambda size: size > 1000)
    server.kill9()
    server.start()
    await page.until(SAID, lambda size: size > seen + 1000)
    (server.workspace / "enough").touch()
    server.ended_job(task)

    messages = [event.json["message"] for event in server.history() if event.type == "assistant"]
    said = sum(len(message["content"][0]["text"]) for message in messages)
    await page.until(ROWS, lambda rows: rows and "done" in rows[-1])
    await page.until(f"{FEED}.scrollTop = 0; {SAID}", lambda size: size == said)


async def test_hostile_text_runs_nothing_and_asks_no_other_host(server: Server, page: Page) -> None:
    """HTML, scripts' links and pictures from elsewhere are words."""
    await page.do("Network.enable")
    await open_console(page, server, "#/new")
    await begin(page, HOSTILE)
    await page.until(ROWS, lambda rows: rows and len(rows) == 3)

    assert await page.value("window.ran ?? null") is None
    assert await page.value("document.querySelectorAll('article script, article img').length") == 0
    loaded = await page.value(LOADED)
    assert {url.split("/")[2] for url in loaded} == {f"127.0.0.1:{server.port}"}


async def test_a_long_conversation_costs_little_and_keeps_its_place(server: Server, page: Page) -> None:
    """Only what is near the window is in the document. Who reads further up is moved neither by what is older nor by
    what is new.
    """
    await open_long(page, server, 600, "await-steer")
    height = await page.value(f"{FEED}.scrollHeight")
    await page.value(LEAVE_THE_END)
    await page.value(f"{FEED}.scrollTop = 400")
    reading = await page.until(TOP, lambda text: 500 <= number(text) < 520)
    await page.until(f"{FEED}.scrollHeight", lambda now: now > height + 2000)
    assert await page.value(TOP) == reading

    server.start_job("something new", if_busy="steer")
    await page.until(
        "document.querySelector('[role=feed] > button')?.innerText", lambda text: text == "2 new"
    )
    assert await page.value(TOP) == reading
    assert await page.value("document.querySelectorAll('*').length") < 1500
    await click(page, "[role=feed] > button")
    await shows(page, "steered: something new")


async def test_the_place_where_i_read_is_kept(server: Server, page: Page) -> None:
    """I read further up, and load the page anew: I am where I was, however far back that is."""
    await open_long(page, server, 400)
    await page.value(LEAVE_THE_END)
    await page.until(f"{FEED}.scrollTop = 0; {ALL}", lambda count: int(count or -1) >= 400)
    await page.until(
        f"{FEED}.scrollTop = {FEED}.scrollHeight * 0.58; {TOP}", lambda text: 0 < number(text) < 290
    )
    read = number(await page.value(TOP))
    await page.until(kept("place s"), lambda place: place and is_near(place["key"], read))
    await page.reload()
    await open_console(page, server, "#/s/s")
    await page.until(TOP, lambda text: is_near(text, read))


async def test_twenty_thousand_events_fit(make_server: ServerMaker, page: Page, tmp_path: Path) -> None:
    """A long day in one session costs neither the page's memory nor its speed."""
    plays = {"Go": script(*(f"raw {message(n)}" for n in range(20_000)), "hang")}
    (tmp_path / "plays.json").write_text(json.dumps(plays))
    agent = write_fake_agent(tmp_path / "player", f"plays {tmp_path / 'plays.json'}")
    server = make_server(CLAUDE_PATH=str(agent))
    server.ended_job(server.start_job("hello"))
    await open_console(page, server, "#/s/s")
    await shows(page, "hello")
    server.start_job("Go")
    await page.until(f"({ROWS}).at(-1)", lambda text: text == "message 19999")

    assert await page.value("document.querySelectorAll('*').length") <= 1500
    await page.do("HeapProfiler.collectGarbage")
    assert (await page.do("Runtime.getHeapUsage"))["usedSize"] <= 25_000_000


async def test_hostile_output_is_only_text(server: Server, page: Page) -> None:
    """In a title, a command and a megabyte of output in one line: nothing runs or is loaded, all of it is there."""
    steps = called("Bash", {"command": HOSTILE}, HOSTILE + "x" * 1_000_000, is_error=True)
    server.start_job(script(*steps, "hang"))
    await open_console(page, server, "#/s/s")
    await page.until(
        "document.querySelector('article pre')?.innerText.length ?? 0", lambda size: size > 1_000_000
    )

    assert await page.value("window.ran ?? null") is None
    assert await page.value("document.querySelectorAll('article script, article img').length") == 0
    assert "⟨U+202E⟩" in await page.value("document.querySelector('article code').innerText")


async def test_what_a_session_changed_is_shown(server: Server, page: Page) -> None:
    """The files of its directory with their counts, and the lines of one that is opened."""
    repository = make_repository(server.workspace / "app")
    server.ended_job(server.start_job("hello", cwd=str(repository)))
    await open_console(page, server, "#/s/s/changes")
    await click(page, "details summary", "design.md")
    await shows(page, "One queue per follower.")
    await shows(page, "A cursor per follower.")


async def test_comments_on_lines_are_sent_as_one_prompt(server: Server, page: Page) -> None:
    """I write on a line of a difference; the agent gets it with its place, and the draft is gone."""
    server.ended_job(server.start_job("hello", cwd=str(make_repository(server.workspace / "app"))))
    await open_console(page, server, "#/s/s/changes")
    await click(page, "details summary", "design.md")
    await click(page, "button[title='Comment on this line']", "3")
    await fill(page, "textarea[name=comment]", "Why a cursor?")
    await click(page, "button", "Add")
    await click(page, "button", "Send as a prompt")
    await page.until("document.body.innerText.includes('1 comment')", lambda is_there: not is_there)
    await page.value("location.hash = '#/s/s'")
    await page.until(f"{PROMPTS}.at(-1)", lambda text: text and "docs/design.md:3\n> A cursor per" in text)


async def test_a_code_signs_in_once_and_leaves_no_trace(server: Server, page: Page) -> None:
    """What `agentsrv open` opens: the code is taken out of the address, and works no second time."""
    code = server.ask("POST", "/auth/codes", {}).json["code"]
    await page.go(f"http://127.0.0.1:{server.port}/console/#code={code}")
    await page.until("!!document.querySelector('nav')", bool)

    assert await page.value("location.hash") == "#/sessions"
    assert code not in server.log
    again = server.ask("POST", "/auth/codes/redeem", {"code": code, "name": "again"})
    assert again.status == 403
