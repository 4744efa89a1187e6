"""Where a session's worktree begins, on whose branch, and with which files that git does not have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentsrv.errors import AgentsrvError
from agentsrv.workspace.git import includes
from agentsrv.workspace.git import shelf as shelf_module
from agentsrv.workspace.git import worktrees as worktrees_module
from agentsrv.workspace.git.program import configure_libgit2
from agentsrv.workspace.git.protocol import MadeWorktree, MakeWorktree, RemoveWorktree
from agentsrv.workspace.paths import Workspace
from tests.workspace.git_kit import commit, commit_id, make_repository, run_git, write_files


@pytest.fixture(autouse=True, scope="module")
def libgit2() -> None:
    configure_libgit2()


@pytest.fixture(autouse=True)
def unconfined(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process keeps its own right to write."""
    monkeypatch.setattr(shelf_module, "restrict_writes", lambda directories: True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = make_repository(tmp_path / "repo", {"a": "1\n", ".gitignore": ".env*\nconfig/\nnode_modules/\n"})
    run_git(root, "branch", "old")
    write_files(root, {"a": "2\n"})
    commit(root)
    return root


def make(root: Path, session: str = "s", **options: Any) -> MadeWorktree:
    return worktrees_module.make(
        Workspace(root.parent), MakeWorktree(cwd=str(root), session_id=session, **options)
    )


def refused(root: Path, **options: Any) -> str:
    with pytest.raises(AgentsrvError) as caught:
        make(root, **options)
    return caught.value.code


def remove(made: MadeWorktree, root: Path) -> str | None:
    return worktrees_module.remove(
        Workspace(root.parent), RemoveWorktree(path=made.path, made=made.made)
    ).branch


def branch_of(path: str | Path) -> str:
    return run_git(Path(path), "rev-parse", "--abbrev-ref", "HEAD").decode().strip()


def test_a_new_branch_begins_at_any_revision(root: Path) -> None:
    """A branch, a commit; nothing is made for one that there is not."""
    made = make(root, base="old")

    assert ((Path(made.path) / "a").read_text(), branch_of(made.path)) == ("1\n", "session/s")
    assert (Path(make(root, "t", base="HEAD~1").path) / "a").read_text() == "1\n"
    for base in ("none", "HEAD:a", "--all", "HEAD^{tree}"):
        assert refused(root, session="u", base=base) == "unknown_revision"
    assert not (root.parent / ".worktrees/repo/u").exists()


def test_a_branch_that_there_is_stays_when_the_worktree_goes(root: Path) -> None:
    """The session's commits are on it."""
    made = make(root, branch="old")
    write_files(Path(made.path), {"new": "n\n"})
    commit(Path(made.path))
    tip = commit_id(Path(made.path))

    assert (made.branch, branch_of(made.path)) == ("old", "old")
    assert remove(made, root) is None
    assert run_git(root, "rev-parse", "old").decode().strip() == tip


def test_a_branch_is_in_one_working_tree_at_a_time(root: Path) -> None:
    """Neither that of the main one nor another session's."""
    make(root, branch="old")

    assert refused(root, session="t", branch="main") == "branch_in_use"
    assert refused(root, session="t", branch="old") == "branch_in_use"
    assert refused(root, session="t", branch="none") == "unknown_revision"


FILES: dict[str, str | bytes] = {
    ".env": "SECRET=1\n",
    ".env.local": "x\n",
    "config/dev.json": "{}\n",
    "config/deep/er": "d\n",
    "node_modules/m/.env": "no\n",
    "notes": "untracked\n",
    "a": "changed, and tracked\n",
}


@pytest.mark.parametrize(
    ("include", "patterns", "copied"),
    [
        ("", [], []),
        ("/.env*\n", [], [".env", ".env.local"]),
        ("# all\n/.env*\n!/.env.local\n", [], [".env"]),
        ("config/\n", [], ["config/deep/er", "config/dev.json"]),
        ("config/**/er\n", [], ["config/deep/er"]),
        ("", ["/.env", "notes", "a"], [".env", "notes"]),
        ("*.json\n", ["notes"], ["config/dev.json", "notes"]),
    ],
)
def test_files_that_git_has_not_come_along_when_they_are_named(
    root: Path, include: str, patterns: list[str], copied: list[str]
) -> None:
    """By .worktreeinclude or with the request; never what the commit has."""
    write_files(root, FILES)
    (root / ".env").chmod(0o600)
    (root / ".worktreeinclude").write_text(include)
    made = make(root, copy_patterns=patterns)
    path = Path(made.path)

    assert copied == sorted(made.copied)
    assert [FILES[name] for name in copied] == [(path / name).read_text() for name in copied]
    assert (path / "a").read_text() == "2\n"
    assert ".env" not in copied or (path / ".env").stat().st_mode & 0o777 == 0o600


def test_what_is_copied_has_bounds_and_follows_no_link(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link that leads out, a repository in a directory; and too much, which leaves nothing behind."""
    (root / ".env").symlink_to("/etc/passwd")
    (root / "config").symlink_to("/etc")
    make_repository(root / "node_modules/inner", {"x": "x\n"})
    (root / ".worktreeinclude").write_text(".env*\nconfig\nnode_modules/\n")
    assert make(root).copied == []
    monkeypatch.setattr(includes, "MAX_BYTES", 3)
    write_files(root, {".env.local": "long\n"})
    before = run_git(root, "worktree", "list")

    assert refused(root, session="t") == "worktree_include_too_large"
    assert before == run_git(root, "worktree", "list")
