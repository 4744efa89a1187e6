"""What each screen is for, and how it is while something is on its way, missing or refused."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.browser import Context, Page
from tests.client.proxy import proxy_to
from tests.console.page import click, fill, kept, open_console, pick, press, shows
from tests.console.scenes import make_repository
from tests.console.test_work import PNG, given
from tests.kit import Event, Server, script

pytestmark = pytest.mark.tools

CARDS = "[...document.querySelectorAll('main article > a')].map(one => one.innerText)"
ENDED = "[...document.querySelectorAll('main ul strong')].map(one => one.innerText)"
ASKS = script('ask 1 Bash {"command": "ls"}')
LINKS = """
    [...document.querySelectorAll('nav[aria-label="{}"] a')].filter(one => one.offsetParent).map(one => one.innerText)
"""
SHOWN = "['[role=feed]', 'main dl', '[role=separator]'].map(one => !!document.querySelector(one))"
"""The conversation; the details of the session; the line between them."""
BOXES = """
    JSON.stringify([...document.querySelectorAll('main article, main form, main h1')]
        .map(one => one.getBoundingClientRect()))
"""
WHEN_LOST = """
    window.since = null;
    window.left = performance.now();
    const isLost = () => document.body.innerText.includes('Connection lost.');
    const look = new MutationObserver(() => { if (isLost()) since ??= performance.now(); });
    look.observe(document.body, {childList: true, subtree: true});
    true
