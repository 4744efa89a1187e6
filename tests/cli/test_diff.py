"""`agentsrv diff`: what a session has changed, for `git apply`, for people, and for the exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Open
from tests.cli.kit import command, object_of
from tests.kit import Server
from tests.workspace.git_kit import make_repository, run_git, write_files


@pytest.fixture
def changed(server: Server, session: str) -> Path:
    """The repository in which the session works, with a long change, and one that a terminal would obey."""
    root = make_repository(server.workspace / session, {"a.txt": "one\n"})
    server.generate("hello", session, cwd=str(root)).rest()
    write_files(
        root, {"a.txt": "1\n", "b.txt": "".join(f"line {n}\n" for n in range(60)) + "\x1b]0;evil\x07\n"}
    )
    return root


def test_a_diff_is_a_patch(server: Server, session: str) -> None:
    """What a session has changed in its worktree since it began, also what it has committed."""
    root = make_repository(server.workspace / session, {"a.txt": "one\n", "b.txt": "x\n"})
    server.generate("hello", session, cwd=str(root), use_worktree=True).rest()
    worktree = Path(server.ask("GET", f"/sessions/{session}").json["worktree"])
    write_files(worktree, {"a.txt": "1\n"})
    run_git(worktree, "commit", "--all", "--quiet", "--message", "one")
    write_files(worktree, {"c d.txt": "new\n"})
    patch = command(server, "diff", session).stdout
    run_git(root, "apply", stdin=patch.encode())

    assert {"a.txt": "1\n", "c d.txt": "new\n"} == {n: (root / n).read_text() for n in ("a.txt", "c d.txt")}
    assert command(server, "diff", session, "--name-only").stdout == "a.txt\nc d.txt\n"
    assert (
        "2 files changed, 2 insertions(+), 1 deletions(-)"
        in command(server, "diff", session, "--stat").stdout
    )
    assert command(server, "diff", session, "--exit-code").returncode == 1


def test_a_diff_with_another_revision(server: Server, session: str, changed: Path) -> None:
    """`--base REV`; what is no revision is refused."""
    run_git(changed, "commit", "--all", "--quiet", "--message", "a")
    since_head = command(server, "diff", session, "--name-only").stdout
    since_before = command(server, "diff", session, "--base", "HEAD~1", "--name-only").stdout

    assert (since_head, since_before) == ("b.txt\n", "a.txt\nb.txt\n")
    assert command(server, "diff", session, "--base", "no-such").returncode == 5


def test_no_difference(server: Server, session: str, changed: Path) -> None:
    """Nothing is printed, and `--exit-code` is 0; without it a difference is no failure."""
    told = command(server, "diff", session)
    run_git(changed, "add", "--all")
    run_git(changed, "commit", "--quiet", "--message", "all")
    none = command(server, "diff", session, "--exit-code")

    assert told.returncode == 0
    assert (0, "", "") == (none.returncode, none.stdout, none.stderr)
    assert object_of(command(server, "diff", session, "--json").stdout)["files"] == []


def test_a_diff_in_a_window_has_colours_and_a_pager(changed: Path, session: str, open_window: Open) -> None:
    """The first page, and more by a key; nothing of what is in the files is obeyed, and Ctrl-C is the pager's."""
    window = open_window("diff", session, rows=20)
    window.shows("\n:")
    first = window.text
    window.type("G")
    window.shows("+^[]0;evil^G")
    before = len(window.output)
    window.type("\x03")
    window.until(lambda: len(window.output) > before, "prompt of the pager")
    window.type("q")

    assert window.ended() == 0
    assert "+line 0\n" in first
    assert "+line 59" not in first
    assert b"\x1b[31m-one\x1b[0m" in window.output
    assert b"\x1b[32m+1\x1b[0m" in window.output
    assert b"\x1b]0;" not in window.output


@pytest.mark.parametrize(
    ("variables", "words"), [({"PAGER": ""}, ()), ({"PAGER": "no-such"}, ()), ({}, ("--plain",))]
)
def test_a_pager_that_is_not_wanted_is_not_started(
    changed: Path, session: str, open_window: Open, variables: dict[str, str], words: tuple[str, ...]
) -> None:
    """All of it at once; plain without colours."""
    window = open_window("diff", session, *words, rows=90, **variables)

    assert window.ended() == 0
    assert "-one\n+1\n" in window.text
    assert "+line 59" in window.text
    assert (b"\x1b[31m" in window.output) == (not words)


def test_a_pager_of_ones_own(changed: Path, session: str, open_window: Open) -> None:
    """`PAGER`, as for git, with its arguments; without colours where none are wanted."""
    window = open_window("diff", session, rows=90, PAGER="sed 's/^/paged: /'", NO_COLOR="1")

    assert window.ended() == 0
    assert "paged: -one\npaged: +1\n" in window.text
    assert b"\x1b[3" not in window.output
