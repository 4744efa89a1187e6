"""The console's sources: their types, their own tests, and that what is committed was built from them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from agentsrv.api.openapi import document
from agentsrv.api.routes import ROUTES
from tests.projections.test_acp import TRANSCRIPTS, log_of, rendered

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "console"
BUILT = ROOT / "agentsrv" / "console"

pytestmark = pytest.mark.tools


def run(*command: str) -> None:
    done = subprocess.run(command, cwd=SOURCES, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def contents(directory: Path) -> dict[str, bytes]:
    """Compressed files are left out: other versions of zlib compress otherwise."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.suffix != ".gz"}


def test_types() -> None:
    """TypeScript, at its strictest, finds nothing."""
    run("node_modules/.bin/tsc")


def test_units(tmp_path: Path) -> None:
    """The folds, also of what real agents did, the frames, the text: what needs no browser."""
    for path in TRANSCRIPTS:
        log = log_of(("t1", path.read_bytes().splitlines()))
        (tmp_path / f"{path.parent.name}-{path.stem}").write_bytes(rendered(log, path.parent.name))
    run("node", "test.mjs", str(tmp_path))


def test_what_is_committed_was_built_from_these_sources(tmp_path: Path) -> None:
    """`python3 dev.py console` has been run after the last change."""
    run("node", "build.mjs", str(tmp_path / "built"))

    assert contents(tmp_path / "built") == contents(BUILT)


ANSWERS = {
    "Session": "SessionActivity", "Job": "JobView", "MessagePage": "MessageList", "Queued": "QueuedView",
    "Entry": "Entry", "Match": "LineMatch", "Terminal": "TerminalView",
    "Device": "TokenView", "Question": "PermissionView",
    "Agent": "AgentView", "Prompt": "Generate", "DiffSummary": "DiffView", "DiffFile": "DiffFileView",
    "DiffHunk": "DiffHunkView",
}  # fmt: skip
"""By the page's type in src/api/types.ts: the schema of the server's document that it is a part of."""
GIVEN_WHEN_ASKED = {
    "MessagePage": {"eventIds", "firstEventId", "upToEventId"},
    "Prompt": {"message_id", "background"},
}
"""What is not always there, and is where the page asks for it, or is sent by the page itself."""


def test_what_the_page_reads_is_what_the_server_says() -> None:
    """Each field of its types is in the server's document, and may be missing or null where it is said to."""
    schemas = document(ROUTES, "1")["components"]["schemas"]
    read = fields_of((SOURCES / "src" / "api" / "types.ts").read_text())

    assert set(read) == set(ANSWERS)
    for name, fields in read.items():
        told = schemas[ANSWERS[name]]
        sure = set(told["required"]) | GIVEN_WHEN_ASKED.get(name, set())
        assert set(fields) <= set(told["properties"]), name
        assert {field for field, (is_sure, _) in fields.items() if is_sure} <= sure, name
        null = {field for field in fields if can_be_null(told["properties"][field])}
        assert null <= {field for field, (_, kind) in fields.items() if "null" in kind}, name


def fields_of(source: str) -> dict[str, dict[str, tuple[bool, str]]]:
    """By interface and field: whether it is always there, and its type."""
    interfaces = re.findall(r"^export interface (\w+) \{(.*?)^\}", source, re.MULTILINE | re.DOTALL)
    return {
        name: {
            field: (not optional, kind)
            for field, optional, kind in re.findall(r"^  (\w+)(\??): (.*);$", body, re.MULTILINE)
        }
        for name, body in interfaces
    }


def can_be_null(schema: dict[str, Any]) -> bool:
    return schema.get("type") == "null" or any(map(can_be_null, schema.get("anyOf", [])))


KB = 1000
LIMITS = {"main-*.css": 12 * KB, "screen-*.js": 95 * KB, "highlight-*.js": 35 * KB}
"""Compressed: what the first load, a terminal and a file's colours cost."""


def test_it_weighs_little() -> None:
    """What is loaded first has 80 kB of JavaScript, what is loaded later its own limit, all of it 1 MB."""
    for pattern, limit in LIMITS.items():
        (path,) = BUILT.glob(pattern)
        assert packed(path) <= limit, path.name
    assert sum(packed(path) for path in first_scripts()) <= 80 * KB
    assert sum(len(content) for content in contents(BUILT).values()) <= 1000 * KB


def packed(path: Path) -> int:
    return path.with_name(f"{path.name}.gz").stat().st_size


def first_scripts() -> list[Path]:
    """The script that the page names, and what that one cannot run without."""
    (main,) = BUILT.glob("main-*.js")
    needed = set(re.findall(r'(?:from|import)"\./([\w-]+\.js)"', main.read_text()))
    return [main, *(BUILT / name for name in needed)]


def test_the_lock_names_versions_and_no_addresses() -> None:
    """Each package by its content: whoever installs them takes them from the registry of their own."""
    lock = json.loads((SOURCES / "package-lock.json").read_text())
    packages = [package for path, package in lock["packages"].items() if path]

    assert [package for package in packages if "resolved" in package] == []
    assert all(package["version"] and package["integrity"] for package in packages)
    wanted = json.loads((SOURCES / "package.json").read_text())
    assert all(
        re.fullmatch(r"\d+\.\d+\.\d+", version)
        for version in (wanted["dependencies"] | wanted["devDependencies"]).values()
    )


def test_it_begins_at_once() -> None:
    """Something is shown before any script runs, and no script waits for the name of another."""
    page = (BUILT / "index.html").read_text()

    assert re.search(r'<div id="app"><p class="starting">\w+', page)
    assert {path.name for path in first_scripts()} == set(re.findall(r'"([\w-]+\.js)"', page))


def test_it_says_whose_work_is_in_it() -> None:
    """Each bundled package has its licence in licenses.txt."""
    licences = (BUILT / "licenses.txt").read_text()

    for package in ("preact ", "marked ", "diff ", "@xterm/xterm ", "highlight.js "):
        assert package in licences
    assert "Permission is hereby granted" in licences