"""


async def go(page: Page, place: str) -> None:
    await page.value(f"location.hash = {place!r}")


def is_question(event: Event) -> bool:
    return event.type == "permission_request"


async def test_the_inbox_has_what_waits_and_what_ended(server: Server, page: Page) -> None:
    """All questions, the oldest first; below them what has ended since I was here last, the newest first."""
    server.ended_job(server.start_job("before", "before"))
    await open_console(page, server, "#/inbox")
    await shows(page, "before")
    await go(page, "#/usage")
    await page.until(kept("inbox visited"), bool)
    for name in ("old", "new"):
        server.follow(server.start_job(ASKS, name, permission_mode="ask")).until(is_question)
    for name in ("first", "second"):
        server.ended_job(server.start_job(name, name))
    await go(page, "#/inbox")

    await page.until(CARDS, lambda names: names == ["old", "new"])
    await page.until(ENDED, lambda names: names == ["second", "first"])


async def test_a_question_that_is_settled_says_what_was_said(server: Server, page: Page) -> None:
    """Somebody answers it elsewhere while I look: the inbox says how, and that nothing waits."""
    server.start_job(ASKS, permission_mode="ask")
    await open_console(page, server, "#/inbox")
    await shows(page, "Run this command?")
    (asked,) = server.ask("GET", "/permissions").json["permissions"]
    path = f"/generate/v2/jobs/{asked['taskId']}/permissions/{asked['requestId']}"
    assert server.ask("POST", path, {"decision": "deny", "message": "Not now."}).status == 200

    await shows(page, "Nothing waits for you.")
    await shows(page, "Denied Bash: ls")
    await shows(page, "Not now.")


async def test_a_session_is_begun_with_all_that_can_be_chosen(server: Server, page: Page) -> None:
    """Agent, directory, model, effort, mode and pictures go with its first prompt."""
    (server.workspace / "shop").mkdir()
    await open_console(page, server, "#/new")
    await page.until(
        "document.querySelector('select[name=agent]')?.value", lambda name: name == "claude-code"
    )
    await fill(page, "textarea[name=prompt]", script("echo"))
    paste = (
        f"new ClipboardEvent('paste', {{bubbles: true, clipboardData: {given('a.png', 'image/png', PNG)}}})"
    )
    await page.value(f"document.querySelector('textarea[name=prompt]').dispatchEvent({paste})")
    await page.until("!!document.querySelector('form img')", bool)
    await fill(page, "input[name=cwd]", str(server.workspace / "shop"))
    for name, value in (("model", "opus"), ("effort", "high"), ("mode", "plan")):
        await pick(page, f"select[name={name}]", value)
    await click(page, "main form button[type=submit]")
    await page.until("location.hash", lambda place: place.startswith("#/s/"))
    (session,) = server.ask("GET", "/sessions").json["sessions"]
    server.ended_job(server.ask("GET", "/generate/v2/jobs").json["jobs"][0]["taskId"])
    (argv,) = [event.json["argv"] for event in server.history(session["id"]) if event.type == "fake"]
    (prompt,) = [event.json for event in server.history(session["id"]) if event.type == "user"]

    assert session["cwd"] == str(server.workspace / "shop")
    assert {"--effort=high", "--permission-mode=plan"} <= set(argv)
    assert any("opus" in one for one in argv)
    assert {block["type"] for block in prompt["message"]["content"]} == {"text", "image"}


async def test_a_session_begins_in_a_worktree_of_its_own(server: Server, page: Page) -> None:
    """When I tick that, it works beside what I have, not in it."""
    repository = make_repository(server.workspace / "app")
    await open_console(page, server, "#/new")
    await fill(page, "textarea[name=prompt]", "hello")
    await fill(page, "input[name=cwd]", str(repository))
    await click(page, "input[name=worktree]")
    await click(page, "main form button[type=submit]")
    await page.until("location.hash", lambda place: place.startswith("#/s/"))
    (session,) = server.ask("GET", "/sessions").json["sessions"]
    server.ended_job(server.ask("GET", "/generate/v2/jobs").json["jobs"][0]["taskId"])

    assert session["worktree"] == session["cwd"] != str(repository)
    assert (Path(session["worktree"]) / "eventlog.py").exists()


async def test_terminals_are_begun_listed_and_ended(server: Server, page: Page) -> None:
    """A shell that belongs to no session, on the screen of all of them."""
    await open_console(page, server, "#/terminals")
    await shows(page, "No terminal runs.")
    await click(page, "main button", "New terminal")
    await page.until("document.querySelector('.xterm-rows')?.innerText.trim()", bool)
    await click(page, "main header button")
    await shows(page, "console-")
    await click(page, "main li button", "End")
    await shows(page, "No terminal runs.")

    assert server.ask("GET", "/terminals").json["terminals"] == []


async def test_usage_adds_up_what_turns_have_cost(server: Server, page: Page) -> None:
    """By day and by session; a session's row leads there."""
    for _ in range(2):
        server.ended_job(server.start_job("hello"))
    await open_console(page, server, "#/usage")
    await shows(page, "2 turns")
    rows = await page.value(
        "[...document.querySelectorAll('main tbody tr')].map(row => row.innerText.split('\\t'))"
    )

    assert [row[1:2] + row[-1:] for row in rows] == [["2", "$0.50"], ["2", "$0.50"]]
    await click(page, "main tbody a", "hello")
    await page.until("location.hash", lambda place: place == "#/s/s")


async def test_settings_say_what_is_wrong_and_who_has_a_key(server: Server, page: Page) -> None:
    """An agent without credentials says so; a device's key is ended; a theme is kept."""
    for other in server.ask("GET", "/auth/tokens").json["tokens"]:
        server.ask("DELETE", f"/auth/tokens/{other['id']}").close()
    made = server.ask("POST", "/auth/tokens", {"name": "an old phone"}).json
    await open_console(page, server, "#/settings")
    await shows(page, "no credentials on this server")
    await shows(page, "an old phone")
    await click(page, "main li button", "Revoke")
    await shows(page, "No device has a key of its own.")
    await pick(page, "main select", "dark")
    await page.reload()

    await page.until("document.documentElement.dataset.theme", lambda theme: theme == "dark")
    assert server.ask("GET", "/sessions", Authorization=f"Bearer {made['token']}").status == 401


async def test_a_phone_has_a_bar_and_tabs_a_desk_has_a_panel(server: Server, page: Page) -> None:
    """Up to 1279 px the views of a session take its place, from 1280 on they stand beside the conversation."""
    server.ended_job(server.start_job("hello"))
    await page.resize(390, 844)
    await open_console(page, server)
    assert await page.value(LINKS.format("Main")) == ["Inbox", "Sessions", "New", "Terminals", "More"]
    await go(page, "#/s/s/details")
    names = await page.until(LINKS.format("Views of this session"), bool)
    assert names == ["Chat", "Changes", "Files", "Terminal", "Details"]
    await page.until(SHOWN, lambda found: found == [False, True, False])
    await page.resize(1279, 800)
    await page.until(SHOWN, lambda found: found == [False, True, False])
    await page.resize(1280, 800)
    await page.until(SHOWN, lambda found: found == [True, True, True])


