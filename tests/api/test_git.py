"""Git over HTTP: what comes back, and what a bad request gets."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agentsrv.api.schemas import DiffView, RepositoryList
from tests.api.kit import Server
from tests.workspace.git_kit import commit, make_repository, run_git, write_files


@pytest.fixture
def base(server: Server) -> Path:
    return server.base


@pytest.fixture
def repo(base: Path) -> Path:
    return make_repository(base / "repo", {"a.txt": "one\ntwo\n", "sub/b.txt": "b\n"})


async def diff(server: Server, path: str = "repo", **query: Any) -> DiffView:
    answer = await server.get("/git/diff", params={"path": path, **query})
    assert answer.status == 200, answer.text
    return msgspec.json.decode(answer.text, type=DiffView)


async def test_changes_come_by_file_hunk_and_line(server: Server, repo: Path) -> None:
    """A changed line is a deleted and an added one, with the numbers that it has on either side."""
    write_files(repo, {"a.txt": "one\n2\n"})
    found = await diff(server)

    assert (str(repo), "repo", "HEAD", None) == (found.repo_path, found.relative_path, found.base, found.head)
    [file] = found.files
    assert ("a.txt", "a.txt", "modified", 1, 1) == (
        file.old_path,
        file.new_path,
        file.status,
        file.additions,
        file.deletions,
    )
    assert [("context", "one", 1, 1), ("del", "two", 2, None), ("add", "2", None, 2)] == [
        (line.type, line.content, line.old_line, line.new_line) for line in file.hunks[0].lines
    ]
