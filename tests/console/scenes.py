"""Sessions as they are in the life of a team: for pictures of the console, and for tests that look at all of it."""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path
from typing import Any

from tests.kit import Server, script, write_fake_agent

BEFORE = """\
async def follow(self, session, after=0):
    while True:
        self._armed.clear()
        rows = self._rows(session, after)
        for row in rows:
            yield row
        await self._armed.wait()
"""
AFTER = """\
async def follow(self, session, after=0):
    while True:
        self._armed.clear()
        async for row in self._rows(session, after):
            after = row.seq
            yield row
        await self._armed.wait()
"""
TESTS = "\x1b[1m===== test session starts =====\x1b[0m\ncollected 41 items\n\n" + "".join(
    f"tests/test_eventlog.py::test_{n} \x1b[32mPASSED\x1b[0m\n" for n in range(41)
)
ANSWER = """\
The follower is an **async generator** now, and keeps nothing but a cursor:

- `eventlog.py:4` reads row by row, so a slow reader costs no memory.
- The queue per follower is gone, with its three tests.

```python
async for row in log.follow(session, after=41):
    print(row.seq)
```

| | before | after |
|---|---:|---:|
| memory of 1,000 followers | 212 MB | 3 MB |
| p99 | 41 ms | 1.4 ms |
"""
_numbers = itertools.count(1)


def said(text: str) -> str:
    return _assistant({"type": "text", "text": text})


def thought(text: str) -> str:
    return _assistant({"type": "thinking", "thinking": text, "signature": ""})


def called(tool: str, given: dict[str, Any], result: str, *, is_error: bool = False) -> list[str]:
    """A call of a tool and what came of it."""
    number = f"toolu_{next(_numbers)}"
    back = {"type": "tool_result", "tool_use_id": number, "content": result, "is_error": is_error}
    answer = {"type": "user", "message": {"role": "user", "content": [back]}, "parent_tool_use_id": None}
    return [
        _assistant({"type": "tool_use", "id": number, "name": tool, "input": given}),
        f"raw {json.dumps(answer)}",
    ]


def _assistant(block: dict[str, Any]) -> str:
    message = {"id": f"msg_{next(_numbers)}", "role": "assistant", "content": [block]}
    return "raw " + json.dumps({"type": "assistant", "message": message, "parent_tool_use_id": None})


def work(repository: Path) -> list[str]:
    """The steps of a turn that looks, plans, edits, tests and tells of it."""
    file = str(repository / "eventlog.py")
    edit = {"file_path": file, "old_string": BEFORE, "new_string": AFTER}
    todos = [
        {"content": content, "activeForm": content, "status": status}
        for content, status in (
            ("Read the follower", "completed"),
            ("Make it a generator", "completed"),
            ("Run the tests", "in_progress"),
            ("Write it down", "pending"),
        )
    ]
    return [
        thought("The follower holds a queue. A cursor would be enough."),
        *called("Grep", {"pattern": "_rows", "path": str(repository)}, "eventlog.py:4\neventlog.py:5"),
        *called("TodoWrite", {"todos": todos}, "ok"),
        *called("Edit", edit, "The file has been updated."),
        *called("Bash", {"command": "python -m pytest tests/test_eventlog.py -q"}, TESTS),
        *called("Bash", {"command": "ruff check"}, "eventlog.py:9:1 F401 `asyncio` unused", is_error=True),
    ]


def make_repository(directory: Path) -> Path:
    """A small repository with one commit, and a change that is not committed."""
    (directory / "docs").mkdir(parents=True)
    (directory / "eventlog.py").write_text(BEFORE)
    (directory / "README.md").write_text("# eventlog\n\nA log that is a buffer.\n")
    (directory / "docs" / "design.md").write_text("# Design\n\nOne queue per follower.\n")
    for command in ("init -q -b main", "add .", "-c user.name=ada -c user.email=a@b.c commit -qm first"):
        subprocess.run(["git", *command.split()], cwd=directory, check=True)
    (directory / "eventlog.py").write_text(AFTER)
    (directory / "docs" / "design.md").write_text("# Design\n\nA cursor per follower.\n")
    (directory / "test_eventlog.py").write_text("def test_follow():\n    assert True\n")
    return directory


ASKED = {"command": "python -m pytest tests/test_eventlog.py -q", "description": "Run the tests"}
QUESTION = {
    "questions": [
        {
            "question": "Which base image?",
            "header": "Image",
            "multiSelect": False,
            "options": [
                {"label": "python:3.13-slim", "description": "Debian, 45 MB"},
                {"label": "python:3.13-alpine", "description": "musl, 17 MB"},
            ],
        }
    ]
}


def make_player(directory: Path, workspace: Path) -> Path:
    """An agent that does in `workspace` what the prompts of `stage` ask for."""
    app = workspace / "app"
    steps = work(app)
    plays = {
        "Tidy the parser: no queue per follower, and run the tests.": [*steps, said(ANSWER)],
        "Run the whole suite once more, please.": [
            said("One more run of the suite, with the linter's complaint mended."),
            *called(
                "Edit",
                {"file_path": f"{app}/eventlog.py", "old_string": "import asyncio\n", "new_string": ""},
                "ok",
            ),
            f"ask 1 Bash {json.dumps(ASKED)}",
        ],
        "Which test is flaky? Run it 200 times.": [
            *called("Grep", {"pattern": "lease", "path": "tests"}, "tests/test_lease.py:12"),
            *steps[3:5],
            said("It fails once in forty runs. I am looking at the lease."),
            "hang",
        ],
        "Upgrade to Python 3.13.": [f"ask 1 AskUserQuestion {json.dumps(QUESTION)}"],
        "Import the old database.": ["exit 3"],
        "Write docs for worktrees.": [
            *steps[1:3],
            said("Written in `docs/worktrees.md`, and linked from the README."),
        ],
    }
    file = directory / "plays.json"
    file.write_text(json.dumps({prompt: script(*play) for prompt, play in plays.items()}))
    return write_fake_agent(directory / "claude", f"plays {file}")


def stage(server: Server) -> None:
    """Sessions in all states: one waits for leave, one for an answer, one works, others are done or have failed."""
    repository = str(make_repository(server.workspace / "app"))
    _play(server, "docs", "Docs for worktrees", "Write docs for worktrees.", repository)
    _play(server, "import", "Import the old database", "Import the old database.", repository)
    _play(
        server,
        "tidy",
        "Tidy the parser",
        "Tidy the parser: no queue per follower, and run the tests.",
        repository,
    )
    server.start_job("Run the whole suite once more, please.", "tidy", permission_mode="ask")
    _open(server, "flaky", "Flaky test hunt", "Which test is flaky? Run it 200 times.", repository)
    _open(server, "upgrade", "Upgrade to Python 3.13", "Upgrade to Python 3.13.", repository)


def _play(server: Server, session: str, name: str, prompt: str, cwd: str) -> None:
    """One turn, to its end."""
    server.ended_job(_open(server, session, name, prompt, cwd))


def _open(server: Server, session: str, name: str, prompt: str, cwd: str) -> str:
    with server.ask("POST", "/sessions", {"sessionId": session, "name": name, "cwd": cwd}) as answer:
        assert answer.status == 201, answer.json
    return server.start_job(prompt, session, permission_mode="ask")
