"""Files and terminals in the console."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.browser import Page
from tests.console.page import click, fill, open_console, pick, press, shows
from tests.console.scenes import make_repository
from tests.kit import Server

pytestmark = pytest.mark.tools

EDITOR = "document.querySelector('main form textarea')"


async def begin(server: Server, page: Page, place: str) -> None:
    """A session in a small repository, looked at."""
    server.ended_job(server.start_job("hello", cwd=str(make_repository(server.workspace / "app"))))
    await open_console(page, server, place)


async def test_files_are_found_and_read(server: Server, page: Page) -> None:
    """By name, by what is in them, and by what an agent has written somewhere."""
    await begin(server, page, "#/s/s/files")
    await shows(page, "README.md")
    await fill(page, "form[role=search] input", "design")
    await click(page, "main ul a", "docs/design.md")
    await shows(page, "A cursor per follower.")
    assert await page.value("location.hash") == "#/s/s/files/" + await page.value(
        f"encodeURIComponent('{server.workspace}/app/docs/design.md')"
    )


async def test_a_directory_is_shown_as_it_changes(server: Server, page: Page) -> None:
    """What an agent writes is in the tree without my looking again."""
    await begin(server, page, "#/s/s/files")
    await shows(page, "README.md")
    (server.workspace / "app" / "brand-new.txt").write_text("x")
    await shows(page, "brand-new.txt")


async def test_an_edit_never_undoes_what_somebody_else_did(server: Server, page: Page) -> None:
    """Saved when nobody was faster; else I am asked first."""
    await begin(server, page, "#/s/s/files/README.md")
    file = server.workspace / "app" / "README.md"
    await click(page, "main button", "Edit")
    await page.until(f"!!{EDITOR}", bool)
    await page.value(f"{EDITOR}.value = 'mine'")
    file.write_text("somebody else's")
    await click(page, "main form button", "Save")
    await shows(page, "Somebody has changed this file meanwhile.")
    assert file.read_text() == "somebody else's"
    await click(page, "main form button", "Overwrite")
    await page.until("document.body.innerText.includes('Edit')", bool)
    await page.until(f"!{EDITOR} || {EDITOR}.id === 'composer'", bool)
    assert file.read_text() == "mine"


async def test_changes_are_compared_with_what_i_choose(server: Server, page: Page) -> None:
    """Since the last commit, with what was there before the agent came; since the session began, without it."""
    await begin(server, page, "#/s/s/changes")
    await shows(page, "3 files changed")
    (server.workspace / "app" / "made.txt").write_text("by the agent")
    await pick(page, "select[aria-label='Compared with']", "session:s")
    await shows(page, "1 file changed")
    await shows(page, "made.txt")


async def test_the_work_in_a_worktree_is_merged(server: Server, page: Page) -> None:
    """One button brings it to the branch that it began from, and says which that was."""
    repository = make_repository(server.workspace / "app")
    commit(repository)
    server.ended_job(server.start_job("hello", cwd=str(repository), use_worktree=True))
    worktree = Path(server.ask("GET", "/sessions/s").json["worktree"])
    (worktree / "made.txt").write_text("by the agent")
    commit(worktree)
    await open_console(page, server, "#/s/s/details")
    await click(page, "section[aria-label='Merge its work'] button", "Merge")
    await shows(page, "Merged into main.")

    assert (repository / "made.txt").exists()


async def test_work_that_would_be_lost_is_named_before_it_is(server: Server, page: Page) -> None:
    """A session whose worktree has changes is deleted only when I say so twice."""
    repository = make_repository(server.workspace / "app")
    commit(repository)
    server.ended_job(server.start_job("hello", cwd=str(repository), use_worktree=True))
    worktree = Path(server.ask("GET", "/sessions/s").json["worktree"])
    (worktree / "made.txt").write_text("by the agent")
    await open_console(page, server, "#/s/s/details")
    await page.value("window.confirm = () => true")
    await click(page, "button", "Delete…")
    await shows(page, "made.txt")
    assert worktree.exists()
    await click(page, "button", "Delete all the same")
    await page.until("location.hash", lambda place: place == "#/sessions")

    assert not worktree.exists()
    assert server.ask("GET", "/sessions/s").status == 404


def commit(directory: Path) -> None:
    for command in ("add .", "-c user.name=ada -c user.email=a@b.c commit -qm more"):
        subprocess.run(["git", *command.split()], cwd=directory, check=True)


async def test_a_terminal_outlives_the_page(server: Server, page: Page) -> None:
    """I type a command, load the page anew, and the same shell is there with what it had said."""
    await begin(server, page, "#/s/s/terminal")
    await page.until("!!document.querySelector('.xterm-screen')", bool)
    await page.until("document.querySelector('.xterm-rows')?.innerText.trim()", bool)
    await page.value("document.querySelector('.xterm-helper-textarea').focus()")
    await press(page, "echo six times seven is $((6*7))")
    await page.type("\r")
    await shows(page, "six times seven is 42")
    await page.reload()
    await open_console(page, server, "#/s/s/terminal")
    await shows(page, "six times seven is 42")
