"""A terminal in a web page: xterm.js in a headless Chromium."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from tests.browser import Page
from tests.conftest import ServerMaker
from tests.kit import KEY, Server, script
from tests.screen import need

pytestmark = pytest.mark.tools

HERE = Path(__file__).parent / "browser"
XTERM = HERE / "node_modules" / "@xterm"
FILES = {
    "/": HERE / "page.html",
    "/xterm.js": XTERM / "xterm" / "lib" / "xterm.js",
    "/xterm.css": XTERM / "xterm" / "css" / "xterm.css",
    "/attach": HERE / "attach.html",
    "/addon-attach.js": XTERM / "addon-attach" / "lib" / "addon-attach.js",
    "/addon-fit.js": XTERM / "addon-fit" / "lib" / "addon-fit.js",
}
SCREEN = "screenText()"

FOLLOW = """
window.seen = [];
window.follow = async (body) => {
  const headers = { "Authorization": `Bearer ${key}`, "Content-Type": "application/json" };
  let url = `${server}/generate/v2`, options = { method: "POST", headers, body: JSON.stringify(body) };
  while (!seen.at(-1)?.done) {
    try {
      const answer = await fetch(url, options);
      if (!answer.ok) throw answer.status;
      url = `${server}/generate/v2/jobs/${answer.headers.get("X-Task-Id")}/stream`;
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let text = "", part; !(part = await reader.read()).done; ) {
        const frames = (text + part.value).split("\\n\\n");
        text = frames.pop();
        for (const [, data, id] of frames.map((frame) => frame.match(/^data: (.*)\\nid: (.*)$/m) ?? []))
          if (id) seen.push({ id: Number(id), ...JSON.parse(data) });
      }
    } catch { await new Promise((resolve) => setTimeout(resolve, 50)); }
    options = { headers: { ...headers, "Last-Event-ID": seen.at(-1).id } };
  }
};
"""
"""What a page does that reads streams with `fetch`, as it must to send the key."""


async def serve_page() -> tuple[web.AppRunner, str]:
    """The page on an origin of its own; where it is."""
    if not XTERM.exists():
        pytest.fail("xterm.js is not installed; `python3 dev.py tools` does it")
    app = web.Application()

    async def send(request: web.Request) -> web.FileResponse:
        return web.FileResponse(FILES[request.path])

    app.add_routes([web.get(path, send) for path in FILES])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


@pytest.fixture
async def origin() -> AsyncIterator[str]:
    runner, origin = await serve_page()
    yield origin
    await runner.cleanup()


def address(origin: str, server: Server, terminal_id: str = "t") -> str:
    return f"{origin}/#server=http://127.0.0.1:{server.port}&key={KEY}&terminalId={terminal_id}"


async def test_a_terminal_in_a_page(make_server: ServerMaker, origin: str, page: Page) -> None:
    """Type and see, resize, reload the page and find the screen again; also after the server was killed."""
    need("vim")
    server = make_server(ALLOWED_ORIGINS=origin, TERMINAL_SHELL="/bin/sh")
    await page.go(address(origin, server))
    await page.until("state", lambda state: state == "open")
    await page.type("echo pid-$$-$((6*7))\r")
    seen = await page.until(SCREEN, lambda screen: screen and "-42\n" in screen)
    pid = seen.split("pid-")[-1].split("-")[0]

    await page.resize(500, 300)
    cols, rows = await page.until("[terminal.cols, terminal.rows]", lambda size: size and size[0] < 70)
    await page.type("stty size\r")
    await page.until(SCREEN, lambda screen: f"\n{rows} {cols}\n" in screen)

    await page.type("vim -u NONE -i NONE -n\r")
    await page.until(SCREEN, lambda screen: "~\n~" in screen)
    await page.type("ischön 🙂\x1b")
    before = await page.until(SCREEN, lambda screen: "schön 🙂\n~" in screen)
    await page.reload()
    await page.until("state", lambda state: state == "open")
    await page.until(SCREEN, lambda screen: screen == before)

    server.kill9()
    server.start()
    await page.reload()
    await page.until("state", lambda state: state == "open")
    await page.until(SCREEN, lambda screen: screen == before)
    await page.type(":q!\r")
    await page.until(SCREEN, lambda screen: "~\n~" not in screen)
    await page.type(f"echo same-$(($$ - {pid})); exit 3\r")
    await page.until("state", lambda state: state == "ended 3")


async def test_the_attach_addon_of_xterm_works_as_it_is(
    make_server: ServerMaker, origin: str, page: Page
) -> None:
    """`encoding=raw` is what it speaks: bytes both ways and nothing else; the size is told in the URL and by HTTP."""
    server = make_server(ALLOWED_ORIGINS=origin, TERMINAL_SHELL="/bin/sh")
    await page.go(address(f"{origin}/attach", server).replace("attach/#", "attach#"))
    await page.until("state", lambda state: state == "open")
    await page.type("echo schön-$((6*7)); stty size\r")
    cols, rows = await page.value("[terminal.cols, terminal.rows]")
    seen = await page.until(SCREEN, lambda screen: f"\n{rows} {cols}\n" in screen)
    server.ask("PUT", "/terminals/t/size", {"cols": 60, "rows": 20}).body()
    await page.type("stty size\r")
    await page.until(SCREEN, lambda screen: "\n20 60\n" in screen)

    assert "schön-42" in seen
    assert "{" not in seen


async def test_a_page_misses_nothing_when_the_server_dies(
    make_server: ServerMaker, origin: str, page: Page
) -> None:
    """It reads its stream from another origin, loses the server, and gets each event once all the same."""
    server = make_server(ALLOWED_ORIGINS=origin, TERMINAL_SHELL="/bin/sh")
    await page.go(address(origin, server))
    await page.until("state", lambda state: state == "open")
    prompt = {"session_id": "s", "prompt": script("rate 100 enough 300")}
    await page.value(f"{FOLLOW}; void follow({json.dumps(prompt)})")
    await page.until("seen.length > 20", bool)

    server.kill9()
    server.start()
    before = await page.value("seen.length")
    await page.until(f"seen.length > {before}", bool)
    (server.workspace / "enough").touch()
    await page.until("seen.at(-1).done", bool)
    ids = [event.id for event in server.history("s")]
    assert ids == await page.value("seen.map((event) => event.id)")


async def test_a_page_from_elsewhere_gets_no_terminal(
    make_server: ServerMaker, origin: str, page: Page
) -> None:
    """Though it knows the key: its origin is not allowed."""
    server = make_server(ALLOWED_ORIGINS="https://app.example", TERMINAL_SHELL="/bin/sh")
    await page.go(address(origin, server))
    await page.until("state", lambda state: state and state.startswith("refused"))

    assert [] == server.ask("GET", "/terminals").json["terminals"]
