"""The user's own git settings count, as far as they are about files."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agentsrv.workspace.git.protocol import DiffRequest
from agentsrv.workspace.git.workers import GitWorkers
from agentsrv.workspace.paths import Workspace
from tests.kit import THREADS
from tests.workspace.git_kit import make_repository, run_git, write_files


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home/.config/git").mkdir(parents=True)
    return tmp_path / "home"


@asynccontextmanager
async def started(home: Path) -> AsyncIterator[GitWorkers]:
    workers = GitWorkers(Workspace(home.parent), {"HOME": str(home)}, THREADS.processes)
    try:
        yield workers
    finally:
        await workers.close()


async def changed(home: Path) -> list[str]:
    async with started(home) as workers:
        body = await workers.ask(DiffRequest(path="repo"))
    return [file["newPath"] or file["oldPath"] for file in json.loads(body + b"}")["files"]]


def changed_to_git(home: Path) -> list[str]:
    options = ["--porcelain", "-z", "--untracked-files=all"]
    listed = run_git(home.parent / "repo", "status", *options, environment={"HOME": str(home)})
    return sorted(line[3:] for line in listed.decode().split("\0") if line)


@pytest.mark.parametrize("place", ["core.excludesFile", "default"])
async def test_what_the_user_ignores_everywhere_is_ignored(tmp_path: Path, home: Path, place: str) -> None:
    """By `core.excludesFile`, or in git's own place for it."""
    root = make_repository(tmp_path / "repo", {"a": "a\n"})
    write_files(root, {"x.swp": "", "new": ""})
    if place == "default":
        (home / ".config/git/ignore").write_text("*.swp\n")
    else:
        (home / ".gitconfig").write_text("[core]\n\texcludesFile = ~/mine\n")
        (home / "mine").write_text("*.swp\n")

    assert ["new"] == await changed(home) == changed_to_git(home)


@pytest.mark.parametrize("settings", ["autocrlf", "attributes"])
async def test_line_ends_are_those_of_the_user(tmp_path: Path, home: Path, settings: str) -> None:
    """By `core.autocrlf`, or attributes of the user's own."""
    root = make_repository(tmp_path / "repo", {"a.txt": "a\nb\n"})
    if settings == "autocrlf":
        (home / ".gitconfig").write_text("[core]\n\tautocrlf = true\n")
    else:
        (home / ".config/git/attributes").write_text("*.txt text\n")
    (root / "a.txt").write_bytes(b"a\r\nb\r\n")

    assert [] == await changed(home)


async def test_programs_that_the_user_names_are_not_run(tmp_path: Path, home: Path) -> None:
    """Not even filters, monitors and text converters, which git itself would run."""
    script = home / "run"
    script.write_text(f"#!/bin/sh\ntouch {home}/CANARY\ncat\n")
    script.chmod(0o755)
    root = make_repository(tmp_path / "repo", {"a": "a\n"})
    (home / ".gitconfig").write_text(
        f"[core]\n\tfsmonitor = {script}\n\tpager = {script}\n\thooksPath = {home}\n"
        f'[filter "x"]\n\tclean = {script}\n\tsmudge = {script}\n\tprocess = {script}\n'
        f'[diff "x"]\n\ttextconv = {script}\n\tcommand = {script}\n'
    )
    (home / ".config/git/attributes").write_text("* filter=x diff=x\n")
    (root / "a").write_text("changed\n")

    assert ["a"] == await changed(home)
    assert not (home / "CANARY").exists()