async def test_each_screen_says_what_to_do_when_it_is_empty(server: Server, page: Page) -> None:
    """Nothing there is a sentence, not a blank."""
    server.ask("POST", "/sessions", {"sessionId": "s"}).close()
    await open_console(page, server, "#/inbox")
    for place, words in (
        ("#/inbox", "When an agent asks for leave"),
        ("#/terminals", "No terminal runs."),
        ("#/usage", "No turn has run yet."),
        ("#/s/s", "Nothing has been said yet."),
        ("#/s/s/files", "Nothing in here."),
    ):
        await go(page, place)
        await shows(page, words)
    server.ask("DELETE", "/sessions/s").close()
    await page.resize(390, 844)
    await go(page, "#/sessions")
    await shows(page, "Start the first one")


async def test_what_is_on_its_way_is_shown_to_who_waits(server: Server, page: Page) -> None:
    """A sketch of it, after a fifth of a second, and then what it is."""
    server.ended_job(server.start_job("hello"))
    async with proxy_to(server.port) as net:
        await open_console(page, server, "#/settings", net.port)
        net.passes.clear()
        await go(page, "#/usage")
        await shows(page, "Loading…")
        delay = await page.value(
            "getComputedStyle(document.querySelector('main div[role=status]:has(> .hidden)')).animationDelay"
        )
        net.passes.set()
        await shows(page, "1 turn")

    assert delay == "0.2s"


async def test_what_is_refused_says_why_and_has_an_id(server: Server, context: Context, page: Page) -> None:
    """What, which, and again when it has been mended; the request's id can be copied for who runs the server."""
    await context.do(
        "Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"]
    )
    server.ended_job(server.start_job("hello"))
    await open_console(page, server, "#/s/s/changes")
    await shows(page, "This session's directory is in no git repository.")
    number = await page.value("document.querySelector('[role=alert] code').innerText")
    await click(page, "[role=alert] [title=Copy]")
    await page.until("navigator.clipboard.readText()", lambda text: text == number)
    assert number in server.log
    subprocess.run(["git", "init", "-q"], cwd=server.workspace, check=True)
    await click(page, "[role=alert] button", "Try again")
    await page.until("document.querySelector('section[aria-label=Changes] [role=alert]') === null", bool)


async def test_a_lost_connection_moves_nothing(server: Server, page: Page) -> None:
    """It is told over the page, after two seconds; what I look at stays where it is."""
    server.ended_job(server.start_job("hello"))
    async with proxy_to(server.port) as net:
        await open_console(page, server, "#/s/s", net.port)
        await shows(page, "$0.25")
        await page.until("document.querySelector('main header').innerText", lambda head: "idle" in head)
        before = await page.until(BOXES, bool)
        await page.value(WHEN_LOST)
        net.leave()
        await shows(page, "Connection lost.")
        after = await page.value(BOXES)

    assert json.loads(after) == json.loads(before)
    assert await page.value("since - left >= 2000")


async def test_a_session_is_renamed_where_it_stands(server: Server, page: Page) -> None:
    """A double click on its name, and Enter."""
    server.ended_job(server.start_job("hello"))
    await open_console(page, server, "#/s/s")
    await page.until("document.querySelector('main h1')?.innerText", lambda name: name == "hello")
    await page.value(
        "document.querySelector('main h1').dispatchEvent(new MouseEvent('dblclick', {bubbles: true}))"
    )
    await page.until("document.activeElement.ariaLabel", lambda label: label == "Name")
    await page.value("document.activeElement.select()")
    await press(page, "Tidy")
    await page.type("\r")
    await page.until("document.querySelector('main h1')?.innerText", lambda name: name == "Tidy")

    assert server.ask("GET", "/sessions/s").json["name"] == "Tidy"
