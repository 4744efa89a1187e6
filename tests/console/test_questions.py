"""Questions of agents, and what people say to them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.browser import Page
from tests.console.page import CAN_ANSWER, click, fill, open_console, press, shows
from tests.console.scenes import QUESTION
from tests.kit import Server, script

pytestmark = pytest.mark.tools

ASKS = script('ask 1 Bash {"command": "ls"}')


def answers(server: Server) -> list[dict[str, Any]]:
    """What became of the session's questions."""
    return [event.json for event in server.history() if event.type == "permission_resolved"]


async def asked(server: Server, page: Page, steps: str) -> str:
    """A job that waits for an answer, and a page that may give it."""
    task = server.start_job(steps, permission_mode="ask")
    await open_console(page, server, "#/s/s")
    await page.until(CAN_ANSWER, bool)
    return task


async def test_who_denies_says_why(server: Server, page: Page) -> None:
    """D on the focused card asks for a reason; the agent gets it, and it stands in the conversation."""
    task = await asked(server, page, ASKS)
    await page.value("document.querySelector('section[tabindex]').focus()")
    await press(page, "d")
    await fill(page, "textarea[name=why]", "Not on a Friday.")
    await click(page, "button", "Deny now")

    server.ended_job(task)
    assert [(one["decision"], one["message"]) for one in answers(server)] == [("deny", "Not on a Friday.")]
    await shows(page, "Not on a Friday.")


async def test_what_was_allowed_for_a_session_can_be_taken_back(server: Server, page: Page) -> None:
    """It is not asked again, and the session's details name it until it is taken back."""
    task = await asked(server, page, ASKS)
    await click(page, "button", "Allow in this session")
    server.ended_job(task)
    again = server.ended_job(server.start_job(ASKS, permission_mode="ask"))
    assert again["status"] == "completed"
    await page.value("location.hash = '#/s/s/details'")
    await click(page, "section[aria-label='Allowed in this session'] button", "Take back")
    await page.until(
        "document.querySelector('section[aria-label=\"Allowed in this session\"]') === null", bool
    )

    assert server.ask("GET", "/sessions/s/allowances").json["allowances"] == []


async def test_a_choice_is_answered_by_its_words(server: Server, page: Page) -> None:
    """What only a person knows: one of the agent's choices."""
    task = await asked(server, page, script(f"ask 1 AskUserQuestion {json.dumps(QUESTION)}"))
    await click(page, "fieldset label", "python:3.13-alpine")
    await click(page, "button", "Answer")

    assert server.ended_job(task)["status"] == "completed"
    assert "python:3.13-alpine" in json.dumps(answers(server))
    await shows(page, "Answered Which base image?\n\npython:3.13-alpine")
    await page.reload()
    await open_console(page, server, "#/s/s")
    await shows(page, "Answered Which base image?\n\npython:3.13-alpine")


async def test_a_question_can_be_refused_by_a_key(server: Server, page: Page) -> None:
    """As a command can: the card says which key that is."""
    task = await asked(server, page, script(f"ask 1 AskUserQuestion {json.dumps(QUESTION)}"))
    await page.value("document.querySelector('section[tabindex]').focus()")
    await press(page, "d")
    await fill(page, "textarea[name=why]", "Neither.")
    await click(page, "button", "Deny now")

    server.ended_job(task)
    assert [one["decision"] for one in answers(server)] == ["deny"]


async def test_the_real_claude_asks_and_is_answered(claude_server: Server, page: Page) -> None:
    """Its question is the same card; what it does and says afterwards is in the conversation."""
    claude_server.workspace.mkdir(parents=True, exist_ok=True)
    task = await asked(claude_server, page, script("bash touch made", "text all done"))
    await shows(page, "touch made")
    await click(page, "button", "Allow")

    assert claude_server.ended_job(task)["status"] == "completed"
    await shows(page, "all done")
    assert (claude_server.workspace / "made").exists()


async def test_an_edit_is_asked_as_a_difference(server: Server, page: Page) -> None:
    """What goes and what comes, where, since when, and when it is denied by itself."""
    given = {"file_path": "/w/a.py", "old_string": "x = 1", "new_string": "x = 2"}
    await asked(server, page, script(f"ask 1 Edit {json.dumps(given)}"))
    card = "document.querySelector('[role=feed] section').innerText"
    text = await page.until(card, lambda text: "denied by itself" in text)

    assert "Change this file?" in text
    assert "/w/a.py" in text
    assert "asked " in text
    lines = "[...document.querySelectorAll('[role=feed] section [data-kind]')].map(one => one.dataset.kind)"
    assert await page.value(lines) == ["old", "new"]


async def test_letters_answer_only_the_card_that_has_the_focus(server: Server, page: Page) -> None:
    """Y, A and D elsewhere are nothing; on the card, A allows it for the session."""
    task = await asked(server, page, ASKS)
    await page.value("document.activeElement.blur()")
    await press(page, "yad")
    assert server.job(task)["status"] == "waiting_for_approval"
    await page.value("document.querySelector('section[tabindex]').focus()")
    await press(page, "a")

    server.ended_job(task)
    assert [(one["decision"], one.get("remember")) for one in answers(server)] == [("allow", "session")]


async def test_a_card_that_has_moved_is_not_answered(server: Server, page: Page) -> None:
    """Something above it goes in the moment of the tap: the tap was meant for what had been there."""
    task = await asked(server, page, ASKS)
    tap = "document.querySelector('section[tabindex] button.primary').click()"
    await page.value(f"document.querySelector('main header').remove(); {tap}")
    await page.until("!!document.querySelector('section[tabindex] [aria-disabled=true]')", bool)
    assert server.job(task)["status"] == "waiting_for_approval"
    await page.until(CAN_ANSWER, bool)
    await page.value(tap)

    assert server.ended_job(task)["status"] == "completed"


async def test_what_was_asked_and_said_is_there_after_a_reload(server: Server, page: Page) -> None:
    """A conversation that is read again has its questions where they were."""
    task = await asked(server, page, ASKS)
    body = {"decision": "deny", "message": "Not now."}
    assert server.ask("POST", f"/generate/v2/jobs/{task}/permissions/ask-1", body).status == 200
    server.ended_job(task)
    await page.reload()
    await open_console(page, server, "#/s/s")
    await shows(page, "Denied")
    await shows(page, "Not now.")
