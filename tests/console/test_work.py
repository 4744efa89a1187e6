"""What people do with a session besides reading it: pictures, files, the queue, what runs on, and being told."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.browser import Context, Page
from tests.console.page import DRAFT, FEED, ROWS, TOP, click, fill, kept, open_console, pick, press, shows
from tests.kit import Server, script, wait_until
from tests.turns.test_background import leave
from tests.turns.test_timers import plans

pytestmark = pytest.mark.tools

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
NAMES = """
    [...document.querySelectorAll('a[data-status] > span:nth-child(2)')]
    .filter(one => one.offsetParent).map(one => one.innerText)
"""
"""Of the sessions that are listed."""
WAITS = script("await-steer", "hang")


def given(name: str, kind: str, content: bytes) -> str:
    """An expression: these files, as a clipboard or a hand has them."""
    data = base64.b64encode(content).decode()
    file = (
        f"new File([Uint8Array.from(atob('{data}'), one => one.charCodeAt(0))], '{name}', {{type: '{kind}'}})"
    )
    return f"(() => {{ const files = new DataTransfer(); files.items.add({file}); return files; }})()"


def starts_with(words: str) -> Callable[[str | None], bool]:
    return lambda text: (text or "").startswith(words)


async def choose(page: Page, selector: str, files: str) -> None:
    """Choose files in an input of the page."""
    field = f"document.querySelector({json.dumps(selector)})"
    await page.until(f"!!{field}", bool)
    await page.value(
        f"{field}.files = {files}.files; {field}.dispatchEvent(new Event('change', {{bubbles: true}})); true"
    )


async def test_a_pasted_picture_goes_with_the_prompt(server: Server, page: Page) -> None:
    """It is in the draft over a reload, can be seen in the conversation, and the agent has got it."""
    server.ended_job(server.start_job("hello"))
    await open_console(page, server, "#/s/s")
    await page.until("!!document.getElementById('composer')", bool)
    paste = (
        f"new ClipboardEvent('paste', {{bubbles: true, clipboardData: {given('a.png', 'image/png', PNG)}}})"
    )
    await page.value(f"document.getElementById('composer').dispatchEvent({paste})")
    await page.until(kept("draft s"), lambda draft: draft and len(draft["images"]) == 1)
    await page.reload()
    await open_console(page, server, "#/s/s")
    await page.until("!!document.querySelector('form img')", bool)
    await fill(page, "#composer", "What is this?")
    await page.type("\r")
    await page.until("!!document.querySelector('article[data-kind=user] img')", bool)
    (_, sent) = [event.json for event in server.history() if event.type == "user"]

    assert {block["type"] for block in sent["message"]["content"]} == {"text", "image"}
    await page.until(DRAFT, lambda text: text == "")


@pytest.mark.parametrize(("place", "field"), [("#/s/s", "#composer"), ("#/new", "textarea[name=prompt]")])
async def test_a_picture_can_be_dropped(
    server: Server, page: Page, tmp_path: Path, place: str, field: str
) -> None:
    """Where I write, also into a session that does not exist yet; what is no picture is left out, and named."""
    server.ended_job(server.start_job("hello"))
    await open_console(page, server, place)
    files = [tmp_path / "a.png", tmp_path / "notes.txt"]
    for file in files:
        file.write_bytes(PNG)
    box = f"(({{x, y}}) => [x + 5, y + 5])(document.querySelector('{field}').getBoundingClientRect())"
    x, y = await page.until(box, bool)
    data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        await page.do("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    await page.until("document.querySelectorAll('form img').length", lambda count: count == 1)
    await page.until(
        "document.querySelector('form p[role=status]').innerText", lambda text: "notes.txt" in text
    )


async def test_prompts_that_wait_can_be_moved(server: Server, page: Page) -> None:
    """While a turn runs I choose to queue; what waits is told, and the second one is moved before the first."""
    server.start_job(WAITS)
    await open_console(page, server, "#/s/s")
    await pick(page, "form select:has(option[value=queue])", "queue")
    for prompt in ("first", "second"):
        await fill(page, "#composer", prompt)
        await page.type("\r")
        await page.until(DRAFT, lambda text: text == "")
    await click(page, "form summary", "2 prompts wait")
    await click(page, "form li button[title='Move up']")
    waiting = "document.querySelector('form ol').innerText"
    await page.until(waiting, lambda text: text.index("second") < text.index("first"))

    assert [one["prompt"] for one in server.ask("GET", "/sessions/s/queue").json["queue"]] == [
        "second",
        "first",
    ]


async def test_j_and_k_go_from_turn_to_turn(server: Server, page: Page) -> None:
    """K leads to the prompt before, J to the next one, however long what lies between is."""
    long = "\n\n".join(f"line {n}" for n in range(60))
    for prompt in ("one", "two", "three"):
        server.ended_job(server.start_job(f"{prompt}\n\n{long}"))
    await open_console(page, server, "#/s/s")
    await page.until(f"({ROWS}).at(-1)", lambda text: text and "done" in text)
    await page.value(f"{FEED}.focus()")
    for key, prompt in (("k", "three"), ("k", "two"), ("j", "three"), ("k", "two"), ("k", "one")):
        await press(page, key)
        await page.until(TOP, starts_with(prompt))


async def test_sessions_are_found_and_put_away(server: Server, page: Page) -> None:
    """By a word of where they work; several at once go to the archive, and one comes back."""
    for name in ("alpha", "beta", "gamma"):
        directory = server.workspace / ("shop" if name != "gamma" else "blog")
        directory.mkdir(exist_ok=True)
        body = {"sessionId": name, "name": name, "cwd": str(directory)}
        assert server.ask("POST", "/sessions", body).status == 201
    await page.resize(1440, 900)
    await open_console(page, server)
    await fill(page, "input[type=search]", "shop")
    await page.until(NAMES, lambda names: sorted(names) == ["alpha", "beta"])
    await click(page, "button[title='Choose several']")
    await click(page, "button", "All")
    await click(page, "button", "Archive 2")
    await shows(page, "No session fits.")
    await click(page, "button[title='Archived sessions']")
    await page.until(NAMES, lambda names: sorted(names) == ["alpha", "beta"])
    await click(page, "button[title='Choose several']")
    await click(page, "input[aria-label=beta]")
    await click(page, "button", "Take back 1")
    await page.until(NAMES, lambda names: names == ["alpha"])

    found = {
        one["id"]: one["archivedAt"] for one in server.ask("GET", "/sessions?archived=true").json["sessions"]
    }
    assert list(found) == ["alpha"]


async def test_words_are_found_wherever_they_were_said(server: Server, page: Page) -> None:
    """/ and a word: so many places, and the last one is in the window; Enter leads to the one before."""
    for prompt in ("the needle", *(f"{n} is hay" for n in range(12)), "a Needle again"):
        server.ended_job(server.start_job(prompt))
    await open_console(page, server, "#/s/s")
    await page.until(f"({ROWS}).at(-1)", lambda text: text and "done" in text)
    await page.value("document.activeElement.blur()")
    await press(page, "/")
    await fill(page, "input[aria-label='Find in this conversation']", "needle")
    await shows(page, "4 of 4")
    await page.type("\r")
    await shows(page, "3 of 4")
    for _ in range(2):
        await page.type("\r")
    await page.until(TOP, starts_with("the needle"))


async def test_an_effort_is_chosen_for_a_prompt(server: Server, page: Page) -> None:
    """What the agent offers can be chosen, and the next prompt has it."""
    server.ended_job(server.start_job("hello"))
    await open_console(page, server, "#/s/s")
    await pick(page, "form select[aria-label=Effort]", "high")
    await fill(page, "#composer", script("echo"))
    await page.type("\r")
    await page.until(f"({ROWS}).filter(text => text.startsWith('done ·')).length", lambda ended: ended == 2)
    (argv,) = [event.json["argv"] for event in server.history() if event.type == "fake"]

    assert "--effort=high" in argv


async def test_files_go_up_and_come_down(
    server: Server, context: Context, page: Page, tmp_path: Path
) -> None:
    """Chosen files are in the session's directory; a file of it is saved by the browser itself, as it is."""
    content = bytes(range(256)) * 1000
    (server.workspace / "data.bin").write_bytes(content)
    server.ended_job(server.start_job("hello"))
    await context.do("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    await open_console(page, server, "#/s/s/files")
    await choose(page, "form[role=search] input[type=file]", given("up.txt", "text/plain", b"from here"))
    await shows(page, "up.txt")
    assert (server.workspace / "up.txt").read_bytes() == b"from here"

    await click(page, "main ul a", "data.bin")
    await click(page, "button[title=Download]")
    saved = tmp_path / "data.bin"
    wait_until(lambda: saved.exists() and saved.read_bytes() == content)
    assert "ticket=" not in server.log


async def test_what_an_agent_has_planned_can_be_cancelled(server: Server, page: Page) -> None:
    """Details show when it comes and what will be asked; cancelled, it is gone from the server too."""
    server.ended_job(server.start_job(script(*plans("Look at the build again", 900))))
    await open_console(page, server, "#/s/s/details")
    await shows(page, "Look at the build again")
    await click(page, "section[aria-label='Planned for later'] button", "Cancel")
    await page.until("document.querySelector('section[aria-label=\"Planned for later\"]') === null", bool)

    assert server.ask("GET", "/sessions/s/timers").json["timers"] == []


async def test_what_an_agent_has_left_running_can_be_ended(server: Server, page: Page) -> None:
    """Details name the command that runs on behind the turns; ended, it is gone from the server too."""
    leave(server, "s")
    await open_console(page, server, "#/s/s/details")
    await shows(page, "npm start")
    await click(page, "section[aria-label='Runs in the background'] button", "End")
    await page.until(
        "document.querySelector('section[aria-label=\"Runs in the background\"]') === null", bool
    )

    assert server.ask("GET", "/sessions/s/background").json["tasks"] == []


async def test_who_looks_elsewhere_is_told_of_a_question(
    server: Server, context: Context, page: Page
) -> None:
    """With notifications on and the page hidden, the browser shows what is asked, and where."""
    await context.do("Browser.grantPermissions", permissions=["notifications"])
    await open_console(page, server, "#/settings")
    await page.until("!!document.querySelector('main label input[type=checkbox]')", bool)
    await click(page, "main label", "Notify me")
    await page.until("JSON.parse(localStorage['agentsrv-console-preferences'] ?? '{}').notifies", bool)
    await page.value(
        "window.told = []; window.Notification = class { static permission = 'granted';"
        "constructor(title, {body}) { told.push(`${title}: ${body}`) } };"
        "Object.defineProperty(document, 'hidden', {get: () => true, configurable: true}); true"
    )
    server.start_job(script('ask 1 Bash {"command": "ls"}'), permission_mode="ask")
    await page.until("told[0]", lambda told: told and told.startswith("s asks: ") and "ls" in told)


async def test_a_tab_that_nobody_looks_at_hangs_up(server: Server, page: Page) -> None:
    """After half a minute out of sight its stream is closed; looked at again, it shows what it has missed."""
    await page.do("Page.enable")
    await page.do("Page.addScriptToEvaluateOnNewDocument", source=FAST_AND_COUNTED)
    server.ended_job(server.start_job("hello"))
    await open_console(page, server, "#/s/s")
    await page.until("streams", lambda count: count == 1)
    await page.value("see(false)")
    await page.until("streams", lambda count: count == 0)
    server.ended_job(server.start_job("meanwhile"))
    assert "meanwhile" not in await page.value("document.querySelector('[role=feed]').innerText")
    await page.value("see(true)")
    await page.until(f"({ROWS}).filter(text => text == 'meanwhile').length", lambda count: count == 2)


FAST_AND_COUNTED = """
    window.streams = 0;
    const [realFetch, realTimeout] = [window.fetch, window.setTimeout];
    window.fetch = async (url, options) => {
        const answer = await realFetch(url, options);
        if (String(url).includes('/events?')) {
            streams += 1;
            options.signal.addEventListener('abort', () => (streams -= 1));
        }
        return answer;
    };
    window.setTimeout = (work, ms, ...more) => realTimeout(work, ms === 30000 ? 10 : ms, ...more);
    let isSeen = true;
    Object.defineProperty(document, 'hidden', {get: () => !isSeen});
    window.see = now => { isSeen = now; document.dispatchEvent(new Event('visibilitychange')); };
"""
"""Half a minute is over at once, and open streams of conversations are counted."""


async def test_a_part_that_is_gone_after_an_upgrade_offers_to_reload(server: Server, page: Page) -> None:
    """The server has a newer console, and a part of this one is not there any more: it says so, and what to do."""
    server.ended_job(server.start_job("hello"))
    await page.do("Network.enable")
    await page.do("Network.setBypassServiceWorker", bypass=True)
    await page.do("Network.setBlockedURLs", urls=["*screen-*"])
    await open_console(page, server, "#/s/s/terminal")
    await shows(page, "The server has a newer console.")
    await page.until(
        "document.querySelector('[role=status] button')?.innerText", lambda text: text == "Reload"
    )
