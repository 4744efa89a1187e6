"""The command line with the real programs, which talk to scripted models."""

from __future__ import annotations

import pytest

from tests.cli.kit import command, environment, object_of
from tests.cli.window import Window
from tests.kit import Server, script


def test_claude_asks_works_and_answers(claude_server: Server) -> None:
    """On a terminal: its question answered by a key, its call and its text in the transcript."""
    server = claude_server
    server.workspace.mkdir(parents=True, exist_ok=True)
    prompt = script("bash touch made", "text all done")
    words = ("run", prompt, "--ask", "-s", "s")
    window = Window(*words, cwd=server.workspace, environment=environment(server, server.directory))
    try:
        window.shows("y allow")
        window.type("y")
        assert window.ended() == 0
        transcript = command(server, "logs", "s").stdout.rstrip().split("\n")
        shown = window.text.split("\n")
    finally:
        window.close()

    assert (server.workspace / "made").exists()
    assert transcript == shown[1:-1]
    assert [line for line in transcript if "execute touch made" in line]
    assert transcript[-1] == "all done"
    assert "context" in shown[-1]


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_codex_answers(codex_server: Server, words: tuple[str, ...]) -> None:
    """In a pipe."""
    codex_server.workspace.mkdir(parents=True, exist_ok=True)
    done = command(codex_server, "run", script("bash echo hi", "text all done"), "--agent", "codex", *words)

    assert done.returncode == 0, done.stderr
    assert "all done" in done.stdout


def test_a_budget_ends_it(claude_server: Server) -> None:
    """`--max-budget USD`: the agent stops when it gets there; that is no success."""
    claude_server.workspace.mkdir(parents=True, exist_ok=True)
    dear = script("usage 1000 30000", "bash echo one", "usage 1000 30000", "bash echo two", "text ok")
    words = ("run", dear, "--max-budget")
    ended = command(claude_server, *words, "0.01", "--json")
    within = command(claude_server, *words, "500")

    assert (1, "max_budget_reached") == (ended.returncode, object_of(ended.stdout)["code"]), ended.stderr
    assert (0, "ok\n") == (within.returncode, within.stdout), within.stderr


def test_a_schema_gives_an_object(claude_server: Server) -> None:
    """`--schema FILE`: the answer is what fits it."""
    claude_server.workspace.mkdir(parents=True, exist_ok=True)
    (claude_server.workspace / "s.json").write_text(
        '{"type": "object", "properties": {"n": {"type": "number"}}, "required": ["n"]}'
    )
    done = command(
        claude_server, "run", script('structured {"n": 4}', "text ok"), "--schema", "s.json", "--json"
    )

    assert done.returncode == 0, done.stderr
    assert '"structuredOutput": {"n": 4}' in done.stdout
