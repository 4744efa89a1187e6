"""What is the server's own, or would be obeyed later, is not changed over HTTP, in no order and by no way."""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ServerMaker
from tests.kit import Server


@pytest.mark.parametrize("name", ["alias", "app/db", "app", "around", "around/link"])
def test_links_on_the_way_to_the_database_stay(make_server: ServerMaker, tmp_path: Path, name: str) -> None:
    """Neither deleted, moved away nor replaced, nor what holds them: the next start finds all that was stored."""
    base, far = tmp_path / "base", tmp_path / "far"
    for directory in (far, base / "app", base / "around"):
        directory.mkdir(parents=True)
    (base / "app/db").symlink_to(far)
    (base / "around/link").symlink_to(base / "app")
    (base / "alias").symlink_to(base / "around/link")
    (base / "other").write_text("x")
    database = str(base / "alias/db/agentsrv.db")
    server = make_server(WORKSPACE_BASE_PATH=str(base), DATABASE_PATH=database)
    asked = [
        server.ask("DELETE", f"/filesystem/entry?path={name}&recursive=true"),
        server.ask("POST", "/filesystem/move", {"from": name, "to": "moved"}),
        server.ask("POST", "/filesystem/move", {"from": "other", "to": name, "overwrite": True}),
    ]

    assert [answer.status for answer in asked] == [403] * 3
    assert (base / "alias/db/agentsrv.db").is_file()


PIECES = ("HEAD", "objects/info/x", "refs/heads/x")


@pytest.mark.parametrize("order", list(itertools.permutations(PIECES)))
def test_no_order_of_writes_makes_a_repository(server: Server, order: tuple[str, ...]) -> None:
    """The last piece is refused, put there or moved there: git finds nothing whose settings it would obey."""
    for name in order:
        server.ask("PUT", f"/filesystem/content?path=put/{name}", "ref: refs/heads/main")
        server.ask("PUT", f"/filesystem/content?path=stage/{name}", "ref: refs/heads/main")
        piece = name.split("/")[0]
        server.ask("POST", "/filesystem/directory", {"path": "moved", "parents": True})
        server.ask("POST", "/filesystem/move", {"from": f"stage/{piece}", "to": f"moved/{piece}"})
    base = server.directory / "base"
    names = [path.split("/")[0] for path in order]

    for made in ("put", "moved"):
        assert sorted(os.listdir(base / made)) == sorted(names[:2])
        git = ["git", "-C", str(base / made), "rev-parse", "--git-dir"]
        assert subprocess.run(git, capture_output=True, check=False).returncode != 0
